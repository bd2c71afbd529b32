"""Every byte of a file decides, and a file is read once."""

from __future__ import annotations

import gzip
import hashlib
import os
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from benchmarks.common import content
from benchmarks.common.content import remembered, sha256_of, sha256_of_all
from benchmarks.common.errors import UserError
from benchmarks.data.dataset import Case, fingerprint_cases
from tests.plain_user import not_utf8


def settled(path: Path, data: bytes) -> Path:
    """A file that looks as if it had been written long ago, as far as a test can make it."""
    path.write_bytes(data)
    past = time.time() - 3600
    os.utime(path, (past, past))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are really read; a change of the inode just now does not count as recent."""
    seen: list[Path] = []
    read = content._read
    monkeypatch.setattr(content, "_read", lambda path: seen.append(path) or read(path))
    monkeypatch.setattr(content, "_settled", lambda path: time.time() - path.stat().st_mtime > content.SETTLED_SECONDS)
    return seen


@pytest.mark.parametrize("place", [0, 70_000, 500_000, 999_999])
def test_every_byte_counts(tmp_path: Path, place: int) -> None:
    data = bytearray(os.urandom(1_000_000))
    path = settled(tmp_path / "volume.nii", data)
    assert sha256_of(path) == hashlib.sha256(data).hexdigest()
    data[place] ^= 1
    settled(path, data)
    assert sha256_of(path) == hashlib.sha256(data).hexdigest()


def test_a_lesion_that_moves_inside_an_uncompressed_label_changes_the_fingerprint(tmp_path: Path) -> None:
    def case(name: str, z: int) -> Case:
        label = np.zeros((100, 100, 100), np.uint8)
        label[50, 50, z : z + 3] = 2
        path = tmp_path / f"{name}.nii"
        path.write_bytes(b"\0" * 352 + label.tobytes(order="F"))
        image = tmp_path / f"{name}-image.nii"
        image.write_bytes(b"the same")
        return Case("lits17", "one", image, path)

    assert fingerprint_cases([case("a", 50)]) == fingerprint_cases([case("b", 50)])
    assert fingerprint_cases([case("a", 50)]) != fingerprint_cases([case("c", 51)])


def test_a_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    paths = [settled(tmp_path / f"{number}.nii.gz", gzip.compress(bytes([number]))) for number in range(20)]
    first = sha256_of_all([*paths, paths[0]])
    assert len(reads) == 20
    assert sha256_of_all([*paths, paths[0]]) == first
    assert len(reads) == 20
    assert first[:20] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_what_follows_from_a_content_is_computed_once() -> None:
    answers = iter(["first", "of another content", "of another kind"])
    asked = [("voxels", "a"), ("voxels", "a"), ("voxels", "b"), ("size", "a"), ("voxels", "a")]
    found = [remembered(what, content, lambda: next(answers)) for what, content in asked]
    assert found == ["first", "first", "of another content", "of another kind", "first"]


def test_what_changed_just_now_is_not_remembered(tmp_path: Path, reads: list[Path]) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"one")
    sha256_of(path)
    sha256_of(path)
    assert len(reads) == 2
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a clock too coarse to tell would leave it
    assert sha256_of(path) == hashlib.sha256(b"two").hexdigest()
    assert len(reads) == 3


def test_a_change_with_the_same_size_and_time_is_seen_by_the_inode(tmp_path: Path, reads: list[Path]) -> None:
    path = settled(tmp_path / "a.nii", b"one")
    sha256_of(path)
    status = path.stat()
    rival = settled(tmp_path / "rival", b"two")
    os.utime(rival, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(rival, path)
    assert sha256_of(path) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("damage", [b"", b"no database at all, whatever its name says " * 50, None])
def test_a_damaged_memory_only_costs_time(tmp_path: Path, reads: list[Path], damage: bytes | None) -> None:
    path = settled(tmp_path / "a.nii", b"one")
    right = sha256_of(path)
    if damage is None:
        with sqlite3.connect(content._memory()) as memory:
            memory.execute("UPDATE files SET sha256 = 'f' || substr(sha256, 2)")
            assert memory.total_changes == 1
    else:
        content._memory().write_bytes(damage)
    assert sha256_of(path) == right
    assert sha256_of(path) == right
    assert len(reads) <= 3
    sha256_of(path)
    assert len(reads) <= 3, "it was not mended"


def test_a_memory_that_cannot_be_written_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TAGS_BENCH_DATA", str(tmp_path / "file" / "home"))
    path = settled(tmp_path / "a.nii", b"one")
    assert sha256_of(path) == sha256_of(path) == hashlib.sha256(b"one").hexdigest()


def test_a_path_that_is_not_utf8_is_read_each_time(tmp_path: Path, reads: list[Path]) -> None:
    """SQLite takes no such path; the files beside it are remembered all the same."""
    data = [b"one", b"two"]
    odd = not_utf8(settled(tmp_path / "a.nii", data[0]))
    paths = [odd, settled(tmp_path / "b.nii", data[1])]
    expected = [hashlib.sha256(one).hexdigest() for one in data]
    assert sha256_of_all(paths) == sha256_of_all(paths) == expected
    assert reads == [odd, paths[1], odd]


def test_rival_processes(tmp_path: Path) -> None:
    paths = [settled(tmp_path / f"{number}.nii", bytes([number]) * 1000) for number in range(50)]
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        found = list(pool.map(sha256_of_all, [paths] * 8))
    assert found == [[hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]] * 8


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.nii: no such file"):
        sha256_of(tmp_path / "gone.nii")
    with pytest.raises(UserError, match="no such file"):
        sha256_of(tmp_path)


def test_only_a_settled_file_is_written_to_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled(tmp_path / "a.nii", b"one")
    sha256_of(path)  # its inode has just changed, whatever the time of its content says
    assert not content._memory().exists()
    monkeypatch.setattr(content, "SETTLED_SECONDS", -1.0)
    sha256_of(path)
    assert content._memory().exists()
