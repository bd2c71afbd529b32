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

from benchmarks.common.errors import UserError
from benchmarks.contestants import Method
from benchmarks.contestants import method as find_method
from benchmarks.data.cache import FOLDER_VARIABLE
from benchmarks.execution.training import TrainingJob, checkpoint_folder, run_job
from benchmarks.results.sweep import METRIC, Trial

RUNGS = (0.25, 0.5, 0.75, 1.0)


def search_space(method: Method) -> dict[str, Any]:
    """The method's plain search space as Tune domains.

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
        space[knob] = kinds[kind](*arguments)
    return space


def tune_method(job: TrainingJob, trials: int, concurrent: int, folder: Path) -> list[Trial]:
    """Run a sweep on the running Ray; the trials come back best first, those that went further before all others.

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
    space = search_space(find_method(job.method))
    given = os.environ.get(FOLDER_VARIABLE)
    cache = Path(given).expanduser().absolute() if given else folder / "cache"
    varied = replace(job, validate_at=RUNGS)

    def trial(config: dict[str, Any]) -> None:
        chosen = replace(varied, config={**varied.config, **config})
        figures = run_job(chosen, checkpoint_folder(folder / "checkpoints", chosen), cache=cache)
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
            search_alg=OptunaSearch(seed=job.seed % 2**32),
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
