"""Image files opened (NIfTI, NRRD, MHA): the header checked before voxels are read, the voxels as they are stored."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.common.files import is_dead_link, readable

MAX_VOXELS = 2**32  # five times the largest whole-body CT
ITK_READERS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO"}  # read through SimpleITK
ITK_SUFFIXES = tuple(ITK_READERS)
MIN_ANGLE = 0.1  # sine of the least angle between axes; a gantry tilts by 30 degrees, a scan of one plane is no scan
LONGEST_HEADER = 2**20  # bytes of an NRRD or MHA file
NRRD_ELSEWHERE = re.compile(rb"^\s*data ?file\s*:", re.IGNORECASE | re.MULTILINE)
MHA_HERE = re.compile(rb"(?:\A|\n)[ \t]*ElementDataFile[ \t]*[=:][ \t]*(?:LOCAL|Local|local)[ \t]*\r?\n")
DEFLATE_LIMIT = 1032  # no gzip stream expands more than this


def read_stored(
    path: Path,
) -> tuple[NDArray[Any], float, float, NDArray[np.float64], NDArray[np.float64]]:
    """Stored values in RAS+, slope and intercept still to be applied, affine, orientation of the file."""
    if path.name.lower().endswith(ITK_SUFFIXES):
        return _read_itk(path)
    image, orientation = open_nifti(path)
    proxy = image.dataobj
    try:
        stored = np.asanyarray(proxy.get_unscaled())
    except (OSError, EOFError, ValueError, MemoryError, zlib.error) as error:
        raise UserError(f"{path}: unreadable or truncated ({one_line_of(error)})") from error
    shape = image.shape[:3]
    stored = nib.orientations.apply_orientation(stored.reshape(shape), orientation)
    affine = image.affine @ nib.orientations.inv_ornt_aff(orientation, shape)
    return stored, float(proxy.slope), float(proxy.inter), affine.astype(np.float64), orientation


def _not_there(path: Path) -> UserError:
    why = "a dead link: the file it leads to is not there" if is_dead_link(path) else "no such file"
    return UserError(f"{path}: {why}")


@readable()
def open_nifti(path: Path) -> tuple[Any, NDArray[np.float64]]:
    """The image with its header checked and its voxels unread, and the orientation of its axes."""
    if not path.is_file():
        raise _not_there(path)
    try:
        image = nib.load(path)
        shape = image.shape
        dtype = image.get_data_dtype()
    except Exception as error:  # nibabel raises many kinds for broken headers
        raise UserError(f"{path}: not a readable NIfTI file ({one_line_of(error)})") from error
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
    """As `read_stored`, for the formats of ITK."""
    import SimpleITK

    shape, file_affine, orientation = open_itk(path)
    try:
        stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO=_itk_reader(path)))
    except RuntimeError as error:
        raise UserError(f"{path}: unreadable or truncated ({_last_line(error)})") from error
    stored = nib.orientations.apply_orientation(stored.T, orientation)  # ITK's arrays are (z, y, x)
    affine = file_affine @ nib.orientations.inv_ornt_aff(orientation, shape)
    return stored, 1.0, 0.0, affine, orientation


@readable()
def open_itk(path: Path) -> tuple[tuple[int, ...], NDArray[np.float64], NDArray[np.float64]]:
    """Shape, affine (RAS+ world) and orientation from the header of an NRRD or MHA file."""
    import SimpleITK

    if not path.is_file():
        raise _not_there(path)
    _refuse_voxels_elsewhere(path)
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


def _refuse_voxels_elsewhere(path: Path) -> None:
    """A header must not make us read some other file of the machine. What is not plainly whole is refused."""
    with path.open("rb") as file:
        start = file.read(LONGEST_HEADER)
    if path.suffix.lower() == ".mha":  # the first mention of the key ends the header
        mention = re.search(rb"ElementDataFile", start, re.IGNORECASE)
        here = MHA_HERE.search(start)
        whole = mention is not None and here is not None and here.start() <= mention.start() < here.end()
    else:
        header, empty_line, _ = start.partition(b"\r\n\r\n" if b"\r\n" in start[:100] else b"\n\n")
        whole = bool(empty_line) and not NRRD_ELSEWHERE.search(header)
    if not whole:
        raise UserError(f"{path}: its voxels lie in another file, or its header has no end; save it as one file")


def _itk_reader(path: Path) -> str:
    return ITK_READERS[path.suffix.lower()]


def gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _last_line(error: RuntimeError) -> str:
    """The message proper; ITK puts the place in its own source before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _check_size(path: Path, image: Any) -> None:
    voxels = math.prod(image.shape)
    claimed = voxels * image.get_data_dtype().itemsize + int(image.dataobj.offset)
    _check_claim(path, claimed, voxels, compressed=gzipped(path))


def _check_claim(path: Path, claimed: int, voxels: int, compressed: bool) -> None:
    """Refuse a header that claims more than the file can hold, before anything of that size is allocated."""
    on_disk = path.stat().st_size
    possible = on_disk * DEFLATE_LIMIT if compressed else on_disk
    if claimed > possible:
        raise UserError(f"{path}: truncated; its header claims {claimed:,} bytes, the file has {on_disk:,}")
    if voxels > MAX_VOXELS:
        raise UserError(f"{path}: {voxels:,} voxels are more than the {MAX_VOXELS:,} that one scan may have")


@readable()
def check_complete(image: Any, path: Path) -> None:
    """Whether a compressed file holds all that its header announces.

    The last four bytes of a gzip file are its uncompressed size; only where they do not agree with the header
    (truncated, or several gzip members) is the stream itself read, up to the size that the header announces.
    """
    if not gzipped(path):
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
        raise UserError(f"{path}: unreadable or truncated ({one_line_of(error)})") from error
    if found < expected:
        raise UserError(f"{path}: truncated; {found:,} bytes where its header announces {expected:,}")


def one_line_of(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
