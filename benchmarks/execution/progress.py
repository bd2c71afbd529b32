"""Who watches a call: bars in a terminal, or the log `tags_bench` for a caller from Python."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from benchmarks.data.dataset import Case
from benchmarks.execution.observer import Observer
from benchmarks.execution.plan import Unit

log = logging.getLogger("tags_bench")


class Progress:
    """Writes to the log: steps at level INFO, failed cases at level WARNING, which Python shows by default.

    A subclass shows them in another way.
    """

    def step(self, text: str) -> AbstractContextManager[Any]:
        """Something begins that may take a while; it lasts as long as the block."""
        return _logged(text)

    def note(self, text: str) -> None:
        """Something to be read before the results."""
        log.warning(text)

    def line(self, text: str) -> None:
        """Something has happened in a step that takes long."""
        log.info(text)

    def hosts(self, rows: Sequence[Mapping[str, str]]) -> None:
        """What was found on the machines of a cluster, a row for each."""
        _log_hosts(rows)

    def units(self, units: Sequence[Unit]) -> AbstractContextManager[Observer]:
        """The evaluation of these units begins; the observer is told how it goes on."""
        return _observed(_Log("cases"))

    def trainings(self, units: Sequence[Unit]) -> AbstractContextManager[Observer]:
        """These units are only trained; each advances by 1."""
        return _observed(_Log("trainings"))


def _log_hosts(rows: Sequence[Mapping[str, str]]) -> None:
    for row in rows:
        log.info("host %s", ", ".join(f"{name}: {value}" for name, value in row.items() if value))


@contextmanager
def _logged(text: str) -> Iterator[None]:
    log.info(text)
    yield


@contextmanager
def _observed(observer: Observer) -> Iterator[Observer]:
    yield observer


class _Log:
    """Implements `benchmarks.execution.observer.Observer`; `counted`: "cases" or "trainings"."""

    def __init__(self, counted: str) -> None:
        self._counted = counted

    def hosts(self, rows: Sequence[Mapping[str, str]]) -> None:
        _log_hosts(rows)

    def stage(self, unit: Unit, stage: str) -> None:
        log.info("%s: %s", unit.title, stage)

    def training(self, unit: Unit, figures: Mapping[str, Any]) -> None:
        log.debug("%s: training %s", unit.title, dict(figures))

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        if self._counted == "cases":
            log.debug("%s: %d of %d cases", unit.title, finished_cases, len(unit.cases))

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        log.warning("failed: %s, %s: %s", unit.title, case.case_id, reason)

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        if self._counted == "cases":
            log.info("%s: %d cases finished", unit.title, len(unit.cases))
