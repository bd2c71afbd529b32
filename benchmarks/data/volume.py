"""Volumes and label maps: geometry, files in (NIfTI, NRRD, MHA) and NIfTI out.

Inside the bench every array has axes (x, y, z) in RAS+ orientation (the closest axis-aligned one; an oblique
scan keeps its rotation in the affine). Files come in any axis order; the permutation and the flips that lead
to RAS+ are kept, so that a mask is written back on the very grid of the file it belongs to.
"""

from __future__ import annotations

import gzip
import itertools
import math
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.integer]

AFFINE_TOLERANCE_MM = 1e-2
MAX_VOXELS = 2**32  # five times the largest whole-body CT
ITK_READERS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO"}  # read through SimpleITK
ITK_SUFFIXES = tuple(ITK_READERS)
MAX_TAIL = 1 << 20  # bytes after the voxels; some writers pad
MIN_ANGLE = 0.1  # sine of the least angle between axes; a gantry tilts by 30 degrees, a scan of one plane is no scan
# A header must not make us read some other file of the machine
DETACHED = re.compile(rb"^\s*(data ?file\s*:|ElementDataFile\s*=(?!\s*LOCAL\b))", re.IGNORECASE | re.MULTILINE)
DEFLATE_LIMIT = 1032  # no gzip stream expands more than this


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
    stored, slope, inter, affine, orientation = _read_canonical(path)
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
    stored, slope, inter, affine, _ = _read_canonical(path)
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
    return _copied(stored, np.int16)


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
        shape, file_affine, orientation = _open_itk(path)
    else:
        image, orientation = _open(path)
        _check_complete(image, path)
        shape, file_affine = image.shape[:3], image.affine
    affine = file_affine @ nib.orientations.inv_ornt_aff(orientation, shape)
    order = np.argsort(orientation[:, 0])
    x, y, z = (int(shape[axis]) for axis in order)
    return (x, y, z), affine.astype(np.float64)


def read_orientation(path: Path) -> NDArray[np.float64]:
    """nibabel's orientation transform (3 × 2) of a file's axes to RAS+, as `Volume.orientation`; reads the header."""
    return _open_itk(path)[2] if path.name.lower().endswith(ITK_SUFFIXES) else _open(path)[1]


def same_grid(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """Whether two affines put every corner of a grid of `shape` within 0.01 mm plus 0.1 % of a voxel."""
    ends = [(0, n) for n in shape]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], float).T
    voxel = float(np.linalg.norm(b[:3, :3], axis=0).min())
    return bool(np.abs((a - b) @ corners).max() <= AFFINE_TOLERANCE_MM + 1e-3 * voxel * max(shape))


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


def _read_canonical(
    path: Path,
) -> tuple[NDArray[Any], float, float, NDArray[np.float64], NDArray[np.float64]]:
    """Stored values in RAS+, slope and intercept still to be applied, affine, orientation of the file."""
    if path.name.lower().endswith(ITK_SUFFIXES):
        return _read_itk(path)
    image, orientation = _open(path)
    proxy = image.dataobj
    try:
        stored = np.asanyarray(proxy.get_unscaled())
    except (OSError, EOFError, ValueError, MemoryError, zlib.error) as error:
        raise UserError(f"{path}: unreadable or truncated ({_one_line(error)})") from error
    shape = image.shape[:3]
    stored = nib.orientations.apply_orientation(stored.reshape(shape), orientation)
    affine = image.affine @ nib.orientations.inv_ornt_aff(orientation, shape)
    return stored, float(proxy.slope), float(proxy.inter), affine.astype(np.float64), orientation


def _open(path: Path) -> tuple[Any, NDArray[np.float64]]:
    """The image with its header checked and its voxels unread, and the orientation of its axes."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        image = nib.load(path)
        shape = image.shape
        dtype = image.get_data_dtype()
    except Exception as error:  # nibabel raises many kinds for broken headers
        raise UserError(f"{path}: not a readable NIfTI file ({_one_line(error)})") from error
    if not isinstance(image, nib.Nifti1Pair):
        raise UserError(f"{path}: not a NIfTI file ({type(image).__name__})")
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):  # MSD writes some volumes with a trailing singleton
        raise UserError(f"{path}: a 3D volume is needed, this one has shape {shape}")
    if min(shape) < 1:
        raise UserError(f"{path}: the volume is empty (shape {shape})")
    if dtype.kind not in "iuf":
        raise UserError(f"{path}: voxels of type {dtype} are not intensities or labels")
    _check_size(path, image)
    if image.header["sform_code"] == 0:
        _check_voxel_size(path, image)
    return image, _orientation(image.affine, path)


def _check_voxel_size(path: Path, image: Any) -> None:
    """Without an affine in the header its voxel sizes count; nibabel would take 1 mm for a missing one."""
    holder = image.file_map.get("header", image.file_map["image"])
    with ImageOpener(holder.filename) as file:
        sizes = image.header.from_fileobj(file, check=False)["pixdim"][1:4]
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        words = " × ".join(f"{size:g}" for size in sizes)
        raise UserError(f"{path}: its header gives no size of the voxels ({words} mm)")


def file_doubts(path: Path) -> list[str]:
    """What is odd about a file that can be read, in a line each.

    A compressed file is read to its end: its checksum stands there, and no reader of the voxels gets so far.

    Raises:
        UserError: the checksum is wrong, or as `read_grid`.
    """
    if path.name.lower().endswith(ITK_SUFFIXES):
        return _lost_grid_doubts(_open_itk(path)[1])
    image, _ = _open(path)
    return _affine_doubts(image) + _stream_doubts(image, path)


def _lost_grid_doubts(affine: NDArray[np.float64]) -> list[str]:
    """What a program writes that does not know the grid: no scanner's first voxel lies at 0, 0, 0 exactly."""
    if np.array_equal(np.abs(affine), np.eye(4)):
        return [
            "the affine is the identity (spacing 1 × 1 × 1 mm, origin 0); if the true one was lost, distances and "
            "volumes of this case are not in mm"
        ]
    return []


def _stream_doubts(image: Any, path: Path) -> list[str]:
    """Whether the checksum of a gzip file is right, and whether the file ends where its voxels end."""
    if not _gzipped(path):
        return []
    left = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize + MAX_TAIL
    try:
        with gzip.open(path) as stream:
            while left > 0 and (block := stream.read(min(1 << 20, left))):
                left -= len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({_one_line(error)})") from error
    return [] if left > 0 else [f"the file goes on after the voxels, by more than {MAX_TAIL:,} bytes"]


def _affine_doubts(image: Any) -> list[str]:
    header = image.header
    sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    if sform is None and qform is None:
        return ["the header does not say how the patient lies; left and right are a guess"]
    if sform is not None and qform is not None and not same_grid(qform, sform, image.shape[:3]):
        return ["the two affines of the header (sform and qform) disagree; the sform is used"]
    return _lost_grid_doubts(image.affine)


def _orientation(affine: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    if not np.isfinite(affine).all():
        raise UserError(f"{path}: the affine holds values that are not finite")
    orientation: NDArray[np.float64] = nib.orientations.io_orientation(affine)
    if np.isnan(orientation).any():
        raise UserError(f"{path}: the affine is degenerate (a zero or repeated axis)")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(axes)) < MIN_ANGLE:
        raise UserError(f"{path}: the affine is degenerate (its axes lie in a plane)")
    return orientation


def _read_itk(
    path: Path,
) -> tuple[NDArray[Any], float, float, NDArray[np.float64], NDArray[np.float64]]:
    """As `_read_canonical`, for the formats of ITK."""
    import SimpleITK

    shape, file_affine, orientation = _open_itk(path)
    try:
        stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO=_itk_reader(path)))
    except RuntimeError as error:
        raise UserError(f"{path}: unreadable or truncated ({_last_line(error)})") from error
    stored = nib.orientations.apply_orientation(stored.T, orientation)  # ITK's arrays are (z, y, x)
    affine = file_affine @ nib.orientations.inv_ornt_aff(orientation, shape)
    return stored, 1.0, 0.0, affine, orientation


def _open_itk(path: Path) -> tuple[tuple[int, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Shape, affine (RAS+ world) and orientation from the header of an NRRD or MHA file."""
    import SimpleITK

    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        if DETACHED.search(file.read(1 << 16).split(b"\n\n")[0]):
            raise UserError(f"{path}: its voxels lie in another file; save it as one file")
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_itk_reader(path))  # by the suffix alone ITK does not know scan.MHA
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(f"{path}: not a readable {path.suffix} file ({_last_line(error)})") from error
    shape = tuple(int(n) for n in reader.GetSize())
    if len(shape) != 3 or reader.GetNumberOfComponents() != 1:
        components = reader.GetNumberOfComponents()
        raise UserError(f"{path}: a 3D volume is needed, this one has shape {shape} × {components}")
    _check_claim(path, math.prod(shape), math.prod(shape), compressed=True)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    affine[:2] *= -1  # ITK's world runs to the left and the back
    return shape, affine, _orientation(affine, path)


def _itk_reader(path: Path) -> str:
    return ITK_READERS[path.suffix.lower()]


def _gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _last_line(error: RuntimeError) -> str:
    """The message proper; ITK puts the place in its own source before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _check_size(path: Path, image: Any) -> None:
    voxels = math.prod(image.shape)
    claimed = voxels * image.get_data_dtype().itemsize + int(image.dataobj.offset)
    _check_claim(path, claimed, voxels, compressed=_gzipped(path))


def _check_claim(path: Path, claimed: int, voxels: int, compressed: bool) -> None:
    """Refuse a header that claims more than the file can hold, before anything of that size is allocated."""
    on_disk = path.stat().st_size
    possible = on_disk * DEFLATE_LIMIT if compressed else on_disk
    if claimed > possible:
        raise UserError(f"{path}: truncated; its header claims {claimed:,} bytes, the file has {on_disk:,}")
    if voxels > MAX_VOXELS:
        raise UserError(f"{path}: {voxels:,} voxels are more than the {MAX_VOXELS:,} that one scan may have")


def _check_complete(image: Any, path: Path) -> None:
    """Whether a compressed file holds all that its header announces.

    The last four bytes of a gzip file are its uncompressed size; only where they do not agree with the header
    (truncated, or several gzip members) is the stream itself read, up to the size that the header announces.
    """
    if not _gzipped(path):
        return
    expected = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        if int.from_bytes(file.read(4), "little") == expected % 2**32:
            return
    found = 0
    try:
        with gzip.open(path) as stream:
            while found < expected and (block := stream.read(min(1 << 20, expected - found))):
                found += len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: unreadable or truncated ({_one_line(error)})") from error
    if found < expected:
        raise UserError(f"{path}: truncated; {found:,} bytes where its header announces {expected:,}")


def _copied(stored: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """A contiguous copy in another type; plane by plane, which spares the cache where the axes are turned over."""
    copied = np.empty(stored.shape, dtype)
    for index in range(stored.shape[1]):
        copied[:, index] = stored[:, index]
    return copied


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _whole_numbers(values: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    rounded = np.rint(values)
    if not np.isfinite(values).all() or np.abs(values - rounded).max(initial=0) > 1e-3:
        raise UserError(f"{path}: a label map must hold whole numbers")
    return rounded
