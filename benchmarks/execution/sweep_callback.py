"""Ray Tune's events as words to a `SweepLog`. Imports Ray.

Tune keeps its callbacks in pickles, from which a sweep that was interrupted goes on. So this one holds nothing but the
name of the log, and looks it up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune

from benchmarks.execution.sweep_log import SweepLog

_LOGS: dict[str, SweepLog] = {}


@contextmanager
def told(name: str, log: SweepLog) -> Iterator[None]:
    """Within the context the log is told of the events of the sweep of that name."""
    _LOGS[name] = log
    try:
        yield
    finally:
        del _LOGS[name]


class Tell(tune.Callback):
    """Tells the log of the given name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _LOGS[self.name].began(trial.trial_id, trial.config, trials.index(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        _LOGS[self.name].reported(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        _LOGS[self.name].ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        lines = str(trial.get_error() or "").strip().splitlines()
        _LOGS[self.name].ended(trial.trial_id, lines[-1][:400] if lines else "no reason given")
