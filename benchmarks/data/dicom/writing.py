"""Masks as DICOM: a segmentation (SEG) through highdicom, contours (RTSTRUCT) through pydicom.

highdicom writes no RTSTRUCT, and rt-utils, which does, is no longer kept up: it installs the `dataclasses` of Python
3.6, and OpenCV. What stands here is the least that the standard requires.

Source: DICOM PS3.3, A.19.3 (RT structure set IOD), C.8.8.5, C.8.8.6, C.8.8.8; A.51 (segmentation IOD).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError, one_line
from benchmarks.data.dicom.files import RTSTRUCT_STORAGE, highdicom_or_error, read_file
from benchmarks.data.dicom.series import Series
from benchmarks.data.volume import BoolArray

MAKER = "tags-bench"
LONG = 64  # characters of a label or name (VR LO)
SHORT = 16  # characters of a short label (VR SH)
COLOUR = (230, 75, 50)
PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def segmentation_of(mask: BoolArray, series: Series, label: str, method: str, version: str, by_hand: bool) -> Any:
    """A binary SEG with one segment, by highdicom.

    Args:
        mask: (column, row, slice) of the series.
        label: of the segment.
        by_hand: a person gave prompts, so that the algorithm was semi-automatic.

    Raises:
        UserError: highdicom is missing, or the headers of the series lack what a SEG must repeat.
    """
    highdicom = highdicom_or_error()
    from pydicom.sr.codedict import codes

    files = [read_file(path) for path in series.paths]
    affine = series.affine[:, [2, 1, 0, 3]]  # highdicom's axes are (slice, row, column)
    volume = highdicom.Volume(mask.T.astype(np.uint8), affine, "PATIENT", frame_of_reference_uid=series.frame or None)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=method[:LONG], family=codes.DCM.ArtificialIntelligence, version=version[:LONG]
    )
    described = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=label[:LONG],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type="SEMIAUTOMATIC" if by_hand else "AUTOMATIC",
        algorithm_identification=algorithm,
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The string .* is unlikely to represent")  # an anonymised name
            return _segmentation(highdicom, files, volume, described, f"{label} by {method}", version)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{series.paths[0].parent}: no SEG can refer to this series ({one_line(error)})") from error


def _segmentation(highdicom: Any, files: list[Any], volume: Any, described: Any, title: str, version: str) -> Any:
    return highdicom.seg.Segmentation(
        source_images=files,
        pixel_array=volume,
        segmentation_type="BINARY",
        segment_descriptions=[described],
        series_instance_uid=highdicom.UID(),
        series_number=900,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=MAKER,
        software_versions=version[:LONG],
        device_serial_number="0",
        omit_empty_frames=bool(volume.array.any()),
        content_label="SEGMENTATION",
        series_description=title[:LONG],
    )


def rtstruct_of(mask: BoolArray, series: Series, label: str, method: str, version: str, by_hand: bool) -> Any:
    """An RTSTRUCT with one ROI; arguments and errors as for `segmentation_of`.

    The contours run half-way between the pixels inside and those outside, so that filling them by pixel centre and the
    even-odd rule gives the mask back. A hole is a contour of its own within its outline.

    Raises:
        UserError: the mask is empty, and an ROI without a contour says nothing.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    if not mask.any():
        raise UserError("the mask is empty: there is no contour to write as RTSTRUCT")
    headers = [read_file(path, stop_before_pixels=True) for path in series.paths]
    first, now = headers[0], datetime.now()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTSTRUCT_STORAGE, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content: Any = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    content.SOPClassUID, content.SOPInstanceUID = RTSTRUCT_STORAGE, meta.MediaStorageSOPInstanceUID
    content.SpecificCharacterSet = "ISO_IR 192"  # UTF-8, whatever the scan has
    for name in PATIENT_AND_STUDY:
        setattr(content, name, str(first.get(name) or ""))
    content.Modality, content.Manufacturer, content.ManufacturerModelName = "RTSTRUCT", MAKER, MAKER
    content.SoftwareVersions, content.OperatorsName = version[:LONG], ""
    content.SeriesInstanceUID, content.SeriesNumber = generate_uid(), 900
    content.SeriesDescription = f"{label} by {method}"[:LONG]
    content.InstanceCreationDate = content.StructureSetDate = f"{now:%Y%m%d}"
    content.InstanceCreationTime = content.StructureSetTime = f"{now:%H%M%S}"
    content.StructureSetLabel, content.ApprovalStatus = label[:SHORT], "UNAPPROVED"
    content.FrameOfReferenceUID, content.PositionReferenceIndicator = series.frame, ""
    content.ReferencedFrameOfReferenceSequence = [_referred(headers, series.frame)]
    roi: Any = Dataset()
    roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = 1, label[:LONG], series.frame
    roi.ROIGenerationAlgorithm = "SEMIAUTOMATIC" if by_hand else "AUTOMATIC"
    roi.ROIGenerationDescription = method[:LONG]
    content.StructureSetROISequence = [roi]
    drawn: Any = Dataset()
    drawn.ROIDisplayColor, drawn.ReferencedROINumber = list(COLOUR), 1
    drawn.ContourSequence = list(_contours(mask, series, headers))
    content.ROIContourSequence = [drawn]
    observed: Any = Dataset()
    observed.ObservationNumber = observed.ReferencedROINumber = 1
    observed.RTROIInterpretedType, observed.ROIInterpreter = "", ""
    content.RTROIObservationsSequence = [observed]
    return content


def _referred(headers: list[Any], frame: str) -> Any:
    """The series and its images, to which the contours refer."""
    from pydicom.dataset import Dataset

    series: Any = Dataset()
    series.SeriesInstanceUID = headers[0].SeriesInstanceUID
    series.ContourImageSequence = [_image(header) for header in headers]
    study: Any = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # detached study management, as the standard asks for
    study.ReferencedSOPInstanceUID = headers[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    referred: Any = Dataset()
    referred.FrameOfReferenceUID, referred.RTReferencedStudySequence = frame, [study]
    return referred


def _image(header: Any) -> Any:
    from pydicom.dataset import Dataset

    image: Any = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return image


def _contours(mask: BoolArray, series: Series, headers: list[Any]) -> Iterator[Any]:
    from pydicom.dataset import Dataset

    for plane in np.flatnonzero(mask.any(axis=(0, 1))):
        for outline in outlines(mask[:, :, plane]):
            corners = np.column_stack([outline, np.full(len(outline), plane)])
            world = corners @ series.affine[:3, :3].T + series.affine[:3, 3]
            contour: Any = Dataset()
            if len(headers) == series.shape[2]:  # the slice; a multi-frame object is one image for all
                contour.ContourImageSequence = [_image(headers[plane])]
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(world)
            contour.ContourData = [f"{value:.5f}" for value in world.ravel()]
            yield contour


def outlines(region: BoolArray) -> list[NDArray[np.float64]]:
    """The closed outlines (N, 2) of a region of pixels, half-way to the pixels outside; corners on a line are left out.

    The last corner is joined to the first.
    """
    from skimage.measure import find_contours

    found = []
    for closed in find_contours(np.pad(region, 1).astype(np.float32), 0.5):
        corners = closed[:-1] - 1
        before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
        turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        found.append(corners[np.abs(turns) > 1e-9])
    return found
