"""What a run consists of: output folders, units, and the plan that makes units of a suite."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common.environment import revision
from benchmarks.common.errors import UserError
from benchmarks.common.files import read_json, safe_name, write_json
from benchmarks.common.identity import digest, fingerprint_config
from benchmarks.common.paths import user_path
from benchmarks.common.seeds import derive_seed
from benchmarks.contestants import Method, Target
from benchmarks.contestants import method as find_method
from benchmarks.data import registry
from benchmarks.data.cache import FOLDER_VARIABLE as CACHE_VARIABLE
from benchmarks.data.cache import cache_limit
from benchmarks.data.catalogue import datasets as known_datasets
from benchmarks.data.catalogue import intensity_statistics, load_dataset, load_folder
from benchmarks.data.dataset import Case, Dataset, fingerprint_cases
from benchmarks.data.intensities import said_of
from benchmarks.data.phantom import synthesise
from benchmarks.execution.evaluate import Evaluation, applicable
from benchmarks.execution.suite import DatasetEntry, MethodEntry, Suite
from benchmarks.execution.training import (
    TrainingJob,
)
from benchmarks.metrics import DEFAULT_RULE, METRICS_VERSION
from benchmarks.prompting.bank import PromptBank
from benchmarks.prompting.prompts import SIMULATED
from benchmarks.prompting.protocol import PROTOCOL_VERSION
from benchmarks.results.records import SCHEMA_VERSION, RecordStore
from benchmarks.weights.official_files import settings_from_files
from benchmarks.weights.zoo import ZooWeights, zoo_weights


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


@dataclass(frozen=True)
class Unit:
    """One (method, dataset, fold) of a suite: the grain of scheduling, training and MLflow runs.

    A dataset with several targets gives one unit for each.

    Attributes:
        digest: of everything that decides the numbers; equal for two entries that differ in their label only.
        cases_digest: of the content of the evaluated files.
        prompts_digest: of what the first prompts follow from: equal where every protocol gives equal prompts.
        zoo: the weights that come with the method, where they are evaluated or trained from.
    """

    suite: str
    method: Method
    entry: MethodEntry
    dataset: Dataset
    fold: int
    target: Target
    cases: tuple[Case, ...]
    evaluation: Evaluation
    job: TrainingJob | None
    skipped_protocols: tuple[str, ...]
    digest: str
    cases_digest: str
    prompts_digest: str
    folder: Path
    log: Path
    case_timeout_seconds: float
    cpus: int
    gpus: float
    zoo: ZooWeights | None = None

    @property
    def title(self) -> str:
        return f"{self.entry.title} · {self.dataset.name}"

    @property
    def key(self) -> str:
        """The place of the unit in its suite: data set, fold, target and title, whatever its settings."""
        return "|".join((self.dataset.name, str(self.fold), self.target.name, self.entry.title))

    @property
    def trained_by_the_bench(self) -> bool:
        return self.job is not None and self.method.training == "bench" and not self.job.untrained

    @property
    def learns_of_nothing(self) -> bool:
        """Whether its weights were random before a training, here or for the zoo."""
        return self.zoo is not None if self.job is None else not self.job.untrained

    @property
    def rows_per_case(self) -> int:
        return sum(protocol.rounds for protocol in self.evaluation.protocols)

    def description(self) -> dict[str, Any]:
        """What the unit is, for `unit.json` and MLflow."""
        return {
            "suite": self.suite,
            "key": self.key,
            "unit": self.digest,
            "method": self.entry.title,
            "method_name": self.method.name,
            "method_version": self.method.version,
            "floor": self.method.floor,
            "config": self.method.configured(self.entry.config),
            "dataset": self.dataset.name,
            "dataset_version": self.dataset.version,
            "synthetic": self.dataset.synthetic,
            "fold": self.fold,
            "target": asdict(self.target),
            "protocols": [protocol.to_mapping() for protocol in self.evaluation.protocols],
            "protocol_names": [protocol.name for protocol in self.evaluation.protocols],
            "prompts_digest": self.prompts_digest,
            "prompt_banks": {name: bank.digest for name, bank in self.evaluation.banks.items()},
            "skipped_protocols": list(self.skipped_protocols),
            "cases": [case.case_id for case in self.cases],
            "cases_digest": self.cases_digest,
            "training_cases": [case.case_id for case in self.job.cases] if self.job else [],
            "checkpoint": self.job.digest() if self.job else "",
            "budget": asdict(self.job.budget) if self.job else {},
            "workers": self.job.workers if self.job else 0,
            "modality": self.dataset.modality,
            "intensities": said_of(self.dataset.modality),
            "untrained": self.job.untrained if self.job else False,
            "zoo": self.zoo.digest if self.zoo else "",
            "seed": self.evaluation.seed,
            "tolerances_mm": list(self.evaluation.tolerances_mm),
            "empty_policy": self.evaluation.empty_policy,
            "metrics_version": METRICS_VERSION,
            "lesion_rule": DEFAULT_RULE.name,
            "contamination": self._contamination(),
        }

    def _contamination(self) -> str:
        """What the released weights have seen of the dataset, by the method's card; nobody has seen the phantoms."""
        if self.dataset.synthetic:
            return "unseen"
        seen = self.method.card.training_data
        return seen.get(self.dataset.name, seen.get("*", "unknown"))


def resolve_dataset(entry: DatasetEntry, seed: int, folders: Folders) -> Dataset:
    """The dataset of a suite entry: phantoms are written first if they are not there yet.

    Raises:
        UserError: a missing or broken folder, an unknown target.
    """
    if entry.source == "phantom":
        root = synthesise(entry.name, folders.data / "phantom", seed=seed, cases=entry.cases)
        return load_dataset(entry.name, root, seed=seed)
    if not entry.source:
        added = registry.registration(entry.name)
        dataset = registry.load(entry.name)
        own = added.target is not None or entry.name not in known_datasets()
        return _with_measured_intensities(dataset, entry.fold, seed, folders) if own else dataset
    root = user_path(entry.source).resolve()
    if entry.name in known_datasets() and entry.target is None:
        return load_dataset(entry.name, root, seed=seed)
    dataset = load_folder(
        root, target_label=entry.target, organ=entry.organ, lesion=entry.lesion, seed=seed, name=entry.name
    )
    return _with_measured_intensities(dataset, entry.fold, seed, folders)


def _with_measured_intensities(dataset: Dataset, fold: int, seed: int, folders: Folders) -> Dataset:
    """Window, mean and deviation of the user's own targets, measured on the training split and kept on disk."""
    measured = []
    cases = dataset.split_cases("train", fold)
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


def plan(suite: Suite, datasets: Iterable[Dataset], folders: Folders) -> list[Unit]:
    """The units of a suite, one per method, dataset and target, methods inside datasets.

    Raises:
        UserError: an unknown method or setting, a fold that does not exist, an empty split.
    """
    cache_limit()  # a wrong setting ends here, not in a worker
    units = []
    for entry, dataset in zip(suite.datasets, datasets, strict=True):
        if entry.fold >= len(dataset.splits):
            raise UserError(f"dataset '{dataset.name}' has folds 0 to {len(dataset.splits) - 1}, not {entry.fold}")
        if not dataset.split_cases(suite.part, entry.fold):
            raise UserError(f"dataset '{dataset.name}', fold {entry.fold}: no case in its {suite.part} split")
        files = fingerprint_cases(dataset.split_cases(suite.part, entry.fold))
        banks = _frozen_prompts(suite, dataset, entry.fold, folders.prompts / files)
        prompts = _prompts_digest(suite, entry.fold, files, banks)
        evaluated = _Evaluated(dataset, entry.fold, files, banks, prompts)
        for target in dataset.targets:
            for member in suite.methods:
                if member.datasets and dataset.name not in member.datasets:
                    continue
                unit = _unit(suite, member, evaluated, target, folders)
                if suite.untrained and member.untrained and unit.key in {known.key for known in units}:
                    continue  # as a twin already
                units.append(unit)
                if suite.untrained and unit.method.training == "bench" and unit.learns_of_nothing:
                    twin = member.model_copy(update={"untrained": True, "zoo": False})
                    units.append(_unit(suite, twin, evaluated, target, folders))
    keys = [unit.key for unit in units]
    for unit in units:
        if keys.count(unit.key) > 1:
            raise UserError(f"suite '{suite.name}' lists '{unit.entry.title}' twice; give one of them a `label`")
    return units


def without_repeats(units: Iterable[Unit]) -> list[tuple[Unit, tuple[Unit, ...]]]:
    """Every unit that has to be computed, with those that give the same numbers under another label."""
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.digest, []).append(unit)
    return [(first, tuple(others)) for first, *others in groups.values()]


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
    """What all methods are evaluated on: a fold of a dataset, the digest of its files, its prompts and their digest."""

    dataset: Dataset
    fold: int
    files: str
    banks: dict[str, PromptBank]
    prompts: str


def _unit(suite: Suite, entry: MethodEntry, evaluated: _Evaluated, target: Target, folders: Folders) -> Unit:
    dataset, fold, files, banks = evaluated.dataset, evaluated.fold, evaluated.files, evaluated.banks
    method = find_method(entry.name)
    config = method.configured(entry.config)
    official = settings_from_files(method, entry.title, config, dataset.name)
    entry = entry.model_copy(update={"config": {**entry.config, **official}})
    config |= official
    cases = tuple(dataset.split_cases(suite.part, fold))
    zoo = _zoo_weights(entry, method, dataset, cases)
    protocols = applicable(suite.protocols, method.prompts)
    budget = suite.budget.budget()
    job = None
    if config.get("checkpoint") and not user_path(str(config["checkpoint"])).is_file():
        raise UserError(f"method '{entry.title}': no checkpoint file at {config['checkpoint']}")
    if method.training != "none" and (entry.fine_tune or not (config.get("checkpoint") or zoo)):
        training = tuple(dataset.split_cases("train", fold))
        _refuse_seen_cases(dataset, fold, training, cases, suite.part)
        seed = derive_seed(suite.seed, "repeat", entry.repeat) if entry.repeat else suite.seed
        job = TrainingJob(
            method.name, entry.config, target, training, budget, seed,
            workers=1 if entry.untrained else suite.workers,
            untrained=entry.untrained,
            timeout_minutes=suite.train_timeout_minutes,
            start=zoo.folder if zoo else None,
        )  # fmt: skip
    if entry.untrained and (job is None or method.training != "bench"):
        raise UserError(f"method '{entry.title}': `untrained` is for methods that the bench trains, and this is none")
    # Two identities: what decides the masks, and what decides the numbers made from them. A run with new metrics
    # or another policy then scores the masks of the old one.
    prediction = digest(
        {
            **({"zoo": zoo.digest} if zoo else {}),
            "protocol_version": PROTOCOL_VERSION,
            "method": method.name,
            "method_version": method.version,
            "config": fingerprint_config(config, method.file_settings),
            "checkpoint": job.digest() if job else "",
            "target": asdict(target),
            "cases": files,
            "protocols": [protocol.to_mapping() for protocol in protocols],
            "prompts": [banks[protocol.name].digest for protocol in protocols],
            "seed": suite.seed,
        }
    )
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
            protocols=protocols,
            seed=suite.seed,
            tolerances_mm=suite.tolerances_mm,
            empty_policy=suite.empty_policy,
            predictions=predictions if suite.save_predictions else None,
            provenance=provenance,
            banks={protocol.name: banks[protocol.name] for protocol in protocols},
        ),
        job=job,
        skipped_protocols=tuple(p.name for p in suite.protocols if p not in protocols),
        digest=identity,
        cases_digest=files,
        prompts_digest=evaluated.prompts,
        folder=RecordStore(folders.records).unit_folder(suite.name, dataset.name, name, identity),
        log=folders.logs / safe_name(suite.name) / f"{safe_name(f'{name}-{dataset.name}')}-{identity}.log",
        case_timeout_seconds=60 * suite.case_timeout_minutes,
        cpus=budget.cpus,
        gpus=budget.gpus,
        zoo=zoo,
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
        changed = method.training_config(entry.config)
        for key, value in weights.card["config"].items():
            if json.loads(json.dumps(changed.get(key))) != value:
                raise UserError(
                    f"method '{entry.title}': the weights of the zoo were trained with {key} = {value}, not "
                    f"{changed.get(key)}; leave `zoo` out to train it"
                )
    weights.refuse_seen(cases, entry.title)
    return weights


def _refuse_seen_cases(
    dataset: Dataset, fold: int, training: Iterable[Case], evaluated: Iterable[Case], part: str
) -> None:
    """No method may be trained on the label of a case that it is then asked about."""
    both = sorted({case.case_id for case in training} & {case.case_id for case in evaluated})
    if both:
        raise UserError(
            f"dataset '{dataset.name}', fold {fold}: case '{both[0]}' is in the training and in the {part} split "
            f"({len(both)} such cases)"
        )
