"""Archives that want out of their folder, or to fill the disk, are refused and leave nothing."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.data import archives
from benchmarks.data.archives import extract


def tar(path: Path, *entries: tuple[str, bytes, bytes, str], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content, kind, link in entries:
            entry = tarfile.TarInfo(name)
            entry.size, entry.type, entry.linkname = len(content), kind, link
            archive.addfile(entry, io.BytesIO(content))
    return path


def regular(name: str, content: bytes = b"x") -> tuple[str, bytes, bytes, str]:
    return name, content, tarfile.REGTYPE, ""


def zipped(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_good_tar(tmp_path, mode):
    path = tar(tmp_path / "a.tar", regular("Tâche/scan.nii", b"abc"), regular("Tâche/._scan.nii"), mode=mode)
    seen = []
    extract(path, tmp_path / "out", progress=seen.append)
    assert [str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.nii")] == ["Tâche/scan.nii"]
    assert (tmp_path / "out" / "Tâche" / "scan.nii").read_bytes() == b"abc"
    assert seen == [3]


def test_a_good_zip(tmp_path):
    extract(zipped(tmp_path / "a.zip", **{"a/b.nii": b"abc", "a/": b""}), tmp_path / "out")
    assert (tmp_path / "out" / "a" / "b.nii").read_bytes() == b"abc"


BAD = {
    "parent": regular("../evil"),
    "parent inside": regular("a/../../evil"),
    "absolute": regular("/tmp/evil"),
    "drive": regular("C:\\evil"),
    "backslash": regular("..\\evil"),
    "symlink": ("link", b"", tarfile.SYMTYPE, "/etc/passwd"),
    "inner symlink": ("link", b"", tarfile.SYMTYPE, "first"),
    "hard link": ("link", b"", tarfile.LNKTYPE, "first"),
    "device": ("null", b"", tarfile.CHRTYPE, ""),
    "pipe": ("pipe", b"", tarfile.FIFOTYPE, ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_members_of_a_tar(tmp_path, kind):
    path = tar(tmp_path / "a.tar.gz", regular("first"), BAD[kind])
    with pytest.raises(UserError, match="refused"):
        extract(path, tmp_path / "x" / "out")
    assert list((tmp_path / "x").iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "x"]


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_bad_members_of_a_zip(tmp_path, name):
    with pytest.raises(UserError, match="leads out"):
        extract(zipped(tmp_path / "a.zip", **{name: b"x"}), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


def test_symlink_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(UserError, match="link or a device"):
        extract(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("make", ["tar", "zip"])
def test_bombs(tmp_path, make):
    content = bytes(5_000_000)
    if make == "tar":
        path = tar(tmp_path / "a.tar.gz", *[regular(f"{i}", content) for i in range(3)])
    else:
        path = zipped(tmp_path / "a.zip", **{f"{i}": content for i in range(3)})
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="expands to more than 10,000,000 bytes"):
        extract(path, tmp_path / "out", limit_bytes=10_000_000)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILES", 5)
    with pytest.raises(UserError, match="5 files"):
        extract(tar(tmp_path / "a.tar", *[regular(f"{i}") for i in range(6)]), tmp_path / "out")


def test_more_than_the_disk_has(tmp_path, monkeypatch):
    usage = archives.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage._replace(free=2))
    with pytest.raises(UserError, match="needs more"):
        extract(tar(tmp_path / "a.tar", regular("a", b"abc")), tmp_path / "out")


@pytest.mark.parametrize("keep", [10, 200, 1500])
def test_truncated(tmp_path, keep):
    whole = tar(tmp_path / "a.tar.gz", regular("a", bytes(range(256)) * 40), mode="w")
    whole.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(UserError, match="damaged"):
        extract(whole, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_flipped_byte(tmp_path, mode):
    """Somewhere in the compressed stream; whether the reader or the checksum sees it."""
    path = tar(tmp_path / "a.tar", *[regular(f"{i}", random.Random(i).randbytes(30_000)) for i in range(5)], mode=mode)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged|cannot be unpacked") as caught:
        extract(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def test_an_archive_that_goes_on_after_its_end(tmp_path):
    path = tar(tmp_path / "a.tar", regular("a"), mode="w")
    whole = path.read_bytes() + bytes(80_000_000)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole, 1))
    with pytest.raises(UserError, match="goes on for more than 64 MB after its end"):
        extract(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encrypted_zip(tmp_path):
    path = zipped(tmp_path / "a.zip", a=b"secret")
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + at] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged .*password"):
        extract(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_names_that_no_file_can_have(tmp_path, name):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("short")
        entry.pax_headers = {"path": name}
        archive.addfile(entry)
    with pytest.raises(UserError, match=r"damaged|cannot be unpacked") as caught:
        extract(tmp_path / "a.tar", tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_never_over_what_is_there(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        extract(tar(tmp_path / "a.tar", regular("a")), tmp_path / "out")
    with pytest.raises(UserError, match="File exists"):
        extract(tar(tmp_path / "b.tar", regular("a"), regular("a")), tmp_path / "new")
