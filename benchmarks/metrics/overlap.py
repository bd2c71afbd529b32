"""Overlap of two masks from three counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.metrics.crop import Crop, overlap_windows

RVE_WORST = 10.0
"""Relative volume errors are cut off here, so that one bad case cannot own the mean."""


@dataclass(frozen=True)
class Counts:
    """Voxels of the reference, of the prediction, and of both. All overlap metrics follow from them."""

    reference: int
    prediction: int
    intersection: int

    @property
    def dice(self) -> float:
        """2·|P∩R| / (|P| + |R|). ZeroDivisionError if both are empty: that is the policy's to settle."""
        return 2 * self.intersection / (self.reference + self.prediction)

    @property
    def iou(self) -> float:
        """|P∩R| / |P∪R|, the Jaccard index."""
        return self.intersection / (self.reference + self.prediction - self.intersection)

    @property
    def relative_volume_error(self) -> float:
        """| |P| − |R| | / |R|, not above `RVE_WORST`."""
        return min(abs(self.prediction - self.reference) / self.reference, RVE_WORST)


def intersection_count(a: Crop | None, b: Crop | None) -> int:
    """Voxels that lie in both masks."""
    if a is None or b is None:
        return 0
    windows = overlap_windows(a, b)
    if windows is None:
        return 0
    return int(np.count_nonzero(a.mask[windows[0]] & b.mask[windows[1]]))
