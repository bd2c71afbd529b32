"""The examples are small, light to announce, and truly join: installed, found, trained and ranked."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NAMES = ("my_method", "my_dataset")
SUITE = """
name: examples
datasets: [{name: my-dataset, source: phantom, cases: 10}]
methods: [my-method, ball]
protocols: [none, centre-click]
budget: {steps: 40}
"""
COMMAND = "import sys, cli; sys.argv[0] = 'tags-bench'; cli.main()"


def code_lines(path: Path) -> int:
    """Lines that are neither empty nor a comment nor part of a docstring."""
    text = path.read_text(encoding="utf-8")
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            prose |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in prose for n, line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_fewer_than_60_lines_of_code(name: str) -> None:
    counts = {path.name: code_lines(path) for path in (EXAMPLES / name / name).glob("*.py")}
    assert 20 < sum(counts.values()) < 60, counts


def test_contributing_shows_the_code_of_the_examples() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- from (\S+) -->\n```python\n(.*?)\n```", text, flags=re.DOTALL)
    assert len(shown) == text.count("```python") == 5
    for name, code in shown:
        assert f"\n{code}\n" in (ROOT / name).read_text(encoding="utf-8"), name
    for name in NAMES:
        project = (EXAMPLES / name / "pyproject.toml").read_text(encoding="utf-8")
        (entry,) = re.findall(r"\[project.entry-points[^\[]*", project)
        assert entry.strip() in text


def on_the_path(name: str, folder: Path) -> Path:
    """The folder of the example and, beside it, what an installation would leave of its pyproject.toml."""
    project = tomllib.loads((EXAMPLES / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = folder / f"{name}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    groups = project["entry-points"].items()
    lines = [line for group, found in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in found.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    shutil.copytree(EXAMPLES / name / name, folder / name)
    return folder


def installed(name: str, folder: Path) -> Path:
    """The example as pip installs it, without a network; built from a copy, so that the checkout stays clean."""
    source = shutil.copytree(EXAMPLES / name, folder / "source" / name)
    words = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", "pip", *words, str(source)], check=True, cwd=folder, timeout=300)
    return folder / "site"


def tags_bench(site: list[Path], *words: str, cwd: Path) -> str:
    """What a command prints, in a process that finds what lies in `site`."""
    path = os.pathsep.join([*map(str, site), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words], env=environment, cwd=cwd, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_announcing_them_loads_no_torch(tmp_path: Path) -> None:
    site = [on_the_path(name, tmp_path / name) for name in NAMES]
    code = (
        "import sys; from benchmarks.contestants import method; from benchmarks.data.catalogue import dataset_source; "
        "method('my-method'); dataset_source('my-dataset'); print('torch' in sys.modules, 'SimpleITK' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, site), os.environ["PYTHONPATH"]])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.ray
@pytest.mark.parametrize(
    "install", [on_the_path, pytest.param(installed, marks=pytest.mark.slow)], ids=["on the path", "by pip"]
)
def test_my_method_is_trained_on_my_dataset_and_ranked(install, tmp_path: Path) -> None:
    site = [install(name, tmp_path / name) for name in NAMES]
    (tmp_path / "suite.yaml").write_text(SUITE, encoding="utf-8")
    found = json.loads(tags_bench(site, "run", "--suite", "suite.yaml", "--out", "out", "--json", cwd=tmp_path))
    rows = {(row["method"], row["protocol"]): row for row in found["leaderboard"]}
    assert found["computed_cases"] == 8
    assert rows["my-method", "automatic"]["dice"] > 0.5, "it has learned"
    assert rows["my-method", "centre-click"]["dice"] > rows["ball", "centre-click"]["dice"]
    assert {row["dataset"] for row in found["leaderboard"]} == {"my-dataset"}
    (training,) = (tmp_path / "out" / "checkpoints").glob("my-method-*/training.json")
    assert json.loads(training.read_text())["steps"] == 40
