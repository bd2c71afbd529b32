"""How far a unit has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.data.dataset import Case
from benchmarks.execution.evaluate import Evaluation
from benchmarks.execution.orders import Key
from benchmarks.execution.plan import Unit
from benchmarks.results.records import WEIGHTS


@dataclass
class Way:
    """How far a unit has come."""

    number: int
    unit: Unit
    key: Key
    checkpoint: Path | None
    missing: dict[str, Case] = field(default_factory=dict)
    without: list[Case] = field(default_factory=list)  # not run
    training: dict[str, Any] | None = None
    trained: bool = True  # or needs no training
    awaiting: list[Case] = field(default_factory=list)  # its training
    training_failed: str | None = None  # why
    training_not_run: str | None = None  # why the machine kept it from being trained; the next run takes it up
    afresh: bool = False  # its rows come by the weights of another training
    stage: str = ""
    ended: bool = False
    reference: Any = None  # to its `Evaluation`

    @property
    def weights(self) -> str:
        """The digest of the weights of its finished training; empty without one, or if it does not say."""
        return str((self.training or {}).get("weights", ""))

    @property
    def evaluation_by_weights(self) -> Evaluation:
        """The evaluation of the unit; rows and masks say by which trained weights they come."""
        plain = self.unit.evaluation
        return replace(plain, provenance={**plain.provenance, WEIGHTS: self.weights}) if self.weights else plain

    def evaluation(self) -> Any:
        import ray

        if self.reference is None:
            self.reference = ray.put(self.evaluation_by_weights)
        return self.reference

    def has_trained(self, training: dict[str, Any]) -> None:
        """Take up the figures of a training that is finished now."""
        self.training, self.trained, self.reference = training, True, None

    def is_of_others(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Whether rows come by other trained weights than the unit's, as those of masks kept of an earlier training."""
        return bool(self.weights) and any(row.get(WEIGHTS, "") not in ("", self.weights) for row in rows)
