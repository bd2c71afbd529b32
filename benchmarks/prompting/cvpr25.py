"""Corrective clicks by the rules of the CVPR 2025 challenge "Foundation Models for Interactive 3D Biomedical Image
Segmentation".

Source of the rules: the challenge's evaluation script `CVPR25_iter_eval.py` (repository
JunMa11/CVPR-MedSegFMCompetition, commit 748e862). What it does with one target at one round:

- errors of both signs are one mask, whose largest 26-connected component is taken, the first of equals in the order
  (z, y, x) with x fastest;
- depth is the Euclidean distance, in voxels whatever the spacing, to the nearest voxel outside the component; the
  border of the array counts as outside;
- of the deepest voxels one is drawn, with NumPy's old generator seeded with 42 each time;
- the label at this voxel gives the sign.

Its arrays have axes (z, y, x), ours (x, y, z): they are turned before anything else, so that ties fall alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.prompting.components import BoolArray, Position, largest_component, position

TIE_SEED = 42

COARSE_VOXELS = 60_000_000
"""A component whose box, padded by a quarter on each side, has more voxels is halved along each axis for its depth."""


def correction(label: BoolArray, predicted: BoolArray) -> tuple[Position, bool] | None:
    """Where the challenge's user clicks, and whether the click is positive; None if the prediction is perfect.

    Args:
        label, predicted: bool, axes (x, y, z), of one shape.
    """
    error = largest_component((label != predicted).transpose(2, 1, 0))
    if not error.size:
        return None
    depth = _depth(error.mask)
    deepest = np.argwhere(depth == depth.max())
    # The challenge draws with this generator; a newer one would draw other voxels.
    drawn = deepest[np.random.RandomState(TIE_SEED).choice(len(deepest))]
    z, y, x = np.add(drawn, error.low)
    place = position((x, y, z))
    return place, bool(label[place])


def _depth(region: BoolArray) -> NDArray[np.floating]:
    """The distance (voxels) of each voxel of a component to the outside; 0 outside."""
    margin = np.maximum((np.asarray(region.shape) * 0.25).astype(int), 1)
    if np.prod(region.shape + 2 * margin) <= COARSE_VOXELS:
        exact: NDArray[np.floating] = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1, 1:-1]
        return exact
    padded = np.pad(region, [(n, n) for n in margin])
    even = np.pad(padded, [(0, n % 2) for n in padded.shape])
    x, y, z = (n // 2 for n in even.shape)
    blocks = even.reshape(x, 2, y, 2, z, 2).any(axis=(1, 3, 5))
    depth = ndimage.distance_transform_edt(blocks)
    for axis in range(3):
        depth = depth.repeat(2, axis=axis)
    inside = tuple(slice(n, n + size) for n, size in zip(margin, region.shape, strict=True))
    coarse: NDArray[np.floating] = depth[inside] * region
    return coarse
