"""Resample, window and crop — each invertible back to the volume's own grid.

Resampling is linear along each axis in turn. Both grids cover the same millimetres, face to face, so a
centre at index i of n voxels lies at (i + 1/2) · m/n − 1/2 of m voxels (the half-voxel convention, as in
`torch.nn.functional.interpolate(align_corners=False)`). Beyond the outermost centres the edge value goes on.
There is no low-pass filter before down-sampling: a grid more than about twice as coarse as the scan aliases,
as it does in the networks' own pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.data.boxes import bounding_box
from benchmarks.data.volume import BoolArray, FloatArray, Volume

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

SAME_SPACING = 1e-3  # relative; headers carry spacings as float32 and as norms of affine columns


@dataclass(frozen=True)
class Preprocessing:
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


@dataclass(frozen=True)
class Prepared:
    """A volume on the network's grid, and the way back.

    Attributes:
        array: float32 (x, y, z), resampled, clipped, normalised.
        spacing: mm per voxel of `array`; differs from the recipe's by the rounding to whole voxels.
        native_shape, native_spacing: of the volume it came from.
    """

    array: FloatArray
    spacing: Spacing
    native_shape: Shape
    native_spacing: Spacing

    @property
    def shape(self) -> Shape:
        x, y, z = self.array.shape
        return x, y, z

    def to_prepared(self, points: ArrayLike) -> NDArray[np.float64]:
        """Voxel coordinates (N, 3) of the volume → those of the network's grid (centres are whole)."""
        return _map_points(points, self.native_shape, self.shape)

    def to_native(self, points: ArrayLike) -> NDArray[np.float64]:
        """Voxel coordinates (N, 3) of the network's grid → those of the volume (floats)."""
        return _map_points(points, self.shape, self.native_shape)

    def label(self, mask: NDArray[Any]) -> BoolArray:
        """A mask of the volume on the network's grid, for training.

        Linear resampling, then more than a half. A target too small to survive that keeps the voxels nearest
        to its own.
        """
        _check_shape(mask, self.native_shape)
        result = _resize_mask(mask, self.shape, 0.5)
        if not result.any():
            inside = np.argwhere(mask)
            nearest = np.rint(_map_points(inside, self.native_shape, self.shape)).astype(np.intp)
            nearest = nearest.clip(0, np.array(self.shape) - 1)
            result[tuple(nearest.T)] = True
        return result

    def to_native_volume(self, probabilities: NDArray[Any]) -> FloatArray:
        """Values on the network's grid → float32 on the volume's own grid, linearly."""
        _check_shape(probabilities, self.shape)
        return resize(probabilities, self.native_shape)

    def to_native_mask(self, probabilities: NDArray[Any], threshold: float = 0.5) -> BoolArray:
        """Where `to_native_volume(probabilities)` exceeds the threshold.

        Only the box that can exceed it is interpolated, a slice at a time: the memory is that of the
        mask and a few slices.
        """
        _check_shape(probabilities, self.shape)
        return _resize_mask(probabilities, self.native_shape, threshold)


def prepare(volume: Volume, preprocessing: Preprocessing) -> Prepared:
    """Resample (skipped where the spacing is equal), clip, normalise; the volume itself is not changed."""
    shape = prepared_shape(volume.shape, volume.spacing, preprocessing.spacing)
    array = volume.array.copy() if shape == volume.shape else resize(volume.array, shape)
    if preprocessing.window is not None:
        np.clip(array, *preprocessing.window, out=array)
    if preprocessing.mean != 0:
        array -= np.float32(preprocessing.mean)
    if preprocessing.std != 1:
        array /= np.float32(preprocessing.std)
    x, y, z = (s * n / m for s, n, m in zip(volume.spacing, volume.shape, shape, strict=True))
    return Prepared(array, (x, y, z), volume.shape, volume.spacing)


def prepared_shape(shape: Shape, spacing: Spacing, wanted: Spacing | None) -> Shape:
    """Voxels along each axis once the same extent is cut at the wanted spacing; at least one."""
    if wanted is None:
        return shape
    x, y, z = (
        n if abs(new - old) <= SAME_SPACING * old else max(1, round(n * old / new))
        for n, old, new in zip(shape, spacing, wanted, strict=True)
    )
    return x, y, z


def resize(array: NDArray[Any], shape: Shape) -> FloatArray:
    """Linear resampling of a 3D array to another shape over the same extent, float32."""
    if array.shape == tuple(shape):
        return array.astype(np.float32)
    result = np.empty(shape, np.float32)
    axes = [_Axis.whole(n, m) for n, m in zip(array.shape, shape, strict=True)]
    for index, plane in _planes(array, axes):
        result[index] = plane
    return result


def crop(array: NDArray[Any], centre: ArrayLike, size: Shape, fill: float = 0.0) -> tuple[NDArray[Any], Shape]:
    """A patch of `size` voxels around `centre` (rounded to a voxel), and its origin in the array.

    What lies outside the array is `fill`; the origin is negative where the patch begins before the array.
    An even size has one voxel more before the centre than after it.
    """
    origin = patch_origin(centre, size)
    inside, outside = overlap(array.shape, size, origin)
    if all(s.stop - s.start == n for s, n in zip(outside, size, strict=True)):
        return array[inside].copy(), origin
    patch = np.full(size, fill, array.dtype)
    patch[outside] = array[inside]
    return patch, origin


def patch_origin(centre: ArrayLike, size: Shape) -> Shape:
    """Where a patch of `size` around `centre` begins."""
    x, y, z = (round(float(c)) - n // 2 for c, n in zip(np.asarray(centre), size, strict=True))
    return x, y, z


def paste(canvas: NDArray[Any], patch: NDArray[Any], origin: Shape) -> None:
    """Write a patch into the canvas at `origin`, in place; what falls outside the canvas is dropped."""
    inside, outside = overlap(canvas.shape, patch.shape, origin)
    canvas[inside] = patch[outside]


@dataclass(frozen=True)
class _Axis:
    """Linear interpolation along one axis: output `start + i` is `(1 − weight) · lower + weight · upper`."""

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float32]
    start: int
    size: int  # of the input

    @classmethod
    def whole(cls, size: int, new_size: int) -> _Axis:
        position = ((np.arange(new_size) + 0.5) * (size / new_size) - 0.5).clip(0, size - 1)
        lower = position.astype(np.intp)
        upper = np.minimum(lower + 1, size - 1)
        return cls(lower, upper, (position - lower).astype(np.float32), 0, size)

    def reached_from(self, low: int, high: int) -> _Axis:
        """Only the outputs to which an input in [low, high) contributes."""
        reached = np.flatnonzero((self.upper >= low) & (self.lower < high))
        if reached.size == 0:
            return _Axis(self.lower[:0], self.upper[:0], self.weight[:0], 0, self.size)
        span = slice(int(reached[0]), int(reached[-1]) + 1)
        return _Axis(self.lower[span], self.upper[span], self.weight[span], span.start, self.size)

    @property
    def trivial(self) -> bool:
        """The identity on the whole axis."""
        return self.start == 0 and len(self.lower) == self.size and not self.weight.any()

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + len(self.lower))

    def apply(self, plane: FloatArray, axis: int) -> FloatArray:
        """Interpolate a 2D array along `axis`."""
        if self.trivial:
            return plane
        weight = self.weight[:, None] if axis == 0 else self.weight
        result = plane.take(self.upper, axis=axis)
        lower = plane.take(self.lower, axis=axis)
        result -= lower
        result *= weight
        result += lower
        return result


def _planes(array: NDArray[Any], axes: list[_Axis]) -> Iterator[tuple[int, FloatArray]]:
    """The resampled array one x plane at a time, so that the temporaries stay in the processor's cache.

    Planes are interpolated within themselves before or after they are blended along x, whichever is rarer.
    """
    along_x, along_y, along_z = axes
    if len(along_x.lower) <= array.shape[0]:
        for index in range(len(along_x.lower)):
            plane = _blend(array, along_x, index)
            yield along_x.start + index, along_z.apply(along_y.apply(plane, 0), 1)
        return
    ready: dict[int, FloatArray] = {}
    for index, (lower, upper) in enumerate(zip(along_x.lower.tolist(), along_x.upper.tolist(), strict=True)):
        for source in {lower, upper} - ready.keys():
            ready[source] = along_z.apply(along_y.apply(array[source].astype(np.float32), 0), 1)
        ready = {source: ready[source] for source in (lower, upper)}
        weight = along_x.weight[index]
        low, high = ready[lower], ready[upper]
        yield along_x.start + index, low + (high - low) * weight


def _blend(array: NDArray[Any], axis: _Axis, index: int) -> FloatArray:
    low = array[axis.lower[index]].astype(np.float32)
    weight = axis.weight[index]
    if weight == 0:
        return low
    return low + (array[axis.upper[index]].astype(np.float32) - low) * weight


def _resize_mask(values: NDArray[Any], shape: Shape, threshold: float) -> BoolArray:
    """`resize(values, shape) > threshold` without the float volume.

    A linear blend exceeds the threshold only if one of its sources does; the rest of the volume is skipped.
    """
    if values.shape == tuple(shape):
        return np.asarray(values > threshold)
    result = np.zeros(shape, np.bool_)
    # Blends are rounded to float32; a hair below the threshold can come out a hair above it.
    box = bounding_box(values > threshold - 1e-6 * abs(threshold))
    if box is None:
        return result
    axes = [
        _Axis.whole(n, m).reached_from(low, high) for n, m, low, high in zip(values.shape, shape, *box, strict=True)
    ]
    for index, plane in _planes(values, axes):
        np.greater(plane, threshold, out=result[index, axes[1].span, axes[2].span])
    return result


def _map_points(points: ArrayLike, from_shape: Shape, to_shape: Shape) -> NDArray[np.float64]:
    scale = np.array(to_shape, float) / np.array(from_shape, float)
    return np.asarray((np.asarray(points, float).reshape(-1, 3) + 0.5) * scale - 0.5)


def overlap(
    shape: tuple[int, ...], size: tuple[int, ...], origin: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What a patch of `size` at `origin` covers of an array of `shape`: slices of the array, and of the patch."""
    inside, outside = [], []
    for extent, length, start in zip(shape, size, origin, strict=True):
        low = min(max(start, 0), extent)
        high = max(min(start + length, extent), low)
        inside.append(slice(low, high))
        offset = low - start if high > low else 0
        outside.append(slice(offset, offset + high - low))
    return tuple(inside), tuple(outside)


def _check_shape(array: NDArray[Any], shape: Shape) -> None:
    if array.shape != tuple(shape):
        raise ValueError(f"an array of shape {tuple(shape)} is needed, this one has {array.shape}")
