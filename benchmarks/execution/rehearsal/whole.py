"""A rehearsal from beginning to end: checks, the road, what is missing, what the whole will take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.output import writable_folder
from benchmarks.execution.progress import Progress
from benchmarks.execution.rehearsal.checks import (
    Check,
    data_checks,
    file_checks,
    files_of,
    licence_rows,
    machine_checks,
    room_checks,
)
from benchmarks.execution.rehearsal.costs import Cost, costs, total
from benchmarks.execution.rehearsal.mark import MARK, NOTICE, claim
from benchmarks.execution.rehearsal.road import Passage, Rehearsed, along_the_road, rehearsal_suite
from benchmarks.execution.suite import Suite
from benchmarks.weights.stand_ins import folder_for_rehearsal

REHEARSAL_OUT = Path("tags-bench-rehearsal")


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal came to.

    Attributes:
        checks: of data, files and machine, by heading.
        licences: what is accepted by running the suite.
        passages: one for each method and dataset.
        costs: one for each method, of the whole suite.
        cpus, gpus: of the worker that was measured.
    """

    suite: Suite
    checks: Mapping[str, tuple[Check, ...]]
    licences: tuple[Mapping[str, str], ...]
    passages: tuple[Passage, ...]
    costs: tuple[Cost, ...]
    cpus: int
    gpus: float

    @property
    def alike(self) -> bool:
        """Whether what was measured is what the suite asks for, so that hours and cost carry over."""
        return self.cpus == self.suite.budget.cpus and self.gpus == self.suite.budget.gpus

    @property
    def missing(self) -> list[Check]:
        """What has to be got or mended before the suite can be run."""
        fine = ("ok", "phantoms", "not measured")
        return [one for found in self.checks.values() for one in found if one.state not in fine]

    @property
    def passed(self) -> bool:
        """Whether every method went along the whole road."""
        return all(one.state == "ok" for one in self.passages)


@dataclass(frozen=True)
class Scope:
    """How much is rehearsed: processors and GPUs of a worker, a cluster, and whether anything is to run."""

    cpus: int | None = None
    gpus: float | None = None
    address: str | None = None
    kept_only: bool = False


def rehearsed(suite: Suite, out: Path, scope: Scope, progress: Progress) -> Rehearsal:
    """Arguments and errors as for `benchmarks.api.rehearse`."""
    suite = suite.model_copy(update={"methods": tuple(entry for entry in suite.methods if entry.kind == "method")})
    folder = writable_folder(out)
    claim(folder)
    progress.note(NOTICE)
    with progress.step("reading the official files that are here"):
        checks = {
            "data": tuple(data_checks(suite)),
            "official files": tuple(file_checks(suite)),
            "machine": tuple(machine_checks(suite, scope.address)),
        }
    with progress.step("writing stand-ins for the files that are not"):
        placed = folder_for_rehearsal(files_of(suite), folder / "weights", progress.note)
    cpus, gpus = _means(suite, scope.cpus, scope.gpus, scope.address)
    short = rehearsal_suite(suite, cpus, gpus)
    how = Rehearsed(folder, {one.file.name: one for one in placed}, scope.address, scope.kept_only)
    passages = []
    for passage in along_the_road(suite, short, how, progress):
        passages.append(passage)
        if passage.state != "not rehearsed":
            progress.note(line_of(passage))
    taken = tuple(costs(suite, passages))
    checks["machine"] += tuple(room_checks(folder, passages, total(taken)))
    licences = tuple(licence_rows(suite.methods, (entry.name for entry in suite.datasets)))
    return Rehearsal(suite, checks, licences, tuple(passages), taken, cpus, gpus)


def line_of(passage: Passage) -> str:
    """One passage, as it ends."""
    told = f"{passage.seconds:.0f} s, {passage.largest_gb:.1f} GB" if passage.state == "ok" else passage.reason
    what = f"{passage.method} on {passage.dataset} ({passage.data}, weights {passage.weights})"
    return f"{MARK}: {what}: {passage.state}, {told}"


def _means(suite: Suite, cpus: int | None, gpus: float | None, address: str | None) -> tuple[int, float]:
    """Processors and GPUs of a worker: as asked, else the suite's, and no more than this machine has."""
    if address is not None:
        return cpus or suite.budget.cpus, suite.budget.gpus if gpus is None else gpus
    import torch

    seen = float(torch.cuda.device_count()) if torch.cuda.is_available() else 0.0
    return cpus or min(suite.budget.cpus, os.cpu_count() or 1), min(suite.budget.gpus, seen) if gpus is None else gpus
