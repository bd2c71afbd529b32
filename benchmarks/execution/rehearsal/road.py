"""Every method of a suite once along the whole road, at its own size: two steps of training, one case.

Real data and official files are used where they are here, phantoms in the official layout and stand-ins by a rule where
they are not. One method on one dataset is one passage; it is kept, so that a rehearsal goes on where it was stopped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.common.errors import UserError, is_out_of_memory, one_line
from benchmarks.common.files import read_json, safe_name, write_json
from benchmarks.common.identity import digest
from benchmarks.contestants import method as find_method
from benchmarks.data import registry
from benchmarks.data.catalogue import phantom_names
from benchmarks.data.volume import read_grid
from benchmarks.execution.cluster import is_running
from benchmarks.execution.entries import BudgetChanges, DatasetEntry, MethodEntry
from benchmarks.execution.progress import Progress
from benchmarks.execution.rehearsal.watch import MemoryWatch
from benchmarks.execution.suite import Suite
from benchmarks.prompting.protocol import Protocol
from benchmarks.results.records import FAILED
from benchmarks.weights.stand_ins import StandIn

STEPS = 2
ROUNDS = 2  # of corrections; what more of them cost follows
PHANTOMS = 3
PATIENCE_MINUTES = 24 * 60.0  # a rehearsal on processors may take long, and is no failure for it

State = Literal["ok", "failed", "not run", "refused", "not rehearsed"]


@dataclass(frozen=True)
class Passage:
    """What one method did on one dataset.

    Attributes:
        unit: digest of everything that the passage depends on.
        data: "real" or "phantom".
        weights: "official", "by rule", "trained here" or a mixture.
        seconds: of the whole passage, start of processes included.
        step_seconds: of one training step; 0 where nothing is trained.
        case_seconds: opening and segmenting one case under all protocols, the suite's full number of rounds.
        case_litres: of the scan.
        largest_gb: resident memory of the largest process.
        checkpoint_gb, case_gb: what a trained model and the masks of one case take on disk.
    """

    unit: str
    method: str
    dataset: str
    data: str
    weights: str
    state: State
    reason: str = ""
    seconds: float = 0.0
    step_seconds: float = 0.0
    case_seconds: float = 0.0
    case_litres: float = 0.0
    largest_gb: float = 0.0
    gpu_gb: float = 0.0
    checkpoint_gb: float = 0.0
    case_gb: float = 0.0


@dataclass(frozen=True)
class Rehearsed:
    """How a suite is rehearsed.

    Attributes:
        out: the folder of the rehearsal.
        files: the weights folder of the rehearsal, by name of file.
        address: of a Ray cluster, or None.
        kept_only: run nothing; only what was kept before counts.
    """

    out: Path
    files: Mapping[str, StandIn]
    address: str | None = None
    kept_only: bool = False


def rehearsal_suite(suite: Suite, cpus: int, gpus: float) -> Suite:
    """The suite made short: each dataset once, two steps, one protocol of each kind, marked as a rehearsal."""
    once = {entry.name: entry.model_copy(update={"fold": entry.fold_number}) for entry in reversed(suite.datasets)}
    short = suite.with_budget(BudgetChanges(steps=STEPS, cpus=cpus, gpus=gpus))
    return short.model_copy(
        update={
            "name": f"rehearsal-{suite.name}",
            "title": f"REHEARSAL of {suite.name}: no result",
            "datasets": tuple(_here(entry) for entry in reversed(once.values())),
            "protocols": tuple(shortened(suite.protocols)),
            "methods": tuple(entry for entry in short.methods if entry.kind == "method"),
            "repeats": 1,
            "rehearsal": True,
            "case_timeout_minutes": PATIENCE_MINUTES,
            "train_timeout_minutes": PATIENCE_MINUTES,
        }
    )


def shortened(protocols: Iterable[Protocol]) -> list[Protocol]:
    """One protocol of each track, and one with corrections, of two rounds."""
    kinds: dict[tuple[str, bool], Protocol] = {}
    for protocol in protocols:
        short = replace(protocol, rounds=ROUNDS) if protocol.rounds > ROUNDS else protocol
        kinds.setdefault((protocol.track, protocol.rounds > 1), short)
    return list(kinds.values())


def _here(entry: DatasetEntry) -> DatasetEntry:
    """The entry itself where its data are on this machine, else phantoms in the official layout.

    Raises:
        UserError: neither is to be had.
    """
    training = None if entry.train_on is None else _here(entry.train_on)
    entry = entry.model_copy(update={"train_on": training})
    if entry.source or entry.name in registry.registrations():
        return entry
    if entry.name not in phantom_names():
        raise UserError(f"dataset '{entry.name}' is not on this machine and has no phantoms: add it first")
    return entry.model_copy(update={"source": "phantom", "cases": PHANTOMS, "splits": None, "fold": 0})


def along_the_road(suite: Suite, short: Suite, how: Rehearsed, progress: Progress) -> Iterable[Passage]:
    """Method after method, one dataset after the other; each passage as it ends. Equal entries go once."""
    for entry in short.datasets:
        gone: dict[str, Passage] = {}
        for member in short.methods:
            if not member.meets(entry.name):
                continue
            of_training = member.model_dump(mode="json", include={"fine_tune", "untrained", "joint"})
            key = digest([member.name, member.config, of_training, str(member.environment)])
            if key not in gone:
                gone[key] = _passage(suite, short, member, entry, how, progress)
            yield replace(gone[key], method=member.title)


def _passage(
    suite: Suite, short: Suite, member: MethodEntry, entry: DatasetEntry, how: Rehearsed, progress: Progress
) -> Passage:
    from benchmarks.execution.work import planned

    config, weights, by_rule = _configured(member, entry, how)
    data = "phantom" if entry.source == "phantom" else "real"
    empty = Passage("", member.title, entry.name, data, weights, "refused")
    member = member.model_copy(update={"config": {**member.config, **config}})
    single = short.model_copy(update={"datasets": (entry,), "methods": (member,)})
    single = single.model_copy(update={"name": f"{short.name}-{safe_name(member.title)}-{entry.name}"})
    try:
        work = planned(single, how.out, progress, by_rule)
    except UserError as error:
        return replace(empty, reason=str(error))
    unit = work.units[0]
    kept = how.out / "passages" / f"{safe_name(member.title)}-{safe_name(entry.name)}.json"
    if kept.is_file():
        before = Passage(**read_json(kept))
        if before.unit == unit.digest and (before.state == "ok" or how.kept_only):
            return before
    if how.kept_only:
        return replace(empty, state="not rehearsed")
    passed = _walked(suite, work, replace(empty, unit=unit.digest), how, progress)
    write_json(kept, asdict(passed))
    return passed


@contextmanager
def _processes_of_its_own() -> Iterator[None]:
    """End the Ray that is started in the block: its processes keep the memory of what they did, and would have it
    counted for the next passage."""
    before = is_running()
    try:
        yield
    finally:
        if not before and is_running():
            import ray

            ray.shutdown()


def _walked(suite: Suite, work: Any, begun: Passage, how: Rehearsed, progress: Progress) -> Passage:
    """Train and evaluate the one unit. A fault of the method is a passage that says so."""
    from benchmarks.execution.work import executed

    started = time.monotonic()
    with _processes_of_its_own(), MemoryWatch() as watch:
        try:
            result = executed(work, None, how.address, "failed", progress)
        except UserError as error:
            return replace(begun, reason=str(error), seconds=time.monotonic() - started)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return replace(begun, state="failed", reason=one_line(error)[:300], seconds=time.monotonic() - started)
    unit, rows = work.units[0], result.rows
    done = replace(
        begun,
        seconds=time.monotonic() - started,
        largest_gb=round(watch.largest_gb, 2),
        gpu_gb=round(watch.gpu_gb, 2),
        case_litres=_litres(unit.cases[0].image),
    )
    if result.not_run:
        return replace(done, state="not run", reason=result.not_run[0].reason)
    bad = rows[rows["status"] == FAILED] if len(rows) else rows
    if len(bad):
        return replace(done, state="failed", reason=str(bad["reason"].iloc[0])[:300])
    training = _figures(work.folders.checkpoints, unit)
    folder = unit.evaluation.predictions
    return replace(
        done,
        state="ok",
        step_seconds=_step_seconds(training),
        case_seconds=_case_seconds(rows, suite),
        checkpoint_gb=_gb(work.folders.checkpoints, f"*-{unit.job.digest()}/**/*") if unit.job else 0.0,
        case_gb=_gb(folder, "**/*") if folder is not None and folder.is_dir() else 0.0,
    )


def _configured(member: MethodEntry, entry: DatasetEntry, how: Rehearsed) -> tuple[dict[str, str], str, frozenset[str]]:
    """The settings that name the files of the rehearsal, where these come from, and which are stand-ins."""
    method = find_method(member.name)
    config: dict[str, str] = {}
    used: list[StandIn] = []
    for use in method.files:
        placed = how.files.get(use.name)
        fits = use.fits(entry.name)
        if placed is None or not fits or (use.setting == "checkpoint" and member.config.get("checkpoint")):
            continue
        config[use.setting] = str(placed.path)
        used.append(placed)
    origins = dict.fromkeys("official" if placed.real else "by rule" for placed in used)
    weights = " and ".join(origins) or ("trained here" if method.training != "none" else "none")
    return config, weights, frozenset(placed.file.name for placed in used if not placed.real)


def _case_seconds(rows: Any, suite: Suite) -> float:
    """Seconds for one case under every protocol of the suite; corrections that were cut off cost what the last did."""
    rounds: dict[tuple[str, bool], int] = {}
    times: Counter[tuple[str, bool]] = Counter()
    for one in suite.protocols:
        rounds[one.track, one.rounds > 1] = one.rounds
        times[one.track, one.rounds > 1] += 1
    total = 0.0
    for _, group in rows.groupby("protocol"):
        kind = (str(group["track"].iloc[0]), len(group) > 1)
        opened, segments = float(group["seconds_open"].max()), group.sort_values("step")["seconds_segment"]
        more = max(0, rounds.get(kind, 1) - len(group)) * float(segments.iloc[-1])
        total += max(1, times[kind]) * (opened + float(segments.sum()) + more)
    return total


def _figures(checkpoints: Path, unit: Any) -> dict[str, Any]:
    if unit.job is None:
        return {}
    found = list(checkpoints.glob(f"*-{unit.job.digest()}/training.json"))
    return dict(read_json(found[0])) if found else {}


def _step_seconds(training: Mapping[str, Any]) -> float:
    steps = training.get("steps", training.get("iterations", 0))
    return float(training.get("seconds_training", 0.0)) / steps if steps else 0.0


def _litres(image: Path) -> float:
    shape, affine = read_grid(image)
    return float(np.prod(shape) * abs(np.linalg.det(affine[:3, :3])) / 1e6)


def _gb(folder: Path, pattern: str) -> float:
    return sum(path.stat().st_size for path in folder.glob(pattern) if path.is_file()) / 1e9
