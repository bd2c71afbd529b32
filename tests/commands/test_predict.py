"""`predict` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.dicom_files import SHAPE, STRAIGHT, scan, to_world, write_series


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    """Axes that run to the left and to the back; 1 × 1 × 2 mm."""
    affine = np.array([[-1.0, 0, 0, 30], [0, -1, 0, -5], [0, 0, 2, 7], [0, 0, 0, 1]])
    array = np.random.default_rng(0).integers(-900, 900, (24, 22, 12)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def mask_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj) > 0


def test_voxels_world_mm_and_files_mean_the_same_click(call: Callable[..., Any], nifti: Path, tmp_path: Path) -> None:
    """The same voxel in five ways; that of Slicer's file is in LPS, as Slicer writes it."""
    world = nib.load(nifti).affine @ [6, 14, 4, 1]
    lps = world[:3] * (-1, -1, 1)
    markups = [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [{"position": lps.tolist()}]}]
    (tmp_path / "s.mrk.json").write_text(json.dumps({"@schema": "x", "markups": markups}))
    (tmp_path / "c.json").write_text(json.dumps({"clicks": [{"fg": [[4, 14, 6]], "bg": []}]}))  # z, y, x as stored
    ways = [
        ["--click", "6,14,4"],
        ["--click-mm=" + ",".join(map(str, world[:3]))],
        ["--click-mm=" + ",".join(map(str, lps)), "--space", "lps"],
        ["--prompts", "s.mrk.json"],
        ["--prompts", "c.json"],
    ]
    for number, way in enumerate(ways):
        done = call("predict", str(nifti), f"{number}.nii.gz", "--method", "ball", *way)
        assert (done.code, done.errors) == (0, []), done.err
        found = mask_of(tmp_path / f"{number}.nii.gz")
        assert np.argwhere(found).mean(axis=0) == pytest.approx([6.5, 14, 4], abs=2.5)  # cut off by the edge at 0
        assert found[6, 14, 4]
        np.testing.assert_array_equal(found, mask_of(tmp_path / "0.nii.gz"))


def test_negative_clicks_boxes_and_json(call: Callable[..., Any], nifti: Path, tmp_path: Path) -> None:
    words = ["predict", str(nifti), "a.nii.gz", "--method", "ball", "--json", "--overwrite"]
    alone = json.loads(call(*words, "--click", "10,10,5").out)
    less = json.loads(call(*words, "--click", "10,10,5", "--negative-click", "14,10,5", "--preview", "p.png").out)
    assert 0 < less["voxels"] < alone["voxels"]
    assert (less["clicks"], less["preview"]) == (2, "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000
    assert less["notes"][0].startswith("ball without training")
    boxed = json.loads(call(*words, "--box", "4,4,2,12,14,9").out)
    inside = np.argwhere(mask_of(tmp_path / "a.nii.gz"))
    assert boxed["voxels"] == len(inside)
    assert inside.min(axis=0).tolist() == [4, 4, 2]
    assert inside.max(axis=0).tolist() == [12, 14, 9]


def test_a_folder_of_dicom_to_a_dicom_segmentation(call: Callable[..., Any], tmp_path: Path) -> None:
    """Column, row and slice are the voxels of a series; world mm in LPS are those of its headers."""
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    write_series(tmp_path / "ct", scan(), PatientName="Case^A")
    mm = ",".join(f"{value:.3f}" for value in to_world(STRAIGHT, np.array([[20, 12, 6]]))[0])
    for name, way in (("a.dcm", ["--click", "20,12,6"]), ("b.dcm", [f"--click-mm={mm}", "--space", "LPS"])):
        done = call("predict", "ct", name, "--method", "ball", "--organ", "kidney", *way)
        assert (done.code, done.errors) == (0, []), done.err
    first, second = (pydicom.dcmread(tmp_path / name) for name in ("a.dcm", "b.dcm"))
    np.testing.assert_array_equal(first.pixel_array, second.pixel_array)
    assert first.SegmentSequence[0].SegmentLabel == "kidney lesion"
    middle = first.pixel_array[len(first.pixel_array) // 2]
    assert middle.shape == (SHAPE[1], SHAPE[0])
    assert np.argwhere(middle).mean(axis=0) == pytest.approx([12, 20])
    done = call("predict", "ct", "ct/IM0003", "--method", "ball", "--click", "1,1,1")
    assert (done.code, len(done.errors)) == (2, 1)
    words = ["predict", "ct", "b.dcm", "--method", "ball", "--click", "20,12,6"]
    done = call(*words)
    assert (done.code, done.errors) == (2, ["error: b.dcm: is there already; --overwrite replaces it"])
    assert call(*words, "--overwrite").code == 0
    (tmp_path / "c.dcm").write_bytes((tmp_path / "ct" / "IM0003").read_bytes())
    done = call("predict", "ct", "c.dcm", "--method", "ball", "--click", "20,12,6", "--overwrite")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "c.dcm: lies in the scan's folder and is no mask" in done.errors[0]


def test_a_mask_that_is_there_is_replaced_when_asked(call: Callable[..., Any], nifti: Path, tmp_path: Path) -> None:
    words = ["predict", str(nifti), "m.nii.gz", "--method", "ball", "--json", "--click"]
    assert call(*words, "10,10,5").code == 0
    before = (tmp_path / "m.nii.gz").read_bytes()
    done = call(*words, "0,0,0")
    assert (done.code, done.errors) == (2, ["error: m.nii.gz: is there already; --overwrite replaces it"])
    assert (tmp_path / "m.nii.gz").read_bytes() == before
    assert call(*words, "0,0,0", "--overwrite").code == 0
    assert (tmp_path / "m.nii.gz").read_bytes() != before


def test_a_table(call: Callable[..., Any], nifti: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('scan,mask,click\nscan.nii.gz,a.nii.gz,"6,14,4"\nscan.nii.gz,b.nii.gz,"99,1,1"\n')
    done = call("predict", "--batch", "t.csv", "--method", "ball")
    assert done.code == 2
    assert done.errors == ["error: 1 of 2 scans have no mask"]
    assert "was there" not in done.out
    assert "failed" in done.out
    assert mask_of(tmp_path / "a.nii.gz").any()
    (tmp_path / "t.csv").write_text('scan,mask,click\nscan.nii.gz,a.nii.gz,"6,14,4"\n')
    rows = json.loads(call("predict", "--batch", "t.csv", "--method", "ball", "--json").out)
    assert [row["status"] for row in rows] == ["was there"]
    rows = json.loads(call("predict", "--batch", "t.csv", "--method", "ball", "--json", "--overwrite").out)
    assert [row["status"] for row in rows] == ["ok"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scan.nii.gz"], "a scan and the mask to write are needed"),
        (["scan.nii.gz", "m.nii.gz", "--click", "1,2"], "--click 1,2: the form is X,Y,Z"),
        (["scan.nii.gz", "m.nii.gz", "--click", "1,2,99"], "lies outside the scan of 24 × 22 × 12 voxels"),
        (["scan.nii.gz", "m.nii.gz", "--box", "1,2,3,4,5,6", "--box-mm", "1,2,3,4,5,6"], "one of --box and --box-mm"),
        (["scan.nii.gz", "scan.nii.gz", "--click", "1,2,3"], "the mask would replace it"),
        (["scan.nii.gz", "m.dcm", "--click", "1,2,3"], "refer to a DICOM scan"),
        (["scan.nii.gz", "m.nii.gz", "--modality", "MRT"], "unknown modality 'MRT'; did you mean"),
        (["scan.nii.gz", "m.nii.gz"], "the method takes some prompt"),
        (["scan.nii.gz", "m.nii.gz", "--click", "1,2,3", "--space", "XYZ"], "unknown space 'XYZ'"),
        (["scan.nii.gz", "m.nii.gz", "--checkpoint", "nowhere"], "no checkpoint folder"),
        (["scan.nii.gz", "m.nii.gz", "--checkpoint", "x", "--dataset", "kits21"], "--checkpoint needs no run"),
        (["scan.nii.gz", "m.nii.gz", "--checkpoint", "x", "--fold", "0"], "--checkpoint needs no run"),
        (["scan.nii.gz", "m.nii.gz", "--dataset", "kits21", "--click", "1,2,3"], "no records of suite 'phantom'"),
        (["scan.nii.gz", "--batch", "t.csv"], "--batch takes scans, masks, prompts and previews from its table"),
        (["--batch", "t.csv", "--click", "1,2,3"], "--batch takes scans"),
        (["--batch", "nowhere.csv"], "not readable as a CSV table"),
    ],
)
def test_mistakes_are_one_line(call: Callable[..., Any], nifti: Path, words: list[str], message: str) -> None:
    before = nifti.read_bytes()
    done = call("predict", *words, "--method", "ball")
    assert done.code == 2
    assert len(done.errors) == 1
    assert message in done.errors[0]
    assert nifti.read_bytes() == before
    assert not Path("m.nii.gz").exists()


@pytest.mark.parametrize("form", ["trained", "ball=trained"])
def test_a_checkpoint_is_a_path_or_has_the_form_of_run(call: Callable[..., Any], nifti: Path, form: str) -> None:
    (Path("trained") / "checkpoint").mkdir(parents=True)
    Path("trained/checkpoint/ball.json").write_text('{"radius_mm": 4}')
    Path("trained/training.json").write_text(
        json.dumps({"method": "ball", "config": {}, "dataset": "kits21", "target": "kidney-tumor"})
    )
    words = ["predict", str(nifti), "m.nii.gz", "--method", "ball", "--click", "10,10,5", "--checkpoint"]
    assert call(*words, form).code == 0
    done = call(*words, f"nnunet={form}", "--overwrite")
    assert (done.code, len(done.errors)) == (2, 1)
    assert f"nnunet={form}: no checkpoint folder" in done.errors[0]


def test_an_unknown_method_is_told_the_nearest_name(call: Callable[..., Any], nifti: Path) -> None:
    done = call("predict", str(nifti), "m.nii.gz", "--method", "balll", "--click", "1,2,3")
    assert (done.code, len(done.errors)) == (2, 1)
    assert "unknown method 'balll'; did you mean 'ball'?" in done.errors[0]
    assert "there is no run of suite 'phantom' in tags-bench-out" in done.errors[0]  # which may name methods otherwise
