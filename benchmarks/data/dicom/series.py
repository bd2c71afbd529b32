"""A CT, MR or PET scan as one volume: the slices of a series, or one multi-frame object.

Slices are decoded by GDCM (through SimpleITK), multi-frame objects by highdicom. Each slice has its own slope and
intercept, in a PET always, so that values are read as floats whatever the first slice says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError, one_line
from benchmarks.data.dicom.files import ScanFiles, highdicom_or_error, read_file, reading
from benchmarks.data.dicom.suv import suv_factor
from benchmarks.data.intensities import PET, SUV
from benchmarks.data.volume import Volume

UNEVEN = 0.02  # of a slice distance; scanners round positions to 0.01 mm or so
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """A scan.

    Attributes:
        array: HU as int16 (float32 where they do not fit), SUV or the scanner's own values; axes (column, row, slice).
        affine: to DICOM's world (LPS, mm).
        frame: UID of the frame of reference, which an annotation must share.
        modality: as in `benchmarks.data.intensities`.
        paths: its files, in the order of the slices.
        note: why a PET is not in SUV; empty otherwise.
        uid: of the series.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    frame: str = ""
    modality: str = "CT"
    paths: tuple[Path, ...] = ()
    note: str = ""
    uid: str = ""

    @property
    def step(self) -> float:
        """From one slice to the next, in mm."""
        return float(np.linalg.norm(self.affine[:3, 2]))

    @property
    def shape(self) -> tuple[int, int, int]:
        columns, rows, slices = self.array.shape
        return columns, rows, slices

    def volume(self) -> Volume:
        """The same as a volume in RAS+, its values unchanged; its file axes are (column, row, slice)."""
        affine = LPS_TO_RAS @ self.affine
        orientation = nib.orientations.io_orientation(affine)
        array = nib.orientations.apply_orientation(self.array, orientation)
        canonical = affine @ nib.orientations.inv_ornt_aff(orientation, self.shape)
        return Volume(np.array(array, np.float32, order="C"), canonical, orientation)  # a copy of its own


def read_series(scan: ScanFiles, folder: Path) -> Series:
    """A scan as a volume: HU, SUV where a PET's headers allow it, otherwise the scanner's own values.

    Raises:
        UserError: unreadable, or the slices do not make an even grid.
    """
    found = _read_frames(scan, folder) if scan.multi_frame else _read_slices(scan, folder)
    if scan.modality != PET:
        return found
    with reading(found.paths[0]):
        factor, note = suv_factor([read_file(path, stop_before_pixels=True) for path in found.paths])
    if factor is None:
        return _as(found, found.array.astype(np.float32), PET, note)
    return _as(found, found.array.astype(np.float32) * np.float32(factor), SUV, "")


def _as(series: Series, array: NDArray[Any], modality: str, note: str) -> Series:
    return replace(series, array=array, modality=modality, note=note)


def _read_slices(scan: ScanFiles, folder: Path) -> Series:
    import SimpleITK

    with reading(folder):
        ordered, step = _in_order(scan.paths, folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in ordered])
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)  # else that of the first slice, to which the others are cut
    try:
        image = reader.Execute()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{folder}: not readable as a {scan.modality} series ({lines[-1]})") from error
    array = SimpleITK.GetArrayFromImage(image).T  # ITK's arrays are (slice, row, column)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 2] = step  # ITK rounds and, for a single slice, guesses
    affine[:3, 3] = image.GetOrigin()
    return Series(_compact(array), affine, scan.frame, scan.modality, tuple(ordered), uid=scan.series)


def _read_frames(scan: ScanFiles, folder: Path) -> Series:
    """One multi-frame object. highdicom puts its frames in order and refuses those that make no even grid."""
    (path,) = scan.paths
    highdicom = highdicom_or_error()
    with reading(path):
        image = highdicom.Image.from_dataset(read_file(path), copy=False)
        try:
            volume = image.get_volume(dtype=np.float32, apply_real_world_transform=False, apply_presentation_lut=False)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: its frames do not make one even grid ({one_line(error)})") from error
    affine = np.array(volume.affine, np.float64)
    affine[:, :3] = affine[:, [2, 1, 0]]  # highdicom's axes are (slice, row, column)
    if abs(np.linalg.det(affine[:3, :3])) < 1e-9 or volume.array.ndim != 3:
        raise UserError(f"{path}: its frames do not make one even grid")
    array = volume.array.T
    if np.cross(affine[:3, 0], affine[:3, 1]) @ affine[:3, 2] < 0:  # slices along their normal, as in a series
        affine[:3, 3] += affine[:3, 2] * (array.shape[2] - 1)
        affine[:3, 2] *= -1
        array = array[:, :, ::-1]
    return Series(_compact(array), affine, scan.frame, scan.modality, scan.paths, uid=scan.series)


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    """As int16 where that loses nothing."""
    if array.min() >= -(2**15) and array.max() < 2**15 and all(np.array_equal(one, np.rint(one)) for one in array):
        return array.astype(np.int16)
    return array.astype(np.float32)


def _in_order(paths: Sequence[Path], folder: Path) -> tuple[list[Path], NDArray[np.float64]]:
    """The slices along their normal, and the step from one to the next in mm."""
    tags = ["ImagePositionPatient", "ImageOrientationPatient", "SliceThickness"]
    headers = [read_file(path, stop_before_pixels=True, specific_tags=tags) for path in paths]
    if any(tag not in header for header in headers for tag in tags[:2]):
        raise UserError(f"{folder}: slices without position or orientation")
    directions = np.array([header.ImageOrientationPatient for header in headers], float)
    if np.abs(directions - directions[0]).max() > 1e-3:
        raise UserError(f"{folder}: slices of different orientations in one series; is there a scout among them?")
    normal = np.cross(directions[0, :3], directions[0, 3:])
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    order = np.argsort(positions @ normal)
    positions = positions[order]
    if len(paths) == 1:
        return list(paths), normal * float(headers[0].get("SliceThickness") or 1.0)
    steps = np.diff(positions, axis=0)
    distances = steps @ normal
    usual = float(np.median(distances))
    if distances.min() < UNEVEN * max(usual, 1e-6):
        raise UserError(
            f"{folder}: two slices at the same place; are several reconstructions, echoes or times in one series?"
        )
    if np.abs(distances - usual).max() > max(UNEVEN * usual, 0.02):
        where = int(np.abs(distances - usual).argmax()) + 1
        raise UserError(
            f"{folder}: slices are not evenly spaced ({distances.min():g} to {distances.max():g} mm; "
            f"after slice {where}); are some missing?"
        )
    step = (positions[-1] - positions[0]) / (len(paths) - 1)
    if np.linalg.norm(step - normal * (step @ normal)) > UNEVEN * usual:
        raise UserError(f"{folder}: the slices are sheared (gantry tilt); resample the series first")
    return [paths[index] for index in order], step
