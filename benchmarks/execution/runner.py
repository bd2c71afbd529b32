"""A suite on Ray: plan the units, train what has to be trained, evaluate case by case, resume, never lose a row.

The driver alone writes (records, MLflow). Training is a Ray task, evaluation an actor that holds one segmenter;
the driver only waits, so it can be killed at any time: cases on disk are finished, everything else is not, and
the next run of the same suite goes on from there.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from benchmarks.data import registry
from benchmarks.data.catalogue import datasets as known_datasets
from benchmarks.data.catalogue import intensity_statistics, load_dataset, load_folder
from benchmarks.data.dataset import Case, Dataset
from benchmarks.data.phantom import synthesise
from benchmarks.common.environment import revision
from benchmarks.common.errors import UserError, one_line
from benchmarks.execution.evaluate import Evaluation, applicable, evaluate_case, failed_case, rescore_case
from benchmarks.common.identity import digest, fingerprint_cases, fingerprint_config
from benchmarks.metrics import METRICS_VERSION
from benchmarks.weights.official_files import settings_from_files
from benchmarks.prompting.bank import PromptBank
from benchmarks.results.records import FAILED, SCHEMA_VERSION, RecordStore, write_json
from benchmarks.common.seeds import derive_seed
from benchmarks.contestants import Method, Target
from benchmarks.contestants import method as find_method
from benchmarks.execution.suite import DatasetEntry, MethodEntry, Suite
from benchmarks.execution.training import (
    TrainingJob,
    checkpoint_folder,
    device_for,
    finished,
    load_trained,
    redirect_output,
    run_job,
)
from benchmarks.prompting.simulated_user import PROTOCOL_VERSION

IN_FLIGHT = 2  # cases handed to one actor: it loads the next while the driver writes the last


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
        return self.out / "cache"

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
    folder: Path
    log: Path
    case_timeout_seconds: float
    cpus: int
    gpus: float

    @property
    def title(self) -> str:
        return f"{self.entry.title} · {self.dataset.name}"

    @property
    def rows_per_case(self) -> int:
        return sum(protocol.rounds for protocol in self.evaluation.protocols)

    def description(self) -> dict[str, Any]:
        """What the unit is, for `unit.json` and MLflow."""
        return {
            "suite": self.suite,
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
            "prompt_banks": {name: bank.digest for name, bank in self.evaluation.banks.items()},
            "skipped_protocols": list(self.skipped_protocols),
            "cases": [case.case_id for case in self.cases],
            "training_cases": [case.case_id for case in self.job.cases] if self.job else [],
            "checkpoint": self.job.digest() if self.job else "",
            "budget": asdict(self.job.budget) if self.job else {},
            "workers": self.job.workers if self.job else 0,
            "seed": self.evaluation.seed,
            "tolerances_mm": list(self.evaluation.tolerances_mm),
            "empty_policy": self.evaluation.empty_policy,
            "metrics_version": METRICS_VERSION,
            "contamination": self._contamination(),
        }

    def _contamination(self) -> str:
        """What the released weights have seen of the dataset, by the method's card; nobody has seen the phantoms."""
        if self.dataset.synthetic:
            return "unseen"
        seen = self.method.card.training_data
        return seen.get(self.dataset.name, seen.get("*", "unknown"))


class Observer(Protocol):
    """Who watches a run: progress bars in a terminal, or nobody."""

    def stage(self, unit: Unit, stage: str) -> None:
        """The unit entered a stage: "training", "loading", "evaluating", "done"."""

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        """So many cases of the unit are finished by now."""

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        """A case of the unit has become failed rows."""

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        """All rows of the unit are on disk."""


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
    root = Path(entry.source).expanduser().resolve()
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
        path = folders.data / "intensities" / f"{dataset.name}-{identity}.json"
        if path.is_file():
            known = json.loads(path.read_text(encoding="utf-8"))
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
    units = []
    for entry, dataset in zip(suite.datasets, datasets, strict=True):
        if entry.fold >= len(dataset.splits):
            raise UserError(f"dataset '{dataset.name}' has folds 0 to {len(dataset.splits) - 1}, not {entry.fold}")
        if not dataset.split_cases(suite.part, entry.fold):
            raise UserError(f"dataset '{dataset.name}', fold {entry.fold}: no case in its {suite.part} split")
        files = fingerprint_cases(dataset.split_cases(suite.part, entry.fold))
        banks = _frozen_prompts(suite, dataset, entry.fold, folders.prompts / files)
        for target in dataset.targets:
            units += [
                _unit(suite, member, dataset, entry.fold, target, files, banks, folders) for member in suite.methods
            ]
    titles = [(unit.entry.title, unit.dataset.name, unit.fold, unit.target.name) for unit in units]
    for title in titles:
        if titles.count(title) > 1:
            raise UserError(f"suite '{suite.name}' lists '{title[0]}' twice; give one of them a `label`")
    return units


def _frozen_prompts(suite: Suite, dataset: Dataset, fold: int, folder: Path) -> dict[str, PromptBank]:
    """The first prompts of every protocol, by its name; made once for these very files, the same for every method."""
    return {
        protocol.name: PromptBank.frozen(folder, dataset, suite.part, fold, protocol, suite.seed)
        for protocol in suite.protocols
    }


def _unit(
    suite: Suite,
    entry: MethodEntry,
    dataset: Dataset,
    fold: int,
    target: Target,
    files: str,
    banks: dict[str, PromptBank],
    folders: Folders,
) -> Unit:
    method = find_method(entry.name)
    config = method.configured(entry.config)
    official = settings_from_files(method, entry.title, config, dataset.name)
    entry = entry.model_copy(update={"config": {**entry.config, **official}})
    config |= official
    cases = tuple(dataset.split_cases(suite.part, fold))
    protocols = applicable(suite.protocols, method.prompts)
    budget = suite.budget.budget()
    job = None
    if config.get("checkpoint") and not Path(str(config["checkpoint"])).expanduser().is_file():
        raise UserError(f"method '{entry.title}': no checkpoint file at {config['checkpoint']}")
    if method.training != "none" and (entry.fine_tune or not config.get("checkpoint")):
        training = tuple(dataset.split_cases("train", fold))
        _refuse_seen_cases(dataset, fold, training, cases, suite.part)
        seed = derive_seed(suite.seed, "repeat", entry.repeat) if entry.repeat else suite.seed
        job = TrainingJob(method.name, entry.config, target, training, budget, seed, suite.workers)
    # Two identities: what decides the masks, and what decides the numbers made from them. A run with new metrics
    # or another policy then scores the masks of the old one.
    prediction = digest(
        {
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
        "git_commit": commit,
        "git_dirty": dirty,
    }
    predictions = folders.predictions / suite.name / dataset.name / f"{name}-{prediction}"
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
        folder=RecordStore(folders.records).unit_folder(suite.name, dataset.name, name, identity),
        log=folders.logs / suite.name / f"{name}-{dataset.name}-{identity}.log",
        case_timeout_seconds=60 * suite.case_timeout_minutes,
        cpus=budget.cpus,
        gpus=budget.gpus,
    )


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


def start_ray(address: str | None) -> bool:
    """Join the cluster at `address`, or start Ray on this machine. False if Ray was running already."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths must keep their meaning in workers
    import ray

    if ray.is_initialized():
        return False
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"include_dashboard": False}
    try:
        ray.init(address=address, **options)
    except ConnectionError as error:
        raise UserError(f"no Ray cluster answers at '{address}' ({error})") from error
    return True


def run(
    units: list[Unit],
    folders: Folders,
    observer: Observer,
    fresh: bool = False,
    retry_failed: bool = False,
    on_unit: Callable[[Unit, pd.DataFrame, dict[str, Any] | None], None] = lambda unit, rows, training: None,
) -> int:
    """Bring every unit to its end on the running Ray; returns the number of cases that were computed now.

    `on_unit` is called once for every unit, finished earlier or now, with its rows and training figures.
    """
    store = RecordStore(folders.records)
    for unit in units:
        if fresh:
            store.forget_unit(unit.folder)
        store.begin_unit(unit.folder, unit.description())
    if units:
        store.set_current(units[0].suite, [unit.folder for unit in units])
    running = [_UnitRun(unit, folders, store, observer, fresh, retry_failed) for unit in units]
    computed = sum(len(one.waiting) for one in running)
    for one in running:
        one.start()
        if one.done:
            on_unit(one.unit, one.rows(), one.training)
    active = [one for one in running if not one.done]
    try:
        while active:
            _wait([ref for one in active for ref in one.references()])
            for one in active:
                one.advance()
                if one.done:
                    on_unit(one.unit, one.rows(), one.training)
            active = [one for one in active if not one.done]
    finally:
        for one in active:
            one.stop()
    return computed


def _wait(references: list[Any]) -> None:
    import ray

    if references:
        ray.wait(references, num_returns=1, timeout=1.0)


@dataclass
class _UnitRun:
    """The way of one unit through training, loading and evaluation. A step that fails becomes failed rows."""

    unit: Unit
    folders: Folders
    store: RecordStore
    observer: Observer
    fresh: bool
    retry_failed: bool
    waiting: deque[Case] = field(default_factory=deque)
    in_flight: dict[Any, Case] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    done: bool = False
    _scoring: dict[Any, Case] = field(default_factory=dict)
    _train_ref: Any = None
    _actor: Any = None
    _ready_ref: Any = None
    _last_sign_of_life: float = 0.0

    def __post_init__(self) -> None:
        ready = self.store.finished(self.unit.folder, [case.case_id for case in self.unit.cases], self.retry_failed)
        self.waiting = deque(case for case in self.unit.cases if case.case_id not in ready)

    @property
    def checkpoint(self) -> Path | None:
        return checkpoint_folder(self.folders.checkpoints, self.unit.job) if self.unit.job else None

    def rows(self) -> pd.DataFrame:
        rows = self.store.read_unit(self.unit.folder)
        expected = len(self.unit.cases) * self.unit.rows_per_case
        if len(rows) != expected:
            raise RuntimeError(f"{self.unit.title}: {len(rows)} rows on disk, {expected} expected")
        return rows

    def start(self) -> None:
        self.observer.advanced(self.unit, len(self.unit.cases) - len(self.waiting))
        if self.checkpoint is not None and finished(self.checkpoint) and self.unit.job and not self.fresh:
            self.training = run_job(self.unit.job, self.checkpoint)
        if not self.waiting or not self.unit.evaluation.protocols:
            self._finish()
        elif self._has_masks() and not self.fresh:
            self._rescore()
        else:
            self._begin()

    def _begin(self) -> None:
        if self.checkpoint is not None and self.training is None:
            self._train()
        else:
            self._load()

    def references(self) -> list[Any]:
        return [ref for ref in (self._train_ref, self._ready_ref, *self.in_flight, *self._scoring) if ref is not None]

    def advance(self) -> None:
        """Take what has become ready, and hand out what comes next."""
        import ray

        ready, _ = ray.wait(self.references(), num_returns=len(self.references()), timeout=0)
        for reference in ready:
            if reference == self._train_ref:
                self._take_training(reference)
            elif reference == self._ready_ref:
                self._take_actor(reference)
            elif reference in self.in_flight:
                self._take_case(reference)
            elif reference in self._scoring:
                self._take_score(reference)
        if self.in_flight and time.monotonic() - self._last_sign_of_life > self.unit.case_timeout_seconds:
            self._time_out()
        if not self.done and not self.waiting and not self.in_flight and not self._scoring:
            self._finish()

    def _has_masks(self) -> bool:
        folder = self.unit.evaluation.predictions
        return folder is not None and folder.is_dir()

    def _rescore(self) -> None:
        """Score the masks that an earlier run has kept; the cases without them are computed afterwards."""
        import ray

        self.observer.stage(self.unit, "scoring")
        task = ray.remote(num_cpus=1, max_retries=0)(rescore_case)
        self._scoring = {task.remote(case, self.unit.evaluation): case for case in self.waiting}
        self.waiting.clear()

    def _take_score(self, reference: Any) -> None:
        case = self._scoring.pop(reference)
        outcome = _outcome(reference)
        if isinstance(outcome, list):
            self._write(case, outcome)
        else:
            self.waiting.append(case)  # no mask, or one that cannot be read: compute it
        if not self._scoring and self.waiting:
            self._begin()

    def stop(self) -> None:
        """Give up what is running: the driver is going down."""
        import ray

        if self._train_ref is not None:
            ray.cancel(self._train_ref, force=True)
        self._release()

    def _train(self) -> None:
        self.observer.stage(self.unit, "training")
        job, checkpoint = self.unit.job, self.checkpoint
        assert job is not None
        assert checkpoint is not None
        self._train_ref = _training_task(job).remote(job, checkpoint, self.unit.log, self.folders.cache, self.fresh)

    def _take_training(self, reference: Any) -> None:
        self._train_ref = None
        outcome = _outcome(reference)
        if isinstance(outcome, Exception):
            self._fail_waiting(RuntimeError(f"training failed: {one_line(outcome)[:400]}"))
        else:
            self.training = outcome
            self._load()

    def _load(self) -> None:
        import ray

        self.observer.stage(self.unit, "loading")
        actor = ray.remote(num_cpus=self.unit.cpus, num_gpus=self.unit.gpus)(_Evaluator)
        self._actor = actor.remote(
            self.unit.method.name, self.unit.entry.config, self.unit.gpus > 0, self.unit.cpus, self.checkpoint,
            self.unit.evaluation, self.unit.log,
        )  # fmt: skip
        self._ready_ref = self._actor.ready.remote()

    def _take_actor(self, reference: Any) -> None:
        self._ready_ref = None
        outcome = _outcome(reference)
        if isinstance(outcome, Exception):
            self._release()
            self._fail_waiting(RuntimeError(f"cannot be loaded: {one_line(outcome)[:400]}"))
            return
        self.observer.stage(self.unit, "evaluating")
        self._last_sign_of_life = time.monotonic()
        self._hand_out()

    def _hand_out(self) -> None:
        while self.waiting and len(self.in_flight) < IN_FLIGHT:
            case = self.waiting.popleft()
            self.in_flight[self._actor.evaluate.remote(case)] = case

    def _take_case(self, reference: Any) -> None:
        case = self.in_flight.pop(reference)
        outcome = _outcome(reference)
        self._last_sign_of_life = time.monotonic()
        if isinstance(outcome, Exception):
            self._write(case, failed_case(case, self.unit.evaluation, outcome))
            self._restart()
        else:
            self._write(case, outcome)
            self._hand_out()

    def _time_out(self) -> None:
        limit = self.unit.case_timeout_seconds / 60
        reference = next(iter(self.in_flight))
        case = self.in_flight.pop(reference)
        error = TimeoutError(f"no result within {limit:g} minutes; the process was ended")
        self._write(case, failed_case(case, self.unit.evaluation, error))
        self._restart()

    def _restart(self) -> None:
        """The process is gone or has to go; cases it had not begun are handed to a new one."""
        self.waiting.extendleft(reversed(self.in_flight.values()))
        self.in_flight.clear()
        self._release()
        if self.waiting:
            self._load()

    def _fail_waiting(self, error: Exception) -> None:
        while self.waiting:
            case = self.waiting.popleft()
            self._write(case, failed_case(case, self.unit.evaluation, error))

    def _write(self, case: Case, rows: list[dict[str, Any]]) -> None:
        if len(rows) != self.unit.rows_per_case:
            raise RuntimeError(f"{self.unit.title}, {case.case_id}: {len(rows)} rows, {self.unit.rows_per_case} due")
        self.store.write_case(self.unit.folder, case.case_id, rows)
        reason = next((row["reason"] for row in rows if row["status"] == FAILED), None)
        if reason is not None:
            self.observer.failed(self.unit, case, reason)
        left = len(self.waiting) + len(self.in_flight) + len(self._scoring)
        self.observer.advanced(self.unit, len(self.unit.cases) - left)

    def _release(self) -> None:
        import ray

        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _finish(self) -> None:
        self._release()
        self.done = True
        self.observer.stage(self.unit, "done")
        self.observer.finished_unit(self.unit, self.training)


def train_now(unit: Unit, folders: Folders) -> dict[str, Any]:
    """Train one unit on the running Ray, and wait for it; a checkpoint that is there already is not made again."""
    assert unit.job is not None
    folder = checkpoint_folder(folders.checkpoints, unit.job)
    outcome = _outcome(_training_task(unit.job).remote(unit.job, folder, unit.log, folders.cache, False))
    if isinstance(outcome, Exception):
        raise outcome
    return dict(outcome)


def _training_task(job: TrainingJob) -> Any:
    """`_train_task` with its resources. A worker group has processes of its own: the task then needs none."""
    import ray

    alone = job.workers == 1
    return ray.remote(
        num_cpus=job.budget.cpus if alone else 0, num_gpus=job.budget.gpus if alone else 0, max_retries=0
    )(_train_task)


def _train_task(job: TrainingJob, folder: Path, log: Path, cache: Path, fresh: bool) -> dict[str, Any]:
    """Runs in a Ray worker process."""
    import shutil

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "86400")  # wait for a free machine
    redirect_output(log)
    if fresh and folder.exists():
        shutil.rmtree(folder)
    return run_job(job, folder, log, cache)


class _Evaluator:
    """A Ray actor that holds one segmenter."""

    def __init__(
        self,
        method: str,
        config: dict[str, Any],
        use_gpu: bool,
        cpus: int,
        checkpoint: Path | None,
        evaluation: Evaluation,
        log: Path,
    ) -> None:
        redirect_output(log)
        self._arguments = (method, config, use_gpu, cpus, checkpoint)
        self._evaluation = evaluation
        self._segmenter: Any = None

    def ready(self) -> float:
        """Load the segmenter; seconds that it took. In a call of its own, so that its error can be told."""
        from benchmarks.contestants import Budget

        started = time.perf_counter()
        name, config, use_gpu, cpus, checkpoint = self._arguments
        method = find_method(name)
        device = device_for(Budget(gpus=1.0 if use_gpu else 0.0))
        self._segmenter = load_trained(method, config, device, checkpoint)
        _set_threads(cpus)
        return time.perf_counter() - started

    def evaluate(self, case: Case) -> list[dict[str, Any]]:
        return evaluate_case(case, self._segmenter, self._evaluation)


def _set_threads(cpus: int) -> None:
    """As many threads as processors were given; only of a torch that the method itself has imported."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(max(1, cpus))


def _outcome(reference: Any) -> Any:
    """The value of a finished reference, or the exception that it ended with (Ray's wrapping removed)."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        return error
