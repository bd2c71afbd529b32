"""Optuna as Ray Tune's search, with a study on disk. Imports Ray and Optuna."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from benchmarks.common.addresses import sqlite_address
from benchmarks.common.seeds import derive_seed
from benchmarks.execution.sweep_space import SweepSpace
from benchmarks.results.sweep import METRIC

STUDY = "sweep"


class KeptSearch(OptunaSearch):
    """Bears that the study on disk is ahead of Tune's own state, from which an interrupted sweep goes on.

    A trial that was over in the study when the driver was killed may still be at work in Tune's state: it comes to its
    end once more, which changes nothing in the study.
    """

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            super().on_trial_result(trial_id, result)


def search(space: SweepSpace, file: Path, seed: int, trials: int, done: int, first: bool) -> KeptSearch:
    """TPE over the study in `file`; it learns from the trials that are there.

    Args:
        trials: how many there will be in all.
        done: how many there are; with the same seed, the random ones among those to come would be these again.
        first: whether it begins with the space's own first point.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
        sampler = optuna.samplers.TPESampler(
            seed=(derive_seed(seed, "sweep", done) if done else seed) % 2**32,
            n_startup_trials=max(3, min(10, trials // 3)),
            constant_liar=True,  # trials at the same time keep away from each other
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    return KeptSearch(
        space=space,
        metric=METRIC,
        mode="max",
        points_to_evaluate=[space.first_point()] if first else None,
        sampler=sampler,
        study_name=STUDY,
        storage=optuna.storages.RDBStorage(sqlite_address(file)),
    )
