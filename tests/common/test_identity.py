"""Identities: what must change a digest, and what must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.identity import digest, fingerprint_config
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
