"""Views: cubes of the volume that the network looks at, of any field of view, and what it answered in them.

Coordinates are voxels of the model's grid (the volume resampled to the plan's spacing); voxel centres are whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data.boxes import bounding_box
from benchmarks.data.preprocessing import Prepared, crop
from benchmarks.data.volume import BoolArray, FloatArray
from tags.augment import seen

Point = tuple[float, float, float]
TOUCHING_SHARE = 0.01  # of a face of the view that a mask must cover to reach beyond it
WIDE = 3.5  # a step from here on averages one axis after the other
IMPORTANCE = 0.5  # standard deviation of a view's weight about its centre, in halves of its side


@dataclass(frozen=True)
class View:
    """A cube of `side`³ voxels, each `step` voxels of the model's grid large.

    Attributes:
        centre: its geometric centre: a voxel's or the middle between two, along each axis; where `step` is 1 between
            two if `side` is even, a voxel's if it is odd; anywhere where `step` is smaller.
    """

    centre: Point
    step: float
    side: int

    @classmethod
    def about(cls, point: Sequence[float], step: float, side: int) -> View:
        """The view whose voxel `side // 2` is the voxel nearest to a point, for a step of 1; the same cube's centre
        for any other step."""
        x, y, z = (float(np.rint(c)) - side // 2 + (side - 1) / 2 for c in point)
        return cls((x, y, z), step, side)

    def narrowed(self, step: float, click: NDArray[np.float64] | None) -> View:
        """A nearer look, of which voxel `side // 2` is the click; at the same centre where there is none."""
        if click is None:
            return replace(self, step=step)
        x, y, z = (click + ((self.side - 1) / 2 - self.side // 2) * step).tolist()
        return replace(self, centre=(x, y, z), step=step)

    def widened(self, factor: float) -> View:
        """`factor` times the field of view about the same centre, or about the nearest that a view may have."""
        step = self.step * factor
        x, y, z = allowed_centres(np.array(self.centre), step, self.side).tolist()
        return replace(self, centre=(x, y, z), step=step)

    @property
    def start(self) -> NDArray[np.float64]:
        """Where its first voxel lies."""
        return np.array(self.centre) - (self.side - 1) / 2 * self.step

    @property
    def axes(self) -> list[NDArray[np.float64]]:
        """Coordinates of its voxels along each axis."""
        return [first + self.step * np.arange(self.side) for first in self.start]

    def local(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates (N, 3) of the model's grid → of the view's own voxels."""
        return np.asarray((points - self.start) / self.step)

    def holds(self, point: NDArray[np.float64], share: float = 1.0) -> bool:
        """Whether a point lies in the inner cube of that share of the side."""
        return bool(np.abs(point - np.array(self.centre)).max() < share * self.side * self.step / 2)

    def cut(self, prepared: Prepared, fill: float) -> FloatArray:
        """What it sees of a volume on the model's grid, averaged where it is coarser; `fill` beyond the volume."""
        middle = [int(np.ceil(c)) for c in self.centre]
        if self.step == 1:
            patch, _ = crop(prepared.array, middle, (self.side,) * 3, fill)
            return patch
        if self.step > WIDE:
            return self._averaged(prepared.array, fill)
        half = int(np.ceil(self.side * self.step / 2)) + 1
        x, y, z = (2 * half + (c == m) for c, m in zip(self.centre, middle, strict=True))  # odd about a voxel
        patch, _ = crop(prepared.array, middle, (x, y, z), fill)
        source = torch.from_numpy(np.ascontiguousarray(patch, np.float32))[None, None]
        cut: FloatArray = seen(source, self.side, torch.full((3,), self.step))[0, 0].numpy()
        return cut

    def _averaged(self, array: FloatArray, fill: float) -> FloatArray:
        """The same for a wide view, one axis after the other: nothing beyond the volume is laid out in memory."""
        width = round(self.step)
        means = [_box_weights(places, width, size) for places, size in zip(self.axes, array.shape, strict=True)]
        x, y, z = (slice(first, first + weights.shape[1]) for weights, first in means)
        cut = array[x, y, z].astype(np.float32) - np.float32(fill)
        for axis, (weights, _) in enumerate(means):
            cut = np.moveaxis(np.tensordot(weights, cut, axes=(1, axis)), 0, axis)
        averaged: FloatArray = np.ascontiguousarray(cut + np.float32(fill))
        return averaged

    def touches(self, mask: BoolArray, shape: Sequence[int]) -> bool:
        """Whether a mask in it reaches one of its faces, of those that lie inside a volume of that shape."""
        for axis in range(3):
            for end, face in ((0, self.start[axis]), (-1, self.start[axis] + (self.side - 1) * self.step)):
                outside = face <= 0 if end == 0 else face >= shape[axis] - 1
                if not outside and mask.take(end, axis=axis).mean() >= TOUCHING_SHARE:
                    return True
        return False


def allowed_centres(middles: NDArray[np.float64], step: float, side: int) -> NDArray[np.float64]:
    """The nearest coordinates that a view's centre may have, see `View`."""
    if step < 1:
        return middles
    if step > 1:
        return np.asarray(np.rint(2 * middles) / 2)
    first = (side - 1) / 2 % 1
    return np.asarray(np.rint(middles - first) + first)


def _box_weights(places: NDArray[np.float64], width: int, size: int) -> tuple[FloatArray, int]:
    """Means over `width` voxels about places along an axis: their weights (places, voxels), and the first voxel.

    Voxels beyond the axis have no weight, which counts them as 0.
    """
    low = np.floor(places - (width - 1) / 2)
    share = places - (width - 1) / 2 - low  # of the last voxel; the first has the rest
    first, last = (int(np.clip(end, 0, size - 1)) for end in (low[0], low[-1] + width))
    offsets = np.arange(first, last + 1) - low[:, None]
    inside = (offsets > 0) & (offsets < width)
    weights = inside + (offsets == 0) * (1 - share[:, None]) + (offsets == width) * share[:, None]
    return (weights / width).astype(np.float32), first


def sampled(array: FloatArray, positions: Sequence[NDArray[np.float64]]) -> FloatArray:
    """Linear samples of a 3D array at the crossings of positions along each axis; beyond it its edge goes on."""
    for axis, places in enumerate(positions):
        places = places.clip(0, array.shape[axis] - 1)
        low = np.minimum(places.astype(np.intp), max(array.shape[axis] - 2, 0))
        high = np.minimum(low + 1, array.shape[axis] - 1)
        weight = (places - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        lower = array.take(low, axis=axis)
        upper = array.take(high, axis=axis)
        upper -= lower
        upper *= weight
        upper += lower
        array = upper
    return array


@dataclass(frozen=True)
class Answer:
    """Probabilities in one or several views; where views overlap, their weighted mean.

    Attributes:
        parts: views, and probabilities (side, side, side) in each.
    """

    parts: tuple[tuple[View, FloatArray], ...]

    def seen_from(self, view: View) -> FloatArray:
        """The answer in the voxels of a view; 0 where no view looked."""
        return self.read_at(view.axes)

    def read_at(self, axes: Sequence[NDArray[np.float64]]) -> FloatArray:
        """The answer at the crossings of coordinates along each axis; 0 where no view looked."""
        total, weight = self._blended(axes)
        return np.divide(total, weight, out=total, where=weight > 0)

    def on_volume(self, prepared: Prepared) -> tuple[tuple[slice, slice, slice], FloatArray, BoolArray]:
        """The answer on the volume's own grid: the box that any view reaches, the mean in it, and where one looked."""
        sizes = zip(prepared.native_shape, prepared.shape, strict=True)
        grid = [np.asarray((np.arange(native) + 0.5) * (own / native) - 0.5) for native, own in sizes]
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for view, _ in self.parts:
            low = np.minimum(low, view.start - view.step / 2)
            high = np.maximum(high, view.start + (view.side - 0.5) * view.step)
        box = [
            slice(*np.searchsorted(axis, (a, b), side="left").tolist())
            for axis, a, b in zip(grid, low, high, strict=True)
        ]
        total, weight = self._blended([axis[inside] for axis, inside in zip(grid, box, strict=True)])
        looked = weight > 0
        np.divide(total, weight, out=total, where=looked)
        return (box[0], box[1], box[2]), total, looked

    def _blended(self, axes: Sequence[NDArray[np.float64]]) -> tuple[FloatArray, FloatArray]:
        """Sum of the weighted parts and sum of the weights, at the crossings of coordinates along each axis."""
        shape = [len(axis) for axis in axes]
        total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for view, values in self.parts:
            places = [
                np.asarray((axis - start) / view.step, np.float64) for axis, start in zip(axes, view.start, strict=True)
            ]
            ends = [np.searchsorted(p, (-0.5, view.side - 0.5)).tolist() for p in places]
            inside = tuple(slice(low, high) for low, high in ends)
            places = [p[s] for p, s in zip(places, inside, strict=True)]
            if any(len(p) == 0 for p in places):
                continue
            half = view.side / 2
            x, y, z = (
                np.exp(-0.5 * ((p - (view.side - 1) / 2) / half / IMPORTANCE) ** 2).astype(np.float32) for p in places
            )
            importance = x[:, None, None] * y[:, None] * z
            total[inside] += sampled(values, places) * importance
            weight[inside] += importance
        return total, weight


def across(mask: BoolArray) -> int:
    """Voxels of the longest side of the box round a mask; 0 for an empty one."""
    box = bounding_box(mask)
    return 0 if box is None else max(high - low for low, high in zip(*box, strict=True))
