"""Sweeps over a method's own search space: Ray Tune, Optuna's TPE, ASHA.

Each trial is one training by `benchmarks.execution.training` (itself Ray Train); its validation Dice after one centre
click is reported at several shares of the budget, and ASHA stops the trials that fall behind. A sweep that is cut off
goes on: Tune's state, Optuna's study and the trainings' own states lie in its folder.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common.errors import MachineFault, UserError, is_fault_of_files, one_line, raise_if_spoilt
from benchmarks.common.files import atomically, in_turn, read_json
from benchmarks.common.identity import digest
from benchmarks.common.paths import user_path
from benchmarks.contestants import Method
from benchmarks.contestants import method as find_method
from benchmarks.data.cache import FOLDER_VARIABLE
from benchmarks.data.dataset import fingerprint_cases
from benchmarks.execution.course import Interrupted
from benchmarks.execution.entries import MethodEntry
from benchmarks.execution.last_words import last_words
from benchmarks.execution.sweep_log import SweepLog
from benchmarks.execution.sweep_space import SweepSpace
from benchmarks.execution.training import Report, run_job
from benchmarks.execution.training_job import TrainingJob, checkpoint_folder, finished
from benchmarks.execution.training_watch import (
    LOOK_SECONDS,
    TrainingProcessDied,
    ended_when_overdue,
    overdue_before,
    training_outcome,
)
from benchmarks.execution.worker import require_means, training_task
from benchmarks.results.sweep import METRIC, NOT_RUN, Trial, best_first

logger = logging.getLogger("tags_bench")

RUNGS = (0.25, 0.5, 0.75, 1.0)
RETRIES = 3  # of a trial whose process or node the machine has ended
STATE_EVERY_SECONDS = "5"  # Tune's own; what is younger is suggested again


@dataclass(frozen=True)
class Sweep:
    """What is searched, and where it is kept.

    Attributes:
        job: the training to vary; its `validation` cases decide.
        folder: of the sweep, absolute.
        checkpoints: where runs look for trained models; the best trial's is put there.
        homes: by Ray's id of a node the options of a Ray task in the method's own environment there; none where the
            bench's own will do.
    """

    job: TrainingJob
    folder: Path
    checkpoints: Path
    homes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def method(self) -> Method:
        return find_method(self.job.method)

    @property
    def varied(self) -> TrainingJob:
        return replace(self.job, validate_at=RUNGS, keep_best=False, storage="")  # Tune's own state is in the folder

    @property
    def plain(self) -> TrainingJob:
        """The job as a run has it that keeps the last step."""
        return replace(self.job, validation=(), validate_at=(), keep_best=False)

    def space(self) -> SweepSpace:
        """Raises UserError: the method has no search space."""
        if not self.method.search_space:
            raise UserError(f"method '{self.method.name}' has no search space to tune over")
        return SweepSpace.of(self.method, self.job.config)

    def checkpoint(self, config: Mapping[str, Any]) -> Path:
        """Of a trial."""
        return checkpoint_folder(self.folder / "checkpoints", _with(self.varied, config))

    def kept_checkpoint(self, config: Mapping[str, Any]) -> Path:
        """Where a run looks for it that keeps the last step, as a trial does."""
        return checkpoint_folder(self.checkpoints, _with(self.plain, config))

    def is_trained_again(self, config: Mapping[str, Any]) -> bool:
        """Whether a run of the suite finds no model of this setting: under `keep_best` it keeps another one."""
        return checkpoint_folder(self.checkpoints, _with(self.job, config)) != self.kept_checkpoint(config)


def sweep_name(job: TrainingJob, unit: str) -> str:
    """What a sweep is: another space, budget, or set of cases is another sweep."""
    method = find_method(job.method)
    space = SweepSpace.of(method, job.config).plain()
    return digest([unit, job.digest(), fingerprint_cases(job.validation), space, RUNGS])


def write_best(path: Path, job: TrainingJob, best: Trial, swept: MethodEntry) -> None:
    """Write the best setting as one entry of a suite's `methods:`, on top of what the sweep's own entry had set."""
    entry = {"name": job.method, "label": f"{job.method}-tuned", "config": {**job.config, **best.config}}
    entry |= swept.model_dump(mode="json", include={"fine_tune", "budget"}, exclude_defaults=True)
    if swept.environment is not None:
        entry["environment"] = swept.environment.as_mapping()
    with atomically(path) as partial:
        partial.write_text(yaml.safe_dump(entry, sort_keys=False), encoding="utf-8")


def tune_method(
    sweep: Sweep, trials: int, concurrent: int, changed: Callable[[list[Trial]], None] = lambda trials: None
) -> list[Trial]:
    """Run a sweep on the running Ray, or what is missing of it; the trials come back best first.

    Trial 0 is the setting that the job comes with, so that a sweep cannot miss it. A setting whose training fails
    counts with a Dice of 0. What the machine ends is tried again, and is then "not run"; the next call goes on with it
    from its own last state.

    Args:
        trials: how many points to try in all; those of earlier calls count.
        concurrent: how many at a time; set it by the scarce resource.
        changed: is told all trials whenever something has happened.

    Raises:
        UserError: no validation case, nothing to tune, or a method that has failed in every trial.
        MachineFault: no trial has a result, and the machine has ended some; the same call takes them up again.
        Interrupted: Ctrl-C; the same call goes on.
    """
    if not sweep.job.validation:
        raise UserError("a sweep is decided on validation cases, and the validation split is empty")
    space = sweep.space()
    log = SweepLog(sweep.folder / "trials.json", len(RUNGS), sweep.checkpoint)
    log.changed = lambda: changed(log.trials())
    _bring_checkpoint(sweep, space)
    ended = "error: ended from outside: this process was killed, or Ray's own on this machine (raylet) was"
    with last_words(f"{ended}; {_kept(sweep.folder)}"), _interruptible(sweep, log):
        _go_on(sweep, space, log, trials, concurrent)
    found = log.trials()
    not_run = [one for one in found if one.status.startswith(NOT_RUN)]
    if all(not one.has_result for one in found):
        first = (not_run or found)[0]
        problem = f"no trial of the sweep has a result; trial {first.number}: {first.status}"
        raise MachineFault(problem) if not_run else UserError(problem)
    _remove_leftovers(sweep.folder / "checkpoints", [sweep.checkpoint(one.config).name for one in not_run])
    ordered = best_first(found)
    _keep_checkpoint(sweep, ordered[0])
    return ordered


def _go_on(sweep: Sweep, space: SweepSpace, log: SweepLog, trials: int, concurrent: int) -> None:
    """The experiments of earlier calls to their end, and another one for what is missing."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its tables go to standard output whatever the verbosity
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", STATE_EVERY_SECONDS)
    from ray import tune

    from benchmarks.execution.sweep_callback import Tell, told
    from benchmarks.execution.sweep_search import search

    storage, name, trainable = sweep.folder / "tune", sweep.folder.name, _trainable(sweep)
    with told(name, log):
        unfinished = [storage / experiment for experiment in log.unfinished]
        for experiment in filter(_can_be_restored, unfinished):
            _fit(_restored(experiment, trainable), experiment, trainable)
        if unfinished:
            log.forget_lost()
            _check_ended(log)
        done = len(log.entries)
        first = not log.has(space.first_setting())  # at the beginning, or it was lost
        missing = max(trials - done, int(first))
        if missing > 0:
            optuna_search = search(space, sweep.folder / "optuna.db", sweep.job.seed, trials, done, first)
            log.begin_experiment(f"{len(log.experiments):03d}")
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    metric=METRIC,
                    mode="max",
                    search_alg=optuna_search,
                    scheduler=_asha(),
                    num_samples=missing,
                    max_concurrent_trials=concurrent,
                ),
                run_config=tune.RunConfig(
                    storage_path=str(storage),
                    name=log.experiments[-1],
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    callbacks=[Tell(name)],
                    verbose=0,
                ),
            )
            _fit(tuner, storage / log.experiments[-1], trainable)
            log.forget_lost()
            _check_ended(log, done + missing)


def _kept(folder: Path) -> str:
    return f"what the sweep has found is kept in {folder}, and the same command goes on from there"


@contextmanager
def _interruptible(sweep: Sweep, log: SweepLog) -> Iterator[None]:
    """Turns Ctrl-C into an `Interrupted` that says what is kept; it is said at once, as that of a run."""
    try:
        yield
    except KeyboardInterrupt:
        said = f"interrupted: {_kept(sweep.folder)}; trials that are over: {log.over}"
        logger.warning("%s", said)
        raise Interrupted(said) from None


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Tune leaves its handler of Ctrl-C behind, which would swallow the first one after it."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # Tune sets none elsewhere, and nobody could
            signal.signal(signal.SIGINT, before)


def _can_be_restored(experiment: Path) -> bool:
    """Whether Tune has kept a state of it; without one it would begin anew, and miss the first point."""
    from ray import tune

    return tune.Tuner.can_restore(str(experiment)) and any(experiment.glob("experiment_state-*.json"))


def _fit(tuner: Any, experiment: Path, trainable: Any) -> None:
    """Run an experiment; where Tune itself gives up, go on from its state.

    What a method raises ends in its trial's result, so an error here is of the machine, such as a process that was
    killed while it was started.

    Raises:
        MachineFault: Tune has given up too often.
        KeyboardInterrupt: there was a Ctrl-C, at which Tune keeps its state and returns as if all were well.
    """
    for attempt in range(1 + RETRIES):
        try:
            with _own_interrupts():
                grid = tuner.fit()
            if grid.num_terminated + grid.num_errors < len(grid):  # some may not even have been begun
                raise KeyboardInterrupt
            return
        except Exception as error:  # whatever Tune and Ray can raise
            reason = str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
            logger.warning("Ray Tune has given up (%s)", reason)
            if attempt == RETRIES:
                kept = _kept(experiment.parents[1])
                raise MachineFault(f"Ray Tune has given up {1 + RETRIES} times: {reason}; {kept}") from error
        tuner = _restored(experiment, trainable)


def _check_ended(log: SweepLog, trials: int = 0) -> None:
    """Note the end of an experiment.

    Raises:
        KeyboardInterrupt: there was a Ctrl-C, at which Tune keeps its state and returns as if all were well.
    """
    if log.running or len(log.entries) < trials:
        raise KeyboardInterrupt
    log.end_experiment()


def _restored(experiment: Path, trainable: Any) -> Any:
    """Raises UserError: Tune cannot go on from what it has kept."""
    from ray import tune

    try:
        return tune.Tuner.restore(str(experiment), trainable, resume_unfinished=True, resume_errored=True)
    except Exception as error:  # whatever a pickle of another version, or a damaged one, can raise
        raise UserError(
            f"the sweep in {experiment} cannot be taken up ({one_line(error)[:200]}); remove "
            f"{experiment.parents[1]} to begin anew"
        ) from error


def _asha() -> Any:
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(time_attr="rung", max_t=len(RUNGS), grace_period=1, reduction_factor=2)


def _trainable(sweep: Sweep) -> Any:
    """What Tune runs for each trial, with its resources."""
    from ray import tune

    job, folder = sweep.varied, sweep.folder
    setting = os.environ.get(FOLDER_VARIABLE)
    cache = user_path(setting).absolute() if setting else folder / "cache"

    apart = job.workers > 1 or any(sweep.homes.values())

    def trial(config: dict[str, Any]) -> None:
        options = _options_here(sweep.homes) if apart else None
        run_trial(_with(job, config), folder / "checkpoints", cache, tune.report, options)

    if job.workers > 1:  # the workers are Ray Train's, and take their room themselves; Tune wants some resource named
        return tune.with_resources(trial, {"memory": 1})
    need = {"CPU": float(job.budget.cpus), **({"GPU": job.budget.gpus} if job.budget.gpus else {})}
    if apart:  # the trial itself only waits for the task beside it
        return tune.with_resources(trial, tune.PlacementGroupFactory([{}, need], strategy="STRICT_PACK"))
    return tune.with_resources(trial, need)


def _options_here(homes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of a Ray task on the node of this process; one that has joined since is taken to be alike."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    return homes.get(node) or next(iter(homes.values()), {})


def run_trial(
    job: TrainingJob, checkpoints: Path, cache: Path, report: Report, options: Mapping[str, Any] | None = None
) -> None:
    """One training; a failure of the method's own is reported as the worst result, one of the machine is raised.

    Args:
        options: of the Ray task that trains; None: this process does.

    Raises:
        MachineFault: what the training needs is not on this machine, or the machine has ended it.
    """
    if options is None:  # the task looks for itself
        require_means(job)
    checkpoint = checkpoint_folder(checkpoints, job)
    try:
        overdue = overdue_before(checkpoint)
        if overdue:
            raise TimeoutError(overdue)
        with ended_when_overdue(job, checkpoint):
            if options is None:
                figures = run_job(job, checkpoint, cache=cache, report=report)
            else:
                figures = _trained_in_a_task(job, checkpoint, cache, report, options)
    except MachineFault:
        raise
    except Exception as error:
        if is_fault_of_files(error):
            raise
        raise_if_spoilt(error)
        report({METRIC: 0.0, "rung": 0, "problem": one_line(error)[:400]})
        return
    loss = {"loss": figures["loss"]} if "loss" in figures else {}
    report({**figures["validations"][-1], **loss, "rung": len(RUNGS), "validations": figures["validations"][:-1]})


def _trained_in_a_task(
    job: TrainingJob, checkpoint: Path, cache: Path, report: Report, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The training in a process of its own, where the method's environment or several workers ask for one.

    Raises:
        MachineFault: the process, or that which passes its reports on, has died.
    """
    import ray
    from ray.util.queue import Queue

    reports = Queue(actor_options={"num_cpus": 0})
    reference = training_task(job).options(**options).remote(job, checkpoint, None, cache, False, reports.put)
    over = False
    try:
        while not over:
            over = bool(ray.wait([reference], timeout=LOOK_SECONDS)[0])
            for one in reports.get_nowait_batch(reports.qsize()):
                report(one)
        outcome = training_outcome(reference)
    except ray.exceptions.RayError as error:
        raise TrainingProcessDied(one_line(error)[:400]) from error
    finally:
        if not over:  # whoever waited is stopped
            ray.cancel(reference, force=True)
        reports.shutdown(force=True)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _with(job: TrainingJob, config: Mapping[str, Any]) -> TrainingJob:
    return replace(job, config={**job.config, **config})


def _bring_checkpoint(sweep: Sweep, space: SweepSpace) -> None:
    """If the setting to begin with was the best of an earlier sweep, its training is taken over."""
    kept, own = sweep.kept_checkpoint({}), sweep.checkpoint(space.first_setting())
    if finished(kept) and not finished(own):
        figures = read_json(kept / "training.json")
        alike = figures.get("validation") == fingerprint_cases(sweep.job.validation)
        if alike and len(figures.get("validations", ())) == len(RUNGS):
            _copy(kept, own)


def _keep_checkpoint(sweep: Sweep, best: Trial) -> None:
    """Put the best trial's checkpoint where a run with its setting looks for it, so that it is not trained again.

    Under `keep_best` only one that keeps the last step does; see `Sweep.is_trained_again`.
    """
    if best.checkpoint is not None:
        _copy(best.checkpoint, sweep.kept_checkpoint(best.config))


def _copy(source: Path, target: Path) -> None:
    """A whole checkpoint, unless one is there."""
    with in_turn(target.with_name(f".{target.name}.lock")):
        if finished(target):
            return
        partial = target.with_name(f".{target.name}.copy")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        os.replace(partial, target)


def _remove_leftovers(checkpoints: Path, kept: Iterable[str]) -> None:
    """What trials that were stopped early have left: half a training, and the lock of a process that was ended.

    Args:
        kept: names of the checkpoints that the next call goes on with.
    """
    of_kept = tuple(f".{name}." for name in kept)
    for leftover in checkpoints.glob(".*"):
        if leftover.name.startswith(of_kept):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
