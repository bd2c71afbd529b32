"""The fingerprint of training cases: how large their lesions are and how finely they were scanned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.data.boxes import bounding_box, slices
from benchmarks.data.dataset import Case, target_mask
from benchmarks.data.target import Target
from benchmarks.data.volume import read_grid, read_label, voxel_size

CONNECTIVITY = np.ones((3, 3, 3), bool)
DUST_VOXELS = 8  # a component of fewer voxels is a slip of the pen, no lesion to plan for


@dataclass(frozen=True)
class Fingerprint:
    """What a plan may follow from.

    Attributes:
        extents: (lesions, 3), sides in mm of the box round each lesion (26-connected component) of the target.
        spacings: (cases, 3), mm per voxel.
    """

    extents: NDArray[np.float64]
    spacings: NDArray[np.float64]


def fingerprint(cases: Iterable[Case], target: Target) -> Fingerprint:
    """Read the label maps of the cases. Components of fewer than eight voxels are left out, if there are larger ones.

    Raises:
        UserError: a label map is unusable.
    """
    extents: list[NDArray[np.float64]] = []
    dust: list[NDArray[np.float64]] = []
    spacings = []
    for case in cases:
        _, affine = read_grid(case.label)
        spacing = np.array(voxel_size(affine))
        spacings.append(spacing)
        for sides, voxels in _lesions(target_mask(read_label(case.label), target)):
            (extents if voxels >= DUST_VOXELS else dust).append(sides * spacing)
    return Fingerprint(np.array(extents or dust, np.float64).reshape(-1, 3), np.array(spacings).reshape(-1, 3))


def joined(parts: Sequence[Fingerprint]) -> Fingerprint:
    """That of several sets of cases."""
    return Fingerprint(
        np.concatenate([part.extents for part in parts]), np.concatenate([part.spacings for part in parts])
    )


def _lesions(mask: NDArray[np.bool_]) -> list[tuple[NDArray[np.float64], int]]:
    """Sides of the box round each component in voxels, and its number of voxels."""
    box = bounding_box(mask)
    if box is None:
        return []
    labelled, count = ndimage.label(mask[slices(*box)], CONNECTIVITY)
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(labelled)
    return [
        (np.array([side.stop - side.start for side in place], np.float64), int(size))
        for place, size in zip(boxes, sizes, strict=True)
    ]
