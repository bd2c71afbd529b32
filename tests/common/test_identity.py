"""Identities: what must change a digest, and what must not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.common.identity import digest, fingerprint_config, fingerprint_file
from benchmarks.contestants import method


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1.5, "x"]}) == digest({"b": [1.5, "x"], "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_a_weights_file_counts_by_its_content_and_not_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("TAGS_BENCH_WEIGHTS", str(folder))
    (folder / "tower.pth").write_bytes(b"one")
    elsewhere = tmp_path / "copy.pth"
    elsewhere.write_bytes(b"one")
    files = ("checkpoint", "sam_weights")
    by_name = fingerprint_config({"sam_weights": "tower.pth", "dim": 3}, files)
    assert by_name == fingerprint_config({"sam_weights": str(elsewhere), "dim": 3}, files)
    (folder / "tower.pth").write_bytes(b"two")
    assert fingerprint_config({"sam_weights": "tower.pth", "dim": 3}, files) != by_name
    assert fingerprint_config({"sam_weights": "random"}, files) == {"sam_weights": "random"}


def test_the_towers_of_tags_are_among_the_files() -> None:
    assert {"checkpoint", "sam_weights", "clip_weights"} <= set(method("tags-vit-b").file_settings)


@pytest.mark.parametrize("place", [0, 70_000, 199_999])
def test_a_fingerprint_sees_size_and_both_ends(tmp_path: Path, place: int) -> None:
    file = tmp_path / "volume.nii"
    content = bytearray(os.urandom(200_000))
    file.write_bytes(content)
    before = fingerprint_file(file)
    content[place] ^= 1
    file.write_bytes(content)
    seen = place < 64 * 1024 or place >= len(content) - 64 * 1024
    assert (fingerprint_file(file) != before) == seen
    file.write_bytes(content + b"\0")
    assert fingerprint_file(file) != before
