"""The surface of a mask: one surface element for each corner shared by eight voxels that are not all alike.

Its area is that of the polygons that marching cubes (Lorensen and Cline 1987) draws between those voxels at the given
spacing, worked out from the geometry of the cell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.metrics.crop import Crop

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
Index = Sequence[int] | NDArray[np.integer]
IntArray = NDArray[np.int32]
Spacing = tuple[float, float, float]
Point = tuple[float, float, float]
Polygon = list[Point]


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
        return cKDTree(millimetres(self.corners, self.spacing), leafsize=32, balanced_tree=False, compact_nodes=False)


def surface_of(part: Crop, spacing: Spacing) -> Surface:
    """The surfels of a mask. What lies beyond the volume counts as background, so every surface is closed."""
    codes = _neighbour_codes(part.mask)
    border = (codes + np.uint8(1)) > 1  # neither 0 (all out) nor 255 (all in, wraps to 0)
    flat = np.flatnonzero(border)
    corners = unravelled(flat, border.shape)
    corners += np.asarray(part.low, np.int32)[:, None]
    return Surface(border, part.low, corners, surfel_areas(spacing).take(codes.ravel().take(flat)), spacing)


def _neighbour_codes(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Per cell corner the eight voxels round it as bits: uint8, one longer than the mask on each axis."""
    voxels = np.pad(mask.view(np.uint8), 1)
    pairs = voxels[:, :, :-1] << 1 | voxels[:, :, 1:]
    fours = pairs[:, :-1] << 2 | pairs[:, 1:]
    return np.asarray(fours[:-1] << 4 | fours[1:], np.uint8)


def unravelled(flat: IndexArray, shape: tuple[int, ...]) -> IntArray:
    """`np.unravel_index` as one int32 array (3, n): half the time, for what is at most a volume."""
    indices = np.empty((3, len(flat)), np.int32)
    rest = flat.astype(np.int32) if math.prod(shape) < 2**31 else flat
    rest, indices[2] = np.divmod(rest, rest.dtype.type(shape[2]))
    indices[0], indices[1] = np.divmod(rest, rest.dtype.type(shape[1]))
    return indices


def flat_index(corners: IntArray, low: Index, shape: tuple[int, ...]) -> IndexArray:
    """Flat index of each corner in a box that starts at `low`."""
    flat = corners[0].astype(np.intp)
    flat *= shape[1]
    flat += corners[1]
    flat *= shape[2]
    flat += corners[2]
    flat -= int((low[0] * shape[1] + low[1]) * shape[2] + low[2])
    return flat


def is_inside(corners: IntArray, low: Index, high: Index) -> NDArray[np.bool_]:
    """Which corners lie in a box, `high` included."""
    inside = np.ones(corners.shape[1], bool)
    for axis, values in enumerate(corners):
        inside &= values >= low[axis]
        inside &= values <= high[axis]
    return inside


def millimetres(corners: IntArray, spacing: Spacing) -> FloatArray:
    """Corners as points (n, 3) in mm."""
    return np.asarray(corners.T * np.asarray(spacing))
