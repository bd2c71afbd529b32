"""Synthetic DICOM, oblique and shuffled, becomes the volume and the mask that were put in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.path import Path as Polygon

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset as Record  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

from benchmarks.common.errors import UserError  # noqa: E402
from benchmarks.data.catalogue import load_folder  # noqa: E402
from benchmarks.data.dicom import choose, convert, labels_of, look, only_scan, read_annotation, read_series  # noqa: E402
from benchmarks.data.dicom.contours import fill_polygon, same_outline  # noqa: E402
from tests.dicom_files import (  # noqa: E402
    SHAPE,
    STRAIGHT,
    box_contours,
    box_mask,
    outline,
    rotation,
    scan,
    to_world,
    write_labelmap,
    write_rtstruct,
    write_seg,
    write_series,
)
from tests.plain_user import as_plain_user  # noqa: E402


@pytest.mark.parametrize("degrees", [0, 17])
@pytest.mark.parametrize("kind", ["rtstruct", "seg", "fractional seg"])
def test_what_was_put_in_comes_out(tmp_path, kind, degrees):
    turn, hu, mask = rotation(degrees), scan(), box_mask()
    for name in ("patient 1", "Müller", "c", "d"):
        folder = tmp_path / "dicom" / name
        write_series(folder / "CT", hu, turn)
        (folder / "notes.txt").write_text("no DICOM")
        if kind == "rtstruct":
            write_rtstruct(folder / "rs.dcm", {"Body": [outline((1, 1), (30, 30), 2)], "GTV-1": box_contours()}, turn)
        else:
            masks = {"Body": ~mask, "GTV-1": mask}
            write_seg(folder / "seg.dcm", masks, turn, fractional=kind.startswith("frac"))
    assert convert(tmp_path / "dicom", tmp_path / "out", {"gtv-1": 2}).failed == {}
    dataset = load_folder(tmp_path / "out")
    assert list(dataset.cases) == ["Müller", "c", "d", "patient_1"]
    volume, label = dataset.cases["Müller"].load()
    # Compared in the world: where a voxel of the DICOM lies is what counts, not how the axes run.
    voxels = np.argwhere(np.ones(SHAPE, bool))
    ras = to_world(turn, voxels) * (-1, -1, 1)
    inverse = np.linalg.inv(volume.affine)
    there = ras @ inverse[:3, :3].T + inverse[:3, 3]
    assert np.abs(there - np.rint(there)).max() < 1e-3
    place = tuple(np.rint(there).astype(int).T)
    np.testing.assert_array_equal(volume.array[place], hu[tuple(voxels.T)])
    np.testing.assert_array_equal(label[place] == 2, mask[tuple(voxels.T)])
    assert set(np.unique(label)) == {0, 2}


def test_polygons_against_another_implementation():
    random = np.random.default_rng(3)
    for _ in range(60):
        count = int(random.integers(3, 40))
        angle = np.sort(random.uniform(0, 2 * np.pi, count))
        radius = random.uniform(2, 14, count)
        corners = np.stack([15 + radius * np.cos(angle), 12 + radius * np.sin(angle)], axis=1)
        mask = fill_polygon(corners, (30, 25))
        pixels = np.argwhere(np.ones((30, 25), bool))
        expected = Polygon(corners).contains_points(pixels).reshape(30, 25)
        np.testing.assert_array_equal(mask, expected)


def test_a_disc_has_the_area_of_a_disc():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    corners = np.stack([100 + 60.3 * np.cos(angle), 90 + 60.3 * np.sin(angle)], axis=1)
    assert fill_polygon(corners, (200, 200)).sum() == pytest.approx(np.pi * 60.3**2, rel=2e-3)
    outside = corners - (140, 0)
    assert 0 < fill_polygon(outside, (200, 200)).sum() < 0.2 * np.pi * 60.3**2  # cut off at the edge


def one_case(folder: Path, **series: object) -> Path:
    write_series(folder / "a", scan(), **series)
    write_rtstruct(folder / "a" / "rs.dcm", {"GTV": box_contours()}, series.get("turn", STRAIGHT))
    return folder


@pytest.mark.parametrize(
    ("leave_out", "message"),
    [((4,), "not evenly spaced.*some missing"), ((0, 11), ""), (tuple(range(12)), "one CT, MR or PET")],
)
def test_missing_slices(tmp_path, leave_out, message):
    one_case(tmp_path / "in", leave_out=leave_out)
    if message:
        with pytest.raises(UserError, match=message):
            convert(tmp_path / "in", tmp_path / "out", {"GTV": 1})
        assert not (tmp_path / "out").exists()
    else:
        assert convert(tmp_path / "in", tmp_path / "out", {"GTV": 1}).failed == {}


def behind_links(store: Path, paths: list[Path]) -> None:
    """The files lie in another place by other names, as git-annex keeps them, and links in theirs lead there."""
    store.mkdir(exist_ok=True)
    for path in paths:
        moved = path.rename(store / f"MD5E-{path.name}")
        path.symlink_to(moved)


def test_files_behind_links_are_read_like_files(tmp_path):
    """All of them; then the slices of one end alone, without which the rest would be an even grid, too."""
    for name in ("files", "links", "end"):
        one_case(tmp_path / name)
    slices = sorted((tmp_path / "end" / "a").glob("IM*"), key=lambda one: pydicom.dcmread(one).ImagePositionPatient[2])
    behind_links(tmp_path / "store of end", slices[-3:])
    behind_links(tmp_path / "store of links", list((tmp_path / "links" / "a").iterdir()))
    (tmp_path / "links" / "a" / "again").symlink_to(slices[0].name)
    (tmp_path / "links" / "a" / "loop").symlink_to("..", target_is_directory=True)
    for name in ("files", "links", "end"):
        assert convert(tmp_path / name, tmp_path / f"{name} out", {"GTV": 1}).failed == {}
    for role in ("imagesTr", "labelsTr"):
        arrays = [nib.load(tmp_path / f"{name} out" / role / "a.nii.gz") for name in ("files", "links", "end")]
        for other in arrays[1:]:
            np.testing.assert_array_equal(np.asarray(other.dataobj), np.asarray(arrays[0].dataobj))
            np.testing.assert_array_equal(other.affine, arrays[0].affine)


def test_a_dead_link_is_no_shorter_scan(tmp_path):
    root = one_case(tmp_path / "in")
    last = max((root / "a").glob("IM*"), key=lambda one: pydicom.dcmread(one).ImagePositionPatient[2])
    behind_links(tmp_path / "store", [last])
    (tmp_path / "store" / f"MD5E-{last.name}").unlink()
    with pytest.raises(UserError, match=f"{last.name}: a dead link: the file it leads to is not there"):
        convert(root, tmp_path / "out", {"GTV": 1})


def test_what_git_annex_keeps_beside_the_links_is_not_taken_twice(tmp_path):
    """An old version of a slice lies there, too, in a repository that is one case."""
    folder = one_case(tmp_path / "in") / "a"
    behind_links(folder / ".git", list(folder.iterdir()))
    (folder / ".git" / "old").write_bytes(next(folder.glob("IM*")).read_bytes())
    contents = look(folder)
    assert sorted(contents.scans[0].paths) == sorted(folder.glob("IM*"))
    assert contents.annotations == (folder / "rs.dcm",)


PATIENTS = {"P1 base": "4711-Meier", "P1 later": " 4711-Meier", "P2": "0815", "x": "", "y": "", "z": "4711-Meier "}


def cases_of_patients(root: Path) -> Path:
    """Two scans and a third one of one patient, a patient with one, and two cases whose PatientID was taken out."""
    for seed, (name, patient) in enumerate(PATIENTS.items()):
        hu = np.random.default_rng(seed).integers(-1000, 1500, SHAPE).astype(np.int16)
        write_series(root / name, hu, PatientID=patient)
        write_rtstruct(root / name / "rs.dcm", {"GTV": box_contours()}, STRAIGHT)
    return root


def test_cases_of_one_patient_stay_on_one_side_of_a_split(tmp_path):
    root, out = cases_of_patients(tmp_path / "in"), tmp_path / "out"
    done = convert(root, out, {"GTV": 1})
    together = {"P1_base", "P1_later", "z"}
    assert {done.patients[case] for case in together} == {"patient_001"}
    assert [done.patients[case] for case in ("P2", "x", "y")] == ["patient_002", "patient_003", "patient_004"]
    dataset = load_folder(out)
    assert {case: one.patient for case, one in dataset.cases.items()} == done.patients
    for fold in dataset.splits:
        assert sum(bool(together & set(part)) for part in vars(fold).values()) == 1
    everything = b"".join(path.name.encode() + path.read_bytes() for path in out.rglob("*.json"))
    assert b"Meier" not in everything
    assert b"4711" not in everything
    assert "4711" not in repr(look(root / "P1 base"))


def test_where_every_case_is_a_patient_nothing_is_added(tmp_path):
    root = cases_of_patients(tmp_path / "in")
    for name in ("P1 later", "z"):
        shutil.rmtree(root / name)
    assert len(set(convert(root, tmp_path / "out", {"GTV": 1}).patients.values())) == 4
    assert "patients" not in json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert {one.patient for one in load_folder(tmp_path / "out").cases.values()} == {"P1_base", "P2", "x", "y"}


def change_slices(folder: Path, change) -> None:
    for number, path in enumerate(sorted(folder.glob("IM*"))):
        content = pydicom.dcmread(path)
        change(number, content)
        content.save_as(path)


def test_series_that_are_no_grid(tmp_path):
    def same_place(number, content):
        content.ImagePositionPatient = [-150, 20, -310 + 2.5 * (number // 2)]

    def tilted(number, content):
        x, y, z = content.ImagePositionPatient
        content.ImagePositionPatient = [x, float(y) + 0.3 * float(z), z]

    def turned(number, content):
        if number == 2:
            content.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    def nowhere(number, content):
        del content.ImagePositionPatient

    def two_series(number, content):
        content.SeriesInstanceUID = f"1.2.3.{number % 2}"

    def other_scan(number, content):
        content.FrameOfReferenceUID = "1.9.9"

    for change, message in (
        (same_place, "two slices at the same place"),
        (tilted, "gantry tilt"),
        (turned, "different orientations"),
        (nowhere, "without position"),
        (two_series, "one CT, MR or PET series is needed, 2"),
        (other_scan, "drawn on another scan"),
    ):
        root = one_case(tmp_path / change.__name__)
        change_slices(root / "a", change)
        with pytest.raises(UserError, match=message):
            convert(root, tmp_path / "out", {"GTV": 1})


def test_annotations_that_do_not_fit(tmp_path):
    root = one_case(tmp_path / "in")
    scan_files, found = choose(look(root / "a"), ["GTV"])
    annotation = found["GTV"]
    series = read_series(scan_files, root)
    with pytest.raises(UserError, match="no structure 'GTX'; did you mean 'GTV'"):
        read_annotation(annotation, "GTX", series)
    for polygons, message in (
        ([outline((5, 5), (9, 9), 3.4)], "does not lie in a slice"),
        ([outline((5, 5), (9, 9), 12)], "outside of the series"),
    ):
        write_rtstruct(annotation, {"GTV": polygons}, STRAIGHT)
        with pytest.raises(UserError, match=message):
            read_annotation(annotation, "GTV", series)
    write_seg(annotation, {"GTV": box_mask()}, STRAIGHT, shift=0.4)
    with pytest.raises(UserError, match="between"):
        read_annotation(annotation, "GTV", series)
    write_seg(annotation, {"GTV": box_mask()}, STRAIGHT, shift=3)
    with pytest.raises(UserError, match="outside"):
        read_annotation(annotation, "GTV", series)
    write_seg(annotation, {"GTV": box_mask()}, rotation(17))
    with pytest.raises(UserError, match="not those of the series"):
        read_annotation(annotation, "GTV", series)


def refer(annotation: Path, series: str, **measures: object) -> None:
    """Let an annotation say on which series it was drawn, and a SEG what its pixels measure."""
    content, referred, study, frame = pydicom.dcmread(annotation), Record(), Record(), Record()
    referred.SeriesInstanceUID = series
    if "SegmentSequence" in content:
        content.ReferencedSeriesSequence = Sequence([referred])
        for name, value in measures.items():
            setattr(content.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], name, value)
    else:
        study.RTReferencedSeriesSequence = Sequence([referred])
        frame.RTReferencedStudySequence = Sequence([study])
        content.ReferencedFrameOfReferenceSequence = Sequence([frame])
    content.save_as(annotation)


THERE, ELSEWHERE = "1.2.3.5", "1.2.3.99"  # the series that the tests write, and one that is not there


def draw(path: Path, kind: str, structures: list[list[tuple[int, int]]]) -> None:
    """Structures of one name, each 6 × 5 pixels from a column on in some slices."""
    if kind == "rtstruct":
        drawn = [[outline((x - 0.5, 4.5), (x + 5.5, 9.5), plane) for x, plane in one] for one in structures]
        write_rtstruct(path, [("GTV", contours) for contours in drawn], STRAIGHT)
        return
    masks = [np.zeros(SHAPE, bool) for _ in structures]
    for mask, one in zip(masks, structures, strict=True):
        for x, plane in one:
            mask[x : x + 6, 5:10, plane] = True
    write_seg(path, [("GTV", mask) for mask in masks], STRAIGHT)


def lesion(x: int, *planes: int) -> list[tuple[int, int]]:
    return [(x, plane) for plane in planes]


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
@pytest.mark.parametrize(
    ("structures", "apart", "noted"),
    [
        ([lesion(5, 1, 5, 9)], "10", True),  # as a drawing on 10 mm lies in a series of 2.5 mm
        ([lesion(5, 2, 4, 6, 8, 10)], "5", True),
        ([lesion(5, 3, 6)], "7.5", False),  # on thicker slices, or a slice was forgotten
        ([lesion(5, 1, 2, 3, 4), lesion(20, 2, 5, 8)], "7.5", True),  # one of the two
        ([lesion(5, 1, 2, 4)], "", False),
        ([lesion(5, 1, 2, 3, 8, 9)], "", False),  # two lesions, one behind the other
        ([[*lesion(5, 2), *lesion(12, 5), *lesion(20, 8)]], "", False),
        ([lesion(5, 4)], "", False),
    ],
)
def test_a_drawing_with_gaps_between_its_slices(tmp_path, kind, structures, apart, noted):
    """Filled as it stands it is a pile of discs: other lesions, another volume, another surface than the tumour's."""
    root = tmp_path / "in"
    write_series(root / "a", scan())
    path = root / "a" / "drawn.dcm"
    draw(path, kind, structures)
    gaps = f"'GTV' is drawn on slices {apart} mm apart, those of the series are 2.5 mm apart"
    for number, referred in enumerate(("", THERE, ELSEWHERE)):
        if referred:
            refer(path, referred)
        out = tmp_path / f"out{number}"
        if apart and referred == ELSEWHERE:
            with pytest.raises(UserError, match=f"{gaps}, and the series that it was drawn on is not there"):
                convert(root, out, {"GTV": 1})
            continue
        done = convert(root, out, {"GTV": 1})
        assert done.failed == {}
        assert bool(done.notes) == noted
        assert not noted or done.notes["a"].startswith(f"{gaps}: its mask has gaps")
        found = np.count_nonzero(nib.load(out / "labelsTr" / "a.nii.gz").dataobj)
        assert found == 30 * sum(map(len, structures))


@pytest.mark.parametrize(("planes", "fits"), [([4], False), ([4, 5], True)])
def test_a_seg_that_says_how_far_apart_its_slices_are(tmp_path, planes, fits):
    """Of a lesion in one slice nothing else shows that it was drawn on thicker ones."""
    root = tmp_path / "in"
    write_series(root / "a", scan())
    draw(root / "a" / "seg.dcm", "seg", [lesion(5, *planes)])
    refer(root / "a" / "seg.dcm", ELSEWHERE, SpacingBetweenSlices=5.0)
    if fits:
        assert convert(root, tmp_path / "out", {"GTV": 1}).notes == {}
        return
    with pytest.raises(UserError, match=r"slices 5 mm apart, those of the series are 2\.5 mm apart, and the series"):
        convert(root, tmp_path / "out", {"GTV": 1})
    refer(root / "a" / "seg.dcm", ELSEWHERE, SpacingBetweenSlices=2.52)
    assert convert(root, tmp_path / "out", {"GTV": 1}).notes == {}


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_of_several_series_the_annotation_chooses(tmp_path, kind):
    """A scout, a second reconstruction: the annotation says on which series it was drawn."""
    root = one_case(tmp_path / "in")
    write_series(root / "a" / "lung", scan()[::2])
    for path in (root / "a" / "lung").iterdir():
        content = pydicom.dcmread(path)
        content.SeriesInstanceUID = "1.2.3.99"
        content.save_as(path)
    with pytest.raises(UserError, match="one CT, MR or PET series is needed, 2"):
        convert(root, tmp_path / "out", {"GTV": 1})
    annotation = root / "a" / "rs.dcm"
    if kind == "seg":
        write_seg(annotation, {"GTV": box_mask()}, STRAIGHT)
    refer(annotation, "1.2.3.5")
    assert convert(root, tmp_path / "out", {"GTV": 1}).failed == {}
    assert nib.load(tmp_path / "out" / "imagesTr" / "a.nii.gz").shape == SHAPE


def test_other_kinds_of_files_are_named(tmp_path):
    root = one_case(tmp_path / "in")
    for path in (root / "a").glob("IM*"):
        content = pydicom.dcmread(path)
        content.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        content.save_as(path)
    message = "one CT, MR or PET series is needed, 0 were found; there is also: Secondary Capture Image Storage"
    with pytest.raises(UserError, match=message):
        convert(root, tmp_path / "out", {"GTV": 1})


def test_broken_annotations_are_one_line(tmp_path):
    """Files that lack what the standard requires, or are cut off: the case is listed, nothing is raised raw."""
    for number, damage in enumerate(("no structures", "no orientation", "cut off", "odd contour", "no pixels")):
        root = one_case(tmp_path / f"in{number}")
        path = root / "a" / "rs.dcm"
        if damage in ("no orientation", "no pixels"):
            write_seg(path, {"GTV": box_mask()}, STRAIGHT)
        content = pydicom.dcmread(path)
        if damage == "no structures":
            del content.StructureSetROISequence
        elif damage == "no orientation":
            del content.SharedFunctionalGroupsSequence
        elif damage == "no pixels":
            del content.PixelData
        elif damage == "odd contour":
            content.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2"]
        content.save_as(path)
        if damage == "cut off":
            path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(UserError, match=r"rs\.dcm: ") as caught:
            convert(root, tmp_path / f"out{number}", {"GTV": 1})
        assert "\n" not in str(caught.value)


def test_bad_cases_are_listed_and_the_others_converted(tmp_path):
    root = tmp_path / "in"
    for name in ("a", "b", "c"):
        write_series(root / name, scan(), leave_out=(4,) if name == "b" else ())
        write_rtstruct(root / name / "rs.dcm", {"GTV": box_contours()}, STRAIGHT)
    (root / "c" / "rs.dcm").unlink()
    seen = []
    bad = convert(root, tmp_path / "out", {"GTV": 1}, progress=seen.append).failed
    assert sorted(bad) == ["b", "c"]
    assert "RTSTRUCT or SEG is needed, 0" in bad["c"]
    assert seen == ["a", "b", "c"]
    assert len(json.loads((tmp_path / "out" / "dataset.json").read_text())["training"]) == 1
    with pytest.raises(UserError, match="exists already"):
        convert(root, tmp_path / "out", {"GTV": 1})
    with pytest.raises(UserError, match="from 1 to 255"):
        convert(root, tmp_path / "new", {"GTV": 0})


@pytest.mark.parametrize("place", [".", "a"])
def test_a_place_that_must_not_be_looked_into(open_place, place):
    root = one_case(open_place / "in")
    (root / place).chmod(0o444)
    message = r"in(/a/IM\d+)?.*: cannot be read \(Permission denied\)"
    with as_plain_user(), pytest.raises(UserError, match=message):
        convert(root, open_place / "out", {"GTV": 1})


def test_a_folder_of_a_case_that_must_not_be_read_is_no_gap(open_place):
    root = one_case(open_place / "in")
    (root / "a" / "more").mkdir(mode=0)
    with as_plain_user(), pytest.raises(UserError, match=r"in/a/more: cannot be read \(Permission denied\)"):
        convert(root, open_place / "out", {"GTV": 1})


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    root = one_case(tmp_path / "in")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        convert(root, tmp_path / "file" / "out", {"GTV": 1})

    def full(image, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(UserError, match=r"out: cannot be written .No space left"):
        convert(root, tmp_path / "out", {"GTV": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "in"]


def test_without_pydicom_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(UserError, match=r"tags-bench\[dicom\]"):
        convert(tmp_path, tmp_path / "out", {"GTV": 1})


def case_with(folder: Path, turn: np.ndarray = STRAIGHT):
    """A scan, where its annotation is to lie, and how to read a structure of it."""
    write_series(folder / "a", scan(), turn)
    path = folder / "a" / "rs.dcm"
    series = read_series(only_scan(look(folder / "a")), folder)
    return path, lambda name: read_annotation(path, name, series).mask


def test_structures_of_one_name_are_one(tmp_path):
    """Several lesions are often all called alike: none of them may be lost."""
    path, read = case_with(tmp_path)
    one, two = box_mask(), np.zeros(SHAPE, bool)
    two[25:30, 20:26, 4:10] = True
    boxes = [outline((24.5, 19.5), (29.5, 25.5), plane) for plane in range(4, 10)]
    write_rtstruct(path, [("GTV", box_contours()), ("Body", [outline((1, 1), (30, 30), 2)]), ("GTV ", boxes)], STRAIGHT)
    np.testing.assert_array_equal(read("GTV"), one | two)
    np.testing.assert_array_equal(read("gtv"), one | two)
    overlapping = one.copy()
    overlapping[12:20] |= two[18:26]
    write_seg(path, [("GTV", one), ("Body", ~one), ("GTV", two), ("GTV", overlapping)], STRAIGHT)
    np.testing.assert_array_equal(read("GTV"), one | two | overlapping)


def test_overlapping_rois_of_one_name_make_no_hole(tmp_path):
    path, read = case_with(tmp_path)
    left, right = outline((4.5, 4.5), (14.5, 14.5), 3), outline((9.5, 4.5), (19.5, 14.5), 3)
    write_rtstruct(path, [("GTV", [left]), ("GTV", [right])], STRAIGHT)
    assert read("GTV").sum() == 15 * 10
    write_rtstruct(path, {"GTV": [left, right]}, STRAIGHT)  # of one ROI: even-odd, as documented
    assert read("GTV").sum() == 2 * 5 * 10


def test_names_that_differ_by_capitals_are_asked_for(tmp_path):
    path, read = case_with(tmp_path)
    write_rtstruct(path, [("GTV", [outline((4, 4), (9, 9), 3)]), ("Gtv", [outline((4, 4), (12, 12), 3)])], STRAIGHT)
    assert read("Gtv").sum() > read("GTV").sum() > 0
    with pytest.raises(UserError, match="'gtv' may be any of GTV, Gtv; write it as it stands"):
        read("gtv")
    content = pydicom.dcmread(path)
    content.StructureSetROISequence[1].ROINumber = content.StructureSetROISequence[0].ROINumber
    content.save_as(path)
    with pytest.raises(UserError, match="two structures have the number 3, one of them is 'GTV'"):
        read("GTV")


def other_way(polygon: np.ndarray) -> np.ndarray:
    return np.roll(polygon[::-1], 1, axis=0)


def finer(polygon: np.ndarray) -> np.ndarray:
    between = (polygon + np.roll(polygon, -1, axis=0)) / 2
    return np.stack([polygon, between], axis=1).reshape(-1, 3)


def closed(polygon: np.ndarray) -> np.ndarray:
    return np.vstack([polygon, polygon[:1]])


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
@pytest.mark.parametrize(
    "again",
    [np.copy, other_way, finer, lambda polygon: np.vstack([polygon, polygon[:1]]), lambda polygon: polygon + 1e-3],
)
def test_a_contour_that_stands_there_twice_counts_once(tmp_path, again, kind):
    path, read = case_with(tmp_path)
    contours = box_contours()
    doubled = [*contours, again(contours[0]), again(contours[2]), again(contours[-1])]  # the hole too
    write_rtstruct(path, {"GTV": [*doubled, again(contours[0])]}, STRAIGHT, kind=kind)
    np.testing.assert_array_equal(read("GTV"), box_mask())


def test_a_thin_wall_is_two_contours(tmp_path):
    """An outline half a pixel within another is a wall, and no contour drawn twice."""
    path, read = case_with(tmp_path)
    outer, inner = outline((4.6, 4.6), (20.4, 20.4), 3), outline((5.4, 5.4), (19.6, 19.6), 3)
    assert not same_outline(outer[:, :2], inner[:, :2])
    write_rtstruct(path, {"GTV": [outer, inner]}, STRAIGHT)
    assert read("GTV").sum() == 16**2 - 14**2


def test_contours_that_cancel_each_other_are_an_error(tmp_path):
    path, read = case_with(tmp_path)
    outer, inner = outline((4.5, 4.5), (20.5, 20.5), 3), outline((4.7, 4.7), (20.3, 20.3), 3)
    write_rtstruct(path, {"GTV": [outer, inner]}, STRAIGHT)
    with pytest.raises(UserError, match=r"contours of 'GTV' in slice 4 cancel each other"):
        read("GTV")


@pytest.mark.parametrize("kind", ["OPEN_PLANAR", "OPEN_NONPLANAR", "POINT"])
def test_contours_that_enclose_nothing_are_an_error(tmp_path, kind):
    """Such a case would be one without a tumour."""
    path, read = case_with(tmp_path / "in")
    write_rtstruct(path, {"GTV": box_contours()}, STRAIGHT, kind=kind)
    with pytest.raises(UserError, match=f"'GTV' is drawn with {kind} only; no contour encloses anything"):
        convert(tmp_path / "in", tmp_path / "out", {"GTV": 1})
    content = pydicom.dcmread(path)
    for contour in content.ROIContourSequence[0].ContourSequence[1:]:
        contour.ContourGeometricType = "CLOSED_PLANAR"
    content.save_as(path)  # a point beside contours marks something, and loses nothing
    expected = box_mask()
    expected[:, :, 3] = False
    np.testing.assert_array_equal(read("GTV"), expected)


@pytest.mark.parametrize("kind", ["rtstruct", "no contours", "seg", "label map", "between pixels"])
def test_a_structure_without_a_voxel_is_spoken_of(tmp_path, kind):
    """Named and never drawn, or too thin to hold the centre of a pixel."""
    root = tmp_path / "in"
    path, _ = case_with(root)
    if kind == "seg":
        write_seg(path, {"GTV": np.zeros(SHAPE, bool), "Liver": box_mask()}, STRAIGHT)
    elif kind == "label map":
        write_labelmap(path, box_mask() * 2, [(1, "GTV"), (2, "Liver")])
    else:
        drawn = [outline((4.2, 4.2), (4.8, 9.0), 3)] if kind == "between pixels" else []
        write_rtstruct(path, {"GTV": drawn, "Liver": box_contours()}, STRAIGHT)
    if kind == "no contours":
        content = pydicom.dcmread(path)
        del content.ROIContourSequence[0]
        content.save_as(path)
    done = convert(root, tmp_path / "out", {"GTV": 2, "Liver": 1})
    assert (done.failed, done.notes) == ({}, {"a": "'GTV' encloses no voxel"})
    found = nib.load(tmp_path / "out" / "labelsTr" / "a.nii.gz").get_fdata()
    assert (found == 1).sum() == box_mask().sum()
    assert set(np.unique(found)) == {0, 1}


@pytest.mark.parametrize("padding", [True, False])
def test_label_maps(tmp_path, padding):
    """Supplement 243: one frame per slice, each pixel the number of a segment."""
    path, read = case_with(tmp_path)
    label = np.zeros(SHAPE, np.uint8)
    label[box_mask()], label[25:30, 20:26, 4:10], label[0:4, 0:4] = 7, 2, 3
    write_labelmap(path, label, [(0, "Background"), (2, "Cyst"), (3, "Liver"), (7, "GTV")], padding)
    np.testing.assert_array_equal(read("GTV"), label == 7)
    np.testing.assert_array_equal(read("cyst"), label == 2)
    write_labelmap(path, label, [(2, "GTV"), (3, "Liver"), (7, "GTV")], padding)
    np.testing.assert_array_equal(read("GTV"), (label == 7) | (label == 2))
    assert convert(tmp_path, tmp_path / "out", {"Liver": 1}).failed == {}
    assert nib.load(tmp_path / "out" / "labelsTr" / "a.nii.gz").get_fdata().sum() == (label == 3).sum()


def test_a_segment_that_all_frames_share(tmp_path):
    """One segment only: its number may stand once, with what all frames have in common."""
    path, read = case_with(tmp_path)
    write_seg(path, {"GTV": box_mask()}, STRAIGHT)
    content = pydicom.dcmread(path)
    which = content.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence
    for frame in content.PerFrameFunctionalGroupsSequence:
        del frame.SegmentIdentificationSequence
    content.SharedFunctionalGroupsSequence[0].SegmentIdentificationSequence = which
    content.save_as(path)
    np.testing.assert_array_equal(read("GTV"), box_mask())


@pytest.mark.parametrize(("inside", "outside"), [(50, 49), (100, 0)])
def test_a_fraction_counts_from_a_half_up(tmp_path, inside, outside):
    path, read = case_with(tmp_path)
    write_seg(path, {"GTV": box_mask()}, STRAIGHT, fractional=True)
    content = pydicom.dcmread(path)
    content.MaximumFractionalValue = 100
    content.PixelData = content.PixelData.translate(bytes.maketrans(b"\x3c\xc8", bytes([outside, inside])))
    content.save_as(path)
    np.testing.assert_array_equal(read("GTV"), box_mask())


def bare(path: Path, implicit: bool) -> None:
    """The data set alone, without preamble and meta header."""
    content = pydicom.dcmread(path)
    pydicom.dcmwrite(path, pydicom.Dataset(content), implicit_vr=implicit, little_endian=True)
    assert path.read_bytes()[:2] == b"\x08\x00"


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("which", ["all", "two slices", "the annotation"])
@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
def test_files_without_preamble_are_read(tmp_path, which, implicit, kind):
    for name in ("with", "without"):
        write_series(tmp_path / name / "a", scan())
        path = tmp_path / name / "a" / "rs.dcm"
        if kind == "rtstruct":
            write_rtstruct(path, {"GTV": box_contours()}, STRAIGHT)
        else:
            write_seg(path, {"GTV": box_mask()}, STRAIGHT)
    (tmp_path / "without" / "a" / "notes.txt").write_text("\x08 no DICOM")
    slices = sorted((tmp_path / "without" / "a").glob("IM*"))
    chosen = {"all": [*slices, path], "two slices": slices[:2], "the annotation": [path]}[which]
    for file in chosen:
        bare(file, implicit)
    for name in ("with", "without"):
        assert convert(tmp_path / name, tmp_path / f"out-{name}", {"GTV": 1}).failed == {}
    for part in ("imagesTr", "labelsTr"):
        expected, found = (nib.load(tmp_path / f"out-{name}" / part / "a.nii.gz") for name in ("with", "without"))
        assert found.shape == SHAPE
        np.testing.assert_array_equal(found.get_fdata(), expected.get_fdata())
        np.testing.assert_array_equal(found.affine, expected.affine)


@pytest.mark.parametrize(
    "begin", [b"\x08\x00\x16\x00\xff\xff\xff\x7f broken", b"\x08\x00\x16\x00UI", b"\x08\x00\x05\x00"]
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_begins_like_dicom_and_is_none_is_an_error(tmp_path, begin):
    """A slice that is cut off in its header must not be passed over: the volume would lack it."""
    root = one_case(tmp_path / "in")
    (root / "a" / "IMX").write_bytes(begin)
    with pytest.raises(UserError, match="IMX: ") as caught:
        convert(root, tmp_path / "out", {"GTV": 1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("case", "label", "voxels"),
    [
        ("01-rtstruct-two-rois-one-name/dicom", "GTV_Mass_CT", 5346),
        ("02-seg-segments-one-label/dicom", "Lesion", 40505),
        ("03-rtstruct-contour-twice/dicom", "GTV_Mass_CT", 5154),
        ("11-seg-labelmap/dicom", "Liver", 630),
        ("12-dicom-without-preamble/all", "GTV_Mass_CT", 5154),
        ("12-dicom-without-preamble/two", "GTV_Mass_CT", 5154),
    ],
)
def test_real_files(shared, tmp_path, case, label, voxels):
    """Files that other programs wrote, and how many voxels there are in them."""
    if not (shared / "field_cases" / case).is_dir():
        pytest.skip(f"no {case}")
    done = convert(shared / "field_cases" / case, tmp_path / "out", {label: 1})
    assert (done.failed, done.notes) == ({}, {})
    assert np.count_nonzero(nib.load(tmp_path / "out" / "labelsTr" / "a.nii.gz").dataobj) == voxels


def test_labels_as_words():
    assert labels_of(["GTV-1=1", "a=b=255", "GTV-1=1"]) == {"GTV-1": 1, "a=b": 255}
    for word in ("GTV", "GTV=", "=1", "GTV=²", "GTV=0", "GTV=-1", "GTV=1.5", "GTV=" + "9" * 400):
        with pytest.raises(UserError, match=r"the form is NAME=VALUE") as caught:
            labels_of([word])
        assert len(str(caught.value)) < 300
    with pytest.raises(UserError, match="'GTV' has the value 1 already"):
        labels_of(["GTV=1", "GTV=2"])
