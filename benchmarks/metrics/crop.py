"""Boxes of voxels: a tumour fills a thousandth of a scan, so every metric works inside a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Crop:
    """The part of a mask inside its own bounding box.

    Attributes:
        mask: bool, C-contiguous.
        low: index of the box's first voxel in the whole volume.
    """

    mask: BoolArray
    low: Triple

    @property
    def high(self) -> Triple:
        """One past the box's last voxel."""
        x, y, z = (start + size for start, size in zip(self.low, self.mask.shape, strict=True))
        return x, y, z


def bounding_box(mask: BoolArray) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds every True voxel; None if there is none.

    One pass over the volume along the axis with the largest stride, the other two axes inside what that
    leaves.
    """
    box = [slice(0, size) for size in mask.shape]
    order = sorted(range(3), key=lambda axis: -abs(mask.strides[axis]))
    for axis in order:
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(_any(mask[tuple(box)], others))
        if inside.size == 0:
            return None
        box[axis] = slice(int(inside[0]), int(inside[-1]) + 1)
    return box[0], box[1], box[2]


def _any(mask: BoolArray, axes: tuple[int, ...]) -> BoolArray:
    """`mask.any(axis=axes)`, eight voxels at a time where the memory allows: the whole volume passes through here."""
    if axes == (1, 2) and mask.flags.c_contiguous and mask[0].size % 8 == 0 and mask.size:
        return np.asarray(mask.reshape(len(mask), -1).view(np.uint64).max(axis=1) > 0)
    return np.asarray(mask.any(axis=axes))


def crop(mask: BoolArray) -> Crop | None:
    """The mask inside its bounding box (a copy); None if the mask is empty."""
    box = bounding_box(mask)
    if box is None:
        return None
    return Crop(np.array(mask[box], order="C"), (box[0].start, box[1].start, box[2].start))


def overlap_windows(a: Crop, b: Crop) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Where two crops overlap, as slices of each; None if they do not."""
    low = [max(p, q) for p, q in zip(a.low, b.low, strict=True)]
    high = [min(p, q) for p, q in zip(a.high, b.high, strict=True)]
    if any(p >= q for p, q in zip(low, high, strict=True)):
        return None
    in_a = tuple(slice(p - o, q - o) for p, q, o in zip(low, high, a.low, strict=True))
    in_b = tuple(slice(p - o, q - o) for p, q, o in zip(low, high, b.low, strict=True))
    return in_a, in_b
