"""The slices of a CT series as one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.data.dicom.files import read_file, reading

UNEVEN = 0.02  # of a slice distance; scanners round positions to 0.01 mm or so


@dataclass(frozen=True)
class Series:
    """A CT series.

    Attributes:
        array: HU as int16 (float32 where they do not fit), axes (column, row, slice).
        affine: to DICOM's world (LPS, mm).
        frame: UID of the frame of reference, which an annotation must share.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    frame: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        columns, rows, slices = self.array.shape
        return columns, rows, slices


def read_series(paths: Sequence[Path], folder: Path) -> Series:
    """The slices of one series as a volume, in HU.

    Raises:
        UserError: unreadable, or the slices do not make an even grid.
    """
    import SimpleITK

    with reading(folder):
        ordered, step, frame = _in_order(paths, folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in ordered])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{folder}: not readable as a CT series ({lines[-1]})") from error
    array = SimpleITK.GetArrayFromImage(image).T  # ITK's arrays are (slice, row, column)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 2] = step  # ITK rounds and, for a single slice, guesses
    affine[:3, 3] = image.GetOrigin()
    whole = array.dtype.kind in "iu" and array.min() >= -(2**15) and array.max() < 2**15
    return Series(array.astype(np.int16 if whole else np.float32), affine, frame)


def _in_order(paths: Sequence[Path], folder: Path) -> tuple[list[Path], NDArray[np.float64], str]:
    """The slices along their normal, the step from one to the next in mm, and their frame of reference."""
    tags = ["ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "FrameOfReferenceUID"]
    headers = [read_file(path, stop_before_pixels=True, specific_tags=tags) for path in paths]
    if any(tag not in header for header in headers for tag in tags[:2]):
        raise UserError(f"{folder}: slices without position or orientation")
    directions = np.array([header.ImageOrientationPatient for header in headers], float)
    if np.abs(directions - directions[0]).max() > 1e-3:
        raise UserError(f"{folder}: slices of different orientations in one series; is there a scout among them?")
    frame = str(headers[0].get("FrameOfReferenceUID", ""))
    normal = np.cross(directions[0, :3], directions[0, 3:])
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    order = np.argsort(positions @ normal)
    positions = positions[order]
    if len(paths) == 1:
        return list(paths), normal * float(headers[0].get("SliceThickness") or 1.0), frame
    steps = np.diff(positions, axis=0)
    distances = steps @ normal
    usual = float(np.median(distances))
    if distances.min() < UNEVEN * max(usual, 1e-6):
        raise UserError(f"{folder}: two slices at the same place; are several reconstructions in one series?")
    if np.abs(distances - usual).max() > max(UNEVEN * usual, 0.02):
        where = int(np.abs(distances - usual).argmax()) + 1
        raise UserError(
            f"{folder}: slices are not evenly spaced ({distances.min():g} to {distances.max():g} mm; "
            f"after slice {where}); are some missing?"
        )
    step = (positions[-1] - positions[0]) / (len(paths) - 1)
    if np.linalg.norm(step - normal * (step @ normal)) > UNEVEN * usual:
        raise UserError(f"{folder}: the slices are sheared (gantry tilt); resample the series first")
    return [paths[index] for index in order], step, frame
