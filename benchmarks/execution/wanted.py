"""Which method is to segment scans by hand: of a run, of a checkpoint, or as it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError
from benchmarks.common.output import DEFAULT_OUT
from benchmarks.common.paths import user_path
from benchmarks.contestants import Budget, Environment, methods
from benchmarks.contestants import method as find_method
from benchmarks.execution.datasets import Folders
from benchmarks.execution.predict import Contestant, Place, of_checkpoint, of_run, unit_of, without_run
from benchmarks.execution.rehearsal.mark import refuse_rehearsal
from benchmarks.execution.training import device_for
from benchmarks.results.records import RecordStore


@dataclass(frozen=True)
class MethodOfRun:
    """A method of a finished run.

    Attributes:
        name: as the leaderboard has it.
        dataset: on which it was trained; needed if it was run on several.
        suite: name of the suite that was run.
        out: output folder of the run.
        fold, target: likewise of the dataset; needed if there are several.
    """

    name: str
    dataset: str | None = None
    suite: str = "phantom"
    out: str | Path = DEFAULT_OUT
    fold: int | None = None
    target: str | None = None

    @property
    def place(self) -> Place:
        return Place(self.dataset, self.fold, self.target)


@dataclass(frozen=True)
class MethodOfCheckpoint:
    """A method with a checkpoint folder of `train` or `run`, or a file of official weights, without its run."""

    name: str
    checkpoint: str | Path


@dataclass(frozen=True)
class InstalledMethod:
    """A method as it is installed: one that needs no training, or has official weights in the weights folder."""

    name: str


Wanted = MethodOfRun | MethodOfCheckpoint | InstalledMethod | str


@dataclass(frozen=True)
class PredictOptions:
    """How scans are segmented, besides with what.

    Attributes:
        organ, lesion: what to look for, in place of the words of the method's dataset.
        modality: of the scan, as in `benchmarks.data.intensities`; by default what DICOM says, else that of the
            dataset that the method was trained on, else CT.
        gpus: more than 0 to work on the GPU.
        overwrite: replace masks that are there.
    """

    organ: str = ""
    lesion: str = ""
    modality: str | None = None
    gpus: float = 0.0
    overwrite: bool = False


def contestant_of(method: Wanted, options: PredictOptions) -> Contestant:
    """The method, ready to segment. Raises UserError as `of_run`, `of_checkpoint` and `without_run` do."""
    device = device_for(Budget(gpus=options.gpus))
    if isinstance(method, MethodOfCheckpoint):
        found = of_checkpoint(method.name, Path(method.checkpoint), device)
    elif isinstance(method, InstalledMethod):
        found = without_run(method.name, device)
    else:
        found = _of_run_or_installed(method, device)
    return found.looking_for(options.organ, options.lesion)


def home_of(wanted: Wanted) -> tuple[str, Environment | None]:
    """The method's name, and where its processes run if not in the bench's own environment.

    Raises:
        UserError: no such method, or no such run.
    """
    if isinstance(wanted, MethodOfCheckpoint | InstalledMethod):
        return wanted.name, find_method(wanted.name).environment
    unit, _ = _unit_of_run(wanted)
    if unit is None:
        assert isinstance(wanted, str)
        return wanted, find_method(wanted).environment
    if unit.get("made_elsewhere"):
        return str(unit["method_name"]), None
    chosen = find_method(str(unit["method_name"]))
    given = unit.get("environment_given")  # by the suite
    return chosen.name, Environment.from_mapping(given) if given else chosen.environment


def _of_run_or_installed(method: MethodOfRun | str, device: str) -> Contestant:
    unit, folders = _unit_of_run(method)
    if unit is None:
        assert isinstance(method, str)
        return without_run(method, device)
    return of_run(unit, folders.checkpoints, device)


def _unit_of_run(method: MethodOfRun | str) -> tuple[Mapping[str, Any] | None, Folders]:
    """A name alone may also be that of a method that needs no run, if the default folder has no run of it: None."""
    wanted = MethodOfRun(method) if isinstance(method, str) else method
    folders = Folders(user_path(wanted.out).resolve())
    store = RecordStore(folders.records)
    if isinstance(method, str):
        units = store.read_suite(wanted.suite)[1] if wanted.suite in store.suites() else []
        if method not in [unit["method"] for unit in units] and (method in methods() or not units):
            _check_installed(method, wanted)
            return None, folders
    _, units = store.read_suite(wanted.suite)
    refuse_rehearsal(wanted.suite, units)
    return unit_of(units, wanted.name, wanted.place), folders


def _check_installed(name: str, run: MethodOfRun) -> None:
    """Raises UserError: there is no such method, and no run that could have given the name to one of its own."""
    try:
        find_method(name)
    except UserError as error:
        raise UserError(f"{error} (and there is no run of suite '{run.suite}' in {run.out})") from error
