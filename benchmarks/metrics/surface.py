"""Surface distances in mm, weighted by surface area, exact and only where there is surface.

The surface of a mask is the marching-cubes surface of its voxels (Lorensen and Cline 1987). It is sampled
at the corners shared by eight voxels: a corner whose eight voxels are not all alike carries one surface
element ("surfel"), whose area is that of the polygons that marching cubes draws between those voxels at the
given spacing. The distance of a surfel to the other surface is the distance of its corner to the other's
nearest corner. These are the definitions of Nikolov et al. 2021 (doi 10.2196/26151) and of the
surface-distance package, to which the tests compare every figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from benchmarks.metrics.crop import Crop
from benchmarks.metrics.near_field import KNOWN_CELLS, Changes, NearField
from benchmarks.metrics.surfels import (
    FloatArray,
    IntArray,
    Spacing,
    Surface,
    is_inside,
    millimetres,
    surface_of,
)

MANY = 300_000  # more corners than this are not searched one by one
EXACT_ORDER = 4096  # surfels up to which ties are put in order of area
FAR_END = 0.1  # about this share of the surfels below a percentile is sorted with those above it


@dataclass(frozen=True)
class SurfacePair:
    """Distances and areas of two surfaces: all surface metrics follow from them.

    Attributes:
        reference_mm, prediction_mm: float64, distance of each surfel to the other surface.
        reference_areas, prediction_areas: float64, mm², in the same order.
    """

    reference_mm: FloatArray
    reference_areas: FloatArray
    prediction_mm: FloatArray
    prediction_areas: FloatArray

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice: the share of both surfaces that lies within the tolerance of the other."""
        near = sum(_area_within(tolerance_mm, distances, areas) for distances, areas in self._sides())
        return near / self.area

    @cached_property
    def area(self) -> float:
        """Of both surfaces, mm²."""
        return float(self.reference_areas.sum() + self.prediction_areas.sum())

    def hausdorff(self) -> float:
        """The largest distance of either surface to the other, mm."""
        return float(max(self.reference_mm.max(), self.prediction_mm.max()))

    def hausdorff_percentile(self, percent: float) -> float:
        """The larger of the two distances within which `percent` % of a surface's area lies, mm."""
        return max(_weighted_percentile(distances, areas, percent) for distances, areas in self._sides())

    def mean_distance(self) -> float:
        """The mean distance over the area of both surfaces together, mm."""
        return sum(_dot(distances, areas) for distances, areas in self._sides()) / self.area

    def _sides(self) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
        return (self.reference_mm, self.reference_areas), (self.prediction_mm, self.prediction_areas)


class ReferenceSurface:
    """The ground truth's part of every surface pair, computed once and used for every round.

    Holds the surface, the field of distances near it, and the distances from and to the latest prediction, of
    which only what a change comes near is computed again. Predictions may
    lie anywhere: what is out of the field's reach is searched in a tree, just as exactly.
    """

    def __init__(self, part: Crop, spacing: Spacing) -> None:
        self.surface = surface_of(part, spacing)
        self._near = NearField.of(self.surface)
        self._known: tuple[NDArray[np.int64], FloatArray] | None = None
        self._latest: tuple[Crop, FloatArray] | None = None

    def pair(self, prediction: Crop) -> SurfacePair:
        """Distances both ways between this surface and the prediction's."""
        other = surface_of(prediction, self.surface.spacing)
        to_other = self._distances_to(other, prediction)
        return SurfacePair(to_other, self.surface.areas, self._distances_from(other.corners), other.areas)

    def _distances_to(self, other: Surface, prediction: Crop) -> FloatArray:
        """Distance of each corner of this surface to a prediction's."""
        corners = self.surface.corners
        changes = None if self._latest is None else Changes.between(self._latest[0], prediction)
        if self._latest is None or changes is None:
            distances = _distances_to(other, corners)
        else:
            distances = self._latest[1].copy()
            stale = np.flatnonzero(changes.within(distances, corners, other.spacing))
            distances[stale] = _distances_to(other, corners[:, stale])
        self._latest = (prediction, distances) if prediction.mask.size <= KNOWN_CELLS else None
        return distances

    def _distances_from(self, corners: IntArray) -> FloatArray:
        """Distance of each corner to this surface. Corners of the latest prediction need not be asked again."""
        keys = (corners[0].astype(np.int64) << 42) + (corners[1].astype(np.int64) << 21) + corners[2]  # in rising order
        if self._known is None:
            distances = _distances(corners, self.surface, self._near)
        else:
            known, known_mm = self._known
            place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            distances = known_mm.take(place)
            new = np.flatnonzero(known.take(place) != keys)
            if new.size:
                distances[new] = _distances(corners[:, new], self.surface, self._near)
        self._known = keys, distances
        return distances


def _distances_to(target: Surface, corners: IntArray) -> FloatArray:
    """Distance in mm of each corner to a target surface that is looked at once."""
    if corners.shape[1] == 0:
        return np.zeros(0)
    return _distances(corners, target, NearField.of(target, corners.min(axis=1), corners.max(axis=1)))


def _distances(corners: IntArray, target: Surface, near: NearField | None) -> FloatArray:
    """Distance in mm of each corner to the target surface."""
    distances = np.full(corners.shape[1], np.inf) if near is None else near.look_up(corners)
    far = np.flatnonzero(np.isinf(distances))
    if far.size:
        search = _search_map if far.size > MANY else _search_tree
        distances[far] = search(corners[:, far], target)
    return distances


def _search_tree(corners: IntArray, target: Surface) -> FloatArray:
    target = _within_reach(corners, target)
    _, index = target.tree.query(millimetres(corners, target.spacing))
    return _length(target.corners[:, index] - corners, target.spacing)


def _search_map(corners: IntArray, target: Surface) -> FloatArray:
    """For very many corners: a distance transform of the box that holds them and the target."""
    low = np.minimum(corners.min(axis=1), target.corners.min(axis=1))
    high = np.maximum(corners.max(axis=1), target.corners.max(axis=1))
    away = np.ones(high - low + 1, bool)
    away[tuple(target.corners - low[:, None])] = False
    nearest = ndimage.distance_transform_edt(away, sampling=target.spacing, return_distances=False, return_indices=True)
    local = tuple(corners - low[:, None])
    return _length(np.stack([nearest[axis][local] - local[axis] for axis in range(3)]), target.spacing)


def _within_reach(corners: IntArray, target: Surface) -> Surface:
    """The part of a very large target that can be nearest to the corners: a speckled prediction stays cheap.

    A thin sample of the target bounds every distance from above; what is farther than that bound from the
    corners' box cannot be nearest.
    """
    count = target.corners.shape[1]
    if count <= MANY:
        return target
    thin = target.corners[:, :: count // 10_000]
    bound, _ = cKDTree(millimetres(thin, target.spacing)).query(millimetres(corners, target.spacing))
    reach = np.ceil(bound.max() / np.asarray(target.spacing)).astype(np.int64) + 1
    near = is_inside(target.corners, corners.min(axis=1) - reach, corners.max(axis=1) + reach)
    return Surface(target.border, target.low, target.corners[:, near], target.areas[near], target.spacing)


def _length(steps: NDArray[np.signedinteger], spacing: Spacing) -> FloatArray:
    """Length in mm of whole-voxel steps (3, n), rounded as SciPy's distance transform rounds it.

    Distances come from whole steps, never from differences of millimetres, so that a distance of exactly
    the tolerance falls on the same side as in other tools.
    """
    squares = (steps * np.asarray(spacing)[:, None]) ** 2
    return np.sqrt(squares[0] + squares[1] + squares[2])


def _dot(a: FloatArray, b: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    """Sum of products, without BLAS: its threads would wait busily for the rest of the metrics and slow them down."""
    return float(np.einsum("i,i->", a, b))


def _area_within(tolerance_mm: float, distances: FloatArray, areas: FloatArray) -> float:
    """Exactly the sum of all areas if all are within: a perfect score is 1 and not nearly 1."""
    within = distances <= tolerance_mm
    return float(areas.sum()) if within.all() else _dot(areas, within)


def _weighted_percentile(distances: FloatArray, areas: FloatArray, percent: float) -> float:
    """The distance within which `percent` % of the area lies.

    Small surfaces order ties by area, as surface-distance does: there the rounding of a running sum can
    decide on which side of the percentile a surfel falls. Of large ones only the far end is put in order; a
    sample says where that begins.
    """
    share = percent / 100
    if len(distances) <= EXACT_ORDER:
        order = np.lexsort((areas, distances))
        reached = np.cumsum(areas[order]) / areas.sum()
        return float(distances[order[min(int(np.searchsorted(reached, share)), len(order) - 1)]])
    total = float(areas.sum())
    sample = np.sort(distances[:: len(distances) // (EXACT_ORDER // 4)])
    pivot = sample[int(len(sample) * max(0.0, share - FAR_END))]
    upto = _dot(areas, distances <= pivot)
    if upto >= share * total:
        if _dot(areas, distances < pivot) < share * total:
            return float(pivot)
        pivot, upto = -1.0, 0.0
    beyond = np.flatnonzero(distances > pivot)
    order = beyond[np.argsort(distances[beyond])]
    reached = (upto + np.cumsum(areas[order])) / total
    return float(distances[order[min(int(np.searchsorted(reached, share)), len(order) - 1)]])
