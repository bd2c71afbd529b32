"""The shell completes the names of suites, methods and datasets, and loads nothing heavy for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.commands.completion import METHODS
from benchmarks.contestants import methods
from tests.scan_folders import write_msd
from tests.test_architecture import HEAVY, modules_after

ROOT = Path(__file__).resolve().parents[2]


def completed(line: str) -> list[str]:
    """What bash offers for the last word of the line; the program asks for it through these variables."""
    words = line.split(" ")
    asked = {"_TAGS_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    code = "import sys; sys.argv = ['tags-bench']; import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | asked
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("tags-bench run --suite ph", ["phantom"]),
        ("tags-bench run --methods region-growing,ba", ["region-growing,ball"]),
        ("tags-bench run --methods ball,ba", []),
        ("tags-bench run --dataset k", ["kits21"]),
        ("tags-bench run --suite operators --dataset ", ["lits17"]),
        ("tags-bench lea", ["leaderboard"]),
    ],
)
def test_names_are_completed(line: str, names: list[str]) -> None:
    assert completed(line) == names


def test_added_datasets_are_completed(call, tmp_path: Path) -> None:
    folder = write_msd(tmp_path / "scans", cases=6)
    assert call("data", "add", "mine", "--from", str(folder)).code == 0
    assert completed("tags-bench data verify ") == ["mine"]


def test_completion_knows_every_installed_method() -> None:
    from importlib.metadata import entry_points

    assert {entry.name for entry in entry_points(group=METHODS)} >= set(methods())


def test_completion_loads_nothing_heavy() -> None:
    names = "method_names, suite_names"
    done = modules_after(f"from benchmarks.commands.completion import {names}; method_names(''); suite_names('')")
    assert not done & {*HEAVY, "pandas", "scipy", "numpy", "pydantic"}
    added = modules_after("from benchmarks.commands.completion import added_names; added_names('')")
    assert not added & {*HEAVY, "pandas"}
