"""Prompt files of Slicer and of the CVPR 2025 challenge, against nibabel's and SimpleITK's own geometry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from benchmarks.common.errors import UserError
from benchmarks.contestants import Target
from benchmarks.data.dataset import Case, Dataset, Split
from benchmarks.data.volume import Volume, read_orientation, read_volume
from benchmarks.prompting.by_hand import import_prompts
from benchmarks.prompting.formats import from_challenge, parse_prompts, read_prompt_file
from benchmarks.prompting.given import GivenPrompts
from benchmarks.prompting.prompts import Box, Click, Prompts
from benchmarks.prompting.protocol import Protocol

SHAPE = (20, 16, 12)
AFFINES = {
    "RAS": np.array([[0.7, 0, 0, -40], [0, 0.9, 0, 10], [0, 0, 2.5, -300], [0, 0, 0, 1.0]]),
    "LPS": np.array([[-0.7, 0, 0, 40], [0, -0.9, 0, -10], [0, 0, 2.5, -300], [0, 0, 0, 1.0]]),
    "PSL": np.array([[0, 0, -2.5, 40], [-0.7, 0, 0, -10], [0, 0.9, 0, -300], [0, 0, 0, 1.0]]),
}
SCHEMA = "https://example.org/markups-schema-v1.0.3.json#"


@pytest.fixture(params=AFFINES)
def scan(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A scan whose file has the axes of the parameter; every voxel has another value."""
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), AFFINES[request.param]), path)
    return path


def point(position: list[float], label: str = "F-1", **more: Any) -> dict[str, Any]:
    """A control point as Slicer writes it."""
    return {
        "id": "1", "label": label, "description": "", "associatedNodeID": "", "position": position,
        "orientation": [-1.0, -0.0, -0.0, -0.0, -1.0, -0.0, 0.0, 0.0, 1.0], "selected": True, "locked": False,
        "visibility": True, "positionStatus": "defined",
    } | more  # fmt: skip


def points(*control_points: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A point list as Slicer writes it."""
    markup = {
        "type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "locked": False,
        "fixedNumberOfControlPoints": False, "labelFormat": "%N-%d", "lastUsedControlPointNumber": 2,
        "controlPoints": list(control_points), "measurements": [], "display": {"visibility": True, "opacity": 1.0},
    }  # fmt: skip
    return markup | more


def roi(center: Any, size: Any, **more: Any) -> dict[str, Any]:
    return {"type": "ROI", "coordinateSystem": "LPS", "roiType": "Box", "center": center, "size": size} | more


def slicer(*markups: dict[str, Any]) -> dict[str, Any]:
    return {"@schema": SCHEMA, "markups": list(markups)}


def world(scan: Path, stored: tuple[int, int, int], space: str) -> list[float]:
    """mm of a stored voxel by nibabel (RAS) or by SimpleITK (LPS)."""
    if space == "LPS":
        return list(SimpleITK.ReadImage(str(scan)).TransformIndexToPhysicalPoint(stored))
    return [float(v) for v in nib.affines.apply_affine(nib.load(scan).affine, stored)]


@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_points_of_slicer_are_the_voxels_where_they_lie(scan: Path, space: str) -> None:
    volume, image = read_volume(scan), np.asarray(nib.load(scan).dataobj)
    stored = [(3, 10, 7), (19, 0, 11)]
    content = slicer(
        points(point(world(scan, stored[0], space)), name="F", coordinateSystem=space),
        points(point(world(scan, stored[1], space)), name="negative", coordinateSystem=space),
    )
    prompts = parse_prompts(content, volume)
    assert [click.positive for click in prompts.clicks] == [True, False]
    assert [volume.array[click.position] for click in prompts.clicks] == [image[place] for place in stored]


def test_without_a_word_the_space_is_lps_as_the_schema_says() -> None:
    volume = Volume(np.zeros(SHAPE, np.float32), AFFINES["RAS"])
    x, y, z = (AFFINES["RAS"] @ [4, 5, 6, 1])[:3].tolist()
    bare = {"markups": [{"type": "Fiducial", "controlPoints": [{"position": [-x, -y, z]}]}]}
    assert parse_prompts(bare, volume).clicks == (Click((4, 5, 6)),)
    micro = slicer(points(point([-x * 1e3, -y * 1e3, z * 1e3]), coordinateUnits=["um", "UCUM", "micrometer"]))
    assert parse_prompts(micro, volume).clicks == (Click((4, 5, 6)),)


@pytest.mark.parametrize(
    ("label", "description", "name", "positive"),
    [
        ("F-1", "", "", True),
        ("F-1", "", "tumour-negative", False),
        ("Negative 2", "", "F", False),
        ("bg_1", "", "", False),
        ("1", "background", "", False),
        ("neg-1", "", "", False),
        ("nonnegative", "", "", True),
    ],
)
def test_a_word_makes_a_click_negative(label: str, description: str, name: str, positive: bool) -> None:
    volume = Volume(np.zeros(SHAPE, np.float32), np.diag([-1, -1, 1, 1]).astype(float))
    content = slicer(points(point([1, 2, 3], label, description=description), name=name))
    assert parse_prompts(content, volume).clicks == (Click((1, 2, 3), positive),)


@pytest.mark.parametrize("space", ["LPS", "RAS"])
def test_a_roi_holds_the_voxels_whose_centres_lie_in_it(scan: Path, space: str) -> None:
    volume = read_volume(scan)
    sign = np.array([-1, -1, 1] if space == "LPS" else [1, 1, 1])
    center, size = np.array([volume.affine @ [8.3, 7.6, 5.5, 1]])[0, :3], np.array([6.2, 5.0, 11.0])
    prompts = parse_prompts(
        slicer(
            roi(
                (center * sign).tolist(),
                size.tolist(),
                coordinateSystem=space,
                orientation=[-1, 0, 0, 0, -1, 0, 0, 0, 1],
            )
        ),
        volume,
    )
    centres = nib.affines.apply_affine(volume.affine, np.indices(volume.shape).reshape(3, -1).T)
    inside = (np.abs(centres - center) <= size / 2).all(axis=1).reshape(volume.shape)
    expected = np.argwhere(inside)
    assert prompts == Prompts(box=Box(tuple(expected.min(axis=0)), tuple(expected.max(axis=0) + 1)))
    assert inside.sum() == np.prod(np.subtract(prompts.box.high, prompts.box.low))  # type: ignore[union-attr]


def test_a_roi_may_be_turned_by_quarters_and_reach_beyond_the_volume() -> None:
    volume = Volume(np.zeros(SHAPE, np.float32), np.eye(4))
    quarter = Rotation.from_euler("z", 90, degrees=True).as_matrix().ravel().tolist()
    content = slicer(roi([5, 5, 5], [3, 9, 100], coordinateSystem="RAS", orientation=quarter))
    assert parse_prompts(content, volume).box == Box((1, 4, 0), (10, 7, 12))
    tilted = Rotation.from_euler("z", 5, degrees=True).as_matrix().ravel().tolist()
    with pytest.raises(UserError, match="tilted"):
        parse_prompts(slicer(roi([5, 5, 5], [3, 9, 4], coordinateSystem="RAS", orientation=tilted)), volume)


@pytest.mark.parametrize("units", ["mm", "um"])
def test_a_roi_along_the_axes_of_an_oblique_scan_is_a_box(units: str) -> None:
    """Slicer gives its axes as columns in the file's space: here those of the scan, in LPS."""
    turn = Rotation.from_euler("xyz", [20, -10, 15], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * (0.7, 0.9, 2.5), (-40, 10, -300)
    volume = Volume(np.zeros(SHAPE, np.float32), affine)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    scale = 1000 if units == "um" else 1
    center = scale * (to_lps @ (affine @ [8, 7, 5, 1])[:3])
    size = scale * np.array([4 * 0.7, 2 * 0.9, 6 * 2.5])
    content = roi(center.tolist(), size.tolist(), orientation=(to_lps @ turn).ravel().tolist(), coordinateUnits=units)
    assert parse_prompts(slicer(content), volume).box == Box((6, 6, 2), (11, 9, 9))
    wrong = roi(center.tolist(), size.tolist(), orientation=turn.ravel().tolist(), coordinateUnits=units)
    with pytest.raises(UserError, match="tilted"):
        parse_prompts(slicer(wrong), volume)


def test_clicks_and_the_box_of_the_challenge_are_stored_indices(scan: Path) -> None:
    """A tight box and two clicks, made of SimpleITK's array as the challenge makes them."""
    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(scan)))
    volume = read_volume(scan)
    low, high, clicks = (2, 3, 5), (7, 9, 14), {"fg": [[4, 6, 8], [2, 3, 5]], "bg": [[0, 0, 1]]}
    (z0, y0, x0), (z1, y1, x1) = ((int(v) for v in corner) for corner in (low, high))
    box = {
        "z_min": z0,
        "z_max": z1,
        "z_mid": 4,
        "z_mid_x_min": x0,
        "z_mid_y_min": y0,
        "z_mid_x_max": x1,
        "z_mid_y_max": y1,
    }
    content = {"boxes": [box], "clicks": [clicks], "clicks_order": [["fg", "bg", None, "fg"]]}
    prompts = parse_prompts(content, volume, read_orientation(scan))
    assert [click.positive for click in prompts.clicks] == [True, False, True]
    values = [volume.array[click.position] for click in prompts.clicks]
    assert values == [array[4, 6, 8], array[0, 0, 1], array[2, 3, 5]]
    assert prompts.box is not None
    inside = volume.array[tuple(slice(a, b) for a, b in zip(prompts.box.low, prompts.box.high, strict=True))]
    assert sorted(inside.ravel()) == sorted(array[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1].ravel())
    unordered = from_challenge({"clicks": [clicks]}, volume, read_orientation(scan))
    assert [click.positive for click in unordered.clicks] == [True, True, False]


PLAIN = Volume(np.zeros(SHAPE, np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"@schema": SCHEMA}, "'markups'"),
        (slicer(), "'markups'"),
        (slicer(points()), "no point and no ROI"),
        (slicer(points(point([1, 2, 3]), type="Line", name="L")), "markup 'L' is a Line; Fiducial"),
        (slicer(points(point([1, 2, 3]), coordinateSystem="HFS")), "coordinateSystem"),
        (slicer(points(point([1, 2, 3]), coordinateUnits="cm")), "coordinates in 'cm'"),
        (slicer(points(point([1, 2]), name="F")), "control point 1 of 'F': 'position' must be 3 finite numbers"),
        (slicer(points(point([1, 2, 3]), point([1, 2, float("nan")]))), "control point 2"),
        (slicer(points({"label": "F"}, name="F")), "'position' must be 3 finite numbers, not None"),
        (slicer(points(point([], positionStatus="undefined"), name="F")), "is undefined: place it"),
        (slicer(points(point([100, 2, 3]), name="F")), "control point 1 of 'F': .* lies outside the volume"),
        (slicer(roi([1, 1, 1], None, name="R")), "ROI 'R': 'center' and 'size' are missing"),
        (slicer(roi([1, 1, 1], [1, 1, -1])), "greater than or equal to 0"),
        (slicer(roi([-99, 1, 1], [1, 1, 1])), "holds no voxel"),
        (slicer(roi([1, 1, 1], [3, 3, 3], insideOut=True)), "inside out"),
        (slicer(roi([1, 1, 1], [3, 3, 3]), roi([1, 1, 1], [3, 3, 3])), "2 ROIs"),
        ({"clicks": [{"fg": []}, {"fg": []}]}, "'clicks' has 2 classes; keep that of the target alone"),
        (
            {"clicks": [{"fg": [[12, 0, 0]]}]},
            r"click 1: voxel .* outside .* 20 × 16 × 12 .* \(z, y, x\)",
        ),
        ({"clicks": [{"fg": [[-1, 0, 0]]}]}, "greater than or equal to 0"),
        ({"clicks": [{"fg": [[1.5, 0, 0]]}]}, "clicks.0.fg.0.0"),
        ({"clicks": [{"fg": [[1, 0, 0]]}], "clicks_order": [["bg"]]}, "'clicks_order' does not have"),
        ({"boxes": [{"z_min": 1}]}, "boxes.0.z_max"),
        ({"boxes": [], "imgs": []}, "unknown key 'imgs'"),
        ({"clicks": []}, "'version' must be 1"),
    ],
)
def test_a_mistake_in_a_file_of_others_is_one_line_that_names_it(tmp_path: Path, content: Any, message: str) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        read_prompt_file(file, PLAIN)
    assert str(caught.value).startswith(f"{file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.npz", b"PK", "not safe to read"),
        ("a.fcsv", b"# Markups", "save it as .mrk.json"),
        ("a.json", b"\xff\xfe", "not JSON"),
        ("a.json", b"[" * 100_000, "not JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(UserError, match=message) as caught:
        read_prompt_file(tmp_path / name, PLAIN)
    assert "\n" not in str(caught.value)


def test_predict_and_import_read_a_file_of_slicer(scan: Path, tmp_path: Path) -> None:
    stored = (3, 10, 7)
    label = np.zeros(SHAPE, np.uint8)
    label[2:6, 8:12, 5:9] = 1
    nib.save(nib.Nifti1Image(label, nib.load(scan).affine), tmp_path / "label.nii.gz")
    case = Case("own", "one", scan, tmp_path / "label.nii.gz")
    target = Target("tumor", "", "tumor", (1,))
    dataset = Dataset("own", {"one": case}, (target,), (Split((), (), ("one",)),))
    folder = tmp_path / "prompts"
    folder.mkdir()
    file = folder / "one.tumor.mrk.json"
    file.write_text(json.dumps(slicer(points(point(world(scan, stored, "LPS"))))))
    volume = read_volume(scan)
    prompts = GivenPrompts(file, text="kidney tumor").on(volume)
    assert prompts.text == "kidney tumor"
    assert volume.array[prompts.clicks[0].position] == np.asarray(nib.load(scan).dataobj)[stored]
    bank = import_prompts(folder, dataset, "test", 0, Protocol("centre-click"), 1)
    assert bank.prompts("one", "tumor", volume).clicks == prompts.clicks
    challenge = {"clicks": [{"fg": [list(reversed(stored))]}]}
    file.unlink()
    (folder / "one.tumor.json").write_text(json.dumps(challenge))
    assert import_prompts(folder, dataset, "test", 0, Protocol("centre-click"), 1).cases == bank.cases
    file.write_text("{}")
    with pytest.raises(UserError, match=r"keep one of them"):
        import_prompts(folder, dataset, "test", 0, Protocol("centre-click"), 1)
