"""Imports point one way, and the light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "ray", "mlflow", "monai", "nnunetv2", "open_clip", "segment_anything", "SimpleITK")

FLOORS = ("common", "data", "metrics", "prompting", "contestants", "weights", "execution", "api", "commands")
"""The floors of `benchmarks/`, from the ground up: each may use those below it. `results` stands beside them."""

ALLOWED = {floor: set(FLOORS[: place + 1]) for place, floor in enumerate(FLOORS)}
ALLOWED["results"] = {"common", "metrics", "prompting", "results"}
for upper in ("execution", "api", "commands"):
    ALLOWED[upper].add("results")


def modules_of(package: str) -> dict[str, Path]:
    """Dotted name → file, for every module of a package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: frozenset[str] = frozenset()) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it; `from a import b` gives a.b if that is known."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known
            names |= submodules or {str(node.module)}
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


def test_a_floor_uses_only_floors_below_it() -> None:
    modules = modules_of("benchmarks")
    wrong = []
    for name, path in modules.items():
        floor = name.split(".")[1] if "." in name else ""
        for other in imported(path, frozenset(modules)):
            used = other.split(".")[1] if other.startswith("benchmarks.") else ""
            if floor and used and used not in ALLOWED[floor]:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_every_folder_of_the_bench_is_a_floor() -> None:
    folders = {path.name for path in (ROOT / "benchmarks").iterdir() if any(path.glob("*.py"))}
    assert folders <= ALLOWED.keys()


def test_contestants_use_only_the_floors_made_for_them() -> None:
    """Method code sees the interface and what it speaks of; not the execution, the results or the commands."""
    allowed = {"benchmarks"} | {
        f"benchmarks.{floor}" for floor in ("common", "data", "metrics", "prompting", "contestants", "weights")
    }
    for package in ("tags", "baselines"):
        for path in (ROOT / package).rglob("*.py"):
            used = {".".join(name.split(".")[:2]) for name in imported(path) if name.split(".")[0] == "benchmarks"}
            assert used <= allowed, path


@pytest.mark.parametrize("package", ["benchmarks", "tags", "baselines"])
def test_no_import_goes_in_a_circle(package: str) -> None:
    modules = modules_of(package)
    graph = {name: (imported(path, frozenset(modules)) & modules.keys()) - {name} for name, path in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


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


def test_announcing_datasets_imports_no_torch() -> None:
    """Nor SimpleITK, which reads files, nor MONAI, which knows addresses: each waits until it is needed."""
    assert not modules_after("from benchmarks.data.catalogue import sources; sources()") & set(HEAVY)


@pytest.mark.parametrize("floor", ["results", "metrics", "prompting"])
def test_statistics_and_metrics_import_no_torch(floor: str) -> None:
    """`mlflow` may load behind `results.mlflow`, inside the functions that need it, and nowhere else."""
    names = [name for name in modules_of("benchmarks") if name.startswith(f"benchmarks.{floor}")]
    assert not modules_after(f"import {', '.join(names)}") & set(HEAVY)


def test_importing_the_bench_loads_nothing() -> None:
    assert not modules_after("import benchmarks; dir(benchmarks)") & {*HEAVY, "pandas", "scipy", "numpy", "pydantic"}


def test_the_python_face_loads_no_torch_before_it_works() -> None:
    assert not modules_after("import benchmarks; benchmarks.run") & set(HEAVY)
