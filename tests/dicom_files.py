"""DICOM files that the tests write: series of slices, RTSTRUCT, SEG, with everything that can be odd about them."""

from __future__ import annotations

from collections.abc import Sequence as Many
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset as Record
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from benchmarks.data.dicom import files

SHAPE = (40, 32, 12)  # columns, rows, slices
SPACING = (0.9, 1.1, 2.5)
FRAME = "1.2.826.0.1.3680043.8.498.1"
STRAIGHT = np.eye(3)
CLOSED = "CLOSED_PLANAR"
PATIENT = {
    "PatientBirthDate": "", "PatientSex": "O", "StudyDate": "20260102", "StudyTime": "101500", "StudyID": "1",
    "AccessionNumber": "", "ReferringPhysicianName": "", "SeriesNumber": 1, "Manufacturer": "none",
    "PositionReferenceIndicator": "", "PatientPosition": "HFS", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
}  # fmt: skip
Structures = dict | list  # by name, or pairs of name and structure where names are doubled


def pairs(structures: Structures) -> list[tuple]:
    return list(structures.items()) if isinstance(structures, dict) else structures


def rotation(degrees: float) -> np.ndarray:
    """A scan lying obliquely: turned about x, then about z."""
    a, b = np.deg2rad([degrees, degrees / 2])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return about_z @ about_x


def to_world(turn: np.ndarray, voxels: np.ndarray) -> np.ndarray:
    return np.asarray(voxels) * SPACING @ turn.T + (-150.0, 20.0, -310.0)


def scan() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, SHAPE).astype(np.int16)


def record(path: Path, kind: str, **values: object) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    content.SOPClassUID, content.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    content.PatientID, content.PatientName, content.StudyInstanceUID = "p", "Anonymous", "1.2.3.4"
    for name, value in values.items():
        setattr(content, name, value)
    return content


def write_series(
    folder: Path,
    hu: np.ndarray,
    turn: np.ndarray = STRAIGHT,
    leave_out: tuple[int, ...] = (),
    kind: str = files.CT_STORAGE,
    slopes: Many[float] = (),
    **values: object,
) -> None:
    """Slices of which each stored value plus 1024 and slope 1, or of other slopes and no offset, gives `hu`.

    Args:
        slopes: of every slice; stored is then `hu` itself.
        values: of every header besides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"SeriesInstanceUID": "1.2.3.5", "Modality": "CT", "FrameOfReferenceUID": FRAME, **PATIENT, **values}
    names = np.random.default_rng(1).permutation(hu.shape[2])  # file names in no order
    for index in range(hu.shape[2]):
        if index in leave_out:
            continue
        path = folder / f"IM{names[index]:04d}"
        content = record(path, kind, **shared)
        content.ImagePositionPatient = to_world(turn, [0, 0, index]).round(6).tolist()
        content.ImageOrientationPatient = [*turn[:, 0].round(9), *turn[:, 1].round(9)]
        content.PixelSpacing, content.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        content.Columns, content.Rows, content.SamplesPerPixel = hu.shape[0], hu.shape[1], 1
        content.PhotometricInterpretation, content.PixelRepresentation = "MONOCHROME2", 0
        content.BitsAllocated = content.BitsStored = 16
        content.HighBit = 15
        offset = 0 if len(slopes) else 1024
        content.RescaleSlope, content.RescaleIntercept = (slopes[index] if len(slopes) else 1), -offset
        content.InstanceNumber = int(names[index]) + 1
        content.PixelData = (hu[:, :, index].T.astype(np.int32) + offset).astype(np.uint16).tobytes()
        content.save_as(path, enforce_file_format=True)


def write_rtstruct(path: Path, contours: Structures, turn: np.ndarray, frame: str = FRAME, kind=CLOSED) -> None:
    content = record(path, files.RTSTRUCT_STORAGE, Modality="RTSTRUCT", SeriesInstanceUID="1.2.3.6")
    content.StructureSetROISequence, content.ROIContourSequence = Sequence(), Sequence()
    for number, (name, polygons) in enumerate(pairs(contours), start=3):
        roi = Record()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        content.StructureSetROISequence.append(roi)
        drawn = Record()
        drawn.ReferencedROINumber, drawn.ContourSequence = number, Sequence()
        for polygon in polygons:
            contour = Record()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(polygon)
            contour.ContourData = [f"{value:.6f}" for value in to_world(turn, polygon).ravel()]
            drawn.ContourSequence.append(contour)
        content.ROIContourSequence.append(drawn)
    content.save_as(path, enforce_file_format=True)


def write_seg(path: Path, masks: Structures, turn: np.ndarray, shift: float = 0.0, fractional: bool = False) -> None:
    content = record(path, files.SEG_STORAGE, Modality="SEG", SeriesInstanceUID="1.2.3.7", FrameOfReferenceUID=FRAME)
    content.SegmentSequence, content.PerFrameFunctionalGroupsSequence = Sequence(), Sequence()
    frames = []
    for number, (name, mask) in enumerate(pairs(masks), start=1):
        segment = Record()
        segment.SegmentNumber, segment.SegmentLabel = number, name
        content.SegmentSequence.append(segment)
        for index in np.flatnonzero(mask.any(axis=(0, 1)))[::-1]:  # only where there is something, last first
            frame, position, which = Record(), Record(), Record()
            position.ImagePositionPatient = to_world(turn, [shift, 0, index]).round(6).tolist()
            which.ReferencedSegmentNumber = number
            frame.PlanePositionSequence, frame.SegmentIdentificationSequence = Sequence([position]), Sequence([which])
            content.PerFrameFunctionalGroupsSequence.append(frame)
            frames.append(mask[:, :, index].T)
    shared, orientation, measures = Record(), Record(), Record()
    orientation.ImageOrientationPatient = [*turn[:, 0].round(9), *turn[:, 1].round(9)]
    measures.PixelSpacing, measures.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    content.SharedFunctionalGroupsSequence = Sequence([shared])
    pixels = np.array(frames, np.uint8)
    content.NumberOfFrames, content.Rows, content.Columns = pixels.shape
    content.SamplesPerPixel, content.PhotometricInterpretation, content.PixelRepresentation = 1, "MONOCHROME2", 0
    content.SegmentationType = "FRACTIONAL" if fractional else "BINARY"
    content.BitsAllocated = content.BitsStored = 8 if fractional else 1
    content.HighBit = content.BitsStored - 1
    if fractional:
        content.MaximumFractionalValue = 200
        content.PixelData = (pixels * 140 + 60).tobytes()  # 0.3 outside, 1.0 inside
    else:
        content.PixelData = pack_bits(pixels.ravel())
    content.save_as(path, enforce_file_format=True)


def box_mask() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[10:22, 8:17, 3:8] = True
    mask[14, 9, 5] = False
    return mask


def outline(low: tuple[float, float], high: tuple[float, float], plane: float) -> np.ndarray:
    (x0, y0), (x1, y1) = low, high
    return np.array([(x0, y0, plane), (x1, y0, plane), (x1, y1, plane), (x0, y1, plane)], float)


def box_contours() -> list[np.ndarray]:
    """The same box in contours half a pixel around its pixels, with the hole as a contour within."""
    boxes = [outline((9.5, 7.5), (21.5, 16.5), plane) for plane in range(3, 8)]
    return [*boxes, outline((13.5, 8.5), (14.5, 9.5), 5)]


def write_labelmap(path: Path, label: np.ndarray, names: list[tuple[int, str]], padding: bool = True) -> None:
    """A label map segmentation: every slice one frame, its pixels the numbers of the segments."""
    write_seg(path, {"x": np.ones(label.shape, bool)}, STRAIGHT)
    content = pydicom.dcmread(path)
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = files.LABELMAP_STORAGE
    content.SegmentationType, content.BitsAllocated, content.BitsStored, content.HighBit = "LABELMAP", 8, 8, 7
    content.SegmentSequence = Sequence()
    for number, name in names:
        segment = Record()
        segment.SegmentNumber, segment.SegmentLabel = number, name
        content.SegmentSequence.append(segment)
    for frame in content.PerFrameFunctionalGroupsSequence:
        del frame.SegmentIdentificationSequence
    if padding:
        content.add_new("PixelPaddingValue", "US", 0)
    content.PixelData = label.T[::-1].astype(np.uint8).tobytes()  # write_seg writes the last slice first
    content.save_as(path, enforce_file_format=True)
