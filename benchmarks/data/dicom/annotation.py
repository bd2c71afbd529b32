"""The mask of one structure, whatever kind of annotation holds it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.data.dicom.contours import contour_mask
from benchmarks.data.dicom.files import RTSTRUCT_STORAGE, read_file, reading
from benchmarks.data.dicom.segments import segment_mask
from benchmarks.data.dicom.series import Series
from benchmarks.data.volume import BoolArray


def read_annotation(path: Path, name: str, series: Series) -> BoolArray:
    """The mask of all ROIs (RTSTRUCT) or segments (SEG) of a name, on the grid of the series.

    Raises:
        UserError: unreadable, no such name, or it does not fit the series.
    """
    try:
        with reading(path):
            return _annotation_mask(path, name, series)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror or error})") from error


def _annotation_mask(path: Path, name: str, series: Series) -> BoolArray:
    content = read_file(path)
    structures = content.get("StructureSetROISequence", [content])
    frames = {str(one.get("ReferencedFrameOfReferenceUID", one.get("FrameOfReferenceUID", ""))) for one in structures}
    if series.frame and frames - {"", series.frame}:
        raise UserError(f"{path}: drawn on another scan (its frame of reference is not that of the series)")
    if str(content.SOPClassUID) == RTSTRUCT_STORAGE:
        rois = [(str(roi.get("ROIName") or ""), int(roi.ROINumber)) for roi in content.StructureSetROISequence]
        return contour_mask(content, path, name, numbers_of(name, rois, path), series)
    segments = [(str(one.get("SegmentLabel") or ""), int(one.SegmentNumber)) for one in content.SegmentSequence]
    return segment_mask(content, path, name, numbers_of(name, segments, path), series)


def numbers_of(name: str, structures: Iterable[tuple[str, int]], path: Path) -> frozenset[int]:
    """The numbers of all structures of a name: lesions are often drawn as several that are called alike.

    Capitals count only where names differ by nothing else.

    Raises:
        UserError: none, several names that differ by capitals, or a number that two structures have.
    """
    known = [(title.strip(), number) for title, number in structures]
    numbers = [number for _, number in known]
    matching = [one for one in known if one[0] == name.strip()]
    matching = matching or [one for one in known if one[0].lower() == name.strip().lower()]
    if not matching:
        raise UserError(f"{path}: no structure '{name}'; {nearest_name(name, {title for title, _ in known})}")
    spellings = sorted({title for title, _ in matching})
    if len(spellings) > 1:
        raise UserError(f"{path}: '{name}' may be any of {', '.join(spellings)}; write it as it stands there")
    for _, number in matching:
        if numbers.count(number) > 1:
            raise UserError(f"{path}: two structures have the number {number}, one of them is '{name}'")
    return frozenset(number for _, number in matching)
