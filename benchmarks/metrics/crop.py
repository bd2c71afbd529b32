"""Boxes of voxels: a tumour fills a thousandth of a scan, so every metric works inside a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
Triple = tuple[int, int, int]
Box = tuple[slice, slice, slice]


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


def bounding_box(mask: BoolArray) -> Box | None:
    """The smallest box that holds every True voxel; None if there is none.

    One pass over the volume finds the slabs that hold any, a second, over those alone, finds the rest. The
    axes are taken in the order in which they lie in memory, so that no order of storage costs more than
    another.
    """
    order = sorted(range(3), key=lambda axis: -abs(mask.strides[axis]))
    stored = mask.transpose(order)
    slabs = _span(_any_in_slab(stored))
    if slabs is None:
        return None
    shadow = _any_of_slabs(stored[slabs])
    spans = {order[0]: slabs, order[1]: _span(shadow.any(axis=1)), order[2]: _span(shadow.any(axis=0))}
    x, y, z = spans[0], spans[1], spans[2]
    return None if x is None or y is None or z is None else (x, y, z)


def _span(inside: BoolArray | np.bool_) -> slice | None:
    """From the first True to the last."""
    found = np.flatnonzero(inside)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else None


def _any_in_slab(stored: BoolArray) -> BoolArray:
    """Which slabs of the first axis hold a True voxel: the whole volume passes through here."""
    words = _words(stored)
    return np.asarray(stored.any(axis=(1, 2)) if words is None else np.bitwise_or.reduce(words, axis=1) != 0)


def _any_of_slabs(stored: BoolArray) -> BoolArray:
    """`stored.any(axis=0)`."""
    words = _words(stored)
    if words is None:
        return np.asarray(stored.any(axis=0))
    return np.bitwise_or.reduce(words, axis=0).view(bool).reshape(stored.shape[1:])


def _words(stored: BoolArray) -> NDArray[np.uint64] | None:
    """Slab by slab the voxels, eight in a word, where the memory allows that; else None."""
    if not stored.flags.c_contiguous or stored.size == 0 or stored[0].size % 8:
        return None
    return stored.reshape(len(stored), -1).view(np.uint64)


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
