"""The tutorial's commands, as they stand on the page, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.execution.test_cluster import head

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorials" / "your_scans.md"
BLOCK = re.compile(r"(?:<!-- test: (?P<mark>.*?) -->\n)?```bash\n(?P<code>.*?)^```", flags=re.DOTALL | re.MULTILINE)
COMMAND = "import sys; sys.argv[0] = 'tags-bench'; import cli; cli.main()"
# pip puts the method beside the packages of this test and asks no index.
PIP = '"{python}" -m pip install --quiet --no-build-isolation --no-index --target "{site}" --no-deps "./$4"'


def sections() -> dict[str, list[tuple[str, str]]]:
    """(mark, commands) of the blocks of each numbered section."""
    parts = re.split(r"^## (\d)\. ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = zip(parts[::2], parts[1::2], strict=True)
    return {number: [(m["mark"] or "", m["code"]) for m in BLOCK.finditer(text)] for number, text in found}


class Shell:
    """Runs blocks one after another; `tags-bench` and `pip` are those of this checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder, site, programs = folder, folder / "site", folder / "programs"
        programs.mkdir()
        python = sys.executable
        lines = {
            "tags-bench": f'exec \'{python}\' -c "{COMMAND}" "$@"',
            "pip": PIP.format(python=python, site=site),
        }
        for name, line in lines.items():
            (programs / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
            (programs / name).chmod(0o755)
        (folder / "examples").symlink_to(ROOT / "examples")
        self.environment = os.environ | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(site), os.environ["PYTHONPATH"]]),
            "COLUMNS": "120",
        }

    def run(self, code: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", code],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.ray
def test_scans_and_method_of_the_tutorial(shell: Shell) -> None:
    blocks = sections()
    told = [shell.run(code) for _, code in blocks["1"] + blocks["2"]]
    own, floors = shell.folder / "tags-bench-out", told[2]
    assert "region-growing" in floors
    assert "my-method" in told[3], "the installed copy is listed"
    assert re.search(r"my-method .*0\.\d+", told[4].replace("│", " ")), told[4]
    assert list((own / "checkpoints").glob("my-method-*/training.json"))
    assert "too few patients" in told[5], "the verdicts are careful, as the page says"


@pytest.mark.slow
def test_the_whole_tutorial_on_a_cluster(shell: Shell) -> None:
    blocks = sections()
    for _, code in blocks["1"] + blocks["2"]:
        shell.run(code)
    assert blocks["3"][0][0].startswith("not run")
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as short:
        environment = {"PYTHONPATH": shell.environment["PYTHONPATH"], "RAY_AUTH_MODE": "disabled"}
        with head(Path(short), **environment) as address:
            shell.environment["RAY_AUTH_MODE"] = "disabled"
            told = shell.run(blocks["3"][1][1].replace("FIRST:6379", address))
    assert address in told
    assert re.search(r"0 of \d+ cases", told), "what one machine computed is not computed again on the cluster"


def test_the_sections_are_there() -> None:
    assert list(sections()) == ["1", "2", "3", "4"]
    assert [len(blocks) for blocks in sections().values()] == [3, 4, 2, 0]
