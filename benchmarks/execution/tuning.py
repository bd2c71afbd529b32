"""Sweeps over a method's own search space: Ray Tune, Optuna's TPE, ASHA.

Each trial is one training by `benchmarks.execution.training` (itself Ray Train); its validation Dice after one centre
click is reported at several shares of the budget, and ASHA stops the trials that fall behind.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically
from benchmarks.common.paths import user_path
from benchmarks.contestants import Method
from benchmarks.contestants import method as find_method
from benchmarks.data.cache import FOLDER_VARIABLE
from benchmarks.execution.training import TrainingJob, checkpoint_folder, run_job
from benchmarks.execution.training_watch import ended_when_overdue
from benchmarks.results.sweep import METRIC, Trial

RUNGS = (0.25, 0.5, 0.75, 1.0)


def search_space(method: Method, start: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The method's plain search space as Tune domains, each wide enough to hold the setting of `start`.

    Raises:
        UserError: the method has none.
        ValueError: an unknown kind of domain.
    """
    from ray import tune

    if not method.search_space:
        raise UserError(f"method '{method.name}' has no search space to tune over")
    kinds = {
        "uniform": tune.uniform,
        "loguniform": tune.loguniform,
        "randint": tune.randint,
        "choice": tune.choice,  # of one list
    }
    space = {}
    for knob, (kind, *arguments) in method.search_space.items():
        if kind not in kinds:
            raise ValueError(f"{method.name}.{knob}: unknown domain '{kind}', known: {', '.join(kinds)}")
        if start is not None:
            arguments = _holding(kind, arguments, start[knob])
        space[knob] = kinds[kind](*arguments)
    return space


def _holding(kind: str, arguments: list[Any], value: Any) -> list[Any]:
    """The arguments of a domain widened, where it has to be, so that it holds the value."""
    if kind == "choice":
        (choices,) = arguments
        return [choices if value in choices else [value, *choices]]
    low, high = arguments
    return [min(low, value), max(high, value + 1 if kind == "randint" else value)]


def default_point(method: Method, config: Mapping[str, Any]) -> dict[str, Any]:
    """The setting that a sweep starts from: the method's own, with `config` laid over it, at the knobs searched."""
    configured = method.configured(config)
    return {knob: configured[knob] for knob in method.search_space}


def write_best(path: Path, job: TrainingJob, best: Trial) -> None:
    """Write the best setting as one entry of a suite's `methods:`, on top of what the sweep's own entry had set."""
    entry = {"name": job.method, "label": f"{job.method}-tuned", "config": {**job.config, **best.config}}
    with atomically(path) as partial:
        partial.write_text(yaml.safe_dump(entry, sort_keys=False), encoding="utf-8")


def tune_method(job: TrainingJob, trials: int, concurrent: int, folder: Path) -> list[Trial]:
    """Run a sweep on the running Ray; the trials come back best first, those that went further before all others.

    Trial 0 is the setting that the job comes with, so that a sweep cannot miss it.

    Args:
        job: the training to vary; its `validation` cases decide.
        trials: how many points to try.
        concurrent: how many at a time; set it by the scarce resource.
        folder: for checkpoints and Tune's own files, absolute.

    Raises:
        UserError: no validation case, nothing to tune, or no trial that did not fail.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its tables go to standard output whatever the verbosity
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    if not job.validation:
        raise UserError("a sweep is decided on validation cases, and the validation split is empty")
    method = find_method(job.method)
    start = default_point(method, job.config)
    space = search_space(method, start)
    setting = os.environ.get(FOLDER_VARIABLE)
    cache = user_path(setting).absolute() if setting else folder / "cache"
    varied = replace(job, validate_at=RUNGS)

    def trial(config: dict[str, Any]) -> None:
        chosen = replace(varied, config={**varied.config, **config})
        checkpoint = checkpoint_folder(folder / "checkpoints", chosen)
        with ended_when_overdue(chosen, checkpoint):
            figures = run_job(chosen, checkpoint, cache=cache)
        tune.report({**figures["validations"][-1], "rung": len(RUNGS)})

    alone = job.workers == 1
    resources = {
        "CPU": float(job.budget.cpus) if alone else 0.1,
        **({"GPU": job.budget.gpus} if alone else {}),
    }
    tuner = tune.Tuner(
        tune.with_resources(trial, resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=OptunaSearch(seed=job.seed % 2**32, points_to_evaluate=[start]),
            scheduler=ASHAScheduler(time_attr="rung", max_t=len(RUNGS), grace_period=1, reduction_factor=2),
            num_samples=trials,
            max_concurrent_trials=concurrent,
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), name=f"{job.method}-{job.digest()}", verbose=0),
    )
    grid = tuner.fit()
    found = [_trial(number, result, varied, folder) for number, result in enumerate(grid)]
    for leftover in (folder / "checkpoints").glob(".*.partial"):
        shutil.rmtree(leftover)  # of trials that were stopped early
    if all(one.status.startswith("failed") for one in found):
        raise UserError(f"every trial of the sweep failed; the first one: {found[0].status}")
    return sorted(found, key=lambda one: (-one.rungs, -one.validation_dice))


def _trial(number: int, result: Any, job: TrainingJob, folder: Path) -> Trial:
    metrics: Mapping[str, Any] = result.metrics or {}
    config = dict(result.config or {})
    checkpoint = checkpoint_folder(folder / "checkpoints", replace(job, config={**job.config, **config}))
    finished = (checkpoint / "training.json").is_file()
    if result.error is not None:
        status = f"failed: {str(result.error).strip().splitlines()[-1]}"
    else:
        status = "finished" if finished else "stopped early"
    return Trial(
        number=number,
        config=config,
        validation_dice=float(metrics.get(METRIC, 0.0)),
        rungs=int(metrics.get("rung", 0)),
        seconds=float(metrics.get("time_total_s", 0.0)),
        status=status,
        checkpoint=checkpoint if finished else None,
    )
