"""Surface distances in mm, weighted by surface area, exact and only where there is surface.

The surface of a mask is the marching-cubes surface of its voxels (Lorensen and Cline 1987). It is sampled
at the corners shared by eight voxels: a corner whose eight voxels are not all alike carries one surface
element ("surfel"), whose area is that of the polygons that marching cubes draws between those voxels at the
given spacing. The distance of a surfel to the other surface is the distance of its corner to the other's
nearest corner. These are the definitions of Nikolov et al. 2021 (doi 10.2196/26151) and of the
surface-distance package, to which the tests compare every figure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from benchmarks.metrics.crop import Crop

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int32]
Spacing = tuple[float, float, float]
Point = tuple[float, float, float]
Polygon = list[Point]

MAP_MARGIN_MM = 10.0  # the reference's nearest-corner map reaches this far beyond its box
MAP_MARGIN_VOXELS = 16  # and never farther than this
FAR_POINTS = 300_000  # more surface than this outside the map: enlarge the map rather than search a tree


# --- areas of surfels -------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def surfel_areas(spacing: Spacing) -> FloatArray:
    """Area in mm² of the surfel of each of the 256 neighbour codes.

    Bit 4x + 2y + z of a code, counted from the highest, is the voxel at offset (x, y, z) from the first of
    the eight.
    """
    sx, sy, sz = spacing
    scale = np.array([sy * sz, sx * sz, sx * sy])
    areas = np.array([np.linalg.norm(normals * scale, axis=1).sum() for normals in _triangle_normals()])
    areas.setflags(write=False)
    return areas


@lru_cache(maxsize=1)
def _triangle_normals() -> tuple[FloatArray, ...]:
    """Per code the normals (triangles, 3) of its triangles on the unit cell, as long as the areas are large."""
    return tuple(
        np.array([normal for polygon in _polygons(code) for normal in _largest_fan(polygon)]).reshape(-1, 3)
        for code in range(256)
    )


_CORNERS = tuple(itertools.product((0, 1), repeat=3))


def _faces() -> Iterator[list[tuple[int, int, int]]]:
    """The six faces of the cell, each as its four corners in ring order."""
    for axis, side in itertools.product(range(3), (0, 1)):
        ring = []
        for first, second in ((0, 0), (0, 1), (1, 1), (1, 0)):
            corner = [first, second]
            corner.insert(axis, side)
            ring.append((corner[0], corner[1], corner[2]))
        yield ring


def _polygons(code: int) -> list[Polygon]:
    """The closed polygons that separate the set corners of a cell from the others.

    On a face with two set corners at opposite ends the four crossings can be joined in two ways. The
    corners of the rarer kind are cut off singly (the set ones on a tie), so that a mask and its complement
    have the same surface.
    """
    inside = {corner: bool(code >> (7 - index) & 1) for index, corner in enumerate(_CORNERS)}
    rare = sum(inside.values()) <= 4
    links: dict[Point, list[Point]] = {}
    for ring in _faces():
        middles = [_middle(ring[i], ring[(i + 1) % 4]) for i in range(4)]  # middles[i] follows ring[i]
        crossed = [i for i in range(4) if inside[ring[i]] != inside[ring[(i + 1) % 4]]]
        if len(crossed) == 2:
            pairs = [(middles[crossed[0]], middles[crossed[1]])]
        elif len(crossed) == 4:
            pairs = [(middles[i - 1], middles[i]) for i in range(4) if inside[ring[i]] == rare]
        else:
            pairs = []
        for a, b in pairs:
            links.setdefault(a, []).append(b)
            links.setdefault(b, []).append(a)
    return list(_rings(links))


def _middle(a: tuple[int, int, int], b: tuple[int, int, int]) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2


def _rings(links: dict[Point, list[Point]]) -> Iterator[Polygon]:
    """Walk the links (two at every point) round and round until all are used."""
    unused = dict.fromkeys(sorted(links))
    while unused:
        point: Point | None = next(iter(unused))
        ring: Polygon = []
        while point is not None:
            ring.append(point)
            del unused[point]
            point = next((neighbour for neighbour in links[point] if neighbour in unused), None)
        yield ring


def _largest_fan(polygon: Polygon) -> list[FloatArray]:
    """Triangle normals of the fan (all triangles share one vertex) with the largest area.

    A polygon that is not flat has no area of its own; the largest fan is the one that keeps the triangle
    parallel to the faces. It is the choice of the usual marching-cubes tables, and all fans as large have
    the same triangles' areas at any spacing.
    """
    fans = []
    for apex in range(len(polygon)):
        p = np.array(polygon[apex:] + polygon[:apex])
        fans.append([np.cross(p[i] - p[0], p[i + 1] - p[0]) / 2 for i in range(1, len(p) - 1)])
    return max(fans, key=lambda fan: round(sum(float(np.linalg.norm(normal)) for normal in fan), 9))


# --- surfaces ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Surface:
    """The surfels of one mask.

    Attributes:
        border: bool, the cell corners round the mask's box; True where there is a surfel.
        low: index of the first corner; corner (i, j, k) lies between voxels (i−1, j−1, k−1) and (i, j, k).
        corners: int32 (n, 3), whole-volume indices of the surfels' corners.
        areas: float64 (n,), mm².
        spacing: mm.
    """

    border: NDArray[np.bool_]
    low: tuple[int, int, int]
    corners: IntArray
    areas: FloatArray
    spacing: Spacing

    @cached_property
    def tree(self) -> cKDTree:
        """The corners in mm. Unbalanced: half the time to build, and these points lie evenly."""
        return cKDTree(self.corners * np.asarray(self.spacing), balanced_tree=False, compact_nodes=False)

    def holds(self, corners: IntArray) -> NDArray[np.bool_]:
        """Which of the given corners carry a surfel of this surface."""
        return _look_up(self.border, self.low, corners)


def surface_of(part: Crop, spacing: Spacing) -> Surface:
    """The surfels of a mask. What lies beyond the volume counts as background, so every surface is closed."""
    codes = _neighbour_codes(part.mask)
    border = (codes + np.uint8(1)) > 1  # neither 0 (all out) nor 255 (all in, wraps to 0)
    flat = np.flatnonzero(border)
    corners = np.stack(np.unravel_index(flat, border.shape), axis=1).astype(np.int32)
    corners += np.asarray(part.low, np.int32)
    return Surface(border, part.low, corners, surfel_areas(spacing)[codes.ravel()[flat]], spacing)


def _neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Per cell corner the eight voxels round it as bits: uint8, one longer than the mask on each axis."""
    voxels = np.pad(mask.view(np.uint8), 1)
    pairs = voxels[:, :, :-1] << 1 | voxels[:, :, 1:]
    fours = pairs[:, :-1] << 2 | pairs[:, 1:]
    return np.asarray(fours[:-1] << 4 | fours[1:], np.uint8)


def _inside(corners: IntArray, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which corners lie in a box, `high` included."""
    return np.asarray(((corners >= low) & (corners <= high)).all(axis=1))


def _look_up(grid: NDArray[np.bool_], low: tuple[int, int, int], corners: IntArray) -> NDArray[np.bool_]:
    local = corners - np.asarray(low, np.int32)
    inside = _inside(local, np.zeros(3, np.int64), np.asarray(grid.shape) - 1)
    found = np.zeros(len(corners), bool)
    found[inside] = grid[tuple(local[inside].T)]
    return found


# --- distances --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SurfacePair:
    """Distances and areas of two surfaces, each in rising order of distance: all surface metrics follow
    from them.

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
        near = 0.0
        for distances, areas in self._sides():
            near += float(areas[: np.searchsorted(distances, tolerance_mm, side="right")].sum())
        return near / float(self.reference_areas.sum() + self.prediction_areas.sum())

    def hausdorff(self) -> float:
        """The largest distance of either surface to the other, mm."""
        return float(max(self.reference_mm[-1], self.prediction_mm[-1]))

    def hausdorff_percentile(self, percent: float) -> float:
        """The larger of the two distances within which `percent` % of a surface's area lies, mm."""
        return max(_weighted_percentile(distances, areas, percent) for distances, areas in self._sides())

    def mean_distance(self) -> float:
        """The mean distance over the area of both surfaces together, mm."""
        total = sum(float(distances @ areas) for distances, areas in self._sides())
        return total / float(self.reference_areas.sum() + self.prediction_areas.sum())

    def _sides(self) -> tuple[tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]:
        return (self.reference_mm, self.reference_areas), (self.prediction_mm, self.prediction_areas)


class ReferenceSurface:
    """The ground truth's part of every surface pair, computed once and used for every round.

    Holds the surface and, for the corners in and near its box, which corner of the surface is nearest.
    Predictions may lie anywhere: what is outside the map is searched in a tree, just as exactly.
    """

    def __init__(self, part: Crop, spacing: Spacing, shape: tuple[int, int, int]) -> None:
        self.surface = surface_of(part, spacing)
        margin = [min(MAP_MARGIN_VOXELS, int(np.ceil(MAP_MARGIN_MM / step))) for step in spacing]
        low = [max(0, start - m) for start, m in zip(part.low, margin, strict=True)]
        high = [min(size, stop + m) for size, stop, m in zip(shape, part.high, margin, strict=True)]
        self._map(np.array(low), np.array(high))

    def _map(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> None:
        """Note the nearest surface corner of each corner in the box, `high` included."""
        away = np.ones(high - low + 1, bool)
        away[tuple((self.surface.corners - low).T)] = False
        nearest = ndimage.distance_transform_edt(
            away, sampling=self.surface.spacing, return_distances=False, return_indices=True
        )
        self._nearest = nearest.astype(np.int16 if max(away.shape) < 2**15 else np.int32)
        self._low, self._high = low, high

    def pair(self, prediction: Crop) -> SurfacePair:
        """Distances both ways between this surface and the prediction's."""
        other = surface_of(prediction, self.surface.spacing)
        reference_mm, reference_areas = _rising(_distances(self.surface, other), self.surface.areas)
        prediction_mm, prediction_areas = _rising(self._distances_from(other), other.areas)
        return SurfacePair(reference_mm, reference_areas, prediction_mm, prediction_areas)

    def _distances_from(self, other: Surface) -> FloatArray:
        """Distance of each corner of the other surface to this one."""
        mapped = _inside(other.corners, self._low, self._high)
        if len(mapped) - np.count_nonzero(mapped) > FAR_POINTS:
            low, high = other.corners.min(axis=0), other.corners.max(axis=0)
            self._map(np.minimum(low, self._low), np.maximum(high, self._high))
            mapped[:] = True
        distances = np.empty(len(other.corners))
        local = other.corners[mapped] - self._low
        steps = [self._nearest[axis][tuple(local.T)] - local[:, axis] for axis in range(3)]
        distances[mapped] = _length(np.stack(steps), self.surface.spacing)
        if not mapped.all():
            distances[~mapped] = _nearest_in_tree(other.corners[~mapped], self.surface)
        return distances


def _distances(source: Surface, target: Surface) -> FloatArray:
    """Distance of each corner of `source` to `target`; the corners that both share need no search."""
    distances = np.zeros(len(source.corners))
    apart = ~target.holds(source.corners)
    if apart.any():
        distances[apart] = _nearest_in_tree(source.corners[apart], _within_reach(source, target))
    return distances


def _within_reach(source: Surface, target: Surface) -> Surface:
    """The part of a very large target that can be nearest to the source: a speckled prediction stays
    affordable.

    A thin sample of the target bounds every distance from above; corners farther than that bound from the
    source's box cannot be nearest.
    """
    if len(target.corners) <= FAR_POINTS:
        return target
    thin = target.corners[:: len(target.corners) // 10_000]
    spacing = np.asarray(target.spacing)
    bound, _ = cKDTree(thin * spacing).query(source.corners * spacing)
    reach = np.ceil(bound.max() / spacing).astype(np.int64) + 1
    low, high = source.corners.min(axis=0) - reach, source.corners.max(axis=0) + reach
    near = _inside(target.corners, low, high)
    return Surface(target.border, target.low, target.corners[near], target.areas[near], target.spacing)


def _nearest_in_tree(corners: IntArray, target: Surface) -> FloatArray:
    _, index = target.tree.query(corners * np.asarray(target.spacing))
    return _length((target.corners[index] - corners).T, target.spacing)


def _length(steps: NDArray[np.signedinteger], spacing: Spacing) -> FloatArray:
    """Length in mm of whole-voxel steps (3, n), rounded as SciPy's distance transform rounds it.

    Distances come from whole steps, never from differences of millimetres, so that a distance of exactly
    the tolerance falls on the same side as in other tools.
    """
    squares = (steps * np.asarray(spacing)[:, None]) ** 2
    return np.sqrt(squares[0] + squares[1] + squares[2])


def _rising(distances: FloatArray, areas: FloatArray) -> tuple[FloatArray, FloatArray]:
    order = np.lexsort((areas, distances))
    return distances[order], areas[order]


def _weighted_percentile(distances: FloatArray, areas: FloatArray, percent: float) -> float:
    shares = np.cumsum(areas) / areas.sum()
    return float(distances[min(int(np.searchsorted(shares, percent / 100)), len(distances) - 1)])
