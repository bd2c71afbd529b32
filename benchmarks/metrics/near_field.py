"""What keeps distances cheap: a field of distances near a surface, and where two predictions differ."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics.crop import Crop
from benchmarks.metrics.surfels import (
    FloatArray,
    Index,
    IndexArray,
    IntArray,
    Spacing,
    Surface,
    flat_index,
    is_inside,
    unravelled,
)

NEAR_SHARE = 0.25  # distances up to this share of a surface's extent are read from a field, larger ones searched,
NEAR_MM = (6.0, 20.0)  # but no less and no more than this
BEYOND_MM = 12.0  # as far outside the box of a surface can a corner lie and have its distance read
NEAR_VOXELS = 25  # and never farther than this many cells of the finest axis
NEAR_CELLS = 100_000_000  # a byte each; no field beyond this size: memory stays bounded
KNOWN_CELLS = 16_000_000  # no map of the changes between two predictions in a box beyond this size
TILE_BITS = 2  # 2² voxels: side of the tiles in which the changes between two predictions are marked
ROUNDING = 1e-6  # voxels
NOWHERE = 128  # a byte from here on says "no corner in this column"
CAPPED_EVERY = 50


@dataclass(frozen=True)
class Changes:
    """Where two masks differ, in tiles of `2**TILE_BITS` voxels a side.

    Attributes:
        before: int32, one longer than the tiles on each axis: tiles with a change before (i, j, k) on every
            axis, so that eight look-ups count those in any box.
        low: whole-volume index of the first tile's first voxel.
    """

    before: IntArray
    low: tuple[int, int, int]

    @classmethod
    def between(cls, a: Crop, b: Crop) -> Changes | None:
        """None if the two lie too far apart for a map of both."""
        low = tuple(min(p, q) for p, q in zip(a.low, b.low, strict=True))
        shape = tuple(max(p, q) - o for p, q, o in zip(a.high, b.high, low, strict=True))
        if math.prod(shape) > KNOWN_CELLS:
            return None
        differ = np.zeros(shape, bool)
        for part in (a, b):
            window = tuple(slice(p - o, q - o) for p, q, o in zip(part.low, part.high, low, strict=True))
            differ[window] ^= part.mask
        before = np.zeros([(size >> TILE_BITS) + 2 for size in shape], np.int32)
        before[tuple((unravelled(np.flatnonzero(differ), shape) >> TILE_BITS) + 1)] = 1
        for axis in range(3):
            np.cumsum(before, axis=axis, out=before)
        return cls(before, (low[0], low[1], low[2]))

    def within(self, distances: FloatArray, corners: IntArray, spacing: Spacing) -> NDArray[np.bool_]:
        """Whether a change may lie within its distance (mm) of each corner; not where the answer is no."""
        strides = [int(self.before.shape[1] * self.before.shape[2]), int(self.before.shape[2]), 1]
        ends = []
        for axis in range(3):
            reach = (distances * (1 / spacing[axis]) + ROUNDING).astype(np.int32)
            place = corners[axis] - np.int32(self.low[axis])
            first = (place - reach - 1) >> TILE_BITS  # corner i is the business of voxels i − 1 and i
            last = ((place + reach) >> TILE_BITS) + 1
            for end in (first, last):
                np.maximum(end, 0, out=end)
                np.minimum(end, self.before.shape[axis] - 1, out=end)
                end *= strides[axis]
            ends.append((first, last))
        before = self.before.ravel()
        count = np.zeros(corners.shape[1], np.int32)
        for x, y, z in itertools.product((0, 1), repeat=3):
            sign = -1 if (x + y + z) % 2 == 0 else 1
            count += sign * before.take(ends[0][x] + ends[1][y] + ends[2][z])
        return count > 0


@dataclass(frozen=True)
class NearField:
    """Exact distances to a surface for corners that lie within a few millimetres of it.

    Most surfels of two masks worth comparing are close together, and for those a walk over the neighbouring
    columns, the nearest first, ends sooner than any search. A column runs along x; the field knows for each
    of its cells how far the nearest border corner in that column is.

    Attributes:
        steps: uint8, cells along x to the nearest border corner; NOWHERE or more if there is none near.
        low: whole-volume index of the first cell.
        first, last: whole-volume indices of the corners that can be looked up, both included.
        reach: cells along each axis.
        reach_mm: distances up to this one are exact; larger ones are infinite.
    """

    steps: NDArray[np.uint8]
    low: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    reach: NDArray[np.int64]
    reach_mm: float
    spacing: Spacing

    @classmethod
    def of(cls, surface: Surface, first: IntArray | None = None, last: IntArray | None = None) -> NearField | None:
        """The field of a surface, for corners between `first` and `last` (both included) if given.

        None if it would need more than `NEAR_CELLS` cells, or no part of the surface is near that box.
        """
        spacing = np.asarray(surface.spacing)
        start = np.asarray(surface.low, np.int64)
        size = np.asarray(surface.border.shape, np.int64)
        reach_mm = min(max(NEAR_SHARE * float((size * spacing).max()), NEAR_MM[0]), NEAR_MM[1])
        reach_mm = min(reach_mm, NEAR_VOXELS * float(spacing.min()))
        reach = np.floor(reach_mm / spacing).astype(np.int64)
        beyond = np.floor(min(reach_mm, BEYOND_MM) / spacing).astype(np.int64)
        begin, until = start - beyond, start + size - 1 + beyond
        if first is not None and last is not None:
            begin, until = np.maximum(begin, first), np.minimum(until, last)
        if (begin > until).any():
            return None
        # The border outside the begin box matters as far as the walk goes, and no farther than there is any.
        low = np.minimum(begin, np.maximum(begin - reach, start))
        high = np.maximum(until, np.minimum(until + reach, start + size - 1))
        # Elsewhere the walk must step on cells that hold nothing: those at the end of a line also serve the
        # line behind it, and one empty plane serves the first.
        gap = np.maximum(reach - (begin - low), reach - (high - until))
        gap[0] = 1
        shape = high - low + 1 + gap
        if np.prod(shape) > NEAR_CELLS:
            return None
        steps = np.full(shape, NOWHERE, np.uint8)
        here, there = _common(surface, low, high)
        steps[1:][here][surface.border[there]] = 0
        _count_along_x(steps[1:])
        return cls(steps, low - np.array([1, 0, 0]), begin, until, reach, reach_mm, surface.spacing)

    def look_up(self, corners: IntArray) -> FloatArray:
        """Distance in mm of each corner, infinite where this field cannot tell it exactly."""
        inside = is_inside(corners, self.first, self.last)
        if inside.all():
            return self._walk(flat_index(corners, self.low, self.steps.shape))
        distances = np.full(corners.shape[1], np.inf)
        distances[inside] = self._walk(flat_index(corners[:, inside], self.low, self.steps.shape))
        return distances

    def _walk(self, cells: IndexArray) -> FloatArray:
        """Distance of each cell (flat index), infinite beyond reach."""
        steps = self.steps.ravel()
        along_x = (np.arange(256) * self.spacing[0]) ** 2
        along_x[NOWHERE:] = np.inf
        squares = along_x.take(steps.take(cells))
        left: IndexArray = np.arange(len(cells))  # corners that a farther column could still improve
        best = squares
        size_z = self.steps.shape[2]
        reach = (int(self.reach[1]), int(self.reach[2]))
        columns = _columns(reach, (self.spacing[1], self.spacing[2]), self.reach_mm)
        for turn, (square_y, square_z, around) in enumerate(columns):
            if turn % 4 == 0:
                squares[left] = best
                keep = np.flatnonzero(best > square_y + square_z)
                if keep.size == 0:
                    break
                left, cells, best = left.take(keep), cells.take(keep), best.take(keep)
            nearest = steps.take(cells + (around[0][0] * size_z + around[0][1]))
            for dy, dz in around[1:]:
                np.minimum(nearest, steps.take(cells + (dy * size_z + dz)), out=nearest)
            np.minimum(best, (along_x + square_y + square_z).take(nearest), out=best)
        squares[left] = best
        squares[squares > self.reach_mm**2] = np.inf
        return np.sqrt(squares)


@lru_cache(maxsize=32)
def _columns(reach: tuple[int, int], steps_mm: tuple[float, float], reach_mm: float) -> list[_Column]:
    """The columns within reach, the nearest first; those at ±Δy, ±Δz stand together."""
    columns = []
    for dy, dz in itertools.product(range(reach[0] + 1), range(reach[1] + 1)):
        square_y, square_z = (dy * steps_mm[0]) ** 2, (dz * steps_mm[1]) ** 2
        if 0 < square_y + square_z <= reach_mm**2:
            around = tuple((y, z) for y in sorted({-dy, dy}) for z in sorted({-dz, dz}))
            columns.append(_Column(square_y, square_z, around))
    return sorted(columns, key=lambda column: column.square_y + column.square_z)


class _Column(NamedTuple):
    square_y: float  # mm²
    square_z: float
    around: tuple[tuple[int, int], ...]  # cells along y and z


def _count_along_x(steps: NDArray[np.uint8]) -> None:
    """From 0 at the border corners and NOWHERE elsewhere to the cells along the first axis to the nearest."""
    one_more = np.empty_like(steps[0])
    for way in (steps, steps[::-1]):
        for turn, (near, far) in enumerate(itertools.pairwise(way)):
            if turn % CAPPED_EVERY == 0:
                np.minimum(near, NOWHERE, out=near)  # NOWHERE is counted on as well, and a byte holds 255
            np.add(near, 1, out=one_more)
            np.minimum(far, one_more, out=far)


def _common(surface: Surface, low: Index, high: Index) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What a box of corners, `high` included, has in common with the surface's own: slices of each."""
    first = np.maximum(low, surface.low)
    last = np.minimum(high, np.asarray(surface.low) + surface.border.shape - 1)
    here = tuple(slice(p, max(p, q + 1)) for p, q in zip(first - low, last - low, strict=True))
    own = np.asarray(surface.low)
    there = tuple(slice(p, max(p, q + 1)) for p, q in zip(first - own, last - own, strict=True))
    return here, there
