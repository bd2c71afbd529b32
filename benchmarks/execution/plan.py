"""The plan of a run: the units of a suite."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common.environment import revision
from benchmarks.common.errors import UserError
from benchmarks.common.files import safe_name
from benchmarks.common.identity import digest, fingerprint_config
from benchmarks.common.paths import user_path
from benchmarks.common.seeds import derive_seed
from benchmarks.common.weight_file import named_files
from benchmarks.contestants import Environment, Method, Target
from benchmarks.contestants import method as find_method
from benchmarks.data.cache import cache_limit
from benchmarks.data.dataset import Case, Dataset, fingerprint_cases
from benchmarks.execution.datasets import Folders, as_released, target_for
from benchmarks.execution.entries import DatasetEntry
from benchmarks.execution.evaluate import Evaluation, applicable
from benchmarks.execution.given_masks import MADE_ELSEWHERE, GivenMasks, given_masks, masks_method
from benchmarks.execution.joint import joint_parts
from benchmarks.execution.members import members, method_of
from benchmarks.execution.prompt_banks import bank_folder
from benchmarks.execution.suite import MethodEntry, Suite
from benchmarks.execution.training_job import TrainingJob
from benchmarks.execution.unit import Unit
from benchmarks.metrics import METRICS_VERSION
from benchmarks.prompting.bank import PromptBank
from benchmarks.prompting.prompts import SIMULATED
from benchmarks.prompting.protocol import PROTOCOL_VERSION, Protocol
from benchmarks.results.records import SCHEMA_VERSION, RecordStore
from benchmarks.weights.official_files import settings_from_files
from benchmarks.weights.zoo import ZooWeights, zoo_weights

__all__ = ["Unit", "members", "method_of", "plan", "without_repeats"]


def plan(suite: Suite, datasets: Iterable[Dataset], folders: Folders, by_rule: Collection[str] = ()) -> list[Unit]:
    """The units of a suite, one per method, dataset and target, methods inside datasets.

    Args:
        by_rule: names of the official files whose place a stand-in of a rehearsal takes.

    Raises:
        UserError: an unknown method or setting, a fold that does not exist, an empty split, an entry that stands twice.
    """
    cache_limit()  # a wrong setting ends here, not in a worker
    units: list[Unit] = []
    everything = list(zip(suite.datasets, datasets, strict=True))
    for entry, dataset in everything:
        fold = entry.fold_number
        if not dataset.split_cases(suite.part, fold):
            raise UserError(f"dataset '{dataset.name}', fold {fold}: no case in its {suite.part} split")
        _refuse_tested_twice(suite.part, everything, dataset, fold)
        files = fingerprint_cases(dataset.split_cases(suite.part, fold))
        banks = _frozen_prompts(suite, dataset, fold, bank_folder(folders.prompts, files, dataset))
        prompts = _prompts_digest(suite, fold, files, banks)
        evaluated = _Evaluated(dataset, fold, files, banks, prompts, everything)
        for target in dataset.targets:
            for member in members(suite):
                if not member.meets(dataset.name):
                    continue
                if member.kind == "masks":
                    units += _masks_unit(suite, member, evaluated, target, folders)
                    continue
                unit = _unit(suite, member, evaluated, target, folders, by_rule)
                if member.repeat and unit.job is None:
                    continue  # weights that are there are not trained again
                if suite.untrained and member.untrained and unit.key in {known.key for known in units}:
                    continue  # as a twin already
                units.append(unit)
                if suite.untrained and unit.method.training == "bench" and unit.learns_of_nothing and not member.repeat:
                    twin = member.model_copy(update={"untrained": True, "zoo": False})
                    units.append(_unit(suite, twin, evaluated, target, folders, by_rule))
    _refuse_unused_masks(suite, units)
    _refuse_equal_units(suite, units)
    return _with_parts(units)


def _with_parts(units: Sequence[Unit]) -> list[Unit]:
    """Units whose titles name the target and the fold where a dataset has several, or titles would be equal."""
    targets, folds = defaultdict(set), defaultdict(set)
    for unit in units:
        targets[unit.dataset.name].add(unit.target.name)
        folds[unit.dataset.name].add(unit.fold)
    named = []
    for unit in units:
        target = f", {unit.target.name}" if len(targets[unit.dataset.name]) > 1 else ""
        fold = f", fold {unit.fold}" if len(folds[unit.dataset.name]) > 1 else ""
        named.append(replace(unit, part_of_dataset=target + fold))
    return named


def _refuse_equal_units(suite: Suite, units: Sequence[Unit]) -> None:
    """Two units in one place of the tables: a method or a dataset that the suite lists twice."""
    keys = [unit.key for unit in units]
    for unit in units:
        if keys.count(unit.key) == 1:
            continue
        if [member.title for member in members(suite)].count(unit.entry.title) > 1:
            raise UserError(f"suite '{suite.name}' lists '{unit.entry.title}' twice; give one of them a `label`")
        place = f"dataset '{unit.dataset.name}', fold {unit.fold}, target '{unit.target.name}'"
        raise UserError(f"suite '{suite.name}' lists {place}, twice; leave one of them out")


def _refuse_unused_masks(suite: Suite, units: Iterable[Unit]) -> None:
    used = {unit.entry.title for unit in units}
    for entry in suite.methods:
        if entry.kind == "masks" and entry.title not in used:
            ours = ", ".join(one.name for one in suite.datasets)
            raise UserError(f"masks '{entry.title}': a folder is named for {', '.join(entry.folder)}, none for {ours}")


def without_repeats(units: Iterable[Unit]) -> list[tuple[Unit, tuple[Unit, ...]]]:
    """Every unit that has to be computed, with those that give the same numbers under another label."""
    groups: dict[tuple[str, str], list[Unit]] = {}
    for unit in units:
        groups.setdefault((unit.digest, str(unit.environment)), []).append(unit)  # an interpreter has no identity
    return [(first, tuple(others)) for first, *others in groups.values()]


def _refuse_tested_twice(
    part: str, everything: Iterable[tuple[DatasetEntry, Dataset]], dataset: Dataset, fold: int
) -> None:
    """A case that two folds test would stand in a list twice."""
    mine = {case.case_id for case in dataset.split_cases(part, fold)}
    for entry, other in everything:
        if other.name != dataset.name or entry.fold_number >= fold:
            continue
        again = mine & {case.case_id for case in other.split_cases(part, entry.fold_number)}
        if again:
            raise UserError(
                f"dataset '{dataset.name}': the folds {entry.fold_number} and {fold} both test '{min(again)}'; "
                "choose folds whose tests do not overlap"
            )


def _frozen_prompts(suite: Suite, dataset: Dataset, fold: int, folder: Path) -> dict[str, PromptBank]:
    """The first prompts of every protocol, by its name; made once for these very files, the same for every method."""
    return {
        protocol.name: PromptBank.frozen(folder, dataset, suite.part, fold, protocol, suite.seed)
        for protocol in suite.protocols
    }


def _prompts_digest(suite: Suite, fold: int, files: str, banks: dict[str, PromptBank]) -> str:
    """Simulated prompts follow from the files and the seed; those that people gave are themselves."""
    by_hand = {name: bank.digest for name, bank in banks.items() if bank.origin != SIMULATED}
    return digest([PROTOCOL_VERSION, suite.seed, suite.part, fold, files, by_hand])


@dataclass(frozen=True)
class _Evaluated:
    """What all methods are evaluated on: a fold of a dataset, the digest of its files, its prompts and their digest.

    `everything` are all datasets of the suite.
    """

    dataset: Dataset
    fold: int
    files: str
    banks: dict[str, PromptBank]
    prompts: str
    everything: Sequence[tuple[DatasetEntry, Dataset]]


def _unit(
    suite: Suite,
    entry: MethodEntry,
    evaluated: _Evaluated,
    target: Target,
    folders: Folders,
    by_rule: Collection[str],
) -> Unit:
    settled = _settled(suite, entry, evaluated, by_rule)
    job = _job_of(suite, settled, evaluated, target) if settled.learns else None
    _refuse_what_needs_a_training(settled, job)
    if job is None or job.untrained:  # what is trained here learns from the target's own intensities
        target = as_released(target, settled.method, settled.config, evaluated.dataset.modality)
    protocols = applicable(suite.protocols, settled.method.prompts)
    made = _Made(
        settled.method,
        settled.entry,
        _prediction_digest(suite, settled, evaluated, target, protocols, job),
        protocols,
        job,
        skipped=tuple(protocol.name for protocol in suite.protocols if protocol not in protocols),
        zoo=settled.zoo,
        weight_files=settled.weight_files,
    )
    return _assembled(suite, made, evaluated, target, folders)


@dataclass(frozen=True)
class _Settled:
    """A method of the suite with all its settings and the weights that it begins with.

    Attributes:
        entry: its configuration names the official files.
        config: the defaults with that configuration laid over them.
    """

    method: Method
    entry: MethodEntry
    config: dict[str, Any]
    zoo: ZooWeights | None

    @property
    def learns(self) -> bool:
        """Whether it is trained here: it can be, and has no weights yet or is to be trained from them."""
        has_weights = bool(self.config.get("checkpoint") or self.zoo)
        return self.method.training != "none" and (self.entry.fine_tune or not has_weights)

    @property
    def environment(self) -> Environment | None:
        return self.entry.environment or self.method.environment

    @property
    def weight_files(self) -> tuple[str, ...]:
        return named_files(self.config, self.method.file_settings)


def _settled(suite: Suite, entry: MethodEntry, evaluated: _Evaluated, by_rule: Collection[str]) -> _Settled:
    """Raises UserError for an unknown method or setting, and for weights that are missing or cannot be used here."""
    dataset = evaluated.dataset
    method = find_method(entry.name)
    config = method.configured(entry.config)
    official = settings_from_files(method, entry.title, config, looked_up_as(method, dataset), by_rule)
    entry = entry.model_copy(update={"config": {**entry.config, **official}})
    config |= official
    zoo = _zoo_weights(entry, method, dataset, dataset.split_cases(suite.part, evaluated.fold))
    if config.get("checkpoint") and not user_path(str(config["checkpoint"])).is_file():
        raise UserError(f"method '{entry.title}': no checkpoint file at {config['checkpoint']}")
    return _Settled(method, entry, config, zoo)


def _job_of(suite: Suite, settled: _Settled, evaluated: _Evaluated, target: Target) -> TrainingJob:
    """The training of a method that learns, on the training cases of the fold or of all datasets (`joint`)."""
    method, entry, dataset, fold = settled.method, settled.entry, evaluated.dataset, evaluated.fold
    keep_best = suite.keep_best if method.training == "bench" and not entry.untrained else 0
    training = tuple(dataset.learning_cases("train", fold))
    validation = tuple(dataset.learning_cases("validation", fold)) if keep_best else ()
    _refuse_seen_cases(suite.part, evaluated, training)
    if keep_best:
        _refuse_to_keep_best(entry, evaluated, validation)
    if entry.joint:
        parts = joint_parts(entry, evaluated.everything, fold, suite.part)
    else:
        learned = target if dataset.external is None else target_for(target, dataset.external.training)
        parts = ((learned, training),)
    (first_target, first_cases), *further = parts
    return TrainingJob(
        method.name, entry.config, first_target, first_cases, suite.budget.budget(entry.budget),
        seed=derive_seed(suite.seed, "repeat", entry.repeat) if entry.repeat else suite.seed,
        further=tuple(further),
        workers=1 if entry.untrained else suite.workers,
        validation=validation,
        validate_at=tuple((number + 1) / keep_best for number in range(keep_best)),
        keep_best=bool(keep_best),
        untrained=entry.untrained,
        timeout_minutes=suite.train_timeout_minutes,
        environment=settled.environment,
        start=settled.zoo.folder if settled.zoo else None,
        storage=suite.storage,
        files=settled.weight_files,
    )  # fmt: skip


def _prediction_digest(
    suite: Suite,
    settled: _Settled,
    evaluated: _Evaluated,
    target: Target,
    protocols: Sequence[Protocol],
    job: TrainingJob | None,
) -> str:
    """Of all that decides the masks. What joins it later does so only where it is given: kept masks are found again."""
    method = settled.method
    decides = {
        "protocol_version": PROTOCOL_VERSION,
        "method": method.name,
        "method_version": method.version,
        "config": fingerprint_config(method.identifying(settled.config), method.file_settings),
        "checkpoint": job.digest() if job else "",
        "target": asdict(target),
        "cases": evaluated.files,
        "protocols": [protocol.to_mapping() for protocol in protocols],
        "prompts": [evaluated.banks[protocol.name].digest for protocol in protocols],
        "seed": suite.seed,
    }
    if settled.zoo is not None:
        decides["zoo"] = settled.zoo.digest
    if settled.environment is not None and settled.environment.identity:
        decides["environment"] = settled.environment.identity
    return digest(decides)


def looked_up_as(method: Method, dataset: Dataset) -> str:
    """The dataset whose official file is taken: the one that others learn from, where the method has a file for it."""
    if dataset.external is not None:
        learned = dataset.external.training.known_as
        if any(file.datasets and file.fits(learned) for file in method.files):
            return learned
    return dataset.known_as


def _masks_unit(
    suite: Suite, entry: MethodEntry, evaluated: _Evaluated, target: Target, folders: Folders
) -> tuple[Unit, ...]:
    """The unit of masks made elsewhere; none where the entry names no folder for the dataset."""
    method = masks_method(entry.name)
    cases = evaluated.dataset.split_cases(suite.part, evaluated.fold)
    given = given_masks(entry.title, entry.folder, entry.value, evaluated.dataset.name, cases)
    if given is None:
        return ()
    prediction = digest([given.identity, asdict(target), evaluated.files])
    made = _Made(method, entry, prediction, (MADE_ELSEWHERE,), given=given)
    return (_assembled(suite, made, evaluated, target, folders),)


@dataclass(frozen=True)
class _Made:
    """What gives the masks of a unit, the digest of all that decides them, and the protocols that ask for them."""

    method: Method
    entry: MethodEntry
    prediction: str
    protocols: tuple[Protocol, ...]
    job: TrainingJob | None = None
    skipped: tuple[str, ...] = ()
    given: GivenMasks | None = None
    zoo: ZooWeights | None = None
    weight_files: tuple[str, ...] = ()


def _assembled(suite: Suite, made: _Made, evaluated: _Evaluated, target: Target, folders: Folders) -> Unit:
    """Two identities: what decides the masks, and what decides the numbers made from them.

    A run with new metrics or another policy then scores the masks of the old one.
    """
    dataset, fold, files, banks = evaluated.dataset, evaluated.fold, evaluated.files, evaluated.banks
    method, entry, prediction = made.method, made.entry, made.prediction
    cases = tuple(dataset.split_cases(suite.part, fold))
    budget = suite.budget.budget()
    identity = digest(
        {
            "schema": SCHEMA_VERSION,
            "metrics": METRICS_VERSION,
            "prediction": prediction,
            "tolerances": suite.tolerances_mm,
            "policy": suite.empty_policy,
        }
    )
    name = entry.title if len(dataset.targets) == 1 else f"{entry.title}@{target.name}"
    commit, dirty = revision()
    provenance = {
        "suite": suite.name,
        "unit": identity,
        "fold": fold,
        "method": entry.title,
        "synthetic": dataset.synthetic,
        "modality": dataset.modality,
        "git_commit": commit,
        "git_dirty": dirty,
    }
    place = folders.predictions / safe_name(suite.name) / safe_name(dataset.name)
    predictions = place / f"{safe_name(name)}-{prediction}"
    return Unit(
        suite=suite.name,
        method=method,
        entry=entry,
        dataset=dataset,
        fold=fold,
        target=target,
        cases=tuple(sorted(cases, key=lambda case: -case.image.stat().st_size)),  # the longest first
        evaluation=Evaluation(
            targets=(target,),
            protocols=made.protocols,
            seed=suite.seed,
            tolerances_mm=suite.tolerances_mm,
            empty_policy=suite.empty_policy,
            predictions=predictions if suite.save_predictions else None,
            provenance=provenance,
            banks={protocol.name: banks[protocol.name] for protocol in made.protocols if protocol.name in banks},
            given=made.given,
        ),
        job=made.job,
        skipped_protocols=made.skipped,
        digest=identity,
        cases_digest=files,
        prompts_digest=evaluated.prompts,
        folder=RecordStore(folders.records).unit_folder(suite.name, dataset.name, name, identity),
        log=folders.logs / safe_name(suite.name) / f"{safe_name(f'{name}-{dataset.name}')}-{identity}.log",
        case_timeout_seconds=60 * suite.case_timeout_minutes,
        cpus=1 if made.given else budget.cpus,
        gpus=0.0 if made.given else budget.gpus,
        rehearsal=suite.rehearsal,
        zoo=made.zoo,
        weight_files=made.weight_files,
    )


def _zoo_weights(entry: MethodEntry, method: Method, dataset: Dataset, cases: Iterable[Case]) -> ZooWeights | None:
    """The weights of the zoo that an entry asks for; they are of use on phantoms only.

    Raises:
        UserError: one of the cases was used to train them, or the entry changes a setting that they depend on.
    """
    weights = zoo_weights(method, dataset.name) if entry.zoo and dataset.synthetic else None
    if weights is None:
        return None
    if not entry.fine_tune:
        wanted = json.loads(json.dumps(method.training_config(entry.config)))
        before = json.loads(json.dumps(method.training_config()))  # of settings that joined after the training
        trained = {**before, **weights.card["config"]}
        for key, value in trained.items():
            if wanted.get(key) != value:
                raise UserError(
                    f"method '{entry.title}': the weights of the zoo were trained with {key} = {value}, not "
                    f"{wanted.get(key)}; leave `zoo` out to train it"
                )
    weights.refuse_seen(cases, entry.title)
    return weights


def _refuse_seen_cases(part: str, evaluated: _Evaluated, training: Iterable[Case]) -> None:
    """No method may be trained on the label of a case that it is then asked about."""
    dataset, fold = evaluated.dataset, evaluated.fold
    if dataset.external is not None:
        return  # ids of two datasets mean nothing to each other; contents were compared when the pair was made
    asked = {case.case_id for case in dataset.split_cases(part, fold)}
    both = sorted({case.case_id for case in training} & asked)
    if both:
        raise UserError(
            f"dataset '{dataset.name}', fold {fold}: case '{both[0]}' is in the training and in the {part} split "
            f"({len(both)} such cases)"
        )


def _refuse_to_keep_best(entry: MethodEntry, evaluated: _Evaluated, validation: Sequence[Case]) -> None:
    if not validation:
        raise UserError(f"keep_best: {evaluated.dataset.name} has no validation cases in fold {evaluated.fold}")
    if entry.joint:
        raise UserError(f"method '{entry.title}': `keep_best` validates on one dataset, `joint` learns from several")


def _refuse_what_needs_a_training(settled: _Settled, job: TrainingJob | None) -> None:
    entry = settled.entry
    if entry.joint and job is None:
        raise UserError(f"method '{entry.title}': `joint` is for methods that are trained, and this one is not")
    if entry.untrained and (job is None or settled.method.training != "bench"):
        raise UserError(f"method '{entry.title}': `untrained` is for methods that the bench trains, and this is none")
