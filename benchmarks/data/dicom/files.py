"""Which files of a folder are DICOM, and which scans and annotations they make."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.common.errors import UserError, one_line
from benchmarks.common.files import files_below, is_dead_link, readable

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"
MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
PET_STORAGE = "1.2.840.10008.5.1.4.1.1.128"
SLICES = {CT_STORAGE: "CT", MR_STORAGE: "MR", PET_STORAGE: "PET"}
MULTI_FRAME = {
    ENHANCED_CT_STORAGE: "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # legacy converted enhanced
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.130": "PET",
    "1.2.840.10008.5.1.4.1.1.128.1": "PET",
}
RTSTRUCT_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # label map segmentation, Supplement 243
ANNOTATIONS = (RTSTRUCT_STORAGE, SEG_STORAGE, LABELMAP_STORAGE)

STORES = frozenset({".git", ".dvc"})  # where DataLad, git-annex and DVC keep what links lead to, of other versions too
UID = re.compile(r"[0-2](\.\d+)+")
FIRST_GROUPS = (0x0002, 0x0008)  # the meta header and the identification, with which a data set begins
LAST_FIRST_ELEMENT = 0x1200

HEADER = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SeriesDescription", "PatientID",
)  # fmt: skip


@dataclass(frozen=True)
class ScanFiles:
    """The files of one scan: the slices of a series, or one multi-frame object.

    Attributes:
        series: UID of the series.
        modality: "CT", "MR" or "PET".
        frame: UID of the frame of reference; empty if none is given.
        title: description of the series.
        multi_frame: one enhanced object, which holds all slices.
        patient: the PatientID as it stands in the headers, to compare and never to write; empty if none is given.
    """

    series: str
    modality: str
    frame: str
    title: str
    paths: tuple[Path, ...]
    multi_frame: bool = False
    patient: str = field(default="", repr=False)

    def __str__(self) -> str:
        kind = f"enhanced {self.modality}" if self.multi_frame else self.modality
        return f"{kind} '{self.title}'" if self.title else f"{kind} {self.series}"


@dataclass(frozen=True)
class Contents:
    """The scans and annotations below a folder.

    Attributes:
        others: names of what is there besides, such as "Secondary Capture Image Storage".
    """

    folder: Path
    scans: tuple[ScanFiles, ...] = ()
    annotations: tuple[Path, ...] = ()
    others: frozenset[str] = field(default_factory=frozenset)

    @property
    def also(self) -> str:
        """What is there besides, for the end of a message."""
        return f"; there is also: {', '.join(sorted(self.others))}" if self.others else ""


@readable()
def look(folder: Path) -> Contents:
    """What lies below a folder. Raises UserError for a place that cannot be read, a dead link or a damaged file."""
    pydicom = pydicom_or_error()
    found: dict[str, list[tuple[Path, Any]]] = {}
    scans: list[ScanFiles] = []
    annotations: list[Path] = []
    others: set[str] = set()
    for path in _files_of(folder):
        header = read_file(path, stop_before_pixels=True, specific_tags=list(HEADER))
        if header is None:
            continue  # notes, checksums
        kind = kind_of(header, path)
        if kind in SLICES:
            found.setdefault(f"{header.get('SeriesInstanceUID', '')} {kind}", []).append((path, header))
        elif kind in MULTI_FRAME:
            scans.append(_scan([(path, header)], MULTI_FRAME[kind], multi_frame=True))
        elif kind in ANNOTATIONS:
            annotations.append(path)
        else:
            others.add(pydicom.uid.UID(kind).name)
    scans += [_scan(files, SLICES[name.split()[-1]]) for name, files in found.items()]
    return Contents(folder, tuple(scans), tuple(annotations), frozenset(others))


def _files_of(folder: Path) -> list[Path]:
    """The files below a folder, each once, however many links lead to it; folders that are links are not entered.

    Raises:
        UserError: a dead link, behind which a slice may be missing.
    """
    found: dict[str, Path] = {}
    for path in sorted(files_below(folder)):
        if not STORES.isdisjoint(path.relative_to(folder).parts):
            continue
        if is_dead_link(path):
            raise UserError(f"{path}: a dead link: the file it leads to is not there")
        if path.is_file():
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def is_annotation(path: Path) -> bool:
    """Whether a file is an RTSTRUCT or a SEG. Raises UserError for a file that cannot be read."""
    header = read_file(path, stop_before_pixels=True, specific_tags=list(HEADER))
    return header is not None and kind_of(header, path) in ANNOTATIONS


def scan_in_file(path: Path) -> ScanFiles:
    """The scan that one multi-frame file holds. Raises UserError for another file."""
    header = read_file(path, stop_before_pixels=True, specific_tags=list(HEADER))
    if header is None:
        raise UserError(f"{path}: neither NIfTI, NRRD, MHA nor DICOM")
    kind = kind_of(header, path)
    if kind not in MULTI_FRAME:
        raise UserError(f"{path}: one DICOM file is no scan; name its folder")
    return _scan([(path, header)], MULTI_FRAME[kind], multi_frame=True)


def _scan(files: list[tuple[Path, Any]], modality: str, multi_frame: bool = False) -> ScanFiles:
    first = files[0][1]
    texts = [str(first.get(name) or "") for name in ("SeriesInstanceUID", "FrameOfReferenceUID", "SeriesDescription")]
    series, frame, title = texts
    patient = next((text for _, header in files if (text := str(header.get("PatientID") or "").strip())), "")
    return ScanFiles(series, modality, frame, title.strip(), tuple(path for path, _ in files), multi_frame, patient)


def kind_of(header: Any, path: Path) -> str:
    """The UID of the kind of object. Raises UserError if it is not said."""
    kind = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
    if not UID.fullmatch(kind):
        raise UserError(f"{path}: begins like DICOM and does not say what it is; is it damaged?")
    return kind


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


def highdicom_or_error() -> ModuleType:
    """highdicom. Raises UserError that says how to install it."""
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise UserError("this needs highdicom; install it with `pip install 'tags-bench[dicom]'`") from error
    return highdicom
