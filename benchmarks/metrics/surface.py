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
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from benchmarks.metrics.crop import Crop

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
Index = Sequence[int] | NDArray[np.integer]
IntArray = NDArray[np.int32]
Spacing = tuple[float, float, float]
Point = tuple[float, float, float]
Polygon = list[Point]

NEAR_SHARE = 0.25  # distances up to this share of a surface's extent are read from a field, larger ones searched,
NEAR_MM = (6.0, 20.0)  # but no less and no more than this
BEYOND_MM = 12.0  # as far outside the box of a surface can a corner lie and have its distance read
NEAR_VOXELS = 25  # and never farther than this many cells of the finest axis
NEAR_CELLS = 100_000_000  # a byte each; no field beyond this size: memory stays bounded
KNOWN_CELLS = 16_000_000  # no map of the changes between two predictions in a box beyond this size
TILE_BITS = 2  # 2² voxels: side of the tiles in which the changes between two predictions are told
ROUNDING = 1e-6  # voxels
NOWHERE = 128  # a byte from here on says "no corner in this column"
CAPPED_EVERY = 50
MANY = 300_000  # more corners than this are not searched one by one
EXACT_ORDER = 4096  # surfels up to which ties are put in order of area
FAR_END = 0.1  # about this share of the surfels below a percentile is sorted with those above it

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
        corners: int32 (3, n), whole-volume indices of the surfels' corners, in scan order.
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
        return cKDTree(_millimetres(self.corners, self.spacing), leafsize=32, balanced_tree=False, compact_nodes=False)


def surface_of(part: Crop, spacing: Spacing) -> Surface:
    """The surfels of a mask. What lies beyond the volume counts as background, so every surface is closed."""
    codes = _neighbour_codes(part.mask)
    border = (codes + np.uint8(1)) > 1  # neither 0 (all out) nor 255 (all in, wraps to 0)
    flat = np.flatnonzero(border)
    corners = _unravelled(flat, border.shape)
    corners += np.asarray(part.low, np.int32)[:, None]
    return Surface(border, part.low, corners, surfel_areas(spacing).take(codes.ravel().take(flat)), spacing)


def _neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Per cell corner the eight voxels round it as bits: uint8, one longer than the mask on each axis."""
    voxels = np.pad(mask.view(np.uint8), 1)
    pairs = voxels[:, :, :-1] << 1 | voxels[:, :, 1:]
    fours = pairs[:, :-1] << 2 | pairs[:, 1:]
    return np.asarray(fours[:-1] << 4 | fours[1:], np.uint8)


def _unravelled(flat: IndexArray, shape: tuple[int, ...]) -> IntArray:
    """`np.unravel_index` as one int32 array (3, n): half the time, for what is at most a volume."""
    indices = np.empty((3, len(flat)), np.int32)
    rest = flat.astype(np.int32) if math.prod(shape) < 2**31 else flat
    rest, indices[2] = np.divmod(rest, rest.dtype.type(shape[2]))
    indices[0], indices[1] = np.divmod(rest, rest.dtype.type(shape[1]))
    return indices


def _flat(corners: IntArray, low: Index, shape: tuple[int, ...]) -> IndexArray:
    """Flat index of each corner in a box that starts at `low`."""
    flat = corners[0].astype(np.intp)
    flat *= shape[1]
    flat += corners[1]
    flat *= shape[2]
    flat += corners[2]
    flat -= int((low[0] * shape[1] + low[1]) * shape[2] + low[2])
    return flat


def _inside(corners: IntArray, low: Index, high: Index) -> NDArray[np.bool_]:
    """Which corners lie in a box, `high` included."""
    inside = np.ones(corners.shape[1], bool)
    for axis, values in enumerate(corners):
        inside &= values >= low[axis]
        inside &= values <= high[axis]
    return inside


def _millimetres(corners: IntArray, spacing: Spacing) -> FloatArray:
    """Corners as points (n, 3) in mm."""
    return np.asarray(corners.T * np.asarray(spacing))


# --- distances --------------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Changes:
    """Where two masks differ, in tiles of `2**TILE_BITS` voxels a side.

    Attributes:
        before: int32, one longer than the tiles on each axis: tiles with a change before (i, j, k) on every
            axis, so that eight look-ups count those in any box.
        low: whole-volume index of the first tile's first voxel.
    """

    before: IntArray
    low: tuple[int, int, int]

    @classmethod
    def between(cls, a: Crop, b: Crop) -> Changes | None:
        """None if the two lie too far apart for a map of both."""
        low = tuple(min(p, q) for p, q in zip(a.low, b.low, strict=True))
        shape = tuple(max(p, q) - o for p, q, o in zip(a.high, b.high, low, strict=True))
        if math.prod(shape) > KNOWN_CELLS:
            return None
        differ = np.zeros(shape, bool)
        for part in (a, b):
            window = tuple(slice(p - o, q - o) for p, q, o in zip(part.low, part.high, low, strict=True))
            differ[window] ^= part.mask
        before = np.zeros([(size >> TILE_BITS) + 2 for size in shape], np.int32)
        before[tuple((_unravelled(np.flatnonzero(differ), shape) >> TILE_BITS) + 1)] = 1
        for axis in range(3):
            np.cumsum(before, axis=axis, out=before)
        return cls(before, (low[0], low[1], low[2]))

    def within(self, distances: FloatArray, corners: IntArray, spacing: Spacing) -> NDArray[np.bool_]:
        """Whether a change may lie within its distance (mm) of each corner; not where the answer is no."""
        strides = [int(self.before.shape[1] * self.before.shape[2]), int(self.before.shape[2]), 1]
        ends = []
        for axis in range(3):
            reach = (distances * (1 / spacing[axis]) + ROUNDING).astype(np.int32)
            place = corners[axis] - np.int32(self.low[axis])
            first = (place - reach - 1) >> TILE_BITS  # corner i is the business of voxels i − 1 and i
            last = ((place + reach) >> TILE_BITS) + 1
            for end in (first, last):
                np.maximum(end, 0, out=end)
                np.minimum(end, self.before.shape[axis] - 1, out=end)
                end *= strides[axis]
            ends.append((first, last))
        before = self.before.ravel()
        count = np.zeros(corners.shape[1], np.int32)
        for x, y, z in itertools.product((0, 1), repeat=3):
            sign = -1 if (x + y + z) % 2 == 0 else 1
            count += sign * before.take(ends[0][x] + ends[1][y] + ends[2][z])
        return count > 0


@dataclass(frozen=True)
class NearField:
    """Exact distances to a surface for corners that lie within a few millimetres of it.

    Most surfels of two masks worth comparing are close together, and for those a walk over the neighbouring
    columns, the nearest first, ends sooner than any search. A column runs along x; the field knows for each
    of its cells how far the nearest border corner in that column is.

    Attributes:
        steps: uint8, cells along x to the nearest border corner; NOWHERE or more if there is none near.
        low: whole-volume index of the first cell.
        first, last: whole-volume indices of the corners that can be asked for, both included.
        reach: cells along each axis.
        reach_mm: distances up to this one are exact; larger ones are not told.
    """

    steps: NDArray[np.uint8]
    low: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    reach: NDArray[np.int64]
    reach_mm: float
    spacing: Spacing

    @classmethod
    def of(cls, surface: Surface, first: IntArray | None = None, last: IntArray | None = None) -> NearField | None:
        """The field of a surface, for corners between `first` and `last` (both included) if given.

        None if it would need more than `NEAR_CELLS` cells, or no part of the surface is near that box.
        """
        spacing = np.asarray(surface.spacing)
        start = np.asarray(surface.low, np.int64)
        size = np.asarray(surface.border.shape, np.int64)
        reach_mm = min(max(NEAR_SHARE * float((size * spacing).max()), NEAR_MM[0]), NEAR_MM[1])
        reach_mm = min(reach_mm, NEAR_VOXELS * float(spacing.min()))
        reach = np.floor(reach_mm / spacing).astype(np.int64)
        beyond = np.floor(min(reach_mm, BEYOND_MM) / spacing).astype(np.int64)
        asked, until = start - beyond, start + size - 1 + beyond
        if first is not None and last is not None:
            asked, until = np.maximum(asked, first), np.minimum(until, last)
        if (asked > until).any():
            return None
        # The border outside the asked box matters as far as the walk goes, and no farther than there is any.
        low = np.minimum(asked, np.maximum(asked - reach, start))
        high = np.maximum(until, np.minimum(until + reach, start + size - 1))
        # Elsewhere the walk must step on cells that hold nothing: those at the end of a line also serve the
        # line behind it, and one empty plane serves the first.
        gap = np.maximum(reach - (asked - low), reach - (high - until))
        gap[0] = 1
        shape = high - low + 1 + gap
        if np.prod(shape) > NEAR_CELLS:
            return None
        steps = np.full(shape, NOWHERE, np.uint8)
        here, there = _common(surface, low, high)
        steps[1:][here][surface.border[there]] = 0
        _count_along_x(steps[1:])
        return cls(steps, low - np.array([1, 0, 0]), asked, until, reach, reach_mm, surface.spacing)

    def look_up(self, corners: IntArray) -> FloatArray:
        """Distance in mm of each corner, infinite where this field cannot tell it exactly."""
        inside = _inside(corners, self.first, self.last)
        if inside.all():
            return self._walk(_flat(corners, self.low, self.steps.shape))
        distances = np.full(corners.shape[1], np.inf)
        distances[inside] = self._walk(_flat(corners[:, inside], self.low, self.steps.shape))
        return distances

    def _walk(self, cells: IndexArray) -> FloatArray:
        """Distance of each cell (flat index), infinite beyond reach."""
        steps = self.steps.ravel()
        along_x = (np.arange(256) * self.spacing[0]) ** 2
        along_x[NOWHERE:] = np.inf
        squares = along_x.take(steps.take(cells))
        left: IndexArray = np.arange(len(cells))  # corners that a farther column could still improve
        best = squares
        size_z = self.steps.shape[2]
        reach = (int(self.reach[1]), int(self.reach[2]))
        columns = _columns(reach, (self.spacing[1], self.spacing[2]), self.reach_mm)
        for turn, (square_y, square_z, around) in enumerate(columns):
            if turn % 4 == 0:
                squares[left] = best
                keep = np.flatnonzero(best > square_y + square_z)
                if keep.size == 0:
                    break
                left, cells, best = left.take(keep), cells.take(keep), best.take(keep)
            nearest = steps.take(cells + (around[0][0] * size_z + around[0][1]))
            for dy, dz in around[1:]:
                np.minimum(nearest, steps.take(cells + (dy * size_z + dz)), out=nearest)
            np.minimum(best, (along_x + square_y + square_z).take(nearest), out=best)
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


def _count_along_x(steps: NDArray[np.uint8]) -> None:
    """From 0 at the border corners and NOWHERE elsewhere to the cells along the first axis to the nearest."""
    one_more = np.empty_like(steps[0])
    for way in (steps, steps[::-1]):
        for turn, (near, far) in enumerate(itertools.pairwise(way)):
            if turn % CAPPED_EVERY == 0:
                np.minimum(near, NOWHERE, out=near)  # NOWHERE is counted on as well, and a byte holds 255
            np.add(near, 1, out=one_more)
            np.minimum(far, one_more, out=far)


def _common(surface: Surface, low: Index, high: Index) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What a box of corners, `high` included, has in common with the surface's own: slices of each."""
    first = np.maximum(low, surface.low)
    last = np.minimum(high, np.asarray(surface.low) + surface.border.shape - 1)
    here = tuple(slice(p, max(p, q + 1)) for p, q in zip(first - low, last - low, strict=True))
    own = np.asarray(surface.low)
    there = tuple(slice(p, max(p, q + 1)) for p, q in zip(first - own, last - own, strict=True))
    return here, there


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
    _, index = target.tree.query(_millimetres(corners, target.spacing))
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
    bound, _ = cKDTree(_millimetres(thin, target.spacing)).query(_millimetres(corners, target.spacing))
    reach = np.ceil(bound.max() / np.asarray(target.spacing)).astype(np.int64) + 1
    near = _inside(target.corners, corners.min(axis=1) - reach, corners.max(axis=1) + reach)
    return Surface(target.border, target.low, target.corners[:, near], target.areas[near], target.spacing)


def _length(steps: NDArray[np.signedinteger], spacing: Spacing) -> FloatArray:
    """Length in mm of whole-voxel steps (3, n), rounded as SciPy's distance transform rounds it.

    Distances come from whole steps, never from differences of millimetres, so that a distance of exactly
    the tolerance falls on the same side as in other tools.
    """
    squares = (steps * np.asarray(spacing)[:, None]) ** 2
    return np.sqrt(squares[0] + squares[1] + squares[2])


# --- shares of area ---------------------------------------------------------------------------------------


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
