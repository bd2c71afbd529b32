"""Methods in environments of their own: built over the bench's, checked, used by Ray's processes, or not run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import api
from benchmarks.api import InstalledMethod, MethodOfCheckpoint, MethodOfRun
from benchmarks.common.errors import MachineFault, UserError
from benchmarks.contestants import Environment, method
from benchmarks.contestants.environment import ACTIVE
from benchmarks.data.dataset import Case, Dataset
from benchmarks.execution import environments
from benchmarks.execution.apart import call_apart
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.environments import EnvironmentFault, Environments, make_ready, state_of
from benchmarks.execution.observer import Nobody
from benchmarks.execution.plan import Unit, plan
from benchmarks.execution.pool import RunOutcome, run, train_units
from benchmarks.execution.suite import parse_suite
from benchmarks.results.records import RecordStore

SUITE = """
name: apart
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [mock-apart, mock-noop]
protocols: [none]
budget: {steps: 4}
"""
OLD = 'def threshold():\n    return 100.0\n\n\n__version__ = "0.0.1"\n'


class Own(Exception):
    """Of a class that only the other process knows."""


def raise_user_error() -> None:
    raise UserError("what is wrong")


def raise_full_disk() -> None:
    raise OSError(28, "No space left on device")


def raise_end_of_file() -> None:
    raise EOFError("of a method, not of its process")


def raise_own_error() -> None:
    raise Own("of a method")


def print_and(work: Callable[[], object], tell: Callable[[object], object]) -> None:
    print("on standard output, where the answers go")
    tell("a word")
    work()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folders = Folders(tmp_path_factory.mktemp("phantoms"))
    return resolve_dataset(parse_suite(SUITE, "test").datasets[0], 7, folders)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of a package index, and a place for what is built."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_CONFIG_FILE": "/dev/null",
        environments.FOLDER_VARIABLE: str(tmp_path / "environments"),
    }.items():
        monkeypatch.setenv(name, value)
    return wheels


def add_wheel(folder: Path, name: str, version: str, code: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", code)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def run_it(dataset: Dataset, out: Path) -> tuple[list[Unit], RunOutcome, pd.DataFrame]:
    units = plan(parse_suite(SUITE, "test"), [dataset], Folders(out))
    outcome = run(units, Folders(out), Nobody())
    return units, outcome, RecordStore(Folders(out).records).read_suite("apart")[0]


@pytest.mark.ray
def test_a_method_trains_and_predicts_with_an_older_package_than_the_bench_has(
    local_ray: None, dataset: Dataset, index: Path, tmp_path: Path
) -> None:
    add_wheel(index, "einops", "0.0.1", OLD)
    newer = importlib.metadata.version("einops")
    assert newer != "0.0.1"
    _, outcome, rows = run_it(dataset, tmp_path / "out")
    assert outcome.not_run == ()
    mine = rows[rows["method"] == "mock-apart"].set_index("case")
    assert set(mine["status"]) == {"ok"}
    test = dataset.split_cases("test", 0)
    assert len(mine) == len(test)
    for case in test:  # the threshold that only the old version of the package knows
        expected = int((case.load()[0].array > 100.0).sum())
        assert mine.loc[case.case_id, "voxels_prediction"] == expected > 0
    by_hand(test[0], tmp_path, int((test[0].load()[0].array > 100.0).sum()))
    assert "apart" not in sys.modules  # nothing of it was imported here
    assert importlib.metadata.version("einops") == newer
    (built,) = (tmp_path / "environments").glob("[!.]*")
    inside = sorted(path.name for path in next(built.glob("lib/python*/site-packages")).iterdir())
    assert inside == ["einops", "einops-0.0.1.dist-info", "tags_bench_below.pth"]  # only what differs


def by_hand(case: Case, folder: Path, voxels: int) -> None:
    """`predict` with the method of the run in `folder`, and with its checkpoint: one scan, and a table of scans."""
    trained = next((folder / "out" / "checkpoints").glob("mock-apart-*"))
    for wanted in (
        MethodOfRun("mock-apart", suite="apart", out=folder / "out"),
        MethodOfCheckpoint("mock-apart", trained),
    ):
        options = api.PredictOptions(overwrite=True)
        found = api.predict(case.image, folder / "mask.nii.gz", wanted, options=options)
        assert found.figures["voxels"] == voxels
        assert (folder / "mask.nii.gz").is_file()
        assert found.unit["method"] == "mock-apart"
    table, seen = folder / "scans.csv", []
    table.write_text(f"scan,mask\n{case.image},one.nii.gz\n{folder}/nothing.nii.gz,two.nii.gz\n", encoding="utf-8")
    rows = api.predict_table(table, wanted, progress=seen.append).cases
    assert [row["status"] for row in rows] == ["ok", "failed"]
    assert rows[0]["voxels"] == voxels
    assert seen == list(rows)
    with pytest.raises(UserError, match="takes no text"):  # raised there, and the same here
        api.predict(case.image, folder / "text.nii.gz", wanted, text="tumour")


TRAINED = """
name: apart
seed: 7
datasets: [{name: kits21, source: phantom, cases: 9}]
methods: [mock-apart-learner]
protocols: [centre-click]
budget: {steps: 8}
"""


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sweep_trains_in_the_environment_and_reports_every_rung(
    local_ray: None, index: Path, tmp_path: Path, workers: int
) -> None:
    add_wheel(index, "einops", "0.0.1", OLD)
    suite = parse_suite(f"{TRAINED}workers: {workers}\n", "test")
    found = api.tune(suite, trials=1, concurrent=1, out=tmp_path / "out")
    assert [(one.status, one.rungs) for one in found.trials] == [("finished", 4)]
    assert len(found.trials[0].curve) == 4
    kept = json.loads((Path(found.places["best model"]) / "training.json").read_text(encoding="utf-8"))
    assert (kept["steps"], kept["workers"]) == (8, workers)
    assert "apart_learner" not in sys.modules


@pytest.mark.ray
@pytest.mark.slow
def test_an_ablation_trains_its_variants_in_the_environment(local_ray: None, index: Path, tmp_path: Path) -> None:
    add_wheel(index, "einops", "0.0.1", OLD)
    found = api.ablate(parse_suite(TRAINED, "test"), out=tmp_path / "out")
    assert found.not_run == ()
    mine = found.rows[found.rows["method"].str.contains("apart-learner|learning")]
    assert mine["method"].nunique() == 2
    assert set(mine["status"]) == {"ok"}
    assert "apart_learner" not in sys.modules


def test_a_sweep_whose_environment_cannot_be_built_is_the_machines_fault(
    local_ray: None, index: Path, tmp_path: Path
) -> None:
    with pytest.raises(MachineFault, match=r"'mock-apart-learner': its environment \(pip einops==0.0.1\) cannot be"):
        api.tune(parse_suite(TRAINED, "test"), trials=1, out=tmp_path / "out")
    with pytest.raises(MachineFault, match=r"the environment of 'mock-apart' \(pip einops==0.0.1\) cannot be used"):
        api.predict(tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz", InstalledMethod("mock-apart"))


@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (partial(os._exit, 3), MachineFault, "the process of 'mock-noop' in its environment ended with exit code 3"),
        (raise_user_error, UserError, "what is wrong"),
        (raise_full_disk, MachineFault, "No space left"),
        (raise_own_error, RuntimeError, "Own: of a method"),
        (raise_end_of_file, EOFError, "of a method, not of its process"),
    ],
)
def test_what_is_raised_in_another_environment_is_raised_here(
    work: Callable[..., object], error: type[Exception], message: str
) -> None:
    told: list[object] = []
    with pytest.raises(error, match=message):
        call_apart(sys.executable, "mock-noop", partial(print_and, work), told.append)
    assert told == ["a word"]


@pytest.mark.ray
def test_an_environment_that_cannot_be_built_is_no_failure_of_the_method(
    local_ray: None, dataset: Dataset, index: Path, tmp_path: Path
) -> None:
    units, outcome, rows = run_it(dataset, tmp_path / "out")
    assert {one.unit for one in outcome.not_run} == {units[0].title}
    assert len(outcome.not_run) == len(units[0].cases)
    reason = outcome.not_run[0].reason
    assert reason.startswith("its environment (pip einops==0.0.1) cannot be used: ERROR: ")
    assert "\n" not in reason
    assert set(rows["method"]) == {"mock-noop"}
    assert set(rows["status"]) == {"ok"}
    trained = train_units(units[:1], Folders(tmp_path / "out"), Nobody())
    assert trained.failed == {}
    assert trained.not_run == {units[0].digest: reason}
    add_wheel(index, "einops", "0.0.1", OLD)  # the same command goes on once it can be built
    _, outcome, rows = run_it(dataset, tmp_path / "out")
    assert outcome.computed == len(units[0].cases)
    assert set(rows["method"]) == {"mock-apart", "mock-noop"}


def test_what_is_built_is_kept_and_what_was_cut_off_is_built_again(index: Path, tmp_path: Path) -> None:
    add_wheel(index, "einops", "0.0.1", OLD)
    one = Environment(pip=("einops==0.0.1",))
    assert state_of(one, "mock-apart") == "can be built (pip einops==0.0.1)"
    assert not (tmp_path / "environments").exists()
    python = make_ready(one, "mock-apart")
    folder = environments.folder_of(one)
    assert state_of(one, "mock-apart") == f"built in {folder}"
    question = "import einops, numpy, benchmarks; print(einops.__version__)"
    answer = subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout
    assert answer.strip() == "0.0.1"
    made = (folder / "pyvenv.cfg").stat().st_mtime_ns
    assert make_ready(one, "mock-apart") == python
    assert (folder / "pyvenv.cfg").stat().st_mtime_ns == made
    (folder / "ready").unlink()
    make_ready(one, "mock-apart")
    assert (folder / "pyvenv.cfg").stat().st_mtime_ns > made


def test_requirements_that_the_bench_meets_need_no_environment() -> None:
    newer = importlib.metadata.version("einops")
    assert Environment(pip=("--no-build-isolation", f"einops=={newer}", "numpy>=1")).is_here()
    assert make_ready(Environment(pip=("numpy>=1",)), "mock-noop") == ""
    unknown = ("-r files.txt", "--requirement=files.txt", "-e folder", "--editable folder")
    for unmet in ("einops==0.0.1", "no-such-package-at-all", "numpy @ file:///somewhere.whl", *unknown):
        assert not Environment(pip=("numpy>=1", unmet)).is_here()
        assert not Environment(pip=(unmet,)).is_here()
    assert not Environment(python=sys.executable).is_here()


def test_a_process_outside_the_environment_refuses_to_load_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"method 'mock-apart' works in an environment of its own \(pip einops==0.0.1\)"
    ):
        method("mock-apart").build()
    monkeypatch.setenv(ACTIVE, "mock-apart")
    with pytest.raises(ImportError, match=r"einops 0\.0\.1 is needed"):  # it believes the word, and the import fails
        method("mock-apart").build()


def test_an_interpreter_that_is_there_is_used_if_the_bench_can_work_in_it(tmp_path: Path) -> None:
    assert make_ready(Environment(python=sys.executable), "mock-noop") == sys.executable
    assert state_of(Environment(python=sys.executable), "mock-noop") == f"ready (python {sys.executable})"
    with pytest.raises(EnvironmentFault, match="unknown method 'nobody'"):
        make_ready(Environment(python=sys.executable), "nobody")
    with pytest.raises(EnvironmentFault, match="is no program on"):
        make_ready(Environment(python=str(tmp_path / "python")), "mock-noop")
    other = tmp_path / "other"
    answer = '{"python": [3, 9], "ray": "2.0", "bench": "0.1.0"}'
    other.write_text(f"#!/bin/sh\necho '{answer}'\n")
    other.chmod(0o755)
    with pytest.raises(EnvironmentFault, match=r"other: python 3\.9, and 3\.\d+ here; they must be the same"):
        make_ready(Environment(python=str(other)), "mock-noop")


def test_a_container_and_a_conda_environment_give_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    apptainer = programs / "apptainer"
    apptainer.write_text(f'#!/bin/sh\nshift 3\nshift\nexec "{sys.executable}" "$@"\n')  # exec --nv IMAGE python …
    conda = programs / "conda"
    prefix = tmp_path / "envs" / "lab"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").symlink_to(sys.executable)
    conda.write_text(f'#!/bin/sh\necho \'{{"envs": ["{prefix}"]}}\'\n')
    for program in (apptainer, conda):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    image = "my image.sif"
    assert make_ready(Environment(apptainer=image), "mock-noop") == f"{apptainer} exec --nv '{image}' python"
    assert environments._command(Environment(conda="lab")) == str(prefix / "bin" / "python")
    assert environments._command(Environment(conda=str(prefix))) == str(prefix / "bin" / "python")
    with pytest.raises(EnvironmentFault, match="conda has no environment 'lub'"):
        make_ready(Environment(conda="lub"), "mock-noop")


def test_processes_are_started_with_the_command_of_their_node() -> None:
    one, two = Environment(python="/one"), Environment(pip=("x",))
    known = Environments({("m", one): {"a": "/a/python", "b": "/b/python"}, ("m", two): {"a": ""}})
    expected = {"py_executable": "/b/python", "env_vars": {ACTIVE: "m"}}
    assert known.options("m", one, "b") == {"runtime_env": expected}
    assert known.options("m", one, "new")["runtime_env"]["py_executable"] == "/a/python"
    assert known.options("m", two, "a") == {}
    assert known.options("m", None, "a") == {}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{pips: [a]}", "environment: unknown key 'pips'; did you mean 'pip'"),
        ("{pip: a}", "environment: 'pip' is a list of words, not 'a'"),
        ("{pip: [a], python: /b}", "environment: give one of pip, uv, python, conda, apptainer, not 2 of them"),
        ("{}", "not 0 of them"),
        ("/venv/bin/python", "environment: a mapping such as"),
    ],
)
def test_a_wrong_environment_of_a_suite_is_one_line(entry: str, message: str) -> None:
    text = SUITE.replace("mock-apart,", f"{{name: mock-apart, environment: {entry}}},")
    with pytest.raises(UserError, match=message):
        parse_suite(text, "test")


def test_only_what_can_change_results_is_part_of_a_units_identity(dataset: Dataset, tmp_path: Path) -> None:
    def digest_with(entry: str) -> str:
        text = SUITE.replace("mock-apart, mock-noop", entry)
        return plan(parse_suite(text, "test"), [dataset], Folders(tmp_path))[0].digest

    plain = digest_with("mock-noop")
    assert digest_with("{name: mock-noop, environment: {python: /somewhere/python}}") == plain
    old = digest_with("{name: mock-noop, environment: {pip: [einops==0.0.1]}}")
    assert old != plain
    assert digest_with("{name: mock-noop, environment: {pip: [einops==0.0.2]}}") not in (plain, old)
