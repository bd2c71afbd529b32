"""The spacing of the first view, decided by the lesions of the training cases."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.data.fingerprint import Fingerprint

SHARE_OF_VIEW = 0.75  # of the first view's side that a lesion of median length fills
VOXELS_ACROSS = 4.0  # that no lesion is to fall short of
WIDEST = 2.25  # largest field of view that training shows, as a multiple of the first view's
SMALL, LARGE = 5, 95  # percentiles: which lesions are the small ones, and which the large ones
UNPLANNED_VIEW_MM = 128.0  # side of the first view of a model that has seen no training case


@dataclass(frozen=True)
class Plan:
    """What the training cases decided; part of the checkpoint.

    Attributes:
        spacing: mm per voxel of the first view, isotropic.
        reason: which of the rules of `plan_for` decided.
        lesions: how many were looked at.
        median_mm, small_mm, large_mm: longest side of the median lesion, shortest side of the small ones, longest
            side of the large ones.
    """

    spacing: float
    reason: str
    lesions: int = 0
    median_mm: float | None = None
    small_mm: float | None = None
    large_mm: float | None = None

    def to_mapping(self) -> dict[str, Any]:
        """JSON-like values that `Plan(**values)` reads."""
        return asdict(self)


def unplanned(patch: int) -> Plan:
    """The plan of a model of that crop side that has seen no training case: a view of 128 mm."""
    return Plan(UNPLANNED_VIEW_MM / patch, "no training cases: a view of 128 mm")


def fixed(spacing: float) -> Plan:
    """The plan of a model whose spacing is set by hand."""
    return Plan(spacing, "set by hand")


def plan_for(found: Fingerprint, patch: int) -> Plan:
    """Choose the spacing for crops of `patch` voxels.

    1. The median lesion fills three quarters of the view, but no finer than the scans are (the geometric mean of
       their spacing, median over the cases).
    2. A small lesion (shortest side, 5th percentile) has four voxels or more, as far as the scans show as much.
    3. A large lesion (longest side, 95th percentile) fits into the widest view; where 2 and 3 quarrel, 3 wins, since
       a view can be narrowed when a lesion turns out to be small.
    """
    if len(found.extents) == 0:
        return unplanned(patch)
    median = float(np.median(found.extents.max(axis=1)))
    small = float(np.percentile(found.extents.min(axis=1), SMALL))
    large = float(np.percentile(found.extents.max(axis=1), LARGE))
    scanned = float(np.median(np.exp(np.log(found.spacings).mean(axis=1))))
    finest = float(np.median(found.spacings.min(axis=1)))
    spacing, reason = median / (SHARE_OF_VIEW * patch), "the median lesion fills three quarters of the view"
    if spacing < scanned:
        spacing, reason = scanned, "as fine as the scans"
    limit = max(small / VOXELS_ACROSS, finest)
    if spacing > limit:
        spacing, reason = limit, "four voxels across a small lesion"
    reach = large / (WIDEST * patch)
    if spacing < reach:
        spacing, reason = reach, "a large lesion fits into the widest view"
    return Plan(round(spacing, 3), reason, len(found.extents), round(median, 1), round(small, 1), round(large, 1))
