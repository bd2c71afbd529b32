"""SEG: the frames of a segmentation image, one per segment and slice, or label maps with all segments in one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.data.dicom.files import LABELMAP_STORAGE
from benchmarks.data.dicom.series import Series
from benchmarks.data.volume import BoolArray

OFF_GRID = 0.1  # of a pixel, that any corner of a SEG may lie away from the scan's pixels


def segment_mask(content: Any, path: Path, name: str, number: int, series: Series) -> BoolArray:
    """The segment of this number, each frame put on the slice where it lies."""
    mask = np.zeros(series.shape, np.bool_)
    to_voxels = np.linalg.inv(series.affine)
    for frame, pixels in _frames(content, number, path):
        if not pixels.any():
            continue  # of a label map, which has a frame for every slice
        voxel = to_voxels @ _frame_affine(content, frame, path)
        drift = (voxel[:3, :2] - np.eye(3)[:, :2]) @ np.diag(pixels.shape)
        if np.abs(drift).max() > OFF_GRID:
            raise UserError(f"{path}: its pixels are not those of the series (size or orientation differ)")
        place = np.rint(voxel[:3, 3])
        if np.abs(voxel[:3, 3] - place).max() > OFF_GRID:
            raise UserError(f"{path}: its pixels lie between those of the series")
        column, row, plane = (int(value) for value in place)
        fits = 0 <= plane < mask.shape[2] and min(column, row) >= 0
        if not fits or column + pixels.shape[0] > mask.shape[0] or row + pixels.shape[1] > mask.shape[1]:
            raise UserError(f"{path}: a frame of '{name}' lies outside of the series")
        mask[column : column + pixels.shape[0], row : row + pixels.shape[1], plane] |= pixels
    return mask


def stated_step(content: Any) -> float | None:
    """How far apart a SEG says that its slices are, in mm; None if it does not."""
    shared, frames = (content.get(f"{name}FunctionalGroupsSequence", []) for name in ("Shared", "PerFrame"))
    for place in (*shared, *frames[:1]):
        for measures in place.get("PixelMeasuresSequence", []):
            if measures.get("SpacingBetweenSlices"):
                return abs(float(measures.SpacingBetweenSlices))
    return None


def _frames(content: Any, number: int, path: Path) -> Iterator[tuple[Any, BoolArray]]:
    """Functional groups and pixels (column, row) of every frame of a segment; fractions count from a half up."""
    pixels = content.pixel_array.reshape(-1, int(content.Rows), int(content.Columns))
    kind = str(content.get("SegmentationType", "BINARY"))
    label_map = kind == "LABELMAP" or str(content.SOPClassUID) == LABELMAP_STORAGE
    half = 0.5 * float(content.get("MaximumFractionalValue", 1)) if kind == "FRACTIONAL" else 0.5
    for frame, values in zip(content.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        if label_map:
            yield frame, np.asarray(values == number).T
        elif int(_group(content, frame, "SegmentIdentificationSequence", path).ReferencedSegmentNumber) == number:
            yield frame, np.asarray(values >= half).T


def _group(content: Any, frame: Any, name: str, path: Path) -> Any:
    """A functional group of a frame, of its own or shared by all."""
    for place in (frame, content.SharedFunctionalGroupsSequence[0]):
        if name in place:
            return place[name].value[0]
    raise UserError(f"{path}: a frame without {name}")


def _frame_affine(content: Any, frame: Any, path: Path) -> NDArray[np.float64]:
    """(column, row, 0) of a frame → DICOM's world."""
    direction = np.array(_group(content, frame, "PlaneOrientationSequence", path).ImageOrientationPatient, float)
    spacing = _group(content, frame, "PixelMeasuresSequence", path).PixelSpacing
    row_spacing, column_spacing = (float(value) for value in spacing)
    affine = np.eye(4)
    affine[:3, 0] = direction[:3] * column_spacing
    affine[:3, 1] = direction[3:] * row_spacing
    position = _group(content, frame, "PlanePositionSequence", path)
    affine[:3, 3] = np.array(position.ImagePositionPatient, float)
    return affine
