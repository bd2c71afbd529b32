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
from typing import NamedTuple

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

NEAR_MM = 12.0  # distances up to about here are read from a field, larger ones searched
NEAR_VOXELS = 16  # and never farther than this many cells of the finest axis
NEAR_CELLS = 100_000_000  # a byte each; no field beyond this size: memory stays bounded
KNOWN_CELLS = 16_000_000  # no memory of distances beyond this size (8 bytes each)
NOWHERE = 255  # the byte for "no corner in this column"
MANY = 300_000  # more corners than this are not searched one by one
EXACT_ORDER = 4096  # surfels up to which ties are put in order of area

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
    """Per code the normals (triangles, 3) of its triangles on the unit cell; their lengths are areas."""
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
        return cKDTree(self.corners * np.asarray(self.spacing), leafsize=32, balanced_tree=False, compact_nodes=False)


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

    Holds the surface and the field of distances near it. Predictions may lie anywhere: what is out of the
    field's reach is searched in a tree, just as exactly.
    """

    def __init__(self, part: Crop, spacing: Spacing) -> None:
        self.surface = surface_of(part, spacing)
        self._near = NearField.of(self.surface)
        self._known: FloatArray | None = None
        if self._near is not None and self._near.steps.size <= KNOWN_CELLS:
            self._known = np.zeros(self._near.steps.shape)  # 0 is "not asked yet"; pages come as they are used

    def pair(self, prediction: Crop) -> SurfacePair:
        """Distances both ways between this surface and the prediction's."""
        mine = self.surface
        other = surface_of(prediction, mine.spacing)
        low, high = mine.corners.min(axis=0), mine.corners.max(axis=0)
        to_other = _distances(mine.corners, other, NearField.of(other, low, high))
        return SurfacePair(*_rising(to_other, mine.areas), *_rising(self._distances_from(other.corners), other.areas))

    def _distances_from(self, corners: IntArray) -> FloatArray:
        """Distance of each corner to this surface. What an earlier round has asked for is remembered."""
        if self._known is None or self._near is None:
            return _distances(corners, self.surface, self._near)
        inside = _inside(corners, self._near.low, self._near.low + self._known.shape - 1)
        cells = tuple((corners[inside] - self._near.low).T)
        distances = np.zeros(len(corners))
        distances[inside] = self._known[cells]
        new = distances == 0
        if new.any():
            distances[new] = _distances(corners[new], self.surface, self._near)
            self._known[cells] = distances[inside]
        return distances


@dataclass(frozen=True)
class NearField:
    """Exact distances to a surface for corners that lie within a few millimetres of it.

    Most surfels of two masks worth comparing are close together, and for those a walk over the neighbouring
    columns, the nearest first, ends sooner than any search. A column runs along x; the field knows for each
    of its cells how far the nearest border corner in that column is.

    Attributes:
        steps: uint8, cells along x to the nearest border corner; NOWHERE if there is none in the column.
        low: whole-volume index of the first cell.
        margin: cells at the ends of each axis that are there for the walk only, and cannot be asked for.
        reach_mm: distances up to this one are exact; larger ones are not told.
    """

    steps: NDArray[np.uint8]
    low: NDArray[np.int64]
    margin: NDArray[np.int64]
    reach_mm: float
    spacing: Spacing

    @classmethod
    def of(cls, surface: Surface, low: IntArray | None = None, high: IntArray | None = None) -> NearField | None:
        """The field of a surface, for corners between `low` and `high` (both included) if given.

        None if it would need more than `NEAR_CELLS` cells, or no part of the surface is near that box.
        """
        reach_mm = min(NEAR_MM, NEAR_VOXELS * min(surface.spacing))
        reach = np.floor(reach_mm / np.asarray(surface.spacing)).astype(np.int64)
        margin = reach * np.array([0, 1, 1])
        along_x = reach - margin
        first = np.asarray(surface.low, np.int64) - reach
        last = first + np.asarray(surface.border.shape, np.int64) - 1 + 2 * reach
        if low is not None and high is not None:
            first = np.maximum(first, np.asarray(low, np.int64) - along_x)
            last = np.minimum(last, np.asarray(high, np.int64) + along_x)
        first, last = first - margin, last + margin
        if (first > last).any() or np.prod(last - first + 1) > NEAR_CELLS:
            return None
        return cls(_steps_along_x(_window(surface, first, last)), first, margin, reach_mm, surface.spacing)

    def look_up(self, corners: IntArray) -> FloatArray:
        """Distance in mm of each corner, infinite where this field cannot tell it exactly."""
        last = self.low + self.steps.shape - 1
        inside = _inside(corners, self.low + self.margin, last - self.margin)
        distances = np.full(len(corners), np.inf)
        distances[inside] = self._walk(np.ravel_multi_index(tuple((corners[inside] - self.low).T), self.steps.shape))
        return distances

    def _walk(self, cells: NDArray[np.integer]) -> FloatArray:
        """Distance of each cell (flat index), infinite beyond reach."""
        steps = self.steps.ravel()
        along_x = (np.arange(NOWHERE + 1) * self.spacing[0]) ** 2
        along_x[NOWHERE] = np.inf
        squares = along_x[steps[cells]]
        left = np.arange(len(cells))  # corners that a farther column could still improve
        best = squares
        size_z = self.steps.shape[2]
        reach = (int(self.margin[1]), int(self.margin[2]))
        columns = _columns(reach, (self.spacing[1], self.spacing[2]), self.reach_mm)
        for turn, (square_y, square_z, around) in enumerate(columns):
            if turn % 4 == 0:
                squares[left] = best
                keep = best > square_y + square_z
                left, cells, best = left[keep], cells[keep], best[keep]
                if left.size == 0:
                    break
            nearest = steps.take(cells + (around[0][0] * size_z + around[0][1]))
            for dy, dz in around[1:]:
                np.minimum(nearest, steps.take(cells + (dy * size_z + dz)), out=nearest)
            np.minimum(best, along_x.take(nearest) + square_y + square_z, out=best)
        squares[left] = best
        squares[squares > self.reach_mm**2] = np.inf
        return np.sqrt(squares)


@lru_cache(maxsize=32)
def _columns(reach: tuple[int, int], steps_mm: tuple[float, float], reach_mm: float) -> list[_Column]:
    """The columns within reach, the nearest first; those at ±Δy, ±Δz stand together."""
    columns = []
    for dy, dz in itertools.product(range(reach[0] + 1), range(reach[1] + 1)):
        square_y, square_z = (dy * steps_mm[0]) ** 2, (dz * steps_mm[1]) ** 2
        if 0 < square_y + square_z <= reach_mm**2:
            around = tuple((y, z) for y in sorted({-dy, dy}) for z in sorted({-dz, dz}))
            columns.append(_Column(square_y, square_z, around))
    return sorted(columns, key=lambda column: column.square_y + column.square_z)


class _Column(NamedTuple):
    square_y: float  # mm²
    square_z: float
    around: tuple[tuple[int, int], ...]  # cells along y and z


def _steps_along_x(border: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Cells along the first axis to the nearest True one; NOWHERE if there is none."""
    steps = np.where(border, np.uint8(0), np.uint8(NOWHERE))
    for low, high in itertools.pairwise(steps):
        np.minimum(high, low + (low != NOWHERE), out=high)
    for high, low in itertools.pairwise(steps[::-1]):
        np.minimum(low, high + (high != NOWHERE), out=low)
    return steps


def _window(surface: Surface, first: NDArray[np.integer], last: NDArray[np.integer]) -> NDArray[np.bool_]:
    """The surface's border on another box of corners, `last` included."""
    window = np.zeros(last - first + 1, bool)
    low = np.maximum(first, surface.low)
    high = np.minimum(last + 1, np.asarray(surface.low) + surface.border.shape)
    if (low < high).all():
        here = tuple(slice(p, q) for p, q in zip(low - first, high - first, strict=True))
        there = tuple(slice(p, q) for p, q in zip(low - surface.low, high - surface.low, strict=True))
        window[here] = surface.border[there]
    return window


def _distances(corners: IntArray, target: Surface, near: NearField | None) -> FloatArray:
    """Distance in mm of each corner to the target surface."""
    distances = np.full(len(corners), np.inf) if near is None else near.look_up(corners)
    far = np.isinf(distances)
    if far.any():
        search = _search_map if np.count_nonzero(far) > MANY else _search_tree
        distances[far] = search(corners[far], target)
    return distances


def _search_tree(corners: IntArray, target: Surface) -> FloatArray:
    target = _within_reach(corners, target)
    _, index = target.tree.query(corners * np.asarray(target.spacing))
    return _length((target.corners[index] - corners).T, target.spacing)


def _search_map(corners: IntArray, target: Surface) -> FloatArray:
    """For very many corners: a distance transform of the box that holds them and the target."""
    low = np.minimum(corners.min(axis=0), target.corners.min(axis=0))
    high = np.maximum(corners.max(axis=0), target.corners.max(axis=0))
    away = np.ones(high - low + 1, bool)
    away[tuple((target.corners - low).T)] = False
    nearest = ndimage.distance_transform_edt(away, sampling=target.spacing, return_distances=False, return_indices=True)
    local = tuple((corners - low).T)
    return _length(np.stack([nearest[axis][local] - local[axis] for axis in range(3)]), target.spacing)


def _within_reach(corners: IntArray, target: Surface) -> Surface:
    """The part of a very large target that can be nearest to the corners: a speckled prediction stays cheap.

    A thin sample of the target bounds every distance from above; what is farther than that bound from the
    corners' box cannot be nearest.
    """
    if len(target.corners) <= MANY:
        return target
    thin = target.corners[:: len(target.corners) // 10_000]
    spacing = np.asarray(target.spacing)
    bound, _ = cKDTree(thin * spacing).query(corners * spacing)
    reach = np.ceil(bound.max() / spacing).astype(np.int64) + 1
    near = _inside(target.corners, corners.min(axis=0) - reach, corners.max(axis=0) + reach)
    return Surface(target.border, target.low, target.corners[near], target.areas[near], target.spacing)


def _length(steps: NDArray[np.signedinteger], spacing: Spacing) -> FloatArray:
    """Length in mm of whole-voxel steps (3, n), rounded as SciPy's distance transform rounds it.

    Distances come from whole steps, never from differences of millimetres, so that a distance of exactly
    the tolerance falls on the same side as in other tools.
    """
    squares = (steps * np.asarray(spacing)[:, None]) ** 2
    return np.sqrt(squares[0] + squares[1] + squares[2])


def _rising(distances: FloatArray, areas: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both in rising order of distance.

    Small surfaces also order ties by area, as surface-distance does: there the rounding of a running sum can
    decide on which side of 95 % a surfel falls.
    """
    order = np.lexsort((areas, distances)) if len(distances) <= EXACT_ORDER else np.argsort(distances)
    return distances[order], areas[order]


def _weighted_percentile(distances: FloatArray, areas: FloatArray, percent: float) -> float:
    shares = np.cumsum(areas) / areas.sum()
    return float(distances[min(int(np.searchsorted(shares, percent / 100)), len(distances) - 1)])
