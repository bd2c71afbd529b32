"""What the Makefile promises."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT


def test_clean_removes_no_record(tmp_path: Path) -> None:
    """`tags-bench-out` in the checkout is the output folder of every command by default."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (".venv/bin", ".mypy_cache", "tags-bench-out/records", "tags-bench-out/checkpoints"):
        (tmp_path / name).mkdir(parents=True)
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["Makefile", "tags-bench-out", "tags-bench-out/checkpoints", "tags-bench-out/records"]
