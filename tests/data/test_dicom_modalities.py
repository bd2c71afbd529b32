"""MR, PET and multi-frame scans, and folders with several scans and annotations: the right numbers, and no guess."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from pydicom.dataset import Dataset as Record  # noqa: E402
from pydicom.pixels import apply_rescale  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

from benchmarks.common.errors import UserError  # noqa: E402
from benchmarks.data.catalogue import load_folder  # noqa: E402
from benchmarks.data.dicom import Choice, choose, convert, files, look, only_scan, read_annotation, read_series  # noqa: E402
from benchmarks.data.dicom.suv import suv_factor  # noqa: E402
from benchmarks.data.mask_files import MaskOrigin, save_mask  # noqa: E402
from benchmarks.data.scan import read_scan  # noqa: E402
from benchmarks.data.volume import read_volume  # noqa: E402
from tests.dicom_files import (  # noqa: E402
    FRAME,
    SHAPE,
    STRAIGHT,
    box_contours,
    box_mask,
    outline,
    record,
    rotation,
    scan,
    to_world,
    write_rtstruct,
    write_seg,
    write_series,
)

SLOPES = [1.0, *np.linspace(0.137, 2.9, SHAPE[2] - 1)]
DOSE, HALF_LIFE, KILOGRAMS = 370e6, 6586.2, 70.0


def pet_headers(**changes: object) -> dict[str, Any]:
    """What a PET of 70 kg and 370 MBq of fluorine-18 says, one hour after the injection."""
    source = Record()
    source.RadionuclideTotalDose, source.RadionuclideHalfLife = DOSE, HALF_LIFE
    source.RadiopharmaceuticalStartTime = "090000"
    values: dict[str, Any] = {
        "Modality": "PT", "Units": "BQML", "CorrectedImage": ["NORM", "ATTN", "DECY"], "DecayCorrection": "START",
        "PatientWeight": KILOGRAMS, "SeriesDate": "20260102", "SeriesTime": "100000.25",
        "AcquisitionDate": "20260102", "AcquisitionTime": "100500",
        "RadiopharmaceuticalInformationSequence": Sequence([source]),
    }  # fmt: skip
    return values | changes


def stored() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 30_000, SHAPE)


def series_of(folder: Path) -> Any:
    return read_series(only_scan(look(folder)), folder)


@pytest.mark.parametrize(("kind", "modality"), [(files.MR_STORAGE, "MR"), (files.PET_STORAGE, "PET")])
def test_every_slice_has_its_own_slope(tmp_path, kind, modality):
    """Against pydicom. Read with the type of the first slice, whose slope is 1, the others would be cut to integers."""
    write_series(tmp_path, stored(), rotation(11), kind=kind, slopes=SLOPES, Modality="OT", SeriesInstanceUID="1.2.9")
    found = series_of(tmp_path)
    slices = sorted((pydicom.dcmread(path) for path in tmp_path.iterdir()), key=lambda one: one.InstanceNumber)
    normal = rotation(11)[:, 2]
    slices.sort(key=lambda one: float(np.dot(one.ImagePositionPatient, normal)))
    expected = np.stack([apply_rescale(one.pixel_array, one) for one in slices], axis=-1).transpose(1, 0, 2)
    np.testing.assert_allclose(found.array, expected, rtol=1e-6)
    assert found.modality == modality
    assert np.abs(found.array - np.rint(found.array)).max() > 0.1


def test_suv_by_hand(tmp_path):
    """70 kg, 370 MBq, an hour of decay: the closed form. Without the decay it would be 1.46 times too small."""
    write_series(tmp_path, stored(), kind=files.PET_STORAGE, slopes=SLOPES, **pet_headers())
    found = series_of(tmp_path)
    assert (found.modality, found.note) == ("SUV", "")
    left = DOSE * 2 ** (-3600 / HALF_LIFE)
    np.testing.assert_allclose(found.array, stored() * np.array(SLOPES) * KILOGRAMS * 1000 / left, rtol=1e-5)


def suv_of(**changes: Any) -> tuple[float | None, str]:
    header = Record()
    for name, value in pet_headers(**changes).items():
        if value is not None:
            setattr(header, name, value)
    return suv_factor([header])


def source_with(**changes: Any) -> Any:
    source = pet_headers()["RadiopharmaceuticalInformationSequence"][0]
    for name, value in changes.items():
        setattr(source, name, value) if value is not None else delattr(source, name)
    return Sequence([source])


GRAMS = KILOGRAMS * 1000


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"DecayCorrection": "ADMIN"}, GRAMS / DOSE),
        ({"Units": "GML"}, 1.0),
        # reconstructed later: the series' time is then no time of the scan, and the first acquisition counts
        ({"SeriesTime": "180000"}, GRAMS / (DOSE * 2 ** (-3900 / HALF_LIFE))),
        (
            {
                "RadiopharmaceuticalInformationSequence": source_with(
                    RadiopharmaceuticalStartDateTime="20260101233000", RadiopharmaceuticalStartTime=None
                ),
                "SeriesTime": "003000",
            },
            GRAMS / (DOSE * 2 ** (-3600 / HALF_LIFE)),
        ),
    ],
)
def test_other_ways_to_suv(changes, factor):
    found, why = suv_of(**changes)
    assert why == ""
    assert found == pytest.approx(factor, rel=1e-9)


def test_counts_with_the_factor_of_the_maker():
    header = Record()
    header.Units = "CNTS"
    header.add_new(0x70531000, "DS", "0.00042")
    assert suv_factor([header]) == (0.00042, "")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"Units": None}, "units that the header does not say"),
        ({"Units": "CNTS"}, "counts"),
        ({"Units": "GML", "SUVType": "LBM"}, "SUV by LBM"),
        ({"CorrectedImage": ["DECY"]}, "not corrected for attenuation"),
        ({"CorrectedImage": "ATTN"}, "not corrected for decay"),
        ({"PatientWeight": None}, "weight is not given"),
        ({"PatientWeight": 0}, "weight is not given"),
        ({"RadiopharmaceuticalInformationSequence": None}, "not described"),
        ({"RadiopharmaceuticalInformationSequence": source_with(RadionuclideTotalDose=None)}, "dose or half-life"),
        ({"DecayCorrection": "NONE"}, "corrected to 'NONE'"),
        ({"SeriesTime": None, "AcquisitionTime": None}, "time of the injection or of the scan"),
        ({"SeriesTime": "080000"}, "begins -3600 s after"),
    ],
)
def test_why_a_pet_is_not_in_suv(changes, why):
    """Mutant, in each line: the check left out, and a number that is no SUV given out as one."""
    found, said = suv_of(**changes)
    assert found is None
    assert why in said


def test_a_pet_that_is_not_in_suv_says_so(tmp_path):
    """Mutant: values in Bq/ml that are called SUV, or the reason lost on the way."""
    write_series(
        tmp_path / "in" / "a", stored(), kind=files.PET_STORAGE, slopes=SLOPES, **pet_headers(PatientWeight=None)
    )
    write_rtstruct(tmp_path / "in" / "a" / "rs.dcm", {"GTV": box_contours()}, STRAIGHT)
    done = convert(tmp_path / "in", tmp_path / "out", {"GTV": 1})
    assert (done.modality, done.failed) == ("PET", {})
    assert "weight" in done.notes["a"]
    assert load_folder(tmp_path / "out").modality == "PET"
    image = nib.load(tmp_path / "out" / "imagesTr" / "a.nii.gz")
    assert image.get_fdata().max() == pytest.approx((stored() * np.array(SLOPES)).max(), rel=1e-5)


ENHANCED = {
    files.CT_STORAGE: ("LegacyConvertedEnhancedCTImage", "CT"),
    files.MR_STORAGE: ("LegacyConvertedEnhancedMRImage", "MR"),
    files.PET_STORAGE: ("LegacyConvertedEnhancedPETImage", "PET"),
}


@pytest.mark.parametrize("kind", ENHANCED)
def test_one_object_with_all_slices_is_the_same_scan(tmp_path, kind):
    """What highdicom makes of a series, the same voxels. Mutant: its order of axes or slices taken over."""
    slopes = () if kind == files.CT_STORAGE else SLOPES
    extra = pet_headers(PatientWeight=None) if kind == files.PET_STORAGE else {"Modality": ENHANCED[kind][1]}
    values = scan() if kind == files.CT_STORAGE else stored()
    write_series(tmp_path / "slices", values, rotation(17), kind=kind, slopes=slopes, **extra)
    expected = series_of(tmp_path / "slices")
    sources = [pydicom.dcmread(path) for path in sorted((tmp_path / "slices").iterdir())]
    maker = getattr(highdicom.legacy, ENHANCED[kind][0])
    whole = maker(sources, highdicom.UID(), 7, highdicom.UID(), 1)
    (tmp_path / "one").mkdir()
    whole.save_as(tmp_path / "one" / "all.dcm")
    found = series_of(tmp_path / "one")
    assert found.modality == expected.modality == ENHANCED[kind][1]
    assert found.frame == FRAME
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    np.testing.assert_allclose(found.array, expected.array, rtol=1e-6)


def enhanced_ct(path: Path, hu: np.ndarray, places: list[int]) -> None:
    """An enhanced CT as a scanner writes it, with shared and per-frame groups; frames lie at the given slices."""
    content = record(
        path, files.ENHANCED_CT_STORAGE, SeriesInstanceUID="1.2.3.5", Modality="CT", FrameOfReferenceUID=FRAME,
        PatientBirthDate="", PatientSex="", StudyDate="", StudyTime="", StudyID="", AccessionNumber="",
        ReferringPhysicianName="", SeriesNumber=1, InstanceNumber=1,
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
    )  # fmt: skip
    shared, orientation, measures, values = Record(), Record(), Record(), Record()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SliceThickness = [1.1, 0.9], 2.5
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, -1024, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([values])
    content.SharedFunctionalGroupsSequence = Sequence([shared])
    content.PerFrameFunctionalGroupsSequence = Sequence()
    for place in places:
        frame, position = Record(), Record()
        position.ImagePositionPatient = to_world(STRAIGHT, [0, 0, place]).tolist()
        frame.PlanePositionSequence = Sequence([position])
        content.PerFrameFunctionalGroupsSequence.append(frame)
    content.NumberOfFrames, content.Rows, content.Columns = len(places), hu.shape[1], hu.shape[0]
    content.SamplesPerPixel, content.PhotometricInterpretation, content.PixelRepresentation = 1, "MONOCHROME2", 0
    content.BitsAllocated = content.BitsStored = 16
    content.HighBit = 15
    frames = np.stack([hu[:, :, place].T for place in places])
    content.PixelData = (frames.astype(np.int32) + 1024).astype(np.uint16).tobytes()
    content.save_as(path, enforce_file_format=True)


def test_an_enhanced_ct_with_its_frames_in_no_order(tmp_path):
    """Each frame where its position says. Mutant: frames in the order of the file, or slices from the head down."""
    order = np.random.default_rng(2).permutation(SHAPE[2]).tolist()
    (tmp_path / "in" / "a").mkdir(parents=True)
    enhanced_ct(tmp_path / "in" / "a" / "ct.dcm", scan(), order)
    write_seg(tmp_path / "in" / "a" / "seg.dcm", {"GTV": box_mask()}, STRAIGHT)
    assert convert(tmp_path / "in", tmp_path / "out", {"GTV": 1}).failed == {}
    image, label = (nib.load(tmp_path / "out" / part / "a.nii.gz") for part in ("imagesTr", "labelsTr"))
    np.testing.assert_array_equal(np.asarray(image.dataobj), scan())
    np.testing.assert_array_equal(np.asarray(label.dataobj) == 1, box_mask())
    assert image.header.get_zooms() == pytest.approx((0.9, 1.1, 2.5))


@pytest.mark.parametrize("name", ["mask.dcm", "mask.rtstruct.dcm"])
def test_masks_of_an_enhanced_ct(tmp_path, name):
    """One image, to whose frames the mask refers; read back by our own reader, each slice in its place."""
    order = np.random.default_rng(2).permutation(SHAPE[2]).tolist()
    (tmp_path / "in" / "a").mkdir(parents=True)
    enhanced_ct(tmp_path / "in" / "a" / "ct.dcm", scan(), order)
    found = read_scan(tmp_path / "in" / "a" / "ct.dcm")
    drawn = np.zeros(found.volume.shape, bool)
    drawn[4:9, 5:12, 3:7], drawn[6, 7, 4] = True, False
    save_mask(drawn, found, tmp_path / "in" / "a" / name, MaskOrigin("GTV", "m"))
    assert convert(tmp_path / "in", tmp_path / "out", {"GTV": 1}).failed == {}
    np.testing.assert_array_equal(read_volume(tmp_path / "out" / "labelsTr" / "a.nii.gz").array == 1, drawn)


@pytest.mark.parametrize("places", [[0, 1, 2, 4, 5], [0, 1, 1, 2, 3]])
def test_frames_that_are_no_grid(tmp_path, places):
    """A frame missing, a frame twice. Mutant: highdicom asked to fill gaps, or its error let through raw."""
    enhanced_ct(tmp_path / "ct.dcm", scan(), places)
    with pytest.raises(UserError, match=r"ct\.dcm: its frames do not make one even grid") as caught:
        series_of(tmp_path)
    assert "\n" not in str(caught.value)


def referring(path: Path, series: str) -> None:
    """An RTSTRUCT that names the series it was drawn on."""
    content, referred, study, frame = pydicom.dcmread(path), Record(), Record(), Record()
    referred.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = Sequence([referred])
    frame.RTReferencedStudySequence = Sequence([study])
    content.ReferencedFrameOfReferenceSequence = Sequence([frame])
    content.save_as(path)


def patient(folder: Path) -> Path:
    """CT, PET and MR of one patient: CT and PET share a frame, MR has its own; each with its drawing of the mass."""
    write_series(folder / "ct", scan(), SeriesInstanceUID="1.2.1", SeriesDescription="CT abdomen")
    write_series(
        folder / "pet", stored()[::2, ::2], kind=files.PET_STORAGE, slopes=SLOPES,
        **pet_headers(SeriesInstanceUID="1.2.2", SeriesDescription="PET WB"),
    )  # fmt: skip
    write_series(
        folder / "mr", stored(), kind=files.MR_STORAGE, SeriesInstanceUID="1.2.3", Modality="MR",
        FrameOfReferenceUID="1.7.7", SeriesDescription="T1",
    )  # fmt: skip
    small = [outline((3.5, 3.5), (9.5, 9.5), plane) for plane in range(2, 6)]
    write_rtstruct(folder / "rs-ct.dcm", {"GTV_CT": box_contours(), "GTV": box_contours()}, STRAIGHT)
    write_rtstruct(folder / "rs-pet.dcm", {"GTV_PET": small, "GTV": small}, STRAIGHT)
    write_rtstruct(folder / "rs-mr.dcm", {"GTV_MR": box_contours(), "GTV": small}, STRAIGHT, frame="1.7.7")
    referring(folder / "rs-ct.dcm", "1.2.1")
    referring(folder / "rs-pet.dcm", "1.2.2")
    return folder


@pytest.mark.parametrize(
    ("name", "modality", "file"), [("GTV_CT", "CT", "rs-ct"), ("GTV_PET", "PET", "rs-pet"), ("gtv_mr", "MR", "rs-mr")]
)
def test_a_name_chooses_the_annotation_and_that_the_scan(tmp_path, name, modality, file):
    """Mutant: the frame alone decides, which CT and PET share, or the first annotation is taken."""
    chosen, found = choose(look(patient(tmp_path)), [name])
    assert (chosen.modality, found[name].stem) == (modality, file)


def test_a_name_that_stands_everywhere_needs_a_choice(tmp_path):
    """Mutant: any of several that fit is taken, or drawings of two scans are put into one label map."""
    contents = look(patient(tmp_path))
    with pytest.raises(UserError, match=r"3 were found .*CT 'CT abdomen'.*; choose with --modality"):
        choose(contents, ["GTV"])
    for modality, file in (("CT", "rs-ct"), ("PET", "rs-pet"), ("MR", "rs-mr")):
        chosen, found = choose(contents, ["GTV"], Choice(modality))
        assert (chosen.modality, found["GTV"].stem) == (modality, file)
    with pytest.raises(UserError, match="no structure 'GTV_XR'; did you mean"):
        choose(contents, ["GTV_XR"])
    with pytest.raises(UserError, match="'GTV_MR' was drawn on another scan"):
        choose(contents, ["GTV_MR"], Choice("CT"))
    with pytest.raises(UserError, match="GTV_CT, GTV_MR were drawn on different scans"):
        choose(contents, ["GTV_CT", "GTV_MR"])


def test_each_name_from_its_own_file(tmp_path):
    """A SEG for the organ and one for the tumour, as archives have it. Mutant: two readers' drawings joined."""
    write_series(tmp_path / "a" / "ct", scan())
    liver = np.zeros(SHAPE, bool)
    liver[5:30, 5:25, 1:10] = True
    write_seg(tmp_path / "a" / "liver.dcm", {"Liver": liver}, STRAIGHT)
    write_rtstruct(tmp_path / "a" / "tumour.dcm", {"GTV": box_contours()}, STRAIGHT)
    assert convert(tmp_path, tmp_path / "out", {"Liver": 1, "GTV": 2}).failed == {}
    label = np.asarray(nib.load(tmp_path / "out" / "labelsTr" / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(label == 2, box_mask())
    np.testing.assert_array_equal(label == 1, liver & ~box_mask())
    write_rtstruct(tmp_path / "a" / "second.dcm", {"GTV": [outline((1, 1), (9, 9), 3)]}, STRAIGHT)
    content = pydicom.dcmread(tmp_path / "a" / "second.dcm")
    content.StructureSetLabel = "reader B"
    content.save_as(tmp_path / "a" / "second.dcm")
    with pytest.raises(UserError, match=r"'GTV' stands in second\.dcm \('reader B'\), tumour\.dcm"):
        choose(look(tmp_path / "a"), ["GTV"])
    for words, file in (("reader b", "second.dcm"), ("tumour", "tumour.dcm")):
        assert choose(look(tmp_path / "a"), ["GTV"], Choice(annotation=words))[1]["GTV"].name == file
    with pytest.raises(UserError, match=r"no annotation 'reader C'; there are: "):
        choose(look(tmp_path / "a"), ["GTV"], Choice(annotation="reader C"))


def test_rois_of_one_name_in_two_frames(tmp_path):
    """Only what was drawn in the frame of the scan counts. Mutant: the frame of the first ROI stands for all."""
    write_series(tmp_path, scan())
    path = tmp_path / "rs.dcm"
    write_rtstruct(path, [("GTV", box_contours()), ("GTV", [outline((1, 1), (30, 30), 2)])], STRAIGHT)
    content = pydicom.dcmread(path)
    content.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.8.8"
    content.save_as(path)
    np.testing.assert_array_equal(read_annotation(path, "GTV", series_of(tmp_path)).mask, box_mask())


def test_a_dataset_has_one_modality(tmp_path):
    """Mutant: the CT goes among the MR, or `dataset.json` says CT whatever was read."""
    for name, kind, modality in (
        ("a", files.MR_STORAGE, "MR"),
        ("b", files.CT_STORAGE, "CT"),
        ("c", files.MR_STORAGE, "MR"),
    ):
        write_series(tmp_path / "in" / name, scan(), kind=kind, Modality=modality)
        write_rtstruct(tmp_path / "in" / name / "rs.dcm", {"GTV": box_contours()}, STRAIGHT)
    done = convert(tmp_path / "in", tmp_path / "out", {"GTV": 1})
    assert (done.modality, list(done.failed)) == ("MR", ["b"])
    assert "CT, where the cases before are MR" in done.failed["b"]
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["modality"] == {"0": "MR"}
    dataset = load_folder(tmp_path / "out")
    assert [case.modality for case in dataset.cases.values()] == ["MR", "MR"]


@pytest.mark.parametrize("kind", ["LABELMAP", "BINARY"])
def test_what_highdicom_writes(tmp_path, kind):
    """An independent writer, two segments of one name, oblique. Mutant: a label map read as frames of segments."""
    write_series(tmp_path / "ct", scan(), rotation(17))
    sources = [pydicom.dcmread(path) for path in (tmp_path / "ct").iterdir()]
    label = np.zeros(SHAPE, np.uint8)
    label[2:30, 3:28, 1:11], label[box_mask()], label[25:29, 4:8, 2:5] = 1, 2, 3
    volume = highdicom.Volume(
        label.T.copy(), series_of(tmp_path / "ct").affine[:, [2, 1, 0, 3]], "PATIENT", frame_of_reference_uid=FRAME
    )
    describe: Callable[[int, str], Any] = lambda number, name: highdicom.seg.SegmentDescription(  # noqa: E731
        number, name, pydicom.sr.codedict.codes.SCT.MorphologicallyAbnormalStructure,
        pydicom.sr.codedict.codes.SCT.Neoplasm, "MANUAL",
    )  # fmt: skip
    segments = [describe(1, "Liver"), describe(2, "Lesion"), describe(3, "Lesion")]
    made = highdicom.seg.Segmentation(
        sources, volume, kind, segments, highdicom.UID(), 5, highdicom.UID(), 1, "m", "m", "1", "1",
    )  # fmt: skip
    made.save_as(tmp_path / "seg.dcm")
    chosen, found = choose(look(tmp_path), ["Lesion", "liver"])
    series = read_series(chosen, tmp_path)
    np.testing.assert_array_equal(read_annotation(found["Lesion"], "Lesion", series).mask, label >= 2)
    np.testing.assert_array_equal(read_annotation(found["liver"], "liver", series).mask, label == 1)
