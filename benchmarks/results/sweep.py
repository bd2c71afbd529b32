"""What came of a sweep over hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

METRIC = "validation_dice"


@dataclass(frozen=True)
class Trial:
    """One point of the sweep and what came of it."""

    number: int
    config: dict[str, Any]
    validation_dice: float
    rungs: int
    seconds: float
    status: str
    checkpoint: Path | None


def as_rows(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The trials as a table, best first."""
    return [
        {
            "trial": one.number,
            METRIC: round(one.validation_dice, 4),
            "rungs": one.rungs,
            "seconds": round(one.seconds, 1),
            "status": one.status,
            **{
                knob: float(f"{value:.3g}") if isinstance(value, float) else value for knob, value in one.config.items()
            },
        }
        for one in trials
    ]
