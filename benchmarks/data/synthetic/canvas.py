"""A grid of HU to paint on, and shapes as signed distances in mm (negative inside).

x runs to the right, y to the front and z to the head of the patient, from the middle of the body.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

AIR = -1000.0
FINE_SLICES = 2  # finer slices averaged into one

Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]
Floats = NDArray[Any]  # float32


class Canvas:
    """HU on a grid with finer slices than the scan, and its axes in mm."""

    def __init__(self, shape: tuple[int, int, int], spacing: Point) -> None:
        self.spacing = spacing
        self.shape = (shape[0], shape[1], shape[2] * FINE_SLICES)
        steps = (spacing[0], spacing[1], spacing[2] / FINE_SLICES)
        self.axes = [
            ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(self.shape, steps, strict=True)
        ]
        self.hu = np.full(self.shape, AIR, np.float32)
        self.edge = max(spacing[0], 1.0)  # mm over which a sharp surface fades: one voxel

    def box(self, centre: Sequence[float], reach: float | Sequence[float]) -> Box:
        """The voxels within `reach` mm of `centre` along each axis."""
        reaches = reach if isinstance(reach, Sequence) else (reach,) * 3
        x, y, z = (
            slice(*np.searchsorted(axis, (c - r, c + r))) for axis, c, r in zip(self.axes, centre, reaches, strict=True)
        )
        return x, y, z

    def grid(self, box: Box | None = None) -> tuple[Floats, Floats, Floats]:
        """Coordinates in mm of a box (or of all), shaped to broadcast."""
        x, y, z = (axis[part] for axis, part in zip(self.axes, box or (slice(None),) * 3, strict=True))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def paint(self, coverage: Floats, hu: float | Floats, box: Box | None = None) -> None:
        """Lay a tissue over what is there, in proportion to its coverage."""
        view = self.hu if box is None else self.hu[box]
        view += coverage * (hu - view)

    def soft(self, distance: Floats, width: float | None = None) -> Floats:
        """Coverage from a signed distance: a ramp over `width` mm, one voxel by default."""
        return (0.5 - distance / np.float32(width or self.edge)).clip(0, 1)

    def to_scan(self, values: Floats) -> Floats:
        """Average the finer slices."""
        x, y, z = values.shape
        return np.asarray(values.reshape(x, y, z // FINE_SLICES, FINE_SLICES).mean(axis=3))


def ellipsoid(grid: tuple[Floats, Floats, Floats], centre: Sequence[float], radii: Sequence[float]) -> Floats:
    """Signed distance to an ellipsoid, to first order."""
    offsets = [axis - np.float32(c) for axis, c in zip(grid, centre, strict=True)]
    first = sum((o / np.float32(r)) ** 2 for o, r in zip(offsets, radii, strict=True))
    second = sum((o / np.float32(r * r)) ** 2 for o, r in zip(offsets, radii, strict=True))
    level = np.sqrt(first)
    return np.asarray(level * (level - 1) / np.sqrt(second + 1e-9), np.float32)


def tube(grid: tuple[Floats, Floats, Floats], points: ArrayLike, radii: ArrayLike) -> Floats:
    """Signed distance to a tube of varying radius through the points, as a chain of balls."""
    corners = np.asarray(points, float)
    known = np.arange(len(corners))
    where = np.linspace(0, len(corners) - 1, 5 * len(corners))
    path = np.stack([np.interp(where, known, axis) for axis in corners.T], axis=1)
    widths = np.interp(where, known, np.asarray(radii, float))
    distance: Floats | None = None
    for (cx, cy, cz), width in zip(path.astype(np.float32), widths.astype(np.float32), strict=True):
        ball = np.sqrt((grid[0] - cx) ** 2 + (grid[1] - cy) ** 2 + (grid[2] - cz) ** 2) - width
        distance = ball if distance is None else np.minimum(distance, ball)
    assert distance is not None
    return distance


def waves(
    grid: tuple[Floats, Floats, Floats], wavelength: float, random: np.random.Generator, count: int = 6
) -> Floats:
    """Smooth noise of unit deviation: plane waves of random direction and phase."""
    total = np.float32(0)
    for _ in range(count):
        direction = random.normal(size=3)
        direction *= 2 * math.pi / (wavelength * random.uniform(0.7, 1.5) * np.linalg.norm(direction))
        dx, dy, dz = direction.astype(np.float32)
        phase = np.float32(random.uniform(0, 2 * math.pi))
        total = total + np.cos(grid[0] * dx + grid[1] * dy + (grid[2] * dz + phase))
    return np.asarray(total * np.float32(math.sqrt(2 / count)), np.float32)
