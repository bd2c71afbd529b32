"""Balls, ellipsoids and nearest clicks on an anisotropic grid, computed inside a crop only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.data.volume import BoolArray
from benchmarks.prompting.prompts import Box, Click

Voxel = tuple[int, int, int]
Spacing = tuple[float, float, float]
Crop = tuple[slice, slice, slice]


def positions(clicks: Iterable[Click], shape: Voxel) -> tuple[list[Voxel], list[Voxel]]:
    """Positive and negative click positions.

    Raises:
        UserError: a click outside the volume.
    """
    positive: list[Voxel] = []
    negative: list[Voxel] = []
    for click in clicks:
        if not all(0 <= index < size for index, size in zip(click.position, shape, strict=True)):
            raise UserError(f"click at {click.position} lies outside the volume of shape {shape}")
        (positive if click.positive else negative).append(click.position)
    return positive, negative


def crop_around(centre: Voxel, radius_mm: float, shape: Voxel, spacing: Spacing) -> Crop:
    """The smallest crop that holds a ball of `radius_mm` around a voxel, clipped at the borders."""
    reach = [int(radius_mm / step) for step in spacing]
    x, y, z = (slice(max(0, c - r), min(size, c + r + 1)) for c, r, size in zip(centre, reach, shape, strict=True))
    return x, y, z


def squared_distance(
    crop: Crop, point: Sequence[float], spacing: Spacing, semi_axes: Sequence[float] = (1.0, 1.0, 1.0)
) -> NDArray[np.float64]:
    """Squared distance of every voxel centre of a crop to a point (voxel coordinates).

    Axes are scaled to mm and then divided by `semi_axes` (mm): with the default the result is mm²; with the
    semi-axes of an ellipsoid, it is at most 1 inside.
    """
    axes = [
        ((np.arange(part.start, part.stop) - p) * step / axis) ** 2
        for part, p, step, axis in zip(crop, point, spacing, semi_axes, strict=True)
    ]
    total: NDArray[np.float64] = axes[0][:, None, None] + axes[1][:, None] + axes[2]
    return total


def ball_in_crop(centre: Voxel, radius_mm: float, crop: Crop, spacing: Spacing) -> BoolArray:
    """The voxels of a crop whose centres lie within `radius_mm` of a voxel's centre."""
    return squared_distance(crop, centre, spacing) <= radius_mm**2


def ellipsoid_in_box(box: Box, crop: Crop, spacing: Spacing) -> BoolArray:
    """The voxels of a crop inside the ellipsoid inscribed in a box."""
    semi_axes = [(high - low) * step / 2 for low, high, step in zip(box.low, box.high, spacing, strict=True)]
    return squared_distance(crop, box_centre(box), spacing, semi_axes) <= 1.0


def box_centre(box: Box) -> tuple[float, float, float]:
    """The centre of a box in voxel coordinates (voxel centres are whole numbers; `high` is exclusive)."""
    x, y, z = ((low + high - 1) / 2 for low, high in zip(box.low, box.high, strict=True))
    return x, y, z


def clipped_box(box: Box, shape: Voxel) -> Crop:
    """A box as slices, clipped to the volume.

    Raises:
        UserError: nothing of the box lies in the volume.
    """
    x, y, z = (slice(max(0, low), min(size, high)) for low, high, size in zip(box.low, box.high, shape, strict=True))
    if any(part.start >= part.stop for part in (x, y, z)):
        raise UserError(f"box {box.low}-{box.high} is empty or lies outside the volume of shape {shape}")
    return x, y, z


def nearer_than(anchor: Sequence[float], others: Iterable[Voxel], crop: Crop, spacing: Spacing) -> BoolArray | np.bool_:
    """Where in a crop the anchor is nearer (mm) than every one of the other voxels.

    This is how both floors read negative clicks: a voxel goes to the nearest click, positive or negative.
    """
    own = squared_distance(crop, anchor, spacing)
    keep: BoolArray | np.bool_ = np.True_
    for other in others:
        keep = keep & (own < squared_distance(crop, other, spacing))
    return keep
