"""Resample, window and crop — each invertible back to the volume's own grid."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a volume is prepared for a network; part of every cache key.

    Attributes:
        spacing: mm per voxel (x, y, z) after resampling; None keeps the scan's own.
        window: HU are clipped to (low, high); None keeps all.
        mean, std: subtracted and divided by, after clipping.
    """

    spacing: tuple[float, float, float] | None
    window: tuple[float, float] | None
    mean: float = 0.0
    std: float = 1.0
