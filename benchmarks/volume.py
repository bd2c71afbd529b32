"""Volumes and label maps: geometry, and NIfTI in and out.

Inside the bench every array has axes (x, y, z) in RAS+ orientation (the closest axis-aligned one; an oblique
scan keeps its rotation in the affine). Files come in any axis order; the permutation and the flips that lead
to RAS+ are kept, so that a mask is written back on the very grid of the file it belongs to.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.errors import UserError

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.integer]

AFFINE_TOLERANCE_MM = 1e-2


@dataclass(frozen=True)
class Volume:
    """One 3D scan.

    Attributes:
        array: float32, axes (x, y, z) in RAS+. HU for CT.
        affine: 4 × 4, voxel index of `array` → world mm (RAS+).
        orientation: nibabel orientation transform (3 × 2) of the file's axes to RAS+; identity if none was needed.

    A volume carries no path: a segmenter that holds one cannot find the label that lies beside it.
    """

    array: FloatArray
    affine: NDArray[np.float64]
    orientation: NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = self.array.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm, in the order of the array's axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def read_volume(path: Path) -> Volume:
    """Read a NIfTI scan as float32 HU in RAS+.

    NaN and ±inf (outside some scanners' circle) become the lowest finite value.

    Raises:
        UserError: the file is missing, unreadable, truncated, or not 3D.
    """
    array, affine, orientation = _read_canonical(path)
    values = np.asarray(array, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        if not finite.any():
            raise UserError(f"{path}: no finite intensity in the whole volume")
        values = np.where(finite, values, values[finite].min()).astype(np.float32)
    return Volume(np.ascontiguousarray(values), affine, orientation)


def read_label(path: Path, like: Volume | None = None) -> NDArray[np.int16]:
    """Read a NIfTI label map as int16 in RAS+, on the grid of `like` if given.

    Raises:
        UserError: unreadable, values that are not whole numbers, or another shape or affine than `like`.
    """
    array, affine, _ = _read_canonical(path)
    rounded = np.rint(array)
    if not np.isfinite(array).all() or np.abs(array - rounded).max(initial=0) > 1e-3:
        raise UserError(f"{path}: a label map must hold whole numbers")
    if like is not None:
        if rounded.shape != like.shape:
            raise UserError(f"{path}: label shape {rounded.shape} differs from the image's {like.shape}")
        if not same_grid(affine, like.affine, like.shape):
            raise UserError(f"{path}: label and image lie on different grids (affines differ)")
    return np.ascontiguousarray(rounded.astype(np.int16))


def same_grid(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """Whether two affines put every corner of a grid of `shape` within 0.01 mm plus 0.1 % of a voxel."""
    corners = np.array([[x, y, z, 1] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])], float).T
    voxel = float(np.linalg.norm(b[:3, :3], axis=0).min())
    return bool(np.abs((a - b) @ corners).max() <= AFFINE_TOLERANCE_MM + 1e-3 * voxel * max(shape))


def write_mask(mask: NDArray[np.generic], like: Volume, path: Path) -> None:
    """Write a mask or label map as uint8 NIfTI on the grid and in the axis order of the file `like` came from.

    The write is atomic: a reader sees the whole file or none.
    """
    write_nifti(np.asarray(mask).astype(np.uint8), like.affine, path, like.orientation)


def write_nifti(
    array: NDArray[np.generic],
    affine: NDArray[np.float64],
    path: Path,
    orientation: NDArray[np.float64] | None = None,
) -> None:
    """Write an RAS+ array; `orientation` (file axes → RAS+) is undone first, so the file has its old axis order."""
    image = nib.Nifti1Image(array, affine)
    if orientation is not None:
        canonical = nib.orientations.axcodes2ornt("RAS")
        image = image.as_reoriented(nib.orientations.ornt_transform(canonical, orientation))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        nib.save(image, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _read_canonical(path: Path) -> tuple[NDArray[np.generic], NDArray[np.float64], NDArray[np.float64]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        image = nib.load(path)
        shape = image.shape
    except Exception as error:  # nibabel raises many kinds for broken headers
        raise UserError(f"{path}: not a readable NIfTI file ({error})") from error
    if len(shape) == 4 and shape[3] == 1:
        image = image.slicer[..., 0]  # MSD writes some volumes with a trailing singleton
    if len(image.shape) != 3:
        raise UserError(f"{path}: a 3D volume is needed, this one has shape {shape}")
    orientation = nib.orientations.io_orientation(image.affine)
    if np.isnan(orientation).any():
        raise UserError(f"{path}: the affine is degenerate (a zero or repeated axis)")
    try:
        canonical = image.as_reoriented(orientation)
        return np.asanyarray(canonical.dataobj), canonical.affine.astype(np.float64), orientation
    except (OSError, EOFError, ValueError, MemoryError) as error:
        raise UserError(f"{path}: unreadable or truncated ({error})") from error
