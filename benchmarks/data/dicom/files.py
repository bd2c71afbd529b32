"""Which files of a folder are DICOM, and which of them are the scan and its annotation."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.common.errors import UserError, one_line

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"
RTSTRUCT_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # label map segmentation, Supplement 243
ANNOTATIONS = (RTSTRUCT_STORAGE, SEG_STORAGE, LABELMAP_STORAGE)

UID = re.compile(r"[0-2](\.\d+)+")
FIRST_GROUPS = (0x0002, 0x0008)  # the meta header and the identification, with which a data set begins
LAST_FIRST_ELEMENT = 0x1200


def find(folder: Path) -> tuple[list[Path], Path]:
    """The files of a CT series below a folder, and its one annotation.

    Of several series the one that the annotation refers to is taken.

    Raises:
        UserError: none, or several of either between which nothing decides.
    """
    pydicom = pydicom_or_error()
    series: dict[str, list[Path]] = {}
    annotations = []
    others: set[str] = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        header = read_file(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesInstanceUID"])
        if header is None:
            continue  # notes, checksums
        kind = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
        if not UID.fullmatch(kind):
            raise UserError(f"{path}: begins like DICOM and does not say what it is; is it damaged?")
        if kind == CT_STORAGE:
            series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(path)
        elif kind == ENHANCED_CT_STORAGE:
            raise UserError(f"{path}: an enhanced (multi-frame) CT; convert it to a series of slices first")
        elif kind in ANNOTATIONS:
            annotations.append(path)
        else:
            others.add(pydicom.uid.UID(kind).name)
    also = f"; there is also: {', '.join(sorted(others))}" if others else ""
    if len(annotations) != 1:
        raise UserError(f"{folder}: one RTSTRUCT or SEG is needed, {len(annotations)} were found{also}")
    if len(series) > 1:
        with reading(annotations[0]):
            referred = _referred_series(read_file(annotations[0]))
        series = {uid: paths for uid, paths in series.items() if uid in referred} or series
    if len(series) != 1:
        raise UserError(f"{folder}: one CT series is needed, {len(series)} were found{also}")
    return next(iter(series.values())), annotations[0]


def _referred_series(annotation: Any) -> set[str]:
    """UIDs of the series that an RTSTRUCT (C.8.8.5) or a SEG (C.12.4) says it was drawn on."""
    entries = list(annotation.get("ReferencedSeriesSequence", []))
    for frame in annotation.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            entries += study.get("RTReferencedSeriesSequence", [])
    return {str(entry.get("SeriesInstanceUID", "")) for entry in entries}


def read_file(path: Path, **options: Any) -> Any:
    """A DICOM file by pydicom; None if it is something else.

    Consoles and treatment planning systems also export bare data sets, without the 128 bytes and the word `DICM`
    before them. They are known by the group of their first element.

    Args:
        options: of `pydicom.dcmread`.

    Raises:
        UserError: unreadable or damaged.
    """
    pydicom = pydicom_or_error()
    try:
        with reading(path):
            try:
                return pydicom.dcmread(path, **options)
            except pydicom.errors.InvalidDicomError:
                if not _begins_like_dicom(path):
                    return None
            content = pydicom.dcmread(path, force=True, **options)
            if "TransferSyntaxUID" not in content.file_meta:
                implicit, _ = content.original_encoding
                names = pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian
                content.file_meta.TransferSyntaxUID = names[0] if implicit else names[1]
            return content
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror or error})") from error


def _begins_like_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    if len(start) < 4:
        return False
    group, element = struct.unpack("<HH", start)
    return group in FIRST_GROUPS and element <= LAST_FIRST_ELEMENT


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Files that lack what the standard requires, or end early, fail in as many ways as there are attributes."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(f"{path}: incomplete or damaged DICOM ({one_line(error)})") from error


def pydicom_or_error() -> ModuleType:
    """pydicom. Raises UserError that says how to install it."""
    try:
        import pydicom
        import pydicom.errors
        import pydicom.uid
    except ImportError as error:
        raise UserError("reading DICOM needs pydicom; install it with `pip install 'tags-bench[dicom]'`") from error
    return pydicom
