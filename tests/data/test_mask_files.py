"""Masks as files of every kind, read back by programs of others: every voxel where it was in the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon

from benchmarks.common.errors import UserError
from benchmarks.data.mask_files import MaskOrigin, save_mask
from benchmarks.data.scan import Scan, read_scan
from benchmarks.data.volume import read_volume

ORIGIN = MaskOrigin("kidney tumor", "some-method", "3")
LPS = np.array([-1.0, -1.0, 1.0])


def oblique(flips: tuple[int, int, int], order: tuple[int, int, int]) -> np.ndarray:
    """An affine of a scan that lies at 20 degrees, its axes turned round and exchanged."""
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (turn * flips * (0.8, 1.1, 2.5))[:, order]
    affine[:3, 3] = (-40.0, 12.5, 300.0)
    return affine


def blob(shape: tuple[int, int, int]) -> np.ndarray:
    """Of no symmetry, with a hole and two parts that touch at a corner only."""
    mask = np.zeros(shape, bool)
    mask[3:9, 4:9, 2:5] = True
    mask[5, 6, 3] = False
    mask[9:11, 9:12, 3] = True
    mask[1, 1, 0] = True
    return mask


def places(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The world points (RAS+) of the voxels of a mask, in a fixed order."""
    points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    return points[np.lexsort(np.round(points, 2).T)]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".NRRD"])
@pytest.mark.parametrize(
    ("flips", "order"), [((1, 1, 1), (0, 1, 2)), ((-1, 1, -1), (0, 1, 2)), ((1, -1, 1), (2, 0, 1))]
)
def test_the_mask_lies_where_the_voxels_lie(tmp_path, suffix, flips, order):
    """SimpleITK finds the same points and the grid of the scan. Mutant: written in RAS+, or RAS taken for LPS."""
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((12, 14, 9), np.int16) - 500, oblique(flips, order)), path)
    scan = read_scan(path)
    mask = blob(scan.volume.shape)
    save_mask(mask, scan, tmp_path / f"mask{suffix}", ORIGIN)
    copy = tmp_path / f"copy{suffix.lower()}"  # ITK goes by the suffix
    copy.write_bytes((tmp_path / f"mask{suffix}").read_bytes())
    image, original = sitk.ReadImage(str(copy)), sitk.ReadImage(str(path))
    assert image.GetSize() == original.GetSize()
    for found, expected in (
        (image.GetSpacing(), original.GetSpacing()),
        (image.GetOrigin(), original.GetOrigin()),
        (image.GetDirection(), original.GetDirection()),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    found = sitk.GetArrayFromImage(image).T
    points = [np.array(image.TransformIndexToPhysicalPoint(i.tolist())) * LPS for i in np.argwhere(found)]
    points = np.array(points)[np.lexsort(np.round(np.array(points), 2).T)]
    np.testing.assert_allclose(points, places(mask, scan.volume.affine), atol=1e-3)
    again = read_volume(tmp_path / f"mask{suffix}")
    np.testing.assert_array_equal(again.array > 0, mask)


pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from benchmarks.data.dicom import convert, files, look, only_scan, read_series  # noqa: E402
from tests.dicom_files import STRAIGHT, rotation, write_series  # noqa: E402
from tests.dicom_files import scan as hounsfield_units  # noqa: E402


def dicom_scan(folder: Path, degrees: float, **values: Any) -> Scan:
    name = {"PatientName": "Müller^Änne", "SpecificCharacterSet": "ISO_IR 100"}
    write_series(folder, hounsfield_units(), rotation(degrees), **name, **values)
    return read_scan(folder)


@pytest.mark.parametrize("degrees", [0, 17])
def test_a_dicom_scan_is_the_volume_that_was_put_in(tmp_path, degrees):
    """Against SimpleITK's own reading, in the world. Mutant: the world of DICOM taken for that of NIfTI."""
    scan = dicom_scan(tmp_path, degrees)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    volume = scan.volume
    for voxel in np.random.default_rng(0).integers(0, volume.shape, (40, 3)):
        point = (volume.affine @ [*voxel, 1])[:3] * LPS
        index = image.TransformPhysicalPointToIndex(point.tolist())
        assert volume.array[tuple(voxel)] == image[index]
    assert scan.modality == "CT"
    assert volume.array.flags["OWNDATA"]  # nobody changes the series by it


@pytest.mark.parametrize("degrees", [0, 17])
def test_a_segmentation_as_highdicom_reads_it(tmp_path, degrees):
    """Mutant: rows and columns exchanged, slices from the other end, the patient left out."""
    scan = dicom_scan(tmp_path / "ct", degrees)
    mask = blob(scan.volume.shape)
    path = tmp_path / "out" / "mask.dcm"
    save_mask(mask, scan, path, ORIGIN)
    found = highdicom.seg.segread(path)
    volume = found.get_volume(combine_segments=True)
    affine = np.array(volume.affine)[:, [2, 1, 0, 3]]  # its axes are (slice, row, column)
    ras = np.diag([*LPS, 1.0]) @ affine
    np.testing.assert_allclose(places(volume.array.T > 0, ras), places(mask, scan.volume.affine), atol=1e-3)
    (segment,) = found.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("kidney tumor", "SEMIAUTOMATIC")
    assert segment.SegmentAlgorithmName == "some-method"
    source = pydicom.dcmread(sorted((tmp_path / "ct").iterdir())[0])
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[name].value == source[name].value
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID


def filled_by_matplotlib(path: Path, series: Any) -> np.ndarray:
    """An RTSTRUCT read with pydicom and filled by matplotlib, contour by contour, even-odd."""
    mask = np.zeros(series.shape, bool)
    inverse = np.linalg.inv(series.affine)
    pixels = np.argwhere(np.ones(series.shape[:2], bool))
    for contour in pydicom.dcmread(path).ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3]
        plane = round(points[:, 2].mean())
        assert np.abs(points[:, 2] - plane).max() < 1e-3
        mask[:, :, plane] ^= Polygon(points[:, :2]).contains_points(pixels).reshape(series.shape[:2])
    return mask


@pytest.mark.parametrize("degrees", [0, 17])
def test_an_rtstruct_gives_the_mask_back(tmp_path, degrees):
    """Filled by another program. Mutant: contours through the pixel centres, holes lost, half a pixel of shift."""
    scan = dicom_scan(tmp_path / "a" / "ct", degrees)
    series = read_series(only_scan(look(tmp_path / "a")), tmp_path)
    mask = blob(scan.volume.shape)
    path = tmp_path / "a" / "mask.rtstruct.dcm"
    save_mask(mask, scan, path, ORIGIN)
    filled = filled_by_matplotlib(path, series)
    ras = np.diag([*LPS, 1.0]) @ series.affine
    np.testing.assert_allclose(places(filled, ras), places(mask, scan.volume.affine), atol=1e-3)
    assert convert(tmp_path, tmp_path / "back", {"kidney tumor": 1}).failed == {}
    label = read_volume(tmp_path / "back" / "labelsTr" / "a.nii.gz")
    np.testing.assert_array_equal(label.array > 0, mask)
    content = pydicom.dcmread(path)
    uids = {str(pydicom.dcmread(file).SOPInstanceUID) for file in (tmp_path / "a" / "ct").iterdir()}
    for contour in content.ROIContourSequence[0].ContourSequence:
        assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID in uids
        assert len(contour.ContourData) == 3 * contour.NumberOfContourPoints
    assert content.StructureSetROISequence[0].ROIGenerationAlgorithm == "SEMIAUTOMATIC"


def test_a_segmentation_goes_through_our_own_reader(tmp_path):
    scan = dicom_scan(tmp_path / "a" / "ct", 17)
    mask = blob(scan.volume.shape)
    save_mask(mask, scan, tmp_path / "a" / "mask.dcm", ORIGIN)
    assert convert(tmp_path, tmp_path / "back", {"kidney tumor": 1}).failed == {}
    np.testing.assert_array_equal(read_volume(tmp_path / "back" / "labelsTr" / "a.nii.gz").array > 0, mask)


def test_masks_of_an_mr_are_masks_of_an_mr(tmp_path):
    scan = dicom_scan(tmp_path / "mr", 0, kind=files.MR_STORAGE, Modality="MR")
    assert scan.modality == "MR"
    for name in ("mask.dcm", "mask.rtstruct.dcm"):
        save_mask(blob(scan.volume.shape), scan, tmp_path / name, ORIGIN)
        written = pydicom.dcmread(tmp_path / name)
        assert written.StudyInstanceUID == "1.2.3.4"
        assert str(written.PatientName) == "Müller^Änne"


def test_what_cannot_be_written_is_one_line(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((12, 14, 9), np.int16), np.eye(4)), tmp_path / "scan.nii")
    plain, dicom = read_scan(tmp_path / "scan.nii"), dicom_scan(tmp_path / "ct", 0)
    mask = blob((12, 14, 9))
    empty = np.zeros(dicom.volume.shape, bool)
    for scan, drawn, name, message in (
        (plain, mask, "mask.png", r"the mask is a file ending in \.nii"),
        (plain, mask, "mask.dcm", "refer to a DICOM scan, and the scan is none"),
        (plain, mask, "mask.rtstruct.dcm", "refer to a DICOM scan"),
        (dicom, empty, "mask.rtstruct.dcm", "the mask is empty"),
        (plain, mask, "scan.nii/mask.nrrd", "cannot be written"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            save_mask(drawn, scan, tmp_path / name, ORIGIN)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / name).exists()
    save_mask(empty, dicom, tmp_path / "empty.dcm", ORIGIN)  # a SEG can say that there is nothing
    assert not pydicom.dcmread(tmp_path / "empty.dcm").pixel_array.any()


@pytest.mark.parametrize("modality", [None, "mr", "MR", "CT"])
def test_a_file_is_what_it_is_said_to_be(tmp_path, modality):
    values = np.random.default_rng(0).gamma(3, 50, (10, 10, 8)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii", modality)
    assert scan.modality == (modality or "CT").upper()
    assert any("nothing is darker" in note for note in scan.notes) == (modality is None)
    if scan.modality == "CT":
        np.testing.assert_array_equal(scan.volume.array, values)
    else:
        np.testing.assert_allclose(np.percentile(scan.volume.array, (0.5, 99.5)), (-160, 240), atol=0.1)


def test_scans_that_cannot_be_read_are_one_line(tmp_path):
    write_series(tmp_path / "ct", hounsfield_units(), STRAIGHT)
    write_series(tmp_path / "both", hounsfield_units(), STRAIGHT)
    write_series(tmp_path / "both" / "mr", hounsfield_units(), STRAIGHT, kind=files.MR_STORAGE, SeriesInstanceUID="1.9")
    (tmp_path / "notes.txt").write_text("no scan")
    (tmp_path / "empty").mkdir()
    one = sorted((tmp_path / "ct").iterdir())[0]
    for path, modality, message in (
        (tmp_path / "nowhere", None, "no such file or folder"),
        (tmp_path / "notes.txt", None, "neither NIfTI, NRRD, MHA nor DICOM"),
        (tmp_path / "empty", None, "0 were found"),
        (one, None, "one DICOM file is no scan; name its folder"),
        (tmp_path / "both", None, "2 were found .*; choose with --modality"),
        (tmp_path / "ct", "PET", "one PET scan is needed, 0 were found; there are CT"),
        (tmp_path / "ct", "SUV", "one PET scan is needed"),
        (tmp_path / "ct", "XR", "unknown modality 'XR'"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            read_scan(path, modality)
        assert "\n" not in str(caught.value)
    assert read_scan(tmp_path / "both", "MR").modality == "MR"
