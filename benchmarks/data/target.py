"""What is to be segmented in a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Target:
    """What is to be segmented in a case.

    Attributes:
        name: for tables and file names, such as "kidney-tumor".
        organ: the organ in plain words, such as "kidney"; may be empty.
        lesion: the lesion in plain words, such as "tumor".
        labels: label values that make up the target.
        organ_labels: label values of the healthy organ, if the dataset has them.
        window: HU window that suits the target (low, high).
        mean, std: intensity statistics after clipping to `window`.
    """

    name: str
    organ: str
    lesion: str
    labels: tuple[int, ...]
    organ_labels: tuple[int, ...] = ()
    window: tuple[float, float] = (-160.0, 240.0)
    mean: float = 40.0
    std: float = 80.0

    @property
    def text(self) -> str:
        """Organ and lesion in plain words, such as "kidney tumor"; the name if there are none."""
        return f"{self.organ} {self.lesion}".strip() or self.name

    def as_plain(self) -> dict[str, Any]:
        """The fields as JSON has them: lists for tuples, so that what is written and what is read again are equal."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, fields: Mapping[str, Any]) -> Self:
        """The target that `as_plain`, or a `unit.json`, describes."""
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
        return cls(**values)
