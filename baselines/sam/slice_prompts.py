"""Prompts on one slice."""

from __future__ import annotations

from dataclasses import dataclass

Plane = tuple[int, int]
"""Voxels of a slice along x and y."""


@dataclass(frozen=True)
class SlicePrompt:
    """Prompts on one slice, in voxels: points (x, y, label) and a box (x0, y0, x1, y1), high exclusive."""

    points: tuple[tuple[int, int, int], ...] = ()
    box: tuple[int, int, int, int] | None = None
