"""Imports point one way, and the light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "ray", "mlflow", "monai", "nnunetv2", "open_clip", "segment_anything", "SimpleITK")


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("benchmarks", {"tags", "baselines", "cli"}),
        ("tags", {"baselines", "cli"}),
        ("baselines", {"tags", "cli"}),
    ],
)
def test_imports_point_one_way(package: str, forbidden: set[str]) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): packages(path) & forbidden for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_networks_need_no_ray_mlflow_or_pandas() -> None:
    files = [*(ROOT / "tags").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")]
    wrong = {str(path.relative_to(ROOT)): packages(path) & {"ray", "mlflow", "pandas"} for path in files}
    assert {path: names for path, names in wrong.items() if names} == {}


def test_a_baseline_knows_no_other_baseline() -> None:
    """Systems share only the modules directly below `baselines` and the folder of SAM's own parts."""
    shared = {"baselines.sam"}
    systems = {f"baselines.{path.name}" for path in (ROOT / "baselines").iterdir() if path.is_dir()} - shared
    for path in (ROOT / "baselines").rglob("*.py"):
        own = ".".join(path.relative_to(ROOT).parts[:2])
        used = {".".join(name.split(".")[:2]) for name in imported(path)} & systems
        assert used <= {own}, path


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_the_command_line_starts_without_heavy_imports() -> None:
    assert not modules_after("import cli") & {*HEAVY, "pandas", "scipy", "numpy"}


def test_announcing_methods_imports_no_torch() -> None:
    assert not modules_after("from benchmarks.contestants import methods; methods()") & set(HEAVY)


def test_statistics_and_metrics_import_no_torch() -> None:
    loaded = modules_after("import benchmarks.metrics, benchmarks.results.statistics, benchmarks.prompting.simulated_user")
    assert not loaded & set(HEAVY)
