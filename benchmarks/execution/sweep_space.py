"""A method's search space as Optuna asks for it: knob after knob, each only where its condition holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import Method
from benchmarks.contestants.search_space import Knob, knobs_of


@dataclass(frozen=True)
class SweepSpace:
    """The knobs of a sweep, and where it begins.

    Attributes:
        start: the setting of every knob in the first trial.
    """

    knobs: tuple[Knob, ...]
    start: Mapping[str, Any]

    @classmethod
    def of(cls, method: Method, config: Mapping[str, Any]) -> SweepSpace:
        """The method's space, each knob wide enough to hold the setting that the sweep begins with: the method's own
        with `config` laid over it.
        """
        configured = method.configured(config)
        start = {knob.name: configured[knob.name] for knob in knobs_of(method.search_space)}
        return cls(tuple(knob.holding(start[knob.name]) for knob in knobs_of(method.search_space)), start)

    def __call__(self, trial: Any) -> dict[str, Any]:
        """The next point: Optuna's define-by-run. A knob whose condition does not hold is not in it."""
        chosen: dict[str, Any] = {}
        for knob in self.knobs:
            if knob.applies(chosen):
                chosen[knob.name] = _suggested(trial, knob)
        return chosen

    def first_setting(self) -> dict[str, Any]:
        """The setting of the first trial: the start, without the knobs whose condition does not hold."""
        chosen: dict[str, Any] = {}
        for knob in self.knobs:
            if knob.applies(chosen):
                chosen[knob.name] = self.start[knob.name]
        return chosen

    def first_point(self) -> dict[str, Any]:
        """The first setting in Optuna's words."""
        return {name: _words([value])[0] for name, value in self.first_setting().items()}

    def plain(self) -> list[Any]:
        """What the space is, for a digest."""
        return [[k.name, k.kind, k.low, k.high, list(k.choices), dict(k.when)] for k in self.knobs] + [dict(self.start)]


def _suggested(trial: Any, knob: Knob) -> Any:
    if knob.kind == "choice":
        words = _words(knob.choices)
        return knob.choices[words.index(trial.suggest_categorical(knob.name, words))]
    log = knob.kind.startswith("log")
    if knob.whole:
        return trial.suggest_int(knob.name, int(knob.low), int(knob.high) - 1, log=log)
    return trial.suggest_float(knob.name, float(knob.low), float(knob.high), log=log)


def _words(choices: Sequence[Any]) -> list[Any]:
    """Optuna keeps scalars only; a list is told by its JSON."""
    return [json.dumps(value) if isinstance(value, (list, tuple, dict)) else value for value in choices]
