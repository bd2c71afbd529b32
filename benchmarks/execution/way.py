"""How far a unit has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.data.dataset import Case
from benchmarks.execution.orders import Key
from benchmarks.execution.plan import Unit


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
    stage: str = ""
    ended: bool = False
    reference: Any = None  # to its `Evaluation`

    def evaluation(self) -> Any:
        import ray

        if self.reference is None:
            self.reference = ray.put(self.unit.evaluation)
        return self.reference
