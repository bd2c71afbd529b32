"""Boxes of voxels around masks: a tumour fills a thousandth of a scan, so most work is done inside its box."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
Corner = tuple[int, int, int]


def bounding_box(mask: NDArray[Any]) -> tuple[Corner, Corner] | None:
    """The smallest box that holds every non-zero voxel of a 3D array; None if there is none.

    One pass over the volume finds the slabs that hold any, a second, over those alone, finds the rest. The
    axes are taken in the order in which they lie in memory, so that no order of storage costs more than
    another.

    Returns:
        Its corners, `low` inclusive, `high` exclusive.
    """
    if mask.dtype != np.bool_:
        mask = mask != 0
    order = sorted(range(3), key=lambda axis: -abs(mask.strides[axis]))
    stored = mask.transpose(order)
    slabs = _span(_any_in_slab(stored))
    if slabs is None:
        return None
    shadow = _any_of_slabs(stored[slabs])
    spans = {order[0]: slabs, order[1]: _span(shadow.any(axis=1)), order[2]: _span(shadow.any(axis=0))}
    x, y, z = spans[0], spans[1], spans[2]
    if x is None or y is None or z is None:
        return None
    return (x.start, y.start, z.start), (x.stop, y.stop, z.stop)


def slices(low: Corner, high: Corner) -> tuple[slice, slice, slice]:
    """A box as the index of an array."""
    x, y, z = (slice(start, stop) for start, stop in zip(low, high, strict=True))
    return x, y, z


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
