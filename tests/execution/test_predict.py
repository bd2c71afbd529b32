"""A mask for one scan from prompts by hand, with the weights of a finished run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from benchmarks.common.errors import UserError
from benchmarks.contestants import Budget, Target, method
from benchmarks.data.catalogue import load_dataset
from benchmarks.data.phantom import synthesise
from benchmarks.data.volume import Volume, read_volume
from benchmarks.execution import predict
from benchmarks.execution.predict import (
    Contestant,
    Order,
    Place,
    of_checkpoint,
    of_run,
    predict_scan,
    unit_of,
    without_run,
)
from benchmarks.execution.training import run_job
from benchmarks.execution.training_job import TrainingJob, checkpoint_folder
from benchmarks.prompting.given import GivenPrompts, Point
from benchmarks.weights import official_files

TARGET = Target("liver-tumor", "liver", "tumor", labels=(2,), window=(-100.0, 200.0))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A bright block in a scan whose axes run the other way in x and y; 1 × 1 × 2 mm."""
    array = np.zeros((20, 18, 10), np.int16)
    array[4:9, 5:11, 2:6] = 200
    affine = np.array([[-1.0, 0, 0, 30], [0, -1, 0, -5], [0, 0, 2, 7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def unit(name: str, dataset: str = "lits17", **changes: Any) -> dict[str, Any]:
    chosen = method(name)
    described = {
        "method": name, "method_name": name, "dataset": dataset, "fold": 0, "checkpoint": "",
        "config": chosen.configured(), "target": json.loads(json.dumps(asdict(TARGET))),
    }  # fmt: skip
    return described | changes


def test_the_mask_lies_on_the_grid_of_the_scan(scan: Path, tmp_path: Path) -> None:
    contestant = of_run(unit("mock-threshold"), tmp_path)
    assert contestant.target == TARGET
    told = predict_scan(Order(scan, tmp_path / "out" / "mask.nii.gz"), contestant)
    mask, image = nib.load(told["mask"]), nib.load(scan)
    np.testing.assert_allclose(mask.affine, image.affine)
    np.testing.assert_array_equal(np.asarray(mask.dataobj) > 0, np.asarray(image.dataobj) > 90)
    assert told["voxels"] == 5 * 6 * 4
    assert told["millilitres"] == pytest.approx(0.24)


def test_the_weights_are_those_of_the_run(tmp_path: Path) -> None:
    """The ball as fitted on phantoms, around a click of a user's file; the radius is that of the checkpoint."""
    dataset = load_dataset("lits17", synthesise("lits17", tmp_path, seed=1, cases=4), seed=1)
    cases = tuple(dataset.cases.values())[:2]
    job = TrainingJob("ball", {}, dataset.targets[0], cases, Budget(), 1)
    folder = checkpoint_folder(tmp_path / "checkpoints", job)
    run_job(job, folder)
    described = unit("ball", checkpoint=job.digest(), target=asdict(dataset.targets[0]))
    contestant = of_run(described, tmp_path / "checkpoints")
    volume = read_volume(cases[0].image)
    middle = (volume.affine @ [*(n // 2 for n in volume.shape), 1])[:3]
    file = tmp_path / "clicks.json"
    file.write_text(json.dumps({"version": 1, "clicks": [{"mm": middle.tolist()}]}))
    order = Order(cases[0].image, tmp_path / "mask.nii.gz", GivenPrompts(file))
    told = predict_scan(order, contestant)
    order = replace(order, overwrite=True)
    radius = (3 * told["millilitres"] * 1000 / (4 * np.pi)) ** (1 / 3)
    fitted = json.loads(next((folder / "checkpoint").glob("*.json")).read_text())
    assert radius == pytest.approx(next(v for v in fitted.values() if isinstance(v, float)), rel=0.15)
    assert told["clicks"] == 1
    with pytest.raises(UserError, match="takes some prompt; it understands: box, click"):
        predict_scan(replace(order, prompts=GivenPrompts()), contestant)
    with pytest.raises(UserError, match="takes no text"):
        predict_scan(replace(order, prompts=GivenPrompts(file, text="liver tumour")), contestant)
    alone = of_checkpoint("ball", folder)
    assert alone.target == dataset.targets[0]
    assert predict_scan(order, alone)["voxels"] == told["voxels"]
    for name, place, message in (
        ("region-growing", folder, "a checkpoint of 'ball', not of 'region-growing'"),
        ("ball", tmp_path, "no checkpoint folder .it has no training.json. and no file of weights"),
        ("ball", file, "'ball' takes no file of weights"),
        ("bal", folder, "did you mean 'ball'"),
    ):
        with pytest.raises(UserError, match=message):
            of_checkpoint(name, place)
    file = next((folder / "checkpoint").glob("*.json"))
    whole = file.read_bytes()
    for damaged in (b"", b"{", b"[]", b"null", whole[: len(whole) // 2], b"[" * 100_000, b"\xff"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"cannot be loaded|not a ball's checkpoint"):
            of_run(described, tmp_path / "checkpoints")
    with pytest.raises(UserError, match=r"no checkpoint .* of 'ball'"):
        of_run(described, tmp_path / "elsewhere")


def test_a_unit_is_named_by_method_dataset_fold_and_target() -> None:
    """Where the weights differ nothing is chosen unsaid."""
    cyst = asdict(replace(TARGET, name="liver-cyst"))
    units = [
        *(unit("ball", fold=fold, checkpoint=f"l{fold}") for fold in range(3)),
        unit("ball", "kits21", checkpoint="k"),
        unit("ball", "kits21", checkpoint="k", target=cyst),
        unit("mock-threshold"),
    ]
    assert unit_of(units, "mock-threshold") is units[5]
    assert unit_of(units, "ball", Place("lits17", 2)) is units[2]
    assert unit_of(units, "ball", Place(target="liver-cyst")) is units[4]
    assert unit_of(units, "ball", Place(fold=1)) is units[1]
    for name, place, message in (
        ("bal", Place(), "did you mean 'ball'"),
        ("ball", Place(), "'ball' was run on the datasets lits17, kits21; say which with --dataset"),
        ("ball", Place("lits17"), "'ball' was run on the folds 0, 1, 2; say which with --fold"),
        ("ball", Place("kits21"), "'ball' was run on the targets liver-tumor, liver-cyst; say which with --target"),
        ("ball", Place("kits12"), "'ball' was not run on dataset 'kits12'; did you mean 'kits21'?"),
        ("ball", Place("lits17", 3), "'ball' was not run on fold '3'; known: 0, 1, 2"),
        ("ball", Place("kits21", 1), "'ball' was not run on fold '1'; known: 0"),
        ("mock-threshold", Place("kits21"), "was not run on dataset 'kits21'"),
    ):
        with pytest.raises(UserError) as caught:
            unit_of(units, name, place)
        assert message in str(caught.value)


def test_a_method_that_learned_from_nothing_needs_no_dataset(scan: Path, tmp_path: Path) -> None:
    name = "region-growing"
    units = [unit(name), unit(name, "kits21"), unit(name, "kits21", fold=1)]
    contestant = of_run(unit_of(units, name), tmp_path)
    assert (contestant.title, contestant.unit["dataset"]) == (name, "")
    assert contestant.target == without_run(name).target
    order = Order(scan, tmp_path / "mask.nii.gz", GivenPrompts(points=(Point((6, 8, 4)),)))
    assert predict_scan(order, contestant)["voxels"] > 0
    assert unit_of(units, name, Place("lits17")) is units[0]  # a dataset's window is still to be had
    for other in (
        unit(name, "msd-pancreas", config={"reach_mm": 9.0}),
        unit(name, "brains", modality="MR"),
        unit(name, "msd-pancreas", zoo="digest"),
    ):
        with pytest.raises(UserError, match="say which with --dataset"):
            unit_of([*units, other], name)


def test_mistakes_are_one_line(scan: Path, tmp_path: Path) -> None:
    contestant = of_run(unit("mock-noop"), tmp_path)
    with pytest.raises(UserError, match=r"the mask is a file ending in \.nii, \.nii\.gz"):
        predict_scan(Order(scan, tmp_path / "mask.png"), contestant)
    with pytest.raises(UserError, match=r"a preview is a \.png"):
        predict_scan(Order(scan, tmp_path / "mask.nii.gz", preview=tmp_path / "a.txt"), contestant)
    file = tmp_path / "clicks.json"
    volume = Volume(np.zeros((4, 4, 4), np.float32), np.eye(4))
    for text, message in (("{", "not JSON"), ("[]", "an object with"), ('{"version": 2}', "'version' must be 1")):
        file.write_text(text)
        with pytest.raises(UserError, match=message) as caught:
            GivenPrompts(file).on(volume)
        assert str(file) in str(caught.value)
    assert GivenPrompts(text="liver tumour").on(volume).text == "liver tumour"


def test_the_mask_never_takes_the_place_of_what_it_is_made_from(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contestant = of_run(unit("mock-threshold"), tmp_path)
    (tmp_path / "linked.nii.gz").symlink_to(scan)
    (tmp_path / "hard.nii.gz").hardlink_to(scan)
    (tmp_path / "folder").symlink_to(tmp_path)
    prompts = tmp_path / "prompts.nii.gz"  # a name that a prompt file should not have
    prompts.write_text('{"version": 1}')
    (tmp_path / "mask.nii.gz").mkdir()
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for mask, message in (
        (scan, "is the same file as"),
        (Path("scan.nii.gz"), "is the same file as"),
        (tmp_path / "linked.nii.gz", "is the same file as"),
        (tmp_path / "hard.nii.gz", "is the same file as"),
        (tmp_path / "folder" / "scan.nii.gz", "is the same file as"),
        (prompts, r"the same file as .*prompts\.nii\.gz"),
        (tmp_path / "mask.nii.gz", "is a folder"),
        (scan / "mask.nii.gz", "cannot be written"),
        (tmp_path / f"{'x' * 300}.nii.gz", "File name too long"),
        (tmp_path / "a\0.nii.gz", "cannot hold a NUL"),
        (Path("~nobody-of-this-name/a.nii.gz"), "no user 'nobody-of-this-name'"),
        (Path("/proc/mask.nii.gz"), "cannot be written"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            predict_scan(Order(scan, mask, GivenPrompts(prompts)), contestant)
        assert "\n" not in str(caught.value)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    predict_scan(Order(tmp_path / "linked.nii.gz", tmp_path / "new" / "MASK.NII.GZ", GivenPrompts(prompts)), contestant)
    assert np.asarray(nib.load(tmp_path / "new" / "MASK.NII.GZ").dataobj).sum() == 5 * 6 * 4
    assert (tmp_path / "new" / "MASK.NII.GZ").read_bytes()[:2] == b"\x1f\x8b"


def test_a_mask_replaces_an_older_one_when_asked_and_a_scan_never(scan: Path, tmp_path: Path) -> None:
    contestant = of_run(unit("mock-threshold"), tmp_path)
    image = nib.load(scan)
    voxels = np.asarray(image.dataobj)
    for name, values in (("other.nii.gz", voxels), ("labels.nrrd", None), ("gt.nii.gz", (voxels > 90) * np.uint8(2))):
        if values is None:
            (tmp_path / name).write_bytes(b"no image")
        else:
            nib.save(nib.Nifti1Image(values, image.affine), tmp_path / name)
        before = (tmp_path / name).read_bytes()
        for overwrite in (False, True):
            with pytest.raises(UserError, match="lies in the scan's folder and is no mask of 0 and 1; name another"):
                predict_scan(Order(scan, tmp_path / name, overwrite=overwrite), contestant)
        assert (tmp_path / name).read_bytes() == before
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "scan.nii.gz").symlink_to(scan)  # another scan's folder may be made of links
    order = Order(tmp_path / "linked" / "scan.nii.gz", tmp_path / "other.nii.gz", overwrite=True)
    with pytest.raises(UserError, match="is no mask of 0 and 1"):
        predict_scan(order, contestant)
    elsewhere = tmp_path / "labelsTr" / "scan.nii.gz"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes((tmp_path / "gt.nii.gz").read_bytes())
    predict_scan(Order(scan, tmp_path / "mask.nii.gz"), contestant)
    for mask in (elsewhere, tmp_path / "mask.nii.gz"):
        before = mask.read_bytes()
        with pytest.raises(UserError, match="is there already; --overwrite replaces it"):
            predict_scan(Order(scan, mask), contestant)
        assert mask.read_bytes() == before
        predict_scan(Order(scan, mask, overwrite=True), contestant)
        assert np.asarray(nib.load(mask).dataobj).sum() == 5 * 6 * 4


@pytest.mark.parametrize("change", [lambda mask: mask.astype(float), lambda mask: mask[1:], np.ma.masked_all_like])
def test_a_method_that_gives_no_mask(scan: Path, tmp_path: Path, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    contestant = of_run(unit("mock-threshold"), tmp_path)
    session = contestant.segmenter.open(read_volume(scan), contestant.target)
    segment = type(session).segment
    monkeypatch.setattr(type(session), "segment", lambda self, prompts: change(segment(self, prompts)))
    with pytest.raises(UserError, match=r"the method gave a .*; a bool array of shape \(20, 18, 10\) is due"):
        predict_scan(Order(scan, tmp_path / "mask.nii.gz"), contestant)
    assert not (tmp_path / "mask.nii.gz").exists()


def test_a_preview_takes_no_place_of_an_input_either(scan: Path, tmp_path: Path) -> None:
    picture = tmp_path / "prompts.png"
    picture.write_text('{"version": 1}')
    order = Order(scan, tmp_path / "mask.nii.gz", GivenPrompts(picture), preview=picture)
    with pytest.raises(UserError, match="the preview would replace it"):
        predict_scan(order, of_run(unit("mock-threshold"), tmp_path))
    assert picture.read_text() == '{"version": 1}'


def test_methods_without_a_run(scan: Path, tmp_path: Path) -> None:
    """The ball of the radius that it says; a method that learns is not given out untrained."""
    ball = without_run("ball")
    assert "10 mm, fitted to nothing" in ball.notes[0]
    found = predict_scan(Order(scan, tmp_path / "mask.nii.gz", GivenPrompts(points=(Point((6, 8, 4)),))), ball)
    i, j, k = np.meshgrid(*(np.arange(n) for n in (20, 18, 10)), indexing="ij")
    expected = (i - 6) ** 2 + (j - 8) ** 2 + (2 * (k - 4)) ** 2 <= 100
    np.testing.assert_array_equal(np.asarray(nib.load(found["mask"]).dataobj) > 0, expected)
    assert found["notes"][0] == ball.notes[0]
    for name, message in (
        ("mock-network", "has to be trained first: .*--checkpoint"),
        ("sam-med3d", "needs its official file"),
        ("nnunet", "it has to be trained first"),
        ("bal", "did you mean 'ball'"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            without_run(name)
        assert "\n" not in str(caught.value)


def test_official_weights_of_a_dataset_see_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's for KiTS, in dataset/datasets.py of 3DSAM-adapter; a name that says nothing is noted."""
    monkeypatch.setattr(official_files, "licence_accepted", lambda file: True)
    monkeypatch.setattr(predict, "load_segmenter", lambda *_: None)  # the network of the official size
    named, unnamed = tmp_path / "3dsam-adapter_kits21.pth.tar", tmp_path / "last.pth.tar"
    for path in (named, unnamed):
        torch.save({"feature_dict": [{"weight": torch.zeros(1)}]}, path)
    found = of_checkpoint("3dsam-adapter", named)
    assert (found.target.window, found.target.mean, found.target.std) == ((-54.0, 247.0), 59.53867, 55.457336)
    assert found.looking_for("liver", "cyst").target.window == (-54.0, 247.0)
    assert found.notes == ()
    other = of_checkpoint("3dsam-adapter", unnamed)
    assert other.target.window == Target("lesion", "", "lesion", (1,)).window
    assert "does not say which dataset" in other.notes[0]
    config = method("3dsam-adapter").configured({"checkpoint": str(named)})
    runs = [unit("3dsam-adapter", dataset, config=config) for dataset in ("here", "there")]
    assert unit_of(runs, "3dsam-adapter")["target"]["window"] == (-54.0, 247.0)
    with pytest.raises(UserError, match=r"for each dataset: say which with --checkpoint.*3dsam-adapter_lits17"):
        without_run("3dsam-adapter")


def test_words_and_modality_of_a_run(scan: Path, tmp_path: Path) -> None:
    """A scan of another modality than the method learned from is said; so is one that may be no CT."""
    contestant = of_run(unit("mock-threshold", modality="MR"), tmp_path)
    order = Order(scan, tmp_path / "mask.nii.gz", overwrite=True)
    assert predict_scan(order, contestant)["modality"] == "MR"  # a file that does not say is taken for what it learned
    told = predict_scan(replace(order, modality="ct"), contestant)
    assert told["modality"] == "CT"
    assert told["notes"] == ["'mock-threshold' learned from MR, this scan is CT"]
    other = contestant.looking_for("kidney", "cyst").target
    assert (other.organ, other.lesion, other.window) == ("kidney", "cyst", TARGET.window)
    assert contestant.looking_for().target == TARGET


def test_a_checkpoint_says_what_it_learned_from(scan: Path, tmp_path: Path) -> None:
    """A scan that does not say what it is, is what the method learned from; older checkpoints do not say it."""
    dataset = load_dataset("lits17", synthesise("lits17", tmp_path / "data", seed=1, cases=4), seed=1)
    cases = tuple(replace(case, modality="MR") for case in list(dataset.cases.values())[:2])
    job = TrainingJob("ball", {}, dataset.targets[0], cases, Budget(), 1)
    assert job.digest() == replace(job, cases=tuple(replace(case, synthetic=False) for case in cases)).digest()
    run_job(job, tmp_path / "ball")
    order = Order(scan, tmp_path / "mask.nii.gz", GivenPrompts(points=(Point((6, 8, 4)),)), overwrite=True)
    new = of_checkpoint("ball", tmp_path / "ball")
    assert (new.unit["synthetic"], new.notes) == (True, ())
    assert predict_scan(order, new)["modality"] == "MR"
    assert "'ball' learned from MR, this scan is CT" in predict_scan(replace(order, modality="CT"), new)["notes"]

    file = tmp_path / "ball" / "training.json"
    figures = json.loads(file.read_text())
    file.write_text(json.dumps({key: figures[key] for key in figures if key not in ("modality", "synthetic")}))
    old = of_checkpoint("ball", tmp_path / "ball")
    assert old.unit["synthetic"] is False
    told = predict_scan(order, old)
    assert told["modality"] == "CT"
    assert told["notes"][0].endswith("is older and does not say what it learned from: real CT is assumed")
    assert not any("learned from CT" in note for note in predict_scan(replace(order, modality="MR"), old)["notes"])


def test_a_checkpoint_that_does_not_say_what_it_segments(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "ball.json").write_text('{"radius_mm": 7.5}')
    facts = {"method": "ball", "config": {}, "dataset": "kits21", "target": "kidney-tumor"}
    (folder / "training.json").write_text(json.dumps(facts))
    found: Contestant = of_checkpoint("ball", folder)
    assert (found.target.organ, found.target.window) == ("kidney", (-54.0, 247.0))
    (folder / "training.json").write_text(json.dumps(facts | {"dataset": "mine"}))
    with pytest.raises(UserError, match="does not say what it was trained to segment; name its run"):
        of_checkpoint("ball", folder)
