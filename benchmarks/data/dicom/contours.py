"""RTSTRUCT: closed contours, filled slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.data.dicom.series import Series
from benchmarks.data.volume import BoolArray

OFF_PLANE = 0.25  # of a slice distance, that a contour may lie away from a slice
SAME_OUTLINE = 0.1  # of a pixel: two contours nowhere farther apart are one, drawn or written twice
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")  # points and open lines enclose nothing

Polygon = NDArray[np.float64]


def contour_mask(content: Any, path: Path, name: str, number: int, series: Series) -> BoolArray:
    """The ROI of this number.

    Where its contours in one slice overlap the even-odd rule holds, so that holes stay holes; a contour that
    stands there twice counts once. Points and open lines beside closed contours are left aside.

    Raises:
        UserError: an ROI of points or open lines alone, a contour beside a slice or outside of the series, or contours
            that cancel each other.
    """
    mask = np.zeros(series.shape, np.bool_)
    for roi in content.get("ROIContourSequence", []):
        if int(roi.ReferencedROINumber) != number:
            continue
        planes: dict[int, list[Polygon]] = {}
        for plane, polygon in _polygons(roi, path, name, series):
            planes.setdefault(plane, []).append(polygon)
        if not planes and (kinds := _kinds(roi)):
            raise UserError(f"{path}: '{name}' is drawn with {', '.join(kinds)} only; no contour encloses anything")
        for plane, polygons in planes.items():
            filled = [fill_polygon(one, series.shape[:2]) for one in _each_once(polygons)]
            region = np.logical_xor.reduce(filled)
            if not region.any() and any(one.any() for one in filled):
                raise UserError(f"{path}: the contours of '{name}' in slice {plane + 1} cancel each other")
            mask[:, :, plane] |= region
    return mask


def fill_polygon(corners: NDArray[np.float64], shape: tuple[int, int]) -> BoolArray:
    """The pixels whose centres lie inside a polygon, by the even-odd rule; pixel centres are whole numbers.

    Args:
        corners: (N, 2), the last is joined to the first.
    """
    mask = np.zeros(shape, np.bool_)
    starts, ends = corners, np.roll(corners, -1, axis=0)
    columns = np.arange(shape[0])
    low = max(0, int(np.ceil(corners[:, 1].min())))
    high = min(shape[1] - 1, int(np.floor(corners[:, 1].max())))
    for row in range(low, high + 1):
        crossing = (starts[:, 1] <= row) != (ends[:, 1] <= row)  # half-open: a corner counts once
        (x0, y0), (x1, y1) = starts[crossing].T, ends[crossing].T
        at = np.sort(x0 + (row - y0) * (x1 - x0) / (y1 - y0))
        mask[:, row] = np.searchsorted(at, columns, side="right") % 2 == 1
    return mask


def same_outline(a: Polygon, b: Polygon, tolerance: float = SAME_OUTLINE) -> bool:
    """Whether no corner of either polygon (N, 2) is farther than `tolerance` from the other's outline.

    Where they begin, which way they run and how many corners they have plays no part.
    """
    boxes = np.abs(a.min(axis=0) - b.min(axis=0)), np.abs(a.max(axis=0) - b.max(axis=0))
    if max(box.max() for box in boxes) > 2 * tolerance:
        return False
    return max(_distances(a, b).max(), _distances(b, a).max()) <= tolerance


def _each_once(polygons: list[Polygon]) -> list[Polygon]:
    kept: list[Polygon] = []
    for polygon in polygons:
        if not any(same_outline(polygon, other) for other in kept):
            kept.append(polygon)
    return kept


def _distances(points: Polygon, polygon: Polygon) -> NDArray[np.float64]:
    """From each point to the outline of a polygon."""
    starts = polygon
    along = np.roll(polygon, -1, axis=0) - starts
    length = np.maximum((along**2).sum(axis=1), 1e-12)
    offset = points[:, None] - starts
    share = ((offset * along).sum(axis=2) / length).clip(0, 1)
    nearest: NDArray[np.float64] = np.linalg.norm(offset - share[:, :, None] * along, axis=2).min(axis=1)
    return nearest


def _kinds(roi: Any) -> list[str]:
    """The kinds of an ROI's contours."""
    return sorted({str(contour.ContourGeometricType) for contour in roi.get("ContourSequence", [])})


def _polygons(roi: Any, path: Path, name: str, series: Series) -> Iterator[tuple[int, Polygon]]:
    """Slice and corners, in (column, row), of each closed contour of an ROI."""
    to_voxels = np.linalg.inv(series.affine)
    for contour in roi.get("ContourSequence", []):
        if str(contour.ContourGeometricType) not in CLOSED:
            continue
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        plane = round(float(voxels[:, 2].mean()))
        if np.abs(voxels[:, 2] - plane).max() > OFF_PLANE:
            raise UserError(f"{path}: a contour of '{name}' does not lie in a slice of the series")
        if not 0 <= plane < series.shape[2]:
            raise UserError(f"{path}: a contour of '{name}' lies outside of the series")
        yield plane, voxels[:, :2]
