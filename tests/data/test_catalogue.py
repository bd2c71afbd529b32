"""Datasets of other packages: found by entry point, read, imitated and fetched like the bench's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.data.catalogue import (
    ENTRY_POINT_GROUP,
    broken_datasets,
    dataset_source,
    load_dataset,
    load_folder,
    phantom_names,
    sources,
)
from benchmarks.data.fetch import fetchable, licence, remote_files
from benchmarks.data.phantom import synthesise
from tests.plugins import install

DATASETS = """
from dataclasses import replace
from pathlib import Path
import nibabel, numpy
from benchmarks.common.download import RemoteFile
from benchmarks.data.catalogue import dataset_source
from benchmarks.data.layouts.layout import Pair
from benchmarks.data.source import DatasetSource, FetchList, Phantoms

def pairs(root):
    return [Pair(p.stem, p, root / "masks" / p.name) for p in sorted((root / "scans").glob("*.nii"))]

def write(folder, cases, seed, scale):
    for index in range(cases):
        for part, value in (("scans", 40 * seed), ("masks", 2)):
            (folder / part).mkdir(exist_ok=True)
            array = numpy.full((8, 9, 10), value, numpy.int16)
            nibabel.save(nibabel.Nifti1Image(array, numpy.eye(4)), folder / part / f"{index}.nii")
    return {str(index): {"hu": 40 * seed} for index in range(cases)}

def files(cases):
    return [RemoteFile("https://example.org/scans.zip", "scans.zip")]

info = replace(dataset_source("lits17").info, name="strange", title="Strange", cases=0)
strange = DatasetSource(
    info, pairs, fetch=FetchList("example.org", files), phantoms=Phantoms(write),
    recognise=lambda root: (root / "scans").is_dir(),
)
def fails(root):
    raise RuntimeError("no patience")

hasty = replace(strange, info=replace(info, name="a-hasty"), recognise=fails)
false_friend = replace(strange, info=replace(info, name="kits21"))
"""


@pytest.fixture(autouse=True)
def _strange(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = {"strange": "strange", "kits21": "false_friend", "absent": "nothing", "a-hasty": "hasty"}
    install(monkeypatch, tmp_path / "installed", "strange-data", ENTRY_POINT_GROUP, entries, DATASETS)


def test_phantoms_are_written_and_read_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = synthesise("strange", tmp_path, seed=3, cases=5)
    dataset = load_dataset("strange", folder, seed=3)
    assert dataset.synthetic
    assert dataset.version == "phantom-1-seed-3-cases-5-scale-1.0"
    assert list(dataset.cases) == ["0", "1", "2", "3", "4"]
    assert sum(map(len, vars(dataset.splits[0]).values())) == 5
    volume, label = dataset.cases["2"].load()
    assert volume.shape == (8, 9, 10)
    assert (volume.array == 120).all()
    assert (label == 2).all()
    assert "imitate the files of Strange" in (folder / "SYNTHETIC.txt").read_text()
    assert load_folder(folder).name == "strange", "a folder that nobody named is recognised"
    assert "dataset 'a-hasty' fails to look at" in caplog.text
    with pytest.raises(UserError, match="unknown splits '3dsam-adapter'; known: patient"):
        load_dataset("strange", folder, splits="3dsam-adapter")


def test_what_is_known_of_it_reaches_every_door() -> None:
    assert "strange" in phantom_names()
    assert fetchable()["strange"] == "example.org"
    assert [file.path for file in remote_files("strange")] == ["scans.zip"]
    assert licence("strange").startswith("Strange: CC BY-NC-ND 4.0 (https://competitions.codalab.org")


def test_broken_ones_are_listed_and_stop_nothing() -> None:
    found = {one.name: (one.distribution, one.reason) for one in broken_datasets()}
    missing = "it cannot be imported (AttributeError: module 'strange_data' has no attribute 'nothing')"
    assert found == {
        "kits21": ("strange-data 1.0", "the name 'kits21' belongs to tags-bench 0.1.0"),
        "absent": ("strange-data 1.0", missing),
    }
    assert sources()["kits21"].info.title == "KiTS21, kidney tumours"
    with pytest.raises(UserError, match=r"^dataset 'absent' of strange-data 1\.0 .* is broken: it cannot be imported"):
        dataset_source("absent")
