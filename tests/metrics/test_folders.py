"""Scoring folders of masks: pairing, grids, labels, and what happens to everything that is missing or broken."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.metrics import Reference, evaluate_mask
from benchmarks.metrics.folders import kept_masks, mean_scores, score_folders, to_csv, to_json
from tests.plain_user import as_plain_user, closed

AFFINE = np.diag([0.8, 0.9, 2.5, 1.0])
SHAPE = (20, 18, 12)


def write(path: Path, values: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), path)


def box(value: int = 1, low: int = 4) -> NDArray[np.uint8]:
    values = np.zeros(SHAPE, np.uint8)
    values[low : low + 8, 5:12, 3:9] = value
    return values


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    predictions, labels = tmp_path / "pred", tmp_path / "label"
    for case, low in (("a", 4), ("b", 6)):
        write(labels / f"{case}.nii.gz", box())
        write(predictions / f"{case}.nii.gz", box(low=low))
    return predictions, labels


def by_case(rows: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    return {str(row["case"]): row for row in rows}


def test_rows_are_those_of_evaluate_mask(folders: tuple[Path, Path]) -> None:
    rows = by_case(score_folders(*folders, tolerances=[1.5]))
    expected = evaluate_mask(box(low=6) > 0, Reference(box() > 0, (0.8, 0.9, 2.5), (1.5,)))
    for key in ("dice", "iou", "nsd@1.5mm", "hd_mm", "hd95_mm", "msd_mm", "rve", "lesion_f1"):
        assert rows["b"][key] == pytest.approx(expected[key], rel=1e-6)
    assert rows["a"]["dice"] == 1
    assert rows["a"]["hd95_mm"] == 0
    assert {row["status"] for row in rows.values()} == {"ok"}


def test_a_missing_prediction_is_a_failed_row_with_worst_values(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    (predictions / "a.nii.gz").unlink()
    rows = score_folders(predictions, labels)
    row = by_case(rows)["a"]
    assert row["status"] == "failed"
    assert "no prediction" in str(row["reason"])
    assert (row["dice"], row["nsd@1mm"]) == (0, 0)
    assert row["hd95_mm"] == pytest.approx(math.dist((0, 0, 0), np.multiply(SHAPE, (0.8, 0.9, 2.5))))
    assert mean_scores(rows)["dice"] == pytest.approx(by_case(rows)["b"]["dice"] / 2)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("values", "affine", "words"),
    [
        (np.zeros((20, 18, 13)), AFFINE, "shape"),
        (box(), np.diag([0.8, 0.9, 2.6, 1.0]), "grid"),
        (box(), AFFINE + np.array([[0, 0, 0, 30.0], *np.zeros((3, 4))]), "grid"),
    ],
)
def test_another_grid_is_a_failed_row(
    folders: tuple[Path, Path], values: NDArray[np.generic], affine: NDArray[np.float64], words: str
) -> None:
    predictions, labels = folders
    write(predictions / "b.nii.gz", values, affine)
    row = by_case(score_folders(predictions, labels))["b"]
    assert (row["status"], row["dice"]) == ("failed", 0)
    assert words in str(row["reason"])
    assert "\n" not in str(row["reason"])


def test_a_broken_prediction_is_a_failed_row_and_a_broken_label_an_error(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    whole = (predictions / "b.nii.gz").read_bytes()
    (predictions / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert by_case(score_folders(predictions, labels))["b"]["status"] == "failed"
    (labels / "a.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a\.nii\.gz"):
        score_folders(predictions, labels)


@pytest.mark.parametrize("label", [2, None])
def test_scans_are_neither_label_maps_nor_predictions(tmp_path: Path, label: int | None) -> None:
    """As where somebody names imagesTr in the place of a folder of masks."""
    for case in ("a", "b"):
        write(tmp_path / "masks" / f"{case}.nii.gz", box(2))
        scan = np.where(box() > 0, 60, -1000).astype(np.int16)
        (tmp_path / "scans").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(scan, AFFINE), tmp_path / "scans" / f"{case}.nii.gz")
    with pytest.raises(UserError, match=r"a\.nii\.gz: holds values below 0 \(down to -1000\); is this a scan"):
        score_folders(tmp_path / "masks", tmp_path / "scans", label)
    rows = score_folders(tmp_path / "scans", tmp_path / "masks", label)
    assert [(row["status"], row["dice"]) for row in rows] == [("failed", 0), ("failed", 0)]
    assert all("down to -1000" in str(row["reason"]) for row in rows)


def test_one_scan_among_binary_masks_does_not_change_how_they_are_read(tmp_path: Path) -> None:
    for case in ("a", "b"):
        write(tmp_path / "label" / f"{case}.nii.gz", box(2))
        write(tmp_path / "pred" / f"{case}.nii.gz", box())
    scan = np.where(box() > 0, 60, -1000).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, AFFINE), tmp_path / "pred" / "b.nii.gz")
    rows = by_case(score_folders(tmp_path / "pred", tmp_path / "label", 2))
    assert (rows["a"]["dice"], rows["b"]["status"]) == (1, "failed")


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
def test_axis_order_of_the_files_does_not_matter(folders: tuple[Path, Path], codes: str) -> None:
    predictions, labels = folders
    before = by_case(score_folders(predictions, labels))
    image = nib.load(predictions / "b.nii.gz")
    target = nib.orientations.axcodes2ornt(tuple(codes))
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), target))
    assert turned.shape != image.shape or not np.allclose(turned.affine, image.affine)
    nib.save(turned, predictions / "b.nii.gz")
    after = by_case(score_folders(predictions, labels))
    assert after["b"]["status"] == "ok"
    assert after["b"]["dice"] == before["b"]["dice"]
    assert after["b"]["hd95_mm"] == pytest.approx(before["b"]["hd95_mm"])


def test_oblique_and_rotated_grids_keep_their_spacing(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[math.cos(0.2), -math.sin(0.2)], [math.sin(0.2), math.cos(0.2)]]
    for part, low in (("pred", 7), ("label", 4)):
        write(tmp_path / part / "a.nii.gz", box(low=low), turn @ AFFINE)
    row = score_folders(tmp_path / "pred", tmp_path / "label")[0]
    assert row["hd_mm"] == pytest.approx(3 * 0.8, rel=1e-6)


def test_one_voxel_of_a_turned_1_mm_grid_is_within_1_mm(tmp_path: Path) -> None:
    """Unrounded, the voxels of this grid have 1.0000000222 mm and NSD at 1 mm is 0.8."""
    affine = np.eye(4)
    a = math.radians(5)
    affine[:2, :2] = [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]
    for part, low in (("pred", 5), ("label", 4)):
        write(tmp_path / part / "a.nii.gz", box(low=low), affine)
    assert nib.load(tmp_path / "label" / "a.nii.gz").affine[0, 0] != affine[0, 0]  # the file keeps float32
    row = score_folders(tmp_path / "pred", tmp_path / "label", tolerances=(1.0, 0.99))[0]
    assert row["nsd@1mm"] == 1
    assert row["nsd@0.99mm"] < 1  # type: ignore[operator]
    assert row["hd_mm"] == 1


def test_a_dead_link_is_no_missing_file(folders: tuple[Path, Path]) -> None:
    """A label map behind one would otherwise not be scored, and nobody would know."""
    predictions, labels = folders
    (predictions / "a.nii.gz").unlink()
    (predictions / "a.nii.gz").symlink_to("nowhere.nii.gz")
    row = by_case(score_folders(predictions, labels))["a"]
    assert (row["status"], row["dice"]) == ("failed", 0)
    assert "a dead link" in str(row["reason"])
    (labels / "b.nii.gz").unlink()
    (labels / "b.nii.gz").symlink_to("nowhere.nii.gz")
    with pytest.raises(UserError, match=r"b\.nii\.gz: a dead link"):
        score_folders(predictions, labels)


def test_label_selects_the_value_in_both(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    for case, low in (("a", 4), ("b", 6)):
        write(labels / f"{case}.nii.gz", np.maximum(box(2), box(1, 0)))
        write(predictions / f"{case}.nii.gz", np.maximum(box(2, low), box(1, 1)))
    rows = by_case(score_folders(predictions, labels, label=2))
    assert rows["a"]["dice"] == 1
    assert rows["b"]["dice"] == pytest.approx(0.75)
    assert {row["prediction_label"] for row in rows.values()} == {2}
    assert by_case(score_folders(predictions, labels))["a"]["dice"] != 1  # without: every voxel above 0


def test_binary_predictions_of_another_label_do_not_score_zero(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    for case in ("a", "b"):
        write(labels / f"{case}.nii.gz", np.maximum(box(2), box(1, 0)))
    rows = by_case(score_folders(predictions, labels, label=2))
    assert rows["a"]["dice"] == 1
    assert rows["a"]["prediction_label"] == "any"
    said = "read as binary masks of label 2, for all hold 0 and 1 alone; label maps hold 1, too: "
    assert rows["a"]["reason"] == f"{said}--prediction-label 2 if these are label maps"
    forced = by_case(score_folders(predictions, labels, label=2, prediction_label=2))
    assert (forced["a"]["dice"], forced["a"]["empty"]) == (0, "prediction")


@pytest.mark.parametrize("value", [1, 255, 128])
@pytest.mark.parametrize("label", [1, 2])
def test_binary_predictions_of_any_value_are_read_as_binary(tmp_path: Path, value: int, label: int) -> None:
    """Programs write masks as 0 and 255, too; the overlap of 6 of 8 planes is known beforehand."""
    for case, low in (("a", 6), ("b", 4), ("empty", 30)):
        write(tmp_path / "label" / f"{case}.nii.gz", np.maximum(box(2), box(1, 0)) if label == 2 else box())
        write(tmp_path / "pred" / f"{case}.nii.gz", box(value, low))
    rows = by_case(score_folders(tmp_path / "pred", tmp_path / "label", label=label))
    assert rows["a"]["dice"] == pytest.approx(0.75)
    assert [rows[case]["dice"] for case in ("b", "empty")] == [1, 0]
    assert [bool(row["reason"]) for row in rows.values()] == [(value, label) == (1, 2)] * 3  # may be the other label
    assert rows["a"]["prediction_label"] == (1 if value == label else "any")


def test_a_value_of_the_label_maps_is_no_binary_mask(tmp_path: Path) -> None:
    """Predictions that hold only the organ, label 2, are no masks of the tumour, label 3; but it is said."""
    for case in ("a", "b"):
        write(tmp_path / "label" / f"{case}.nii.gz", np.maximum(box(3), box(2, 0)))
        write(tmp_path / "pred" / f"{case}.nii.gz", box(2))
    rows = score_folders(tmp_path / "pred", tmp_path / "label", label=3)
    assert [(row["dice"], row["prediction_label"]) for row in rows] == [(0, 3), (0, 3)]
    assert {row["reason"] for row in rows} == {"no prediction holds the value 3; they hold 0, 2"}
    forced = score_folders(tmp_path / "pred", tmp_path / "label", label=3, prediction_label=4)
    assert {row["reason"] for row in forced} == {"no prediction holds the value 4; they hold 0, 2"}


@pytest.mark.parametrize("label", [1, 7])
def test_a_label_that_is_nowhere_scores_nothing(tmp_path: Path, label: int) -> None:
    """Both empty would be a perfect score for a typing error."""
    for part, low in (("pred", 6), ("label", 4)):
        write(tmp_path / part / "a.nii.gz", box(255, low))
        write(tmp_path / part / "b.nii.gz", box(0))
    with pytest.raises(UserError, match=f"no label map in .*label holds the value {label}; they hold 0, 255"):
        score_folders(tmp_path / "pred", tmp_path / "label", label=label)


def test_label_maps_without_any_lesion_can_be_scored(tmp_path: Path) -> None:
    for case, low in (("a", 30), ("b", 4)):
        write(tmp_path / "label" / f"{case}.nii.gz", box(0))
        write(tmp_path / "pred" / f"{case}.nii.gz", box(1, low))
    assert [row["empty"] for row in score_folders(tmp_path / "pred", tmp_path / "label", label=1)] == [
        "both",
        "reference",
    ]


@pytest.mark.parametrize("part", ["pred", "label"])
@pytest.mark.parametrize("name", ["b.NII.GZ", "b.NII", "b.nrrd", "b.NRRD", "b.mha", "b.MHA"])
def test_every_format_and_capitals(folders: tuple[Path, Path], part: str, name: str) -> None:
    before = score_folders(*folders)
    folder = folders[part == "label"]
    image = SimpleITK.ReadImage(str(folder / "b.nii.gz"))
    (folder / "b.nii.gz").unlink()
    SimpleITK.WriteImage(image, str(folder / name.lower()))
    (folder / name.lower()).rename(folder / name)
    after = score_folders(*folders)
    assert [row["status"] for row in after] == ["ok", "ok"]
    for key in ("dice", "hd95_mm", "nsd@1mm"):
        assert [row[key] for row in after] == pytest.approx([row[key] for row in before])


def test_a_prediction_in_a_format_that_is_not_read_is_named(folders: tuple[Path, Path]) -> None:
    predictions, _ = folders
    (predictions / "b.nii.gz").rename(predictions / "b.nii.bz2")
    row = by_case(score_folders(*folders))["b"]
    assert row["status"] == "failed"
    assert row["reason"] == (
        "no prediction for this label map; b.nii.bz2 is none of .nii, .nii.gz, .nrrd, .mha, which are read"
    )


def test_one_multi_class_prediction_makes_the_folder_multi_class(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    for case in ("a", "b"):
        write(labels / f"{case}.nii.gz", np.maximum(box(2), box(1, 0)))
    write(predictions / "b.nii.gz", box(2))
    rows = by_case(score_folders(predictions, labels, label=2))
    assert rows["a"]["dice"] == 0  # holds only organ: the lesion was missed
    assert rows["b"]["dice"] == 1


def test_names(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    (predictions / "a.nii.gz").rename(predictions / "a_0000.nii.gz")
    write(predictions / "b.nii", box(low=6))
    (predictions / "b.nii.gz").unlink()
    (predictions / "._b.nii.gz").write_bytes(b"a macOS shadow file")
    (predictions / "dataset.json").write_text("{}")
    assert [(row["case"], row["status"]) for row in score_folders(predictions, labels)] == [("a", "ok"), ("b", "ok")]


def test_a_prediction_without_label_is_listed_and_not_counted(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    write(predictions / "stranger.nii.gz", box())
    rows = score_folders(predictions, labels)
    row = by_case(rows)["stranger"]
    assert (row["status"], row["dice"]) == ("no-label", None)
    assert mean_scores(rows) == mean_scores(rows[:2])


def test_what_a_user_gets_wrong_is_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, labels = folders
    (tmp_path / "empty").mkdir()
    write(tmp_path / "other" / "z.nii.gz", box())
    write(tmp_path / "double" / "a.nii.gz", box())
    write(tmp_path / "double" / "a.nii", box())
    a_file = tmp_path / "dataset.json"
    a_file.write_text("{}")
    for arguments, words in (
        ({"predictions": tmp_path / "nowhere", "labels": labels}, "nowhere does not exist"),
        ({"predictions": a_file, "labels": labels}, f"prediction folder {a_file} is a file"),
        ({"predictions": predictions, "labels": a_file}, f"label folder {a_file} is a file"),
        (
            {"predictions": predictions, "labels": tmp_path / "empty"},
            "no file that ends with .nii, .nii.gz, .nrrd, .mha",
        ),
        ({"predictions": tmp_path / "other", "labels": labels}, "same name"),
        ({"predictions": tmp_path / "double", "labels": labels}, "two files for case 'a'"),
        ({"predictions": predictions, "labels": labels, "label": 0}, "background"),
        ({"predictions": predictions, "labels": labels, "tolerances": [-1.0]}, "tolerance -1.0"),
    ):
        with pytest.raises(UserError) as caught:
            score_folders(**arguments)  # type: ignore[arg-type]
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_scans_of_a_flat_lits17_folder_are_no_label_maps(tmp_path: Path) -> None:
    """volume-N beside segmentation-N: a mask volume-N belongs to the label map, not to the scan of its name."""
    data, predictions = tmp_path / "LiTS", tmp_path / "pred"
    for number in range(2):
        write(
            data / f"volume-{number}.nii", np.full(SHAPE, 2, np.uint8)
        )  # every voxel of the scan is the label's value
        write(data / f"segmentation-{number}.nii", box(2))
        write(predictions / f"volume-{number}.nii.gz", box(low=4 + 2 * number))
    rows = by_case(score_folders(predictions, data, label=2))
    expected = evaluate_mask(box(low=6) > 0, Reference(box() > 0, (0.8, 0.9, 2.5)))["dice"]
    assert {case: row["dice"] for case, row in rows.items()} == {"volume-0": 1.0, "volume-1": expected}
    with pytest.raises(UserError, match=r"LiTS is a data set, .* choose one with --label"):
        score_folders(predictions, data)


def test_every_label_map_of_ones_own_in_the_layout_of_lits17_is_scored(tmp_path: Path) -> None:
    """Case 131 is none of the official ones."""
    for number in (130, 131):
        write(tmp_path / "mine" / f"volume-{number}.nii", np.arange(np.prod(SHAPE)).reshape(SHAPE) % 200)
        write(tmp_path / "mine" / f"segmentation-{number}.nii", box(5))
        write(tmp_path / "pred" / f"volume-{number}.nii", box())
    rows = score_folders(tmp_path / "pred", tmp_path / "mine", label=5)
    assert [(row["case"], row["dice"]) for row in rows] == [("volume-130", 1.0), ("volume-131", 1.0)]


@pytest.mark.parametrize("name", ["volume-{}", "segmentation-{}"])
def test_label_maps_alone_are_a_plain_folder_whatever_their_names(tmp_path: Path, name: str) -> None:
    for number in range(2):
        write(tmp_path / "label" / f"{name.format(number)}.nii.gz", box())
        write(tmp_path / "pred" / f"{name.format(number)}.nii.gz", box())
    rows = score_folders(tmp_path / "pred", tmp_path / "label")
    assert [(row["case"], row["dice"]) for row in rows] == [(name.format(0), 1.0), (name.format(1), 1.0)]


def challenge(root: Path) -> Path:
    """A data set in nnU-Net's layout with the cases a and b in imagesTr, and c and d in imagesTs."""
    for case in "abcd":
        part = "Tr" if case in "ab" else "Ts"
        write(root / f"images{part}" / f"{case}_0000.nii.gz", np.arange(np.prod(SHAPE)).reshape(SHAPE) % 200)
        write(root / f"labels{part}" / f"{case}.nii.gz", box(2))
    content = {"labels": {"background": 0, "organ": 1, "tumour": 2}, "channel_names": {"0": "CT"}, "numTraining": 2}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def unit_of_a_run(out: Path, cases: dict[str, int]) -> Path:
    """What a run keeps of a unit: a mask of each case, which begins at that voxel, and the list of the cases."""
    unit = out / "predictions" / "suite" / "mine" / "ball-1"
    for case, low in cases.items():
        write(unit / case / "tumour.centre-click.1.nii.gz", box(low=low))
        (unit / case / "tumour.centre-click.1.json").write_text("{}")
    record = out / "records" / "suite" / "mine" / "x"
    record.mkdir(parents=True)
    (record / "unit.json").write_text(
        json.dumps({"predictions": unit.relative_to(out).as_posix(), "cases": sorted(cases)})
    )
    return unit


@pytest.mark.parametrize("cases", [{"c": 4, "d": 6}, {"a": 4, "b": 6}, {"b": 6, "c": 4}])
def test_a_unit_that_tests_cases_of_images_ts(tmp_path: Path, cases: dict[str, int]) -> None:
    """As `--splits folders` makes it; data that are tested whole have cases of both folders in one unit."""
    masks = kept_masks(unit_of_a_run(tmp_path / "out", cases))
    assert masks is not None
    rows = by_case(score_folders(masks, challenge(tmp_path / "data"), label=2))
    expected = {low: evaluate_mask(box(low=low) > 0, Reference(box() > 0, (0.8, 0.9, 2.5)))["dice"] for low in (4, 6)}
    assert {case: row["dice"] for case, row in rows.items()} == {case: expected[low] for case, low in cases.items()}


def test_a_unit_of_another_data_set_is_one_line(tmp_path: Path) -> None:
    masks = kept_masks(unit_of_a_run(tmp_path / "out", {"x": 4, "y": 6}))
    assert masks is not None
    with pytest.raises(UserError, match=r"data holds no label map of a case that .*ball-1 tests \(such as 'x'\)"):
        score_folders(masks, challenge(tmp_path / "data"), label=2)


def test_masks_of_images_ts_are_scored_against_labels_ts(tmp_path: Path) -> None:
    data = challenge(tmp_path / "data")
    for case in "cd":
        write(tmp_path / "tested" / f"{case}.nii.gz", box(2))
        write(tmp_path / "mixed" / f"{case}.nii.gz", box(2))
    rows = score_folders(tmp_path / "tested", data, label=2)
    assert [(row["case"], row["dice"]) for row in rows] == [("c", 1.0), ("d", 1.0)]
    write(tmp_path / "mixed" / "a.nii.gz", box(2))
    status = {case: row["status"] for case, row in by_case(score_folders(tmp_path / "mixed", data, label=2)).items()}
    assert status == {"a": "ok", "b": "failed", "c": "no-label", "d": "no-label"}


@pytest.mark.parametrize("which", ["predictions", "labels", "both"])
def test_a_folder_that_must_not_be_looked_into_is_one_line(open_place: Path, which: str) -> None:
    predictions, labels = open_place / "predictions", open_place / "labels"
    for folder in (predictions, labels):
        write(folder / "a.nii.gz", box())
    closed(open_place if which == "both" else open_place / which)
    with as_plain_user(), pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        score_folders(predictions, labels)


def test_json_and_csv_hold_the_same(folders: tuple[Path, Path]) -> None:
    predictions, labels = folders
    write(predictions / "stranger.nii.gz", box())
    rows = score_folders(predictions, labels)
    loaded = json.loads(to_json(rows))
    assert loaded == rows
    assert {"case", "dice", "iou", "nsd@1mm", "nsd@2mm", "nsd@5mm", "hd95_mm", "status"} <= loaded[0].keys()
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [float(line["dice"]) for line in table[:2]] == [row["dice"] for row in rows[:2]]
    assert table[2]["dice"] == ""


def test_masks_as_they_are_met_in_the_field(shared: Path) -> None:
    """0/255, capitals, NRRD beside NIfTI; the same two masks, shifted by two voxels."""
    root = shared / "field_cases"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    for case, label, count in (
        ("07-score-predictions-0-255", 2, 1),
        ("15-score-suffixes/upper", None, 2),
        ("15-score-suffixes/mixed", 1, 2),
        ("06-score-label-that-is-nowhere", 255, 1),
    ):
        rows = score_folders(root / case / "pred", root / case / "label", label=label)
        assert [(row["status"], round(float(row["dice"]), 3)) for row in rows] == [("ok", 0.894)] * count
    nowhere = root / "06-score-label-that-is-nowhere"
    with pytest.raises(UserError, match=r"no label map .* holds the value 1; they hold 0, 255"):
        score_folders(nowhere / "pred", nowhere / "label", label=1)


@pytest.mark.parametrize("odd", [np.ma.masked_all(SHAPE, bool), np.zeros(SHAPE), np.zeros(SHAPE, complex)])
def test_arrays_that_are_no_masks_score_nothing(odd: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match=r"must be a (3D bool|plain) array"):
        Reference(odd, (1.0, 1.0, 1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be a (3D bool|plain) array"):
        evaluate_mask(odd, Reference(box() > 0, (1.0, 1.0, 1.0)))  # type: ignore[arg-type]
