"""Scans of a person's own with the method that is wanted, in the environment that it works in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.execution.apart import Tell, Work, call_at_home
from benchmarks.execution.predict import Order, predict_scan
from benchmarks.execution.predict_table import TableRow, predict_rows
from benchmarks.execution.wanted import PredictOptions, Wanted, contestant_of, home_of


def segment_scan(order: Order, method: Wanted, options: PredictOptions) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The figures of `predict_scan`, and what the method was trained and evaluated on.

    Raises:
        UserError: as `contestant_of` and `predict_scan` do.
        MachineFault: the method's environment cannot be used.
    """
    figures, unit = _done(method, partial(_scan, order, method, options), _nobody)
    return figures, unit


def segment_rows(
    rows: Sequence[TableRow],
    method: Wanted,
    options: PredictOptions,
    progress: Callable[[Mapping[str, Any]], Any] | None = None,
) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """The results of `predict_rows`, and what the method was trained and evaluated on. Errors as `segment_scan`."""
    work = partial(_rows, tuple(rows), method, options)
    results, unit = _done(method, work, progress or _nobody)
    return results, unit


def _scan(order: Order, method: Wanted, options: PredictOptions, tell: Tell) -> tuple[dict[str, Any], dict[str, Any]]:
    contestant = contestant_of(method, options)
    return predict_scan(order, contestant), dict(contestant.unit)


def _rows(
    rows: Sequence[TableRow], method: Wanted, options: PredictOptions, tell: Tell
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    contestant = contestant_of(method, options)
    return predict_rows(rows, contestant, options.overwrite, tell), dict(contestant.unit)


def _nobody(content: Any) -> None:
    pass


def _done(wanted: Wanted, work: Work, tell: Tell) -> Any:
    name, environment = home_of(wanted)
    return call_at_home(name, environment, work, tell)
