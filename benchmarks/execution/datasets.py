"""Where a run writes, and the datasets of a suite: phantoms, those of this machine, folders of the user's, and pairs.

A dataset that only tests takes its training cases from another (`train_on`); own data from which nothing is learned
are tested whole.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.common.errors import UserError
from benchmarks.common.files import read_json, safe_name, write_json
from benchmarks.common.identity import digest
from benchmarks.common.paths import user_path, whole_path
from benchmarks.contestants import Target
from benchmarks.contestants import method as find_method
from benchmarks.data import registry
from benchmarks.data.cache import FOLDER_VARIABLE as CACHE_VARIABLE
from benchmarks.data.catalogue import (
    Reading,
    intensity_statistics,
    load_dataset,
    load_own,
    refuse_another_target,
)
from benchmarks.data.catalogue import datasets as known_datasets
from benchmarks.data.dataset import Case, Dataset, External, Split, fingerprint_cases, same_scan
from benchmarks.data.intensities import CT
from benchmarks.data.phantom import synthesise
from benchmarks.execution.entries import ALL_FOLDS, DatasetEntry, MethodEntry
from benchmarks.execution.suite import Suite


@dataclass(frozen=True)
class Folders:
    """Everything that a run writes lies below one output folder."""

    out: Path

    @property
    def records(self) -> Path:
        return self.out / "records"

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def predictions(self) -> Path:
        return self.out / "predictions"

    @property
    def cache(self) -> Path:
        """Prepared volumes: where `TAGS_BENCH_CACHE` says, else below the output folder."""
        setting = os.environ.get(CACHE_VARIABLE)
        return user_path(setting).absolute() if setting else self.out / "cache"

    @property
    def prompts(self) -> Path:
        return self.out / "prompts"

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def logs(self) -> Path:
        return self.out / "logs"


def dataset_of(suite: Suite, entry: DatasetEntry, folders: Folders) -> Dataset:
    """The dataset of an entry as this suite tests it: own data from which no method learns are tested whole.

    Raises:
        UserError: as `resolve_dataset`.
    """
    learned = suite.part != "test" or any(method.kind == "masks" or learns(method) for method in suite.methods)
    dataset = resolve_dataset(entry, suite.seed, folders, learned)
    return one_case_each(dataset, entry.fold_number) if suite.rehearsal else dataset


def one_case_each(dataset: Dataset, fold: int) -> Dataset:
    """The smallest scan to learn from and the smallest to test, of a fold."""
    split = dataset.splits[fold]
    external = dataset.external
    if external is not None:
        external = replace(external, training=one_case_each(external.training, external.fold))
    small = {part: _smallest(dataset, getattr(split, part)) for part in ("train", "validation", "test")}
    splits = tuple(Split(**small) if number == fold else one for number, one in enumerate(dataset.splits))
    return replace(dataset, splits=splits, external=external)


def _smallest(dataset: Dataset, cases: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(cases, key=lambda case: dataset.cases[case].image.stat().st_size)[:1])


def resolve_dataset(entry: DatasetEntry, seed: int, folders: Folders, learned: bool = True) -> Dataset:
    """The dataset of a suite entry: phantoms are written first if they are not there yet.

    Args:
        learned: whether any method is trained on it; own data are tested whole where none is.

    Raises:
        UserError: a missing or broken folder, an unknown target, a split that does not fit.
    """
    tested = _one_dataset(entry, seed, folders)
    if entry.train_on is not None:
        training = resolve_dataset(entry.train_on, seed, folders)
        return externally_tested(tested, training, entry.train_on.fold_number)
    if not is_own(entry, tested):
        return tested
    if not learned and not has_own_split(entry, tested) and entry.fold == 0:
        return tested_whole(tested)
    return _with_measured_intensities(tested, entry.fold_number, seed, folders)


def is_own(entry: DatasetEntry, dataset: Dataset) -> bool:
    """Whether it is the user's own, not a known dataset with its announced target, and no phantom."""
    if dataset.synthetic:
        return False
    target = entry.target if entry.source else registry.registration(entry.name).target
    return target is not None or entry.name not in known_datasets()


def has_own_split(entry: DatasetEntry, dataset: Dataset) -> bool:
    """Whether somebody said what is tested: a released dataset, or a word or a column of the user's.

    Released weights may have been trained on the other cases of a dataset known by name.
    """
    registered = None if entry.source else registry.registration(entry.name).splits
    named = (entry.splits or registered) is not None or dataset.split_source.startswith("column ")
    return named or entry.name in known_datasets()


def folds_of(entry: DatasetEntry, dataset: Dataset) -> list[DatasetEntry]:
    """The entry for one fold, or an entry for each fold where it asks for all."""
    if entry.fold != ALL_FOLDS:
        return [entry]
    return [entry.model_copy(update={"fold": fold}) for fold in range(len(dataset.splits))]


def externally_tested(tested: Dataset, training: Dataset, fold: int) -> Dataset:
    """`tested` whole, for methods that learn from the training cases of another dataset.

    Intensities are those of the other dataset, because networks are used on what they have learned; prompts and labels
    are the tested dataset's own. Its name says both: "kits21-to-mine".

    Raises:
        UserError: the same dataset, a scan that is in both, or targets that do not pair.
    """
    if tested.name == training.name:
        raise UserError(f"dataset '{tested.name}' cannot be trained on itself with `train_on`; use its folds")
    if tested.modality != training.modality:
        raise UserError(f"'{tested.name}' is {tested.modality}, '{training.name}' is {training.modality}: no pair")
    learned = [*training.split_cases("train", fold), *training.split_cases("validation", fold)]
    _refuse_known_scans(tested, learned)
    name = f"{training.name}-to-{tested.name}"
    cases = {case_id: replace(case, dataset=name) for case_id, case in usable_cases(tested).items()}
    targets = tuple(_seen_as(target, target_for(target, training)) for target in tested.targets)
    return replace(
        tested,
        name=name,
        cases=cases,
        targets=targets,
        splits=(Split((), (), tuple(sorted(cases))),),
        split_source=f"all cases of {tested.name}, trained on {training.name} ({training.split_source}), fold {fold}",
        external=External(tested.name, training, fold),
    )


def data_line(dataset: Dataset, learners: Sequence[str] = ()) -> str:
    """Whether these are patients or phantoms, and what is done with them, in a line.

    Args:
        learners: the methods that are trained on it if it is real, which is why not all of it is tested.
    """
    tested = sum(len(fold.test) for fold in dataset.splits[:1])
    if dataset.external is not None:
        training = dataset.external.training
        learned = len(training.split_cases("train", dataset.external.fold))
        return (
            f"data: {dataset.name}, external validation: trained on {learned} {_kind(training)} of {training.name}, "
            f"tested on all {tested} {_kind(dataset)} of {dataset.external.tested}"
        )
    split = f"{tested} tested ({dataset.split_source})"
    if dataset.synthetic:
        real = "; `tags-bench data add` or `data fetch` brings real ones" if dataset.name in known_datasets() else ""
        return f"data: {dataset.name}: {len(dataset.cases)} {_kind(dataset)}, no patients, {split}{real}"
    learning = f"; {learners[0]} learns from the others" if learners else ""
    if len(learners) > 1:
        learning = f"; {len(learners)} methods learn from the others"
    if not any(fold.train for fold in dataset.splits):
        learning = f"; {_windows(dataset)}, not measured"
    return f"data: {dataset.name}: {len(dataset.cases)} {_kind(dataset)}, {split}{learning}"


def _windows(dataset: Dataset) -> str:
    """The intensities through which methods see its targets."""
    edges = dict.fromkeys(f"{low:g} to {high:g}" for low, high in (target.window for target in dataset.targets))
    return f"window {', '.join(edges)}" + " HU" * (dataset.modality == CT)


def budget_line(suite: Suite) -> str:
    """What every training may take, in a line; the default is a trial's, and says so before hours are spent on it."""
    budget = suite.budget
    limits = [f"{budget.minutes:g} minutes"] if budget.minutes is not None else []
    limits += [f"{budget.steps} steps"] if budget.steps is not None else []
    gpus = f", {budget.gpus:g} GPU" if budget.gpus else ""
    own = [entry.title for entry in suite.methods if entry.budget is not None]
    but = f"; of its own: {', '.join(own)}" if own else ""
    spent = f"{' or '.join(limits)} on {budget.cpus} CPU{gpus}{but}"
    return f"budget of a training: {spent}; --minutes and --steps set another"


def _kind(dataset: Dataset) -> str:
    return "SYNTHETIC phantoms" if dataset.synthetic else "REAL scans"


def tested_whole(dataset: Dataset) -> Dataset:
    """Every case is tested, none is learned from."""
    every = tuple(sorted(usable_cases(dataset)))
    return replace(dataset, splits=(Split((), (), every),), split_source="all cases: nothing is learned from them")


def learns(entry: MethodEntry) -> bool:
    """Whether a method of a suite is trained on the training cases. What masks made elsewhere learned nobody knows."""
    if entry.kind == "masks":
        return False
    method = find_method(entry.name)
    released = method.needs_checkpoint or bool(method.configured(entry.config).get("checkpoint"))
    return method.training != "none" and (entry.fine_tune or not released)


def usable_cases(dataset: Dataset) -> dict[str, Case]:
    """The cases that are not left out of it."""
    return {case_id: case for case_id, case in dataset.cases.items() if case_id not in dataset.excluded}


def target_for(target: Target, training: Dataset) -> Target:
    """What is learned for a target of another dataset: the target of the same name, or the only one there is.

    Raises:
        UserError: there are several, and none has that name.
    """
    same = [one for one in training.targets if one.name == target.name] or list(training.targets)
    if len(same) != 1:
        known = ", ".join(one.name for one in training.targets)
        raise UserError(f"'{training.name}' has no target '{target.name}' to train on, and several others: {known}")
    return same[0]


def _seen_as(target: Target, learned: Target) -> Target:
    return replace(target, window=learned.window, mean=learned.mean, std=learned.std)


def _refuse_known_scans(tested: Dataset, learned: list[Case]) -> None:
    """The same scan under another name would be learned from and tested."""
    found = same_scan(list(usable_cases(tested).values()), learned)
    if found is not None:
        case, other = found
        raise UserError(
            f"'{tested.name}', case '{case.case_id}', is the scan '{other.case_id}' of '{other.dataset}', which is "
            "trained on"
        )


def _one_dataset(entry: DatasetEntry, seed: int, folders: Folders) -> Dataset:
    asked = Reading(entry.target, entry.organ, entry.lesion, entry.name, entry.splits, seed)
    if entry.source == "phantom":
        root = synthesise(entry.name, folders.data / "phantom", seed=seed, cases=entry.cases)
        dataset = load_dataset(entry.name, root, splits=entry.splits, seed=seed)
        refuse_another_target(dataset, asked, "that of phantoms cannot be changed")
        return dataset
    if not entry.source:
        added = registry.registration(entry.name)
        dataset = registry.load(entry.name, splits=entry.splits)
        advice = f"change it with `tags-bench data add {entry.name} --from {added.root} --target LABEL`"
        refuse_another_target(dataset, asked, advice, called=added.target)
        return dataset
    root = whole_path(user_path(entry.source))
    if entry.name in known_datasets() and entry.target is None:
        dataset = load_dataset(entry.name, root, splits=entry.splits, seed=seed)
        refuse_another_target(dataset, asked, "name the label as `target`, too")
        return dataset
    return load_own(root, asked)


def _with_measured_intensities(dataset: Dataset, fold: int, seed: int, folders: Folders) -> Dataset:
    """Window, mean and deviation of the user's own targets, measured on the training split and kept on disk.

    Without a training case they stay those of soft tissue: no label of a tested case is looked at.
    """
    measured = []
    cases = dataset.split_cases("train", fold) if fold < len(dataset.splits) else []
    if not cases:
        return dataset
    for target in dataset.targets:
        identity = digest([fingerprint_cases(cases), target.labels, target.organ_labels, seed])
        path = folders.data / "intensities" / f"{safe_name(dataset.name)}-{identity}.json"
        if path.is_file():
            known = read_json(path)
            measured.append(replace(target, **known | {"window": tuple(known["window"])}))
            continue
        fresh = intensity_statistics(cases, target, seed)
        write_json(path, {"window": fresh.window, "mean": fresh.mean, "std": fresh.std})
        measured.append(fresh)
    return replace(dataset, targets=tuple(measured))
