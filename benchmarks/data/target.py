"""What is to be segmented in a case."""

from __future__ import annotations

from dataclasses import dataclass


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
