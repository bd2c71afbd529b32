"""Fetching against a server on this machine that breaks off, changes its mind, and lies."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import re
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.datasets import download
from benchmarks.datasets.download import RemoteFile, accept_licence, fetch, licence_accepted, remote_files
from benchmarks.errors import UserError


class Server(ThreadingHTTPServer):
    """Files in memory; `cut` bytes per answer before it hangs up; `asked` are the ranges it saw."""

    files: dict[str, bytes]
    cut: int | None = None
    ranges = True
    status = 200
    asked: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked, content = self.headers.get("Range"), self.server.files.get(self.path)
        self.server.asked.append(asked)
        if content is None or self.server.status != 200:
            self.send_error(404 if content is None else self.server.status)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
        start = 0
        if asked and self.server.ranges and self.headers.get("If-Range") == tag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if self.server.cut is None else start + self.server.cut
        self.wfile.write(content[start:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.asked = {}, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "*")


def scan(size: int = 50_000) -> bytes:
    return gzip.compress(random.Random(0).randbytes(size))


def remote(server: Server, content: bytes, path: str = "a.nii.gz") -> RemoteFile:
    server.files["/" + path] = content
    return RemoteFile(f"{server.url}/{path}", path, "gzip")


def test_whole_in_one_go(server, tmp_path):
    content = scan()
    seen = []
    download.download(remote(server, content), tmp_path / "x" / "a.nii.gz", lambda *each: seen.append(each[1:]))
    assert (tmp_path / "x" / "a.nii.gz").read_bytes() == content
    assert seen[-1] == (len(content), len(content))
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a.nii.gz"]


def test_a_broken_transfer_is_resumed(server, tmp_path):
    content = scan()
    server.cut = 20_000
    download.download(remote(server, content), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == content
    assert server.asked == [None, "bytes=20000-", "bytes=40000-"]


def test_an_interrupted_run_is_resumed_by_the_next(server, tmp_path, monkeypatch):
    content = scan()
    server.cut = 15_000
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError, match=r"broke off.*get http.*save it as .*a\.nii\.gz"):
        download.download(remote(server, content), tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()
    server.cut = None
    download.download(remote(server, content), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == content
    assert server.asked == [None, "bytes=15000-"]


def test_complete_but_unchecked(server, tmp_path, monkeypatch):
    """Killed between the last byte and the check."""
    content = scan()
    one = remote(server, content)
    with monkeypatch.context() as patch:
        patch.setattr(download, "_check", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            download.download(one, tmp_path / "a.nii.gz")
    download.download(one, tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == content
    assert server.asked[-1] == f"bytes={len(content)}-"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_that_changed_meanwhile_starts_again(server, tmp_path, monkeypatch, ranges):
    server.cut, server.ranges = 15_000, ranges
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError):
        download.download(remote(server, scan()), tmp_path / "a.nii.gz")
    server.cut = None
    other = scan(60_000)
    download.download(remote(server, other), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == other


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranges, server.cut = False, 20_000
    content = scan(10_000)
    with pytest.raises(UserError, match="broke off"):
        download.download(remote(server, scan()), tmp_path / "a.nii.gz")
    server.cut = None
    download.download(remote(server, content), tmp_path / "b.nii.gz")
    assert (tmp_path / "b.nii.gz").read_bytes() == content


@pytest.mark.parametrize("damage", [lambda c: c[:-4] + b"\0\0\0\0", lambda c: c[:-9], lambda c: b"<html>" + c])
def test_damaged_content_is_refused(server, tmp_path, damage):
    with pytest.raises(UserError, match=r"damaged.*fetch it again"):
        download.download(remote(server, damage(scan())), tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_wrong_checksum_is_refused(server, tmp_path):
    server.files["/t.tar"] = b"not what was promised"
    wrong = RemoteFile(f"{server.url}/t.tar", "t.tar", "md5", hashlib.md5(b"promised").hexdigest())
    with pytest.raises(UserError, match="wrong checksum"):
        download.download(wrong, tmp_path / "t.tar")
    assert list(tmp_path.iterdir()) == []


def test_refusals_and_failures_of_the_server(server, tmp_path):
    one = remote(server, scan())
    server.status = 503
    with pytest.raises(UserError, match="503"):
        download.download(one, tmp_path / "a.nii.gz")
    assert len(server.asked) == download.ATTEMPTS
    server.status = 403
    with pytest.raises(UserError, match="refused by the server \\(403"):
        download.download(one, tmp_path / "a.nii.gz")
    assert len(server.asked) == download.ATTEMPTS + 1
    with pytest.raises(UserError, match="only http and https"):
        download.download(RemoteFile("file:///etc/passwd", "p", "gzip"), tmp_path / "p")


def test_without_a_network_it_says_what_to_get_and_where_to_put_it(server, tmp_path):
    port = server.server_address[1]
    server.shutdown()
    server.server_close()
    one = RemoteFile(f"http://127.0.0.1:{port}/a.nii.gz", "a.nii.gz", "gzip")
    with pytest.raises(UserError) as caught:
        download.download(one, tmp_path / "a.nii.gz")
    for part in (one.url, str(tmp_path / "a.nii.gz"), "by other means"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_space(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="no space"):
        download.download(remote(server, scan()), tmp_path / "a.nii.gz")


def task_archive(name: str = "Task07_Pancreas") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in (("dataset.json", b"{}"), ("imagesTr/pancreas_001.nii.gz", b"x" * 9), ("._junk", b"")):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_licence_first_then_archive_then_nothing_to_do(server, tmp_path):
    content = task_archive()
    server.files["/Task07_Pancreas.tar"] = content
    files = [
        RemoteFile(f"{server.url}/Task07_Pancreas.tar", "Task07_Pancreas.tar", "md5", hashlib.md5(content).hexdigest())
    ]
    with pytest.raises(UserError, match=r"CC BY-SA 4.0.*--accept-licence"):
        fetch("msd-pancreas", tmp_path, files=files)
    assert server.asked == []
    accept_licence("msd-pancreas", tmp_path)
    assert licence_accepted("msd-pancreas", tmp_path)
    folder = fetch("msd-pancreas", tmp_path, files=files)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["Task07_Pancreas/dataset.json", "Task07_Pancreas/imagesTr/pancreas_001.nii.gz"]
    asked = len(server.asked)
    assert fetch("msd-pancreas", tmp_path, files=files) == folder
    assert len(server.asked) == asked


def test_an_archive_put_there_by_hand_needs_no_network(tmp_path):
    content = task_archive()
    accept_licence("msd-pancreas", tmp_path)
    place = tmp_path / "datasets" / "msd-pancreas"
    place.mkdir(parents=True)
    (place / "Task07_Pancreas.tar").write_bytes(content)
    files = [
        RemoteFile("http://127.0.0.1:9/t.tar", "Task07_Pancreas.tar", "md5", hashlib.md5(content).hexdigest()),
    ]
    assert (fetch("msd-pancreas", tmp_path, files=files) / "Task07_Pancreas" / "dataset.json").is_file()


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


@pytest.mark.parametrize("name", ["msd-pancreas", "msd-colon", "lits17"])
def test_decathlon_addresses_are_those_of_monai(name):
    from monai.apps import DecathlonDataset

    (one,) = remote_files(name)
    task = download.TASKS[name]
    assert (one.url, one.md5) == (DecathlonDataset.resource[task], DecathlonDataset.md5[task])
    assert one.url.startswith("https://")
    assert one.path == f"{task}.tar"
    assert Path(one.path).stem in one.url
