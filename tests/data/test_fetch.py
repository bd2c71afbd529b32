"""Fetching data sets: the licence first, archives unpacked, nothing fetched twice."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from benchmarks.common.download import RemoteFile
from benchmarks.common.errors import UserError
from benchmarks.common.files import exclusively
from benchmarks.common.home import data_home
from benchmarks.data.fetch import accept_licence, fetch, licence_accepted, remote_files


@pytest.fixture
def home() -> Path:
    return data_home()


def task_archive(name: str = "Task07_Pancreas") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in (("dataset.json", b"{}"), ("imagesTr/pancreas_001.nii.gz", b"x" * 9), ("._junk", b"")):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_licence_first_then_archive_then_nothing_to_do(server):
    content = task_archive()
    server.files["/Task07_Pancreas.tar"] = content
    files = [
        RemoteFile(
            f"{server.url}/Task07_Pancreas.tar", "Task07_Pancreas.tar", f"md5:{hashlib.md5(content).hexdigest()}"
        )
    ]
    with pytest.raises(UserError, match=r"CC BY-SA 4.0.*--accept-licence"):
        fetch("msd-pancreas", files=files)
    assert server.asked == []
    accept_licence("msd-pancreas")
    assert licence_accepted("msd-pancreas")
    folder = fetch("msd-pancreas", files=files)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["Task07_Pancreas/dataset.json", "Task07_Pancreas/imagesTr/pancreas_001.nii.gz"]
    asked = len(server.asked)
    assert fetch("msd-pancreas", files=files) == folder
    assert len(server.asked) == asked


def test_an_archive_put_there_by_hand_needs_no_network(home):
    content = task_archive()
    accept_licence("msd-pancreas")
    place = home / "datasets" / "msd-pancreas"
    place.mkdir(parents=True)
    (place / "Task07_Pancreas.tar").write_bytes(content)
    files = [
        RemoteFile("http://127.0.0.1:9/t.tar", "Task07_Pancreas.tar", f"md5:{hashlib.md5(content).hexdigest()}"),
    ]
    assert (fetch("msd-pancreas", files=files) / "Task07_Pancreas" / "dataset.json").is_file()


def test_a_wrong_archive_put_there_by_hand_is_refused_and_left_alone(home):
    accept_licence("msd-pancreas")
    place = home / "datasets" / "msd-pancreas" / "Task07_Pancreas.tar"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"another file")
    files = [RemoteFile("http://127.0.0.1:9/t.tar", place.name, f"md5:{'0' * 32}")]
    with pytest.raises(UserError, match=r"wrong checksum.*remove it and fetch"):
        fetch("msd-pancreas", files=files)
    assert place.read_bytes() == b"another file"


def test_a_run_killed_while_unpacking_does_not_stand_in_the_way(home):
    content = task_archive()
    accept_licence("msd-pancreas")
    place = home / "datasets" / "msd-pancreas"
    (place / ".Task07_Pancreas.raw" / "half").mkdir(parents=True)
    (place / "Task07_Pancreas.tar").write_bytes(content)
    files = [RemoteFile("http://127.0.0.1:9/t.tar", "Task07_Pancreas.tar", f"md5:{hashlib.md5(content).hexdigest()}")]
    assert (fetch("msd-pancreas", files=files) / "Task07_Pancreas" / "dataset.json").is_file()
    assert [path.name for path in place.iterdir()] == ["Task07_Pancreas"]


def test_two_processes_cannot_fetch_the_same_dataset(home):
    accept_licence("msd-pancreas")
    lock = home / "datasets" / "msd-pancreas" / ".fetch.lock"
    with exclusively(lock, ""), pytest.raises(UserError, match="another process is fetching msd-pancreas"):
        fetch("msd-pancreas", files=[])
    fetch("msd-pancreas", files=[])


def test_what_would_be_fetched():
    files = remote_files("kits21", [0, 299])
    assert [file.path for file in files] == [
        f"data/case_{number}/{name}"
        for number in ("00000", "00299")
        for name in ("imaging.nii.gz", "aggregated_MAJ_seg.nii.gz")
    ]
    assert files[2].url.endswith("master_00299.nii.gz")
    assert len(remote_files("kits21")) == 600
    with pytest.raises(UserError, match="0 to 299"):
        remote_files("kits21", [300])
    with pytest.raises(UserError, match="single cases"):
        remote_files("msd-colon", [1])
    with pytest.raises(UserError, match="did you mean 'kits21'"):
        remote_files("kits")


@pytest.mark.parametrize(
    ("name", "task"),
    [("msd-pancreas", "Task07_Pancreas"), ("msd-colon", "Task10_Colon"), ("lits17", "Task03_Liver")],
)
def test_decathlon_addresses_are_those_of_monai(name, task):
    from monai.apps import DecathlonDataset

    (one,) = remote_files(name)
    assert (one.url, one.check) == (DecathlonDataset.resource[task], f"md5:{DecathlonDataset.md5[task]}")
    assert one.url.startswith("https://")
    assert one.path == f"{task}.tar"
    assert Path(one.path).stem in one.url
