"""A mask as a file of the kind that its name says, on the grid of its scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically
from benchmarks.data.scan import Scan, is_volume_file
from benchmarks.data.volume import BoolArray, Volume, read_label, values_in, write_mask

RTSTRUCT_SUFFIXES = (".rtstruct.dcm", ".rs.dcm")
MASK_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".dcm")
KINDS = ".nii, .nii.gz, .nrrd, .mha, .dcm (a DICOM SEG) or .rtstruct.dcm"


@dataclass(frozen=True)
class MaskOrigin:
    """What a mask shows and who made it, for formats that keep it.

    Attributes:
        label: name of what was segmented.
        method: name of the method.
        version: of the method.
        by_hand: whether a person gave prompts.
    """

    label: str
    method: str
    version: str = "1"
    by_hand: bool = True


def check_mask_name(path: Path, from_dicom: bool) -> None:
    """Raises UserError unless a mask of that name can be written for the scan; looks at no file."""
    name = path.name.lower()
    if not name.endswith(MASK_SUFFIXES):
        raise UserError(f"{path}: the mask is a file ending in {KINDS}")
    if name.endswith(".dcm") and not from_dicom:
        raise UserError(f"{path}: DICOM SEG and RTSTRUCT refer to a DICOM scan, and the scan is none; write .nii.gz")


def is_mask_file(path: Path) -> bool:
    """Whether a file holds what `save_mask` writes: 0 and 1 alone, or a DICOM SEG or RTSTRUCT."""
    from benchmarks.data.dicom.files import is_annotation

    try:
        return set(values_in(read_label(path))) <= {0, 1} if is_volume_file(path) else is_annotation(path)
    except UserError:  # what cannot be read is not known to be a mask
        return False


def save_mask(mask: BoolArray, scan: Scan, path: Path, origin: MaskOrigin) -> None:
    """Write a mask (x, y, z) of the scan's volume as NIfTI, NRRD, MHA, DICOM SEG or RTSTRUCT.

    The write is atomic.

    Raises:
        UserError: a name of another kind, DICOM for a scan that is none, an empty mask as RTSTRUCT, or a place that
            cannot be written.
    """
    check_mask_name(path, scan.dicom is not None)
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            write_mask(mask, scan.volume, path)
        elif name.endswith((".nrrd", ".mha")):
            _write_itk(mask, scan.volume, path)
        else:
            _write_dicom(mask, scan, path, origin)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


def stored_order(array: NDArray[np.generic], volume: Volume) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
    """An array of the volume in the axis order of its file, and the affine of that order (RAS+ world)."""
    if volume.orientation is None:
        return array, volume.affine
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), volume.orientation)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(back, volume.shape)
    return nib.orientations.apply_orientation(array, back), affine


def _write_itk(mask: BoolArray, volume: Volume, path: Path) -> None:
    import SimpleITK

    array, affine = stored_order(mask.astype(np.uint8), volume)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # ITK's world runs to the left and the back
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))  # ITK's arrays are (z, y, x)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    with atomically(path) as partial:
        try:
            SimpleITK.WriteImage(image, str(partial), useCompression=True)
        except RuntimeError as error:
            raise OSError(str(error).strip().splitlines()[-1].strip()) from error


def _write_dicom(mask: BoolArray, scan: Scan, path: Path, origin: MaskOrigin) -> None:
    from benchmarks.data.dicom.writing import rtstruct_of, segmentation_of

    if scan.dicom is None:
        raise UserError(f"{path}: the scan is no DICOM")
    array, _ = stored_order(mask, scan.volume)
    make = rtstruct_of if path.name.lower().endswith(RTSTRUCT_SUFFIXES) else segmentation_of
    content = make(np.asarray(array, bool), scan.dicom, origin.label, origin.method, origin.version, origin.by_hand)
    with atomically(path) as partial:
        content.save_as(partial, enforce_file_format=True)
