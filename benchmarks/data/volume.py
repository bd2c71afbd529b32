"""Volumes and label maps: geometry, files in (NIfTI, NRRD, MHA) and NIfTI out.

Inside the bench every array has axes (x, y, z) in RAS+ orientation (the closest axis-aligned one; an oblique
scan keeps its rotation in the affine). Files come in any axis order; the permutation and the flips that lead
to RAS+ are kept, so that a mask is written back on the very grid of the file it belongs to.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically
from benchmarks.data.image_files import ITK_SUFFIXES, check_complete, open_itk, open_nifti, read_stored

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
        orientation: nibabel orientation transform (3 × 2) of the file's axes to RAS+.

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
        return voxel_size(self.affine)


def voxel_size(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel size in mm along each axis of an affine, to six significant digits.

    Headers keep affines as float32 and DICOM keeps directions with a few decimals: a grid of 1 mm that lies
    obliquely has 1.00000002 mm. Unrounded, one voxel would be more than a tolerance of 1 mm.
    """
    x, y, z = (float(f"{step:.6g}") for step in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def read_volume(path: Path) -> Volume:
    """Read a scan as float32 HU in RAS+.

    NaN and ±inf (outside some scanners' circle) become the lowest finite value.

    Raises:
        UserError: the file is missing, unreadable, truncated, not 3D, or has no finite intensity.
    """
    stored, slope, inter, affine, orientation = read_stored(path)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes inf, and is replaced below
        values = _copied(stored, np.float32)
        if slope != 1:
            values *= np.float32(slope)
        if inter != 0:
            values += np.float32(inter)
    if stored.dtype.kind == "f" or slope != 1 or inter != 0:
        finite = np.isfinite(values)
        if not finite.all():
            if not finite.any():
                raise UserError(f"{path}: no finite intensity in the whole volume")
            values[~finite] = values[finite].min()
    return Volume(values, affine, orientation)


def read_label(path: Path, like: Volume | None = None) -> NDArray[np.int16]:
    """Read a label map as int16 in RAS+, on the grid of `like` if given.

    Raises:
        UserError: unreadable, not whole numbers of 16 bits, or another shape or affine than `like`.
    """
    return _copied(_label_values(path, like), np.int16)


def read_mask(path: Path, like: Volume | None = None) -> BoolArray:
    """Where a label map is above 0; as `read_label`, without a copy of the values."""
    mask: BoolArray = _label_values(path, like) > 0
    return mask


def _label_values(path: Path, like: Volume | None) -> NDArray[Any]:
    """The values of a label map as they are stored, checked, in RAS+."""
    stored, slope, inter, affine, _ = read_stored(path)
    if like is not None:
        if stored.shape != like.shape:
            raise UserError(f"{path}: label shape {stored.shape} differs from the image's {like.shape}")
        if not same_grid(affine, like.affine, like.shape):
            raise UserError(f"{path}: label and image lie on different grids (affines differ)")
    if stored.dtype.kind == "f" or slope != 1 or inter != 0:
        stored = _whole_numbers(stored.astype(np.float64) * slope + inter, path)
    low, high = int(stored.min()), int(stored.max())
    if low < -(2**15) or high >= 2**15:
        raise UserError(f"{path}: label values from {low} to {high} do not fit 16 bits; is this a label map?")
    return stored


def values_in(label: NDArray[np.int16]) -> list[int]:
    """The values that a label map holds, in order."""
    low = int(label.min())
    counts = np.zeros(int(label.max()) - low + 1, np.int64)
    for plane in label:  # one at a time: the whole as int64 would take more than the scan
        counts += np.bincount(plane.ravel().astype(np.int64) - low, minlength=counts.size)
    return [int(value) + low for value in np.flatnonzero(counts)]


def read_grid(path: Path) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine that `read_volume` would give, without the voxels; truncated files are seen.

    Raises:
        UserError: the file is missing, unreadable, truncated, or not 3D.
    """
    if path.name.lower().endswith(ITK_SUFFIXES):
        shape, file_affine, orientation = open_itk(path)
    else:
        image, orientation = open_nifti(path)
        check_complete(image, path)
        shape, file_affine = image.shape[:3], image.affine
    affine = file_affine @ nib.orientations.inv_ornt_aff(orientation, shape)
    order = np.argsort(orientation[:, 0])
    x, y, z = (int(shape[axis]) for axis in order)
    return (x, y, z), affine.astype(np.float64)


def read_orientation(path: Path) -> NDArray[np.float64]:
    """nibabel's orientation transform (3 × 2) of a file's axes to RAS+, as `Volume.orientation`; reads the header."""
    return open_itk(path)[2] if path.name.lower().endswith(ITK_SUFFIXES) else open_nifti(path)[1]


def same_grid(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """Whether two affines mean the same grid of `shape`, up to the rounding of their numbers.

    One of the corner voxels, the one that the files begin with, may lie 0.01 mm plus 5 % of the smallest side of a
    voxel apart. From there spacing and directions may differ by 0.1 %, which adds up along an axis.
    """
    voxel = float(np.linalg.norm(b[:3, :3], axis=0).min())
    corners = np.array(list(itertools.product(*((0, n - 1) for n in shape))), float).T
    turned = (a[:3, :3] - b[:3, :3]) @ corners
    moved = np.abs(turned + (a[:3, 3] - b[:3, 3])[:, None]).max(axis=0)
    return bool(
        moved.min() <= AFFINE_TOLERANCE_MM + 0.05 * voxel
        and np.abs(turned).max() <= AFFINE_TOLERANCE_MM + 1e-3 * voxel * max(shape)
    )


def write_mask(mask: NDArray[np.generic], like: Volume, path: Path) -> None:
    """Write a mask or label map as uint8 NIfTI on the grid and in the axis order of the file of `like`.

    The write is atomic: a reader sees the whole file or none.
    """
    write_nifti(np.asarray(mask).astype(np.uint8), like.affine, path, like.orientation)


def write_nifti(
    array: NDArray[np.generic],
    affine: NDArray[np.float64],
    path: Path,
    orientation: NDArray[np.float64] | None = None,
) -> None:
    """Write an RAS+ array; `orientation` (file axes → RAS+) is undone first, for the file's axis order."""
    image = nib.Nifti1Image(array, affine)
    if orientation is not None:
        canonical = nib.orientations.axcodes2ornt("RAS")
        image = image.as_reoriented(nib.orientations.ornt_transform(canonical, orientation))
    with atomically(path) as partial:
        nib.save(image, partial)


def voxel_hash(array: FloatArray) -> str:
    """A hash of a volume's shape and intensities: equal for equal scans, whatever their files look like.

    Args:
        array: as `read_volume` gives it, in RAS+.
    """
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _copied(stored: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """A contiguous copy in another type; plane by plane, which spares the cache where the axes are turned over."""
    copied = np.empty(stored.shape, dtype)
    for index in range(stored.shape[1]):
        copied[:, index] = stored[:, index]
    return copied


def _whole_numbers(values: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    rounded = np.rint(values)
    if not np.isfinite(values).all() or np.abs(values - rounded).max(initial=0) > 1e-3:
        raise UserError(f"{path}: a label map must hold whole numbers")
    return rounded
