"""Masks made elsewhere take part as a method: scored, never predicted, in lists of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from benchmarks.common.errors import UserError
from benchmarks.data.dataset import Case, Dataset, target_mask
from benchmarks.data.volume import write_mask, write_nifti
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.given_masks import given_masks
from benchmarks.execution.observer import Nobody
from benchmarks.execution.plan import Unit, plan
from benchmarks.execution.pool import run
from benchmarks.execution.suite import Suite, parse_suite
from benchmarks.metrics import Reference, evaluate_mask
from benchmarks.results.leaderboard import leaderboard_of, notes_of
from benchmarks.results.records import RecordStore

SUITE = """
name: elsewhere
datasets: [{name: kits21, source: phantom, cases: 12}]
methods: [mock-threshold, {name: ours, kind: masks, folder: FOLDER}]
protocols: [none]
budget: {steps: 1}
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folders = Folders(tmp_path_factory.mktemp("phantoms"))
    return resolve_dataset(parse_suite(SUITE, "test").datasets[0], 7, folders)


def cases_of(dataset: Dataset) -> list[Case]:
    return list(dataset.split_cases("test", 0))


def shifted(case: Case, dataset: Dataset) -> Any:
    """A mask that is wrong in a known way: the target moved by one voxel."""
    return np.roll(target_mask(case.load()[1], dataset.targets[0]), 1, axis=0)


@pytest.fixture
def folder(dataset: Dataset, tmp_path: Path) -> Path:
    """A mask for every test case, in the file's own grid, 255 inside."""
    place = tmp_path / "masks"
    for case in cases_of(dataset):
        write_mask(255 * shifted(case, dataset).astype(np.uint8), case.load()[0], place / f"{case.case_id}.nii.gz")
    return place


def suite_with(folder: object, extra: str = "") -> Suite:
    return parse_suite(SUITE.replace("FOLDER", f"{folder}{extra}"), "test")


def planned(dataset: Dataset, out: Path, folder: object, extra: str = "") -> list[Unit]:
    return plan(suite_with(folder, extra), [dataset], Folders(out))


def run_it(dataset: Dataset, out: Path, folder: object, extra: str = "") -> tuple[list[Unit], int, pd.DataFrame]:
    units = planned(dataset, out, folder, extra)
    computed = run(units, Folders(out), Nobody()).computed
    return units, computed, RecordStore(Folders(out).records).read_suite("elsewhere")[0]


@pytest.mark.ray
def test_masks_are_scored_listed_apart_and_not_scored_twice(
    local_ray: None, dataset: Dataset, folder: Path, tmp_path: Path
) -> None:
    missing, oblique, labels, *well = cases_of(dataset)
    (folder / f"{missing.case_id}.nii.gz").unlink()
    volume = oblique.load()[0]
    write_nifti(
        shifted(oblique, dataset).astype(np.uint8),
        volume.affine @ np.diag([1, 1, 1.1, 1]),
        folder / f"{oblique.case_id}.nii.gz",
    )
    write_mask(labels.load()[1], labels.load()[0], folder / f"{labels.case_id}.nii.gz")  # a label map of many values
    out = tmp_path / "out"
    units, computed, rows = run_it(dataset, out, folder)
    assert computed == 2 * len(cases_of(dataset))
    ours = rows[rows["method"] == "ours"].set_index("case")
    assert set(ours["track"]) == {"unknown"}
    assert set(ours["protocol"]) == {"made-elsewhere"}
    assert ours.loc[missing.case_id, "reason"] == f"UserError: no mask for case '{missing.case_id}' in {folder}"
    assert "different grids" in ours.loc[oblique.case_id, "reason"]
    assert "say with `value` which one means the target" in ours.loc[labels.case_id, "reason"]
    assert (ours.loc[[missing.case_id, oblique.case_id, labels.case_id], "dice"] == 0).all()
    assert well
    for case in well:
        loaded, label = case.load()
        reference = Reference(target_mask(label, dataset.targets[0]), loaded.spacing, (1.0, 2.0, 5.0))
        expected = evaluate_mask(shifted(case, dataset), reference)
        for metric in ("dice", "hd95_mm", "nsd@1mm"):
            assert ours.loc[case.case_id, metric] == pytest.approx(expected[metric])
        assert ours.loc[case.case_id, "status"] == "ok"
        assert np.isnan(ours.loc[case.case_id, "seconds_segment"])
        assert ours.loc[case.case_id, "predicted_commit"] == ""
    described = [unit.description() for unit in units]
    assert any(note.startswith("made elsewhere: ours: masks") for note in notes_of(rows, described))
    board = leaderboard_of(rows, described)
    lists = board.groupby("method")[["track", "protocol"]].first()
    assert lists.loc["ours"].tolist() == ["unknown", "made-elsewhere"]
    assert lists.loc["mock-threshold"].tolist() == ["automatic", "automatic"]
    assert board.set_index("method").loc["ours", "contamination"] == "unseen"  # phantoms
    elsewhere = tmp_path / "moved"
    shutil.move(folder, elsewhere)  # the same files at another place are the same masks
    assert run_it(dataset, out, elsewhere)[1] == 0
    write_mask(shifted(missing, dataset), missing.load()[0], elsewhere / f"{missing.case_id}.nii.gz")
    _, computed, rows = run_it(dataset, out, elsewhere)
    assert computed == len(cases_of(dataset))  # other content, another unit
    assert rows.set_index(["method", "case"]).loc[("ours", missing.case_id), "status"] == "ok"


def test_content_decides_and_not_the_place(dataset: Dataset, folder: Path, tmp_path: Path) -> None:
    first = planned(dataset, tmp_path / "out", folder)[1]
    copy = shutil.copytree(folder, tmp_path / "copy" / "kits21")
    assert planned(dataset, tmp_path / "out", copy.parent)[1].digest == first.digest  # a folder below, by its name
    by_name = f"{{kits21: {copy}, lits17: /nowhere}}"
    assert planned(dataset, tmp_path / "out", by_name)[1].digest == first.digest
    assert planned(dataset, tmp_path / "out", folder, ", value: 255")[1].digest != first.digest
    file = copy / f"{cases_of(dataset)[0].case_id}.nii.gz"
    image = nib.load(file)
    voxels = np.asarray(image.dataobj).copy()
    voxels[0, 0, 0] = 255
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), file)
    assert planned(dataset, tmp_path / "out", copy)[1].digest != first.digest


def test_files_pair_by_case_or_by_scan(dataset: Dataset, tmp_path: Path) -> None:
    cases = cases_of(dataset)
    (tmp_path / "imaging.nii.gz").touch()  # the name that every scan of KiTS has: it belongs to no case
    (tmp_path / f"{cases[0].case_id}_0000.nii.gz").touch()
    found = given_masks("m", str(tmp_path), None, "kits21", cases)
    assert found is not None
    assert list(found.files) == [cases[0].case_id]


def test_a_mask_behind_a_dead_link_is_not_there(dataset: Dataset, tmp_path: Path) -> None:
    cases = cases_of(dataset)
    (tmp_path / f"{cases[0].case_id}.nii.gz").touch()
    (tmp_path / f"{cases[1].case_id}.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    found = given_masks("m", str(tmp_path), None, "kits21", cases)
    assert found is not None
    assert list(found.files) == [cases[0].case_id]
    with pytest.raises(UserError, match=f"no mask for case '{cases[1].case_id}'"):
        found.mask(cases[1], cases[1].load()[0])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{name: ours, kind: masks}", "masks 'ours': `folder` says where they are"),
        ("{name: ours, kind: masks, folder: /no/such/place}", "masks 'ours': no such folder /no/such/place"),
        ("{name: ours, kind: masks, folder: {lits17: /x}}", "a folder is named for lits17, none for kits21"),
        ("{name: ball, kind: masks, folder: EMPTY}", "masks 'ball': this is the name of an installed method"),
        ("{name: ours, kind: masks, folder: EMPTY}", r"no file in .* \(none ends with"),
        ("{name: ours, kind: masks, folder: EMPTY, fine_tune: true}", "only `folder`, `value` and `label` have"),
        ("{name: ball, folder: EMPTY}", "`folder` and `value` belong to `kind: masks`"),
    ],
)
def test_what_cannot_be_is_one_line(dataset: Dataset, tmp_path: Path, entry: str, message: str) -> None:
    text = SUITE.replace("{name: ours, kind: masks, folder: FOLDER}", entry.replace("EMPTY", str(tmp_path)))
    with pytest.raises(UserError, match=message):
        plan(parse_suite(text, "test"), [dataset], Folders(tmp_path / "out"))


def test_nobody_is_asked_to_make_masks_elsewhere() -> None:
    for protocol in ("made-elsewhere", "{kind: made-elsewhere}"):
        with pytest.raises(UserError, match="made-elsewhere is no protocol to ask for"):
            parse_suite(SUITE.replace("[none]", f"[{protocol}]"), "test")
