"""Parts of masks in which a user clicks: connected components, lesions, the largest error, interior maxima."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.data.boxes import bounding_box, slices
from benchmarks.prompting.prompts import Box

BoolArray = NDArray[np.bool_]
Spacing = tuple[float, float, float]
Position = tuple[int, int, int]

CONNECTIVITY = np.ones((3, 3, 3), bool)
"""Lesions and error components are 26-connected."""

EXACT_VOXELS = 1 << 18
"""Above this many voxels in a component's box, its interior maximum is sought on a coarser grid."""

TIE_MM = 1e-6


def box_around(mask: BoolArray) -> Box | None:
    """The smallest box around a 3D bool mask; None if the mask is empty."""
    if mask.ndim != 3:
        raise ValueError(f"a 3D mask is needed, this one has shape {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"a bool mask is needed, this one is {mask.dtype}")
    corners = bounding_box(mask)
    return None if corners is None else Box(*corners)


@dataclass(frozen=True)
class Component:
    """A connected component in its own box, `low` being the box's corner in the array it came from."""

    mask: BoolArray
    low: Position
    size: int


@dataclass(frozen=True)
class LesionMask:
    """One lesion of a target, kept as a crop: a hundred whole volumes would not fit into memory."""

    part: BoolArray
    low: Position
    shape: tuple[int, int, int]

    @property
    def voxels(self) -> int:
        return int(np.count_nonzero(self.part))

    def whole(self) -> BoolArray:
        """The lesion in the whole volume."""
        volume = np.zeros(self.shape, bool)
        volume[tuple(slice(a, a + n) for a, n in zip(self.low, self.part.shape, strict=True))] = self.part
        return volume


def split_lesions(target_mask: BoolArray) -> list[LesionMask]:
    """The lesions (26-connected components) of a target, in the order of `connected_components`: the largest first."""
    box = box_around(target_mask)
    if box is None:
        return []
    x, y, z = target_mask.shape
    regions = connected_components(target_mask[slices(box.low, box.high)])
    return [LesionMask(region.mask, shift(region.low, box.low), (x, y, z)) for region in regions]


def connected_components(mask: BoolArray) -> list[Component]:
    """The 26-connected components, largest first; equal ones in the order of their first voxel."""
    labelled, count = ndimage.label(mask, CONNECTIVITY)
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    places = ndimage.find_objects(labelled)
    order = np.argsort(-sizes, kind="stable")
    return [_component(labelled, places[i], int(i), int(sizes[i])) for i in order]


def largest_component(mask: BoolArray) -> Component:
    """The largest 26-connected component, of equals the first; of size 0 if the mask is empty."""
    box = box_around(mask)
    if box is None:
        return Component(np.zeros((0, 0, 0), bool), (0, 0, 0), 0)
    inside = mask[slices(box.low, box.high)]
    labelled, count = ndimage.label(inside, CONNECTIVITY)
    if count == 1:
        return Component(inside, box.low, int(np.count_nonzero(inside)))
    sizes = np.bincount(labelled.ravel())[1:]
    largest = int(np.argmax(sizes))
    found = _component(labelled, ndimage.find_objects(labelled)[largest], largest, int(sizes[largest]))
    return replace(found, low=shift(found.low, box.low))


def largest_error(label: BoolArray, predicted: BoolArray) -> tuple[Component, bool]:
    """The largest error component, and whether it is a false negative; of equals, the false negative.

    Components of one kind are not searched when all its voxels together are fewer than those of the largest
    component of the other kind: the answer is the same, and a flooded volume costs one search, not two.
    """
    missed, spurious = label & ~predicted, predicted & ~label
    count_missed, count_spurious = np.count_nonzero(missed), np.count_nonzero(spurious)
    if count_missed >= count_spurious:
        hole = largest_component(missed)
        if count_spurious <= hole.size:
            return hole, True
        flood = largest_component(spurious)
    else:
        flood = largest_component(spurious)
        if count_missed < flood.size:
            return flood, False
        hole = largest_component(missed)
    return (hole, True) if hole.size >= flood.size else (flood, False)


def interior_maximum(region: BoolArray, spacing: Spacing) -> Position:
    """The voxel farthest (mm) from the region's outside: the centre of the largest ball that fits in.

    The array's border counts as outside. Among equally deep voxels the one nearest to their common centroid
    wins, then the first in C order. Up to `EXACT_VOXELS` voxels the distance map is exact; above, it is
    computed on blocks that lie wholly inside the region, and the voxel found is at most two block diagonals
    less deep.
    """
    depth_of_block, factors = _pooled(region, spacing)
    if not depth_of_block.any():  # too thin for any whole block
        depth = ndimage.distance_transform_cdt(np.pad(region, 1), "chessboard")[1:-1, 1:-1, 1:-1]
        return _deepest(depth.astype(np.float32), spacing)
    scaled = np.asarray(spacing) * factors
    depth = ndimage.distance_transform_edt(np.pad(depth_of_block, 1), scaled)[1:-1, 1:-1, 1:-1]
    block = np.asarray(_deepest(depth, _spacing(scaled)))
    return position(block * factors + (factors - 1) // 2)


def _pooled(region: BoolArray, spacing: Spacing) -> tuple[BoolArray, NDArray[np.int64]]:
    """The region in blocks (true: wholly inside), doubled along the finest axis until few enough."""
    factors = np.ones(3, np.int64)
    pooled = region
    while pooled.size > EXACT_VOXELS:
        long_enough = np.asarray(pooled.shape) > 1
        axis = int(np.argmin(np.where(long_enough, np.asarray(spacing) * factors, np.inf)))
        pairs = [(0, 0)] * 3
        pairs[axis] = (0, pooled.shape[axis] % 2)
        even = np.moveaxis(np.pad(pooled, pairs), axis, 0)
        pooled = np.moveaxis(even[0::2] & even[1::2], 0, axis)
        factors[axis] *= 2
    return pooled, factors


def _deepest(depth: NDArray[np.floating], spacing: Spacing) -> Position:
    tied = np.argwhere(depth >= depth.max() - TIE_MM)
    if len(tied) == 1:
        return position(tied[0])
    away = ((tied - tied.mean(axis=0)) * np.asarray(spacing)) ** 2
    return position(tied[int(np.argmin(np.round(away.sum(axis=1), 6)))])


def _component(labelled: NDArray[np.integer], place: tuple[slice, ...], index: int, size: int) -> Component:
    return Component(labelled[place] == index + 1, position([part.start for part in place]), size)


def shift(place: Position, *origins: Position) -> Position:
    """A voxel of a box within a box, in the coordinates of the outermost."""
    return position(np.sum([place, *origins], axis=0))


def position(values: Iterable[Any]) -> Position:
    """Three whole numbers, as plain Python integers."""
    x, y, z = (int(value) for value in values)
    return x, y, z


def _spacing(values: Iterable[Any]) -> Spacing:
    x, y, z = (float(value) for value in values)
    return x, y, z
