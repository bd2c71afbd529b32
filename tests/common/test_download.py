"""Fetching against a server on this machine that breaks off, changes its mind, and lies."""

from __future__ import annotations

import email.message
import fcntl
import gzip
import hashlib
import random
from types import SimpleNamespace

import pytest

from benchmarks.common import download
from benchmarks.common.download import RemoteFile
from benchmarks.common.errors import UserError
from tests.file_server import Server


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
    server.cut, server.answers = 15_000, 1
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError, match=r"no complete answer.*get http.*save it as .*a\.nii\.gz"):
        download.download(remote(server, content), tmp_path / "a.nii.gz")
    assert not (tmp_path / "a.nii.gz").exists()
    server.cut = server.answers = None
    download.download(remote(server, content), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == content
    assert server.asked == [None, "bytes=15000-", "bytes=15000-"]


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
    server.cut, server.ranges, server.answers = 15_000, ranges, 1
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError):
        download.download(remote(server, scan()), tmp_path / "a.nii.gz")
    server.cut = server.answers = None
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
    for kind in ("md5", "sha256"):
        promised = hashlib.new(kind, b"promised").hexdigest()
        wrong = RemoteFile(f"{server.url}/t.tar", "t.tar", f"{kind}:{promised}")
        with pytest.raises(UserError, match=f"wrong checksum \\({kind} .* expected {promised}"):
            download.download(wrong, tmp_path / "t.tar")
        assert list(tmp_path.iterdir()) == []
        right = RemoteFile(wrong.url, "t.tar", f"{kind}:{hashlib.new(kind, server.files['/t.tar']).hexdigest()}")
        download.download(right, tmp_path / "t.tar")
        (tmp_path / "t.tar").unlink()


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


def test_many_breaks_are_survived_as_long_as_each_brings_something(server, tmp_path):
    content = scan(100_000)
    server.cut = 9_000
    download.download(remote(server, content), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == content
    assert len(server.asked) > 2 * download.ATTEMPTS


def test_a_part_that_was_not_asked_for_is_not_appended(server, tmp_path):
    content = scan()
    server.cut, server.shift = 20_000, 100
    with pytest.raises(UserError, match="broke off"):
        download.download(remote(server, content), tmp_path / "a.nii.gz")
    server.cut, server.shift = None, 0
    download.download(remote(server, content), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == content


def test_another_size_is_refused_before_a_byte_is_written(server, tmp_path):
    server.files["/w.pth"] = b"x" * 1000
    one = RemoteFile(f"{server.url}/w.pth", "w.pth", "", 2000, "http://example.org/weights")
    with pytest.raises(
        UserError, match=r"offers 1,000 bytes and 2,000 were published.*see http://example\.org/weights"
    ):
        download.download(one, tmp_path / "w.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_in_place_of_the_file_is_refused(server, tmp_path):
    server.files["/w.pth"], server.kind = b"<html>please log in</html>", "text/html; charset=utf-8"
    with pytest.raises(UserError, match="a web page and not the file"):
        download.download(RemoteFile(f"{server.url}/w.pth", "w.pth"), tmp_path / "w.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_way_that_is_no_longer_encrypted_is_refused():
    headers = email.message.Message()
    headers["Content-Type"] = "application/octet-stream"
    one = RemoteFile("https://example.org/w.pth", "w.pth")
    download._refuse_another_file(one, SimpleNamespace(url="https://mirror.example.org/w.pth", headers=headers), 5)
    with pytest.raises(UserError, match="not encrypted"):
        download._refuse_another_file(one, SimpleNamespace(url="http://mirror.example.org/w.pth", headers=headers), 5)


def test_a_redirection_is_followed_and_resumed(server, tmp_path):
    content = scan()
    server.files["/real"], server.moved, server.cut = content, {"/a.nii.gz": "/real"}, 20_000
    download.download(RemoteFile(f"{server.url}/a.nii.gz", "a.nii.gz", "gzip"), tmp_path / "a.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == content


def test_two_at_once_do_not_spoil_each_other(server, tmp_path):
    with (tmp_path / "a.nii.gz.part.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is fetching"):
            download.download(remote(server, scan()), tmp_path / "a.nii.gz")
    download.download(remote(server, scan()), tmp_path / "a.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


def test_a_licence_is_accepted_for_its_own_words_only(tmp_path):
    record = tmp_path / "deep" / "a.json"
    assert not download.licence_accepted(record, "CC BY")
    download.accept_licence(record, "CC BY")
    assert download.licence_accepted(record, "CC BY")
    assert not download.licence_accepted(record, "CC BY-NC")
    record.write_text("broken")
    assert not download.licence_accepted(record, "CC BY")
