"""Masks cut to their boxes: a tumour fills a thousandth of a scan, so every metric works inside a box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.boxes import bounding_box, slices

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


def crop(mask: BoolArray) -> Crop | None:
    """The mask inside its bounding box (a copy); None if the mask is empty."""
    box = bounding_box(mask)
    if box is None:
        return None
    return Crop(np.array(mask[slices(*box)], order="C"), box[0])


def overlap_windows(a: Crop, b: Crop) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Where two crops overlap, as slices of each; None if they do not."""
    low = [max(p, q) for p, q in zip(a.low, b.low, strict=True)]
    high = [min(p, q) for p, q in zip(a.high, b.high, strict=True)]
    if any(p >= q for p, q in zip(low, high, strict=True)):
        return None
    in_a = tuple(slice(p - o, q - o) for p, q, o in zip(low, high, a.low, strict=True))
    in_b = tuple(slice(p - o, q - o) for p, q, o in zip(low, high, b.low, strict=True))
    return in_a, in_b
