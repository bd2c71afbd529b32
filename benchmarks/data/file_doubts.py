"""What is odd about an image file that can be read: a doubtful grid, a checksum, what comes after the voxels."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.data.image_files import ITK_SUFFIXES, gzipped, one_line_of, open_itk, open_nifti
from benchmarks.data.volume import same_grid

MAX_TAIL = 1 << 20  # bytes after the voxels; some writers pad
RIGHT_ANGLES = 0.9998  # volume of a cell of edges 1: one axis leans by 2 % of another, which `dicom.series` refuses


def file_doubts(path: Path) -> list[str]:
    """What is odd about a file that can be read, in a line each.

    A compressed file is read to its end: its checksum stands there, and no reader of the voxels gets so far.

    Raises:
        UserError: the checksum is wrong, or as `read_grid`.
    """
    if path.name.lower().endswith(ITK_SUFFIXES):
        return _grid_doubts(open_itk(path)[1])
    image, _ = open_nifti(path)
    return _affine_doubts(image) + _stream_doubts(image, path)


def _grid_doubts(affine: NDArray[np.float64]) -> list[str]:
    """Why millimetres of a grid may be none: the affine was lost, or the axes are sheared, as by a gantry tilt.

    A program that does not know the grid writes the identity: no scanner's first voxel lies at 0, 0, 0 exactly.
    Distances and volumes are computed from the edges of a voxel as if these met at right angles.
    """
    if np.array_equal(np.abs(affine), np.eye(4)):
        return [
            "the affine is the identity (spacing 1 × 1 × 1 mm, origin 0); if the true one was lost, distances and "
            "volumes of this case are not in mm"
        ]
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(axes)) < RIGHT_ANGLES:
        return ["the axes are not at right angles; distances and volumes of this case are not in mm"]
    return []


def _stream_doubts(image: Any, path: Path) -> list[str]:
    """Whether the checksum of a gzip file is right, and whether the file ends where its voxels end."""
    if not gzipped(path):
        return []
    left = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize + MAX_TAIL
    try:
        with gzip.open(path) as stream:
            while left > 0 and (block := stream.read(min(1 << 20, left))):
                left -= len(block)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({one_line_of(error)})") from error
    return [] if left > 0 else [f"the file goes on after the voxels, by more than {MAX_TAIL:,} bytes"]


def _affine_doubts(image: Any) -> list[str]:
    header = image.header
    sform = header.get_sform(coded=True)[0]
    try:
        qform = header.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError):  # nibabel tolerates the rounding of one program, and not that of another
        return ["the qform of the header is no rotation; the sform is used", *_grid_doubts(image.affine)]
    if sform is None and qform is None:
        return ["the header does not say how the patient lies; left and right are a guess"]
    if sform is not None and qform is not None and not same_grid(qform, sform, image.shape[:3]):
        doubt = "the two affines of the header (sform and qform) disagree; the sform is used"
        return [doubt, *_grid_doubts(image.affine)]
    return _grid_doubts(image.affine)
