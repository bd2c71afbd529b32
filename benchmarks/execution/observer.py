"""Who watches a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from benchmarks.data.dataset import Case
from benchmarks.execution.plan import Unit


class Observer(Protocol):
    """Who watches a run: progress bars in a terminal, or nobody."""

    def hosts(self, rows: Sequence[Mapping[str, str]]) -> None:
        """What was found on the machines of a cluster, a row for each, before the work begins."""

    def stage(self, unit: Unit, stage: str) -> None:
        """The unit entered a stage: "to be trained", "training", "waiting", "loading", "evaluating", "scoring",
        "not run", "done"; where units are only trained, "failed" too.
        """

    def training(self, unit: Unit, figures: Mapping[str, Any]) -> None:
        """How the unit's training goes on: "stage" and, while it trains, "step", "progress" (share of the budget) and
        "loss", which is missing before the first point of the curve.
        """

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        """So many cases of the unit are finished by now."""

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        """A case of the unit has become failed rows."""

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        """All rows of the unit are on disk; where units are only trained, its checkpoint is."""


class Nobody:
    """An observer that looks at nothing."""

    def hosts(self, rows: Sequence[Mapping[str, str]]) -> None:
        pass

    def stage(self, unit: Unit, stage: str) -> None:
        pass

    def training(self, unit: Unit, figures: Mapping[str, Any]) -> None:
        pass

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        pass

    def failed(self, unit: Unit, case: Case, reason: str) -> None:
        pass

    def finished_unit(self, unit: Unit, training: dict[str, Any] | None) -> None:
        pass
