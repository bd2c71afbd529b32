"""Structures by name: which annotation holds them, on which scan they were drawn, and their masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.data.boxes import bounding_box, slices
from benchmarks.data.dicom.contours import contour_mask
from benchmarks.data.dicom.files import (
    RTSTRUCT_STORAGE,
    Contents,
    ScanFiles,
    kind_of,
    read_file,
    reading,
)
from benchmarks.data.dicom.segments import segment_mask, stated_step
from benchmarks.data.dicom.series import Series
from benchmarks.data.volume import BoolArray

SAME_STEP = 1.1  # of the step from slice to slice, that a stated one may have for the rounding of numbers
HEADER = (
    "SOPClassUID", "FrameOfReferenceUID", "SeriesDescription", "StructureSetLabel", "ContentLabel",
    "StructureSetROISequence", "SegmentSequence", "ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence",
)  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """An ROI of an RTSTRUCT or a segment of a SEG.

    Attributes:
        frame: UID of the frame of reference in which it was drawn; empty if none is given.
    """

    name: str
    number: int
    frame: str = ""


@dataclass(frozen=True)
class Annotation:
    """What an annotation says of itself; its contours or pixels are unread.

    Attributes:
        title: description of its series and label of its content.
        series: UIDs of the series that it says it was drawn on.
    """

    path: Path
    kind: str
    title: str
    structures: tuple[Structure, ...]
    series: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.path.name} ('{self.title}')" if self.title else self.path.name

    def named(self, name: str) -> list[Structure]:
        """The structures of a name: lesions are often drawn as several that are called alike.

        Capitals count only where names differ by nothing else.

        Raises:
            UserError: several names that differ by capitals.
        """
        matching = [one for one in self.structures if one.name == name.strip()]
        matching = matching or [one for one in self.structures if one.name.lower() == name.strip().lower()]
        spellings = sorted({one.name for one in matching})
        if len(spellings) > 1:
            raise UserError(f"{self.path}: '{name}' may be any of {', '.join(spellings)}; write it as it stands there")
        return matching

    def numbers(self, name: str, frame: str) -> frozenset[int]:
        """The numbers of the structures of a name in a frame of reference; one that is not given fits any.

        Raises:
            UserError: none, or a number that two structures have; or as `named`.
        """
        matching = self.named(name)
        if not matching:
            raise UserError(
                f"{self.path}: no structure '{name}'; {nearest_name(name, {one.name for one in self.structures})}"
            )
        fitting = [one for one in matching if not frame or one.frame in ("", frame)]
        if not fitting:
            raise UserError(f"{self.path}: drawn on another scan (its frame of reference is not that of the series)")
        numbers = [one.number for one in self.structures]
        for one in fitting:
            if numbers.count(one.number) > 1:
                raise UserError(f"{self.path}: two structures have the number {one.number}, one of them is '{name}'")
        return frozenset(one.number for one in fitting)

    def fits(self, scan: ScanFiles, name: str, contents: Contents) -> bool:
        """Whether it holds a structure of the name that was drawn on this scan.

        The series that it refers to decides; where none of those is there, the frame of reference.
        """
        matching = self.named(name)
        if self.series & {one.series for one in contents.scans}:
            return bool(matching) and scan.series in self.series
        return any(not scan.frame or one.frame in ("", scan.frame) for one in matching)


def open_annotation(path: Path) -> Annotation:
    """What an RTSTRUCT or a SEG says of itself. Raises UserError if it is incomplete or damaged."""
    content = read_file(path, stop_before_pixels=True, specific_tags=list(HEADER))
    with reading(path):
        kind = kind_of(content, path)
        title = str(content.get("StructureSetLabel") or content.get("ContentLabel") or "").strip()
        title = " / ".join(text for text in (str(content.get("SeriesDescription") or "").strip(), title) if text)
        return Annotation(path, kind, title, tuple(_structures(content, kind)), _referred_series(content))


def _structures(content: Any, kind: str) -> Iterable[Structure]:
    if kind == RTSTRUCT_STORAGE:
        for roi in content.StructureSetROISequence:
            frame = str(roi.get("ReferencedFrameOfReferenceUID") or "")
            yield Structure(str(roi.get("ROIName") or "").strip(), int(roi.ROINumber), frame)
    else:
        frame = str(content.get("FrameOfReferenceUID") or "")
        for segment in content.SegmentSequence:
            yield Structure(str(segment.get("SegmentLabel") or "").strip(), int(segment.SegmentNumber), frame)


def _referred_series(annotation: Any) -> frozenset[str]:
    """UIDs of the series that an RTSTRUCT (C.8.8.5) or a SEG (C.12.4) says it was drawn on."""
    entries = list(annotation.get("ReferencedSeriesSequence", []))
    for frame in annotation.get("ReferencedFrameOfReferenceSequence", []):
        for study in frame.get("RTReferencedStudySequence", []):
            entries += study.get("RTReferencedSeriesSequence", [])
    return frozenset(str(entry.get("SeriesInstanceUID") or "") for entry in entries) - {""}


@dataclass(frozen=True)
class Choice:
    """Which scan and annotations to take where a folder holds several.

    Attributes:
        modality: "CT", "MR" or "PET"; None takes any.
        annotation: a part of the file name or title of the annotation; None takes any.
    """

    modality: str | None = None
    annotation: str | None = None


def choose(contents: Contents, names: Sequence[str], choice: Choice | None = None) -> tuple[ScanFiles, dict[str, Path]]:
    """The scan on which all structures of these names were drawn, and for each name the annotation that holds it.

    Raises:
        UserError: no scan or annotation, a name that no annotation holds, or several of either between which nothing
            decides.
    """
    choice = choice or Choice()
    folder, also = contents.folder, contents.also
    annotations = [open_annotation(path) for path in contents.annotations]
    if not annotations:
        raise UserError(f"{folder}: one RTSTRUCT or SEG is needed, 0 were found{also}")
    if choice.annotation is not None:
        annotations = _titled(annotations, choice.annotation, folder)
    scans = scans_of(contents, choice.modality)
    for name in names:
        if not any(one.named(name) for one in annotations):
            known = {structure.name for one in annotations for structure in one.structures}
            where = annotations[0].path if len(annotations) == 1 else f"{folder}: {len(annotations)} annotations, and"
            colon = ":" if len(annotations) == 1 else ""
            raise UserError(f"{where}{colon} no structure '{name}'; {nearest_name(name, known)}")
    holders = {
        number: {name: [one for one in annotations if one.fits(scan, name, contents)] for name in names}
        for number, scan in enumerate(scans)
    }
    complete = [number for number, held in holders.items() if all(held.values())]
    if not complete:
        raise UserError(_nothing_fits(scans, names, annotations, contents))
    if len(complete) > 1:
        raise UserError(_several(folder, [scans[number] for number in complete]))
    held = holders[complete[0]]
    for name, found in held.items():
        if len(found) > 1:
            listing = ", ".join(map(str, found))
            raise UserError(f"{folder}: '{name}' stands in {listing}; choose one with --annotation")
    return scans[complete[0]], {name: found[0].path for name, found in held.items()}


def scans_of(contents: Contents, modality: str | None = None) -> list[ScanFiles]:
    """The scans of a folder, or those of one modality. Raises UserError if there is none."""
    scans = [scan for scan in contents.scans if modality in (None, scan.modality)]
    if not scans:
        wanted = f"{modality} scan" if modality else "CT, MR or PET series"
        there = f"; there are {', '.join(map(str, contents.scans))}" if contents.scans else ""
        raise UserError(f"{contents.folder}: one {wanted} is needed, 0 were found{there}{contents.also}")
    return scans


def only_scan(contents: Contents, modality: str | None = None) -> ScanFiles:
    """The one scan of a folder, or of one modality in it. Raises UserError if there are others or none."""
    scans = scans_of(contents, modality)
    if len(scans) > 1:
        raise UserError(_several(contents.folder, scans))
    return scans[0]


def _several(folder: Path, scans: Sequence[ScanFiles]) -> str:
    listing = ", ".join(map(str, scans[:4])) + (", …" if len(scans) > 4 else "")
    how = "choose with --modality" if len({one.modality for one in scans}) > 1 else "put the others elsewhere"
    return f"{folder}: one CT, MR or PET series is needed, {len(scans)} were found ({listing}); {how}"


def _titled(annotations: Sequence[Annotation], words: str, folder: Path) -> list[Annotation]:
    found = [one for one in annotations if words.lower() in f"{one.path.name} {one.title}".lower()]
    if not found:
        raise UserError(f"{folder}: no annotation '{words}'; there are: {', '.join(map(str, annotations))}")
    return found


def _nothing_fits(
    scans: Sequence[ScanFiles], names: Sequence[str], annotations: Sequence[Annotation], contents: Contents
) -> str:
    """Every name stands in some annotation, and no scan has them all."""
    for name in names:
        holding = [one for one in annotations if one.named(name)]
        if not any(one.fits(scan, name, contents) for one in holding for scan in scans):
            found = ", ".join(map(str, scans))
            return f"{holding[0].path}: '{name}' was drawn on another scan than is there (frame of reference; {found})"
    return f"{contents.folder}: {', '.join(names)} were drawn on different scans; convert them one after the other"


@dataclass(frozen=True)
class Drawing:
    """A structure on the grid of a series.

    Attributes:
        note: what a reader must know of the mask; empty if nothing.
    """

    mask: BoolArray
    note: str = ""


def read_annotation(path: Path, name: str, series: Series) -> Drawing:
    """All ROIs (RTSTRUCT) or segments (SEG) of a name together, on the grid of the series.

    A note says where one of them is drawn on some slices only, as every second one.

    Raises:
        UserError: unreadable, no such name, it does not fit the series, or it was drawn on thicker slices than those of
            the series, which are not there.
    """
    try:
        with reading(path):
            annotation = open_annotation(path)
            content = read_file(path)
            contours = str(content.SOPClassUID) == RTSTRUCT_STORAGE
            elsewhere = bool(annotation.series) and series.uid not in annotation.series
            mask = np.zeros(series.shape, np.bool_)
            apart = series.step
            for number in sorted(annotation.numbers(name, series.frame)):
                drawn = (contour_mask if contours else segment_mask)(content, path, name, number, series)
                if steps := _steps(drawn):  # one gap alone may also be a slice that was forgotten
                    apart = max(apart, median_low(steps) * series.step if elsewhere or len(steps) > 1 else 0.0)
                elif not contours and drawn.any():  # no lesion stands on two slices: what the file says counts
                    apart = max(apart, stated_step(content) or 0.0)
                mask |= drawn
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror or error})") from error
    if apart <= SAME_STEP * series.step:
        return Drawing(mask)
    gaps = f"'{name}' is drawn on slices {apart:.4g} mm apart, those of the series are {series.step:.4g} mm apart"
    if elsewhere:
        raise UserError(f"{path}: {gaps}, and the series that it was drawn on is not there; export that one")
    return Drawing(mask, f"{gaps}: its mask has gaps, so that lesions, volumes and distances are not the tumour's")


def _steps(mask: BoolArray) -> list[int]:
    """From each slice on which a structure is drawn to the next one, in slices.

    Where the two share no pixel, one lesion ends and another begins: there is no step.
    """
    box = bounding_box(mask)
    if box is None:
        return []
    part = mask[slices(*box)]
    drawn = [int(plane) for plane in np.flatnonzero(part.any(axis=(0, 1)))]
    return [high - low for low, high in pairwise(drawn) if (part[:, :, low] & part[:, :, high]).any()]
