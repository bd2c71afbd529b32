"""What the whole suite will take, from what one case took: hours, disk, and money where a price is given.

Training under a budget of minutes takes these minutes. A budget of steps is the measured step times the steps. What
follows a prompt costs about the same on any scan; what looks at whole scans costs more on larger ones. Where the one
case was smaller than a scan of patients, two figures are given: as measured, and as if all of it grew with the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.contestants import method as find_method
from benchmarks.data import registry
from benchmarks.data.catalogue import sources
from benchmarks.data.splits import PATIENT
from benchmarks.execution.entries import ALL_FOLDS, DatasetEntry, MethodEntry
from benchmarks.execution.rehearsal.road import Passage
from benchmarks.execution.suite import Suite

SCAN_LITRES = 50.0  # a CT of 400 × 400 × 310 mm
FOLDS = 5  # where all folds are asked for and the data are not here
VOXELS = 4e7  # of that CT, about 512 × 512 × 150
NNUNET_BYTES = 6  # for a voxel of a training case: an int16 copy and a float32 one, before compression


@dataclass(frozen=True)
class Cost:
    """Of one method over all datasets, folds and repeats.

    Attributes:
        trainings: how many; of them `training_hours` on one worker with the suite's processors and GPUs.
        known_hours: of these, what a budget of minutes says; the rest follows from the measured step.
        low_hours, high_hours: of evaluation on one worker.
        disk_gb: checkpoints and masks, which stay.
        working_gb: copies of the training cases, which nnU-Net keeps as long as one training lasts.
        guessed: datasets whose passage did not end well: of them only trainings under a budget of minutes are counted.
        known: whether anything is: one passage at least ended well.
    """

    method: str
    trainings: int
    training_hours: float
    low_hours: float
    high_hours: float
    disk_gb: float
    working_gb: float = 0.0
    guessed: tuple[str, ...] = ()
    known_hours: float = 0.0
    known: bool = True

    def money(self, price: float, workers: int, gpus: float) -> tuple[float, float]:
        """At a price for an hour of a GPU (of a worker, where it has none)."""
        share = price * (gpus or 1.0)
        training = self.training_hours * workers
        return share * (training + self.low_hours), share * (training + self.high_hours)


def costs(suite: Suite, passages: Sequence[Passage]) -> list[Cost]:
    """One line for each method of the suite, in its order."""
    return [_cost(suite, entry, [one for one in passages if one.method == entry.title]) for entry in suite.methods]


def total(costs: Sequence[Cost]) -> Cost:
    """Of all methods together."""
    return Cost(
        "all",
        sum(one.trainings for one in costs),
        sum(one.training_hours for one in costs),
        sum(one.low_hours for one in costs),
        sum(one.high_hours for one in costs),
        sum(one.disk_gb for one in costs),
        max((one.working_gb for one in costs), default=0.0),
        tuple(dict.fromkeys(name for one in costs for name in one.guessed)),
        sum(one.known_hours for one in costs),
        any(one.known for one in costs),
    )


def _cost(suite: Suite, entry: MethodEntry, passages: Sequence[Passage]) -> Cost:
    method = find_method(entry.name)
    budget = suite.budget.budget(entry.budget)
    trained = method.training == "bench" and (entry.fine_tune or not method.needs_checkpoint)
    own_tool = method.training == "own" and not method.floor
    repeats = (entry.repeats or suite.repeats) if trained or own_tool else 1
    sums = dict.fromkeys(("trainings", "known", "measured", "low", "high", "disk"), 0.0)
    unknown, working = [], 0.0
    met = [one for one in suite.datasets if entry.meets(one.name)]
    for dataset in met:
        training, tested = case_counts(dataset)
        times = repeats * fold_count(dataset) if trained or own_tool else 0
        sums["trainings"] += times
        sums["known"] += times * (budget.minutes or 0.0) / 60
        if own_tool:
            working = max(working, training * VOXELS * NNUNET_BYTES / 1e9)
        passage = next((one for one in passages if one.dataset == dataset.name), None)
        if passage is None or passage.state != "ok":
            unknown.append(dataset.name)
            continue
        grows = max(1.0, SCAN_LITRES / passage.case_litres) if passage.data == "phantom" else 1.0
        hours = tested * repeats * passage.case_seconds / 3600
        sums["low"] += hours
        sums["high"] += hours * grows
        sums["disk"] += tested * repeats * passage.case_gb * grows
        sums["disk"] += times * passage.checkpoint_gb
        if budget.minutes is None:
            sums["measured"] += times * (budget.steps or 0) * passage.step_seconds / 3600
    return Cost(
        entry.title,
        int(sums["trainings"]),
        sums["known"] + sums["measured"],
        sums["low"],
        sums["high"],
        sums["disk"],
        working,
        tuple(dict.fromkeys(unknown)),
        sums["known"],
        len(unknown) < len(met),
    )


def fold_count(entry: DatasetEntry) -> int:
    """How many trainings an entry is: one, or one for each of its folds."""
    if entry.fold != ALL_FOLDS:
        return 1
    here = entry.name in registry.registrations()
    return len(registry.load(entry.name, splits=entry.splits).splits) if here else FOLDS


def case_counts(entry: DatasetEntry) -> tuple[int, int]:
    """Training and test cases of an entry: of the data that are here, else as published."""
    folds = FOLDS if entry.fold == ALL_FOLDS else 1
    if entry.name in registry.registrations():
        splits = registry.load(entry.name, splits=entry.splits).splits
        chosen = splits if entry.fold == ALL_FOLDS else splits[entry.fold_number : entry.fold_number + 1]
        tested = sum(len(one.test) for one in chosen)
        if entry.train_on is not None:
            tested = sum(len(part) for part in vars(splits[0]).values())
        return sum(len(one.train) for one in chosen), tested
    source = sources().get(entry.name)
    if entry.source == "phantom" or source is None:
        return entry.cases // 2, entry.cases - entry.cases // 2
    if source.splits is not None and source.splits.published and entry.splits != PATIENT:
        train, validation, test = source.splits.published_counts()
        return train, test if entry.train_on is None else train + validation + test
    tested = source.info.cases * folds // FOLDS
    return source.info.cases * folds - tested, tested
