"""What a metric is made from: one prediction beside one reference, neither of them empty."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.metrics.crop import Crop
from benchmarks.metrics.overlap import Counts
from benchmarks.metrics.surface import SurfacePair


@dataclass(frozen=True)
class Comparison:
    """Two masks of one volume and what is known of them; a metric is a function of it.

    Attributes:
        reference, prediction: the masks, each in its own box (voxels of the whole volume: `Crop.low`).
        spacing: mm, in the order of the axes.
        counts: voxels of each and of both.
        surfaces: distances (mm) and areas of both surfaces.
        lesions_reference, lesions_predicted: connected components of each.
        lesions_found: pairs of them under the matching rule.
    """

    reference: Crop
    prediction: Crop
    spacing: tuple[float, float, float]
    counts: Counts
    surfaces: SurfacePair
    lesions_reference: int
    lesions_predicted: int
    lesions_found: int
