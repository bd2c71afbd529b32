"""DICOM into the layout that the bench reads: an image series with an RTSTRUCT or a SEG per case.

A folder per case holds one CT series and one annotation, in any sub-folders. Slices are read and put in order
by GDCM (through SimpleITK), by their positions; a series with missing, doubled or tilted slices is refused,
because a volume of even spacing would put its voxels elsewhere. Annotations are read with pydicom, which the
extra `dicom` installs. The result is a folder in the Decathlon's layout.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.8.8.6 (ROI contour), C.8.20.2 (segmentation image).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError, nearest_name, one_line
from benchmarks.common.files import write_json
from benchmarks.data.volume import BoolArray

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2.1"
RTSTRUCT_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
SEG_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"

UNEVEN = 0.02  # of a slice distance; scanners round positions to 0.01 mm or so
OFF_PLANE = 0.25  # of a slice distance, that a contour may lie away from a slice
OFF_GRID = 0.1  # of a pixel, that any corner of a SEG may lie away from the scan's pixels
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """A CT series.

    Attributes:
        array: HU as int16 (float32 where they do not fit), axes (column, row, slice).
        affine: to DICOM's world (LPS, mm).
        frame: UID of the frame of reference, which an annotation must share.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    frame: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        columns, rows, slices = self.array.shape
        return columns, rows, slices


def convert(
    root: Path, out: Path, labels: Mapping[str, int], progress: Callable[[str], Any] | None = None
) -> dict[str, str]:
    """Every case below `root` into `out`, in the Decathlon's layout; what could not be converted, and why.

    Args:
        root: a folder per case.
        out: a new folder.
        labels: name of an ROI or a segment → label value above 0. Where two overlap the higher value stays.
        progress: called with the id of every case when it is done.

    Raises:
        UserError: nothing could be converted, `out` exists, or pydicom is missing.
    """
    _pydicom()
    if out.exists():
        raise UserError(f"{out}: exists already; choose another folder or remove it")
    if not labels or min(labels.values()) < 1 or max(labels.values()) > 255:
        raise UserError("labels: a name with a value from 1 to 255 is needed for each, such as GTV-1=1")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    bad: dict[str, str] = {}
    ids = []
    try:
        for folder in folders:
            case_id = re.sub(r"[^\w.-]+", "_", folder.name)
            try:
                if case_id in ids:
                    raise UserError(f"{folder}: another folder gives the case id '{case_id}' too; rename one")
                _convert_case(folder, partial, case_id, labels)
                ids.append(case_id)
            except UserError as error:
                bad[case_id] = str(error)
            if progress is not None:
                progress(case_id)
        if not ids:
            raise UserError(next(iter(bad.values()), f"{root}: no folder in it; a folder per case is needed"))
        pairs = [{"image": f"./imagesTr/{one}.nii.gz", "label": f"./labelsTr/{one}.nii.gz"} for one in ids]
        names = {"0": "background"} | {str(value): name for name, value in labels.items()}
        write_json(partial / "dataset.json", {"labels": names, "training": pairs, "modality": {"0": "CT"}})
        partial.chmod(0o755)  # mkdtemp makes it private
        partial.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already if it was moved
    return bad


def _convert_case(folder: Path, out: Path, case_id: str, labels: Mapping[str, int]) -> None:
    images, annotation = find(folder)
    series = read_series(images, folder)
    label = np.zeros(series.shape, np.uint8)
    for name, value in sorted(labels.items(), key=lambda item: item[1]):
        label[read_annotation(annotation, name, series)] = value
    affine = LPS_TO_RAS @ series.affine
    for role, array in (("imagesTr", series.array), ("labelsTr", label)):
        path = out / role / f"{case_id}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), path)


def find(folder: Path) -> tuple[list[Path], Path]:
    """The files of a CT series below a folder, and its one annotation.

    Of several series the one that the annotation refers to is taken.

    Raises:
        UserError: none, or several of either between which nothing decides.
    """
    pydicom = _pydicom()
    series: dict[str, list[Path]] = {}
    annotations = []
    others: set[str] = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SeriesInstanceUID"])
        except pydicom.errors.InvalidDicomError:
            continue  # notes, checksums, DICOMDIR of other tools
        except OSError as error:
            raise UserError(f"{path}: not readable ({error.strerror or error})") from error
        kind = str(header.get("SOPClassUID", ""))
        if kind == CT_STORAGE:
            series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(path)
        elif kind == ENHANCED_CT_STORAGE:
            raise UserError(f"{path}: an enhanced (multi-frame) CT; convert it to a series of slices first")
        elif kind in (RTSTRUCT_STORAGE, SEG_STORAGE):
            annotations.append(path)
        elif kind:
            others.add(pydicom.uid.UID(kind).name)
    also = f"; there is also: {', '.join(sorted(others))}" if others else ""
    if len(annotations) != 1:
        raise UserError(f"{folder}: one RTSTRUCT or SEG is needed, {len(annotations)} were found{also}")
    if len(series) > 1:
        with _reading(annotations[0]):
            referred = _referred_series(pydicom.dcmread(annotations[0]))
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


def read_series(paths: Sequence[Path], folder: Path) -> Series:
    """The slices of one series as a volume, in HU.

    Raises:
        UserError: unreadable, or the slices do not make an even grid.
    """
    import SimpleITK

    with _reading(folder):
        ordered, step, frame = _in_order(paths, folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in ordered])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{folder}: not readable as a CT series ({lines[-1]})") from error
    array = SimpleITK.GetArrayFromImage(image).T  # ITK's arrays are (slice, row, column)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 2] = step  # ITK rounds and, for a single slice, guesses
    affine[:3, 3] = image.GetOrigin()
    whole = array.dtype.kind in "iu" and array.min() >= -(2**15) and array.max() < 2**15
    return Series(array.astype(np.int16 if whole else np.float32), affine, frame)


def _in_order(paths: Sequence[Path], folder: Path) -> tuple[list[Path], NDArray[np.float64], str]:
    """The slices along their normal, the step from one to the next in mm, and their frame of reference."""
    pydicom = _pydicom()
    tags = ["ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "FrameOfReferenceUID"]
    headers = [pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags) for path in paths]
    if any(tag not in header for header in headers for tag in tags[:2]):
        raise UserError(f"{folder}: slices without position or orientation")
    directions = np.array([header.ImageOrientationPatient for header in headers], float)
    if np.abs(directions - directions[0]).max() > 1e-3:
        raise UserError(f"{folder}: slices of different orientations in one series; is there a scout among them?")
    frame = str(headers[0].get("FrameOfReferenceUID", ""))
    normal = np.cross(directions[0, :3], directions[0, 3:])
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    order = np.argsort(positions @ normal)
    positions = positions[order]
    if len(paths) == 1:
        return list(paths), normal * float(headers[0].get("SliceThickness") or 1.0), frame
    steps = np.diff(positions, axis=0)
    distances = steps @ normal
    usual = float(np.median(distances))
    if distances.min() < UNEVEN * max(usual, 1e-6):
        raise UserError(f"{folder}: two slices at the same place; are several reconstructions in one series?")
    if np.abs(distances - usual).max() > max(UNEVEN * usual, 0.02):
        where = int(np.abs(distances - usual).argmax()) + 1
        raise UserError(
            f"{folder}: slices are not evenly spaced ({distances.min():g} to {distances.max():g} mm; "
            f"after slice {where}); are some missing?"
        )
    step = (positions[-1] - positions[0]) / (len(paths) - 1)
    if np.linalg.norm(step - normal * (step @ normal)) > UNEVEN * usual:
        raise UserError(f"{folder}: the slices are sheared (gantry tilt); resample the series first")
    return [paths[index] for index in order], step, frame


def read_annotation(path: Path, name: str, series: Series) -> BoolArray:
    """The mask of one ROI (RTSTRUCT) or segment (SEG), on the grid of the series.

    Raises:
        UserError: unreadable, no such name, or it does not fit the series.
    """
    with _reading(path):
        return _annotation_mask(path, name, series)


def _annotation_mask(path: Path, name: str, series: Series) -> BoolArray:
    content = _pydicom().dcmread(path)
    structures = content.get("StructureSetROISequence", [content])
    frames = {str(one.get("ReferencedFrameOfReferenceUID", one.get("FrameOfReferenceUID", ""))) for one in structures}
    if series.frame and frames - {"", series.frame}:
        raise UserError(f"{path}: drawn on another scan (its frame of reference is not that of the series)")
    if str(content.SOPClassUID) == RTSTRUCT_STORAGE:
        return _rtstruct_mask(content, path, name, series)
    return _seg_mask(content, path, name, series)


def _number_of(name: str, numbers: Mapping[str, int], path: Path) -> int:
    matching = [known for known in numbers if known.strip().lower() == name.strip().lower()]
    if len(matching) != 1:
        raise UserError(f"{path}: no structure '{name}'; {nearest_name(name, numbers)}")
    return numbers[matching[0]]


def _rtstruct_mask(content: Any, path: Path, name: str, series: Series) -> BoolArray:
    """Contours filled slice by slice; where contours of one slice overlap, even-odd, so that holes stay holes."""
    number = _number_of(name, {str(roi.ROIName): int(roi.ROINumber) for roi in content.StructureSetROISequence}, path)
    mask = np.zeros(series.shape, np.bool_)
    to_voxels = np.linalg.inv(series.affine)
    for roi in content.get("ROIContourSequence", []):
        if int(roi.ReferencedROINumber) != number:
            continue
        for contour in roi.get("ContourSequence", []):
            if str(contour.ContourGeometricType) not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                continue  # points and open lines enclose nothing
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
            height = float(voxels[:, 2].mean())
            plane = round(height)
            if np.abs(voxels[:, 2] - plane).max() > OFF_PLANE:
                raise UserError(f"{path}: a contour of '{name}' does not lie in a slice of the series")
            if not 0 <= plane < series.shape[2]:
                raise UserError(f"{path}: a contour of '{name}' lies outside of the series")
            mask[:, :, plane] ^= fill_polygon(voxels[:, :2], series.shape[:2])
    return mask


def fill_polygon(corners: NDArray[np.float64], shape: tuple[int, int]) -> BoolArray:
    """The pixels whose centres lie inside a polygon, by the even-odd rule; pixel centres are whole numbers.

    Args:
        corners: (N, 2), the last is joined to the first.
    """
    mask = np.zeros(shape, np.bool_)
    starts, ends = corners, np.roll(corners, -1, axis=0)
    columns = np.arange(shape[0])
    low = max(0, int(np.ceil(corners[:, 1].min())))
    high = min(shape[1] - 1, int(np.floor(corners[:, 1].max())))
    for row in range(low, high + 1):
        crossing = (starts[:, 1] <= row) != (ends[:, 1] <= row)  # half-open: a corner counts once
        (x0, y0), (x1, y1) = starts[crossing].T, ends[crossing].T
        at = np.sort(x0 + (row - y0) * (x1 - x0) / (y1 - y0))
        mask[:, row] = np.searchsorted(at, columns, side="right") % 2 == 1
    return mask


def _seg_mask(content: Any, path: Path, name: str, series: Series) -> BoolArray:
    """Frames of a segmentation image, each put on the slice where it lies."""
    number = _number_of(name, {str(one.SegmentLabel): int(one.SegmentNumber) for one in content.SegmentSequence}, path)
    mask = np.zeros(series.shape, np.bool_)
    to_voxels = np.linalg.inv(series.affine)
    for frame, pixels in _frames(content, number):
        corner = _frame_affine(content, frame, path)
        voxel = to_voxels @ corner
        drift = (voxel[:3, :2] - np.eye(3)[:, :2]) @ np.diag(pixels.shape)
        if np.abs(drift).max() > OFF_GRID:
            raise UserError(f"{path}: its pixels are not those of the series (size or orientation differ)")
        place = np.rint(voxel[:3, 3])
        if np.abs(voxel[:3, 3] - place).max() > OFF_GRID:
            raise UserError(f"{path}: its pixels lie between those of the series")
        column, row, plane = (int(value) for value in place)
        fits = 0 <= plane < mask.shape[2] and min(column, row) >= 0
        if not fits or column + pixels.shape[0] > mask.shape[0] or row + pixels.shape[1] > mask.shape[1]:
            raise UserError(f"{path}: a frame of '{name}' lies outside of the series")
        mask[column : column + pixels.shape[0], row : row + pixels.shape[1], plane] |= pixels
    return mask


def _frames(content: Any, segment: int) -> Iterator[tuple[Any, BoolArray]]:
    """Functional groups and pixels (column, row) of every frame of a segment; fractions count from a half up."""
    pixels = content.pixel_array.reshape(-1, int(content.Rows), int(content.Columns))
    fractional = str(content.get("SegmentationType", "BINARY")) == "FRACTIONAL"
    half = 0.5 * float(content.get("MaximumFractionalValue", 1)) if fractional else 0.5
    for frame, values in zip(content.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        if int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber) == segment:
            inside = np.asarray(values > half)
            yield frame, inside.T


def _frame_affine(content: Any, frame: Any, path: Path) -> NDArray[np.float64]:
    """(column, row, 0) of a frame → DICOM's world."""
    shared = content.SharedFunctionalGroupsSequence[0]

    def group(name: str) -> Any:
        for place in (frame, shared):
            if name in place:
                return place[name].value[0]
        raise UserError(f"{path}: a frame without {name}")

    direction = np.array(group("PlaneOrientationSequence").ImageOrientationPatient, float)
    row_spacing, column_spacing = (float(value) for value in group("PixelMeasuresSequence").PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = direction[:3] * column_spacing
    affine[:3, 1] = direction[3:] * row_spacing
    affine[:3, 3] = np.array(group("PlanePositionSequence").ImagePositionPatient, float)
    return affine


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Files that lack what the standard requires, or end early, fail in as many ways as there are attributes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: incomplete or damaged DICOM ({one_line(error)})") from error


def _pydicom() -> ModuleType:
    try:
        import pydicom
        import pydicom.errors
        import pydicom.uid
    except ImportError as error:
        raise UserError("reading DICOM needs pydicom; install it with `pip install 'tags-bench[dicom]'`") from error
    return pydicom
