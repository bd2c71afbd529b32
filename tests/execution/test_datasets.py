"""External validation, repeats, folds, budgets of single methods, and own data from which nothing is learned."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.commands.options import DataOptions, LabelOptions
from benchmarks.commands.run import _with_data
from benchmarks.common.errors import UserError
from benchmarks.data import registry
from benchmarks.data.dataset import Dataset
from benchmarks.execution import work
from benchmarks.execution.datasets import Folders, data_line, dataset_of, folds_of
from benchmarks.execution.plan import Unit, plan
from benchmarks.execution.progress import Progress
from benchmarks.execution.suite import Suite, parse_suite
from tests.scan_folders import write_msd

SUITE = """
name: small
datasets: [DATASETS]
methods: [METHODS]
protocols: [centre-click]
budget: {steps: 5}
"""


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Two datasets of this machine with the same names of cases and other scans: 'here' and 'there'."""
    here = write_msd(tmp_path / "here", cases=10)
    there = write_msd(tmp_path / "there", cases=12)
    registry.add(registry.Registration("here", here))
    registry.add(registry.Registration("there", darker(there)))
    return tmp_path


def darker(folder: Path) -> Path:
    """Other intensities, so that no scan is one of another dataset."""
    for path in sorted((folder / "imagesTr").iterdir()):
        image = nib.load(path)
        nib.save(nib.Nifti1Image((np.asarray(image.dataobj) - 500).astype(np.int16), image.affine), path)
    return folder


def suite_of(datasets: str, methods: str = "ball", more: str = "") -> Suite:
    return parse_suite(SUITE.replace("DATASETS", datasets).replace("METHODS", methods) + more, "test")


def planned(suite: Suite, out: Path) -> tuple[list[Dataset], list[Unit]]:
    folders = Folders(out)
    entries = [one for entry in suite.datasets for one in folds_of(entry, dataset_of(suite, entry, folders))]
    datasets = [dataset_of(suite, entry, folders) for entry in entries]
    return datasets, plan(suite.model_copy(update={"datasets": tuple(entries)}), datasets, folders)


def test_trained_on_one_dataset_and_tested_on_the_whole_of_another(listed: Path) -> None:
    datasets, (unit,) = planned(suite_of("{name: there, train_on: {name: here}}"), listed / "out")
    assert unit.dataset.name == "here-to-there"
    assert len(unit.cases) == 12
    assert {case.image.parent.parent.name for case in unit.cases} == {"there"}
    assert unit.job is not None
    assert {case.image.parent.parent.name for case in unit.job.cases} == {"here"}
    said = unit.description()["external"]
    learned = len(unit.job.cases)
    assert said == {"tested": "there", "trained_on": "here", "fold": 0, "training_cases": learned,
                    "synthetic_training": False}  # fmt: skip
    assert "tested on all 12 REAL scans of there" in data_line(datasets[0])


def test_patients_tested_by_what_learned_from_phantoms_are_no_phantoms(listed: Path) -> None:
    suite = suite_of("{name: here, train_on: {name: lits17, source: phantom, cases: 6}}")
    datasets, (unit,) = planned(suite, listed / "out")
    assert not unit.dataset.synthetic
    assert unit.description()["external"]["synthetic_training"]
    assert "3 SYNTHETIC phantoms of lits17, tested on all 10 REAL scans of here" in data_line(datasets[0])


def test_what_was_trained_inside_is_used_again_outside(listed: Path) -> None:
    """The same training, whatever it is then tested on: its checkpoint has the same identity."""
    _, (inside,) = planned(suite_of("{name: here}"), listed / "out")
    _, (outside,) = planned(suite_of("{name: there, train_on: {name: here}}"), listed / "out")
    assert inside.job is not None
    assert outside.job is not None
    assert inside.job.digest() == outside.job.digest()
    assert inside.digest != outside.digest
    assert outside.target.window == inside.target.window  # networks see the intensities that they learned from


@pytest.mark.parametrize("tested", ["added", "own"])
def test_a_split_beside_a_dataset_to_learn_from_splits_that_one(listed: Path, tested: str) -> None:
    """The other is tested whole: of it the word could mean nothing, and it must not be passed over."""
    split = listed / "splits_final.json"
    split.write_text(json.dumps([{"train": ["case_1", "case_4", "case_7"], "val": ["case_2"]}]), encoding="utf-8")
    data = DataOptions(dataset=["there"], train_on="here", splits=str(split))
    if tested == "own":
        data = replace(data, dataset=["mine"], data=listed / "there", labels=LabelOptions(target="tumour"))
    _, (unit,) = planned(_with_data(suite_of("{name: here}"), data), listed / "out")
    assert unit.job is not None
    assert sorted(case.case_id for case in unit.job.cases) == ["case_1", "case_4", "case_7"]
    assert {case.image.parent.parent.name for case in unit.job.cases} == {"here"}
    assert len(unit.cases) == 12


def test_a_scan_that_is_learned_from_is_refused_under_any_name(listed: Path) -> None:
    learned = registry.load("here").split_cases("train")[0]
    shutil.copy(learned.image, listed / "there" / "imagesTr" / "case_11.nii.gz")
    suite = suite_of(f"{{name: new, source: {listed / 'there'}, train_on: {{name: here}}}}")
    with pytest.raises(UserError, match=f"'new', case 'case_11', is the scan '{learned.case_id}' of 'here'"):
        planned(suite, listed / "out")
    with pytest.raises(UserError, match="cannot be trained on itself"):
        planned(suite_of("{name: here, train_on: {name: here}}"), listed / "out")


@pytest.mark.parametrize("way", ["uncompressed", "other axes", "as floats", "compressed again"])
def test_a_scan_that_is_learned_from_is_refused_in_any_file(listed: Path, way: str) -> None:
    """LiTS17 comes as .nii, the same scans in the Decathlon's Task03 as .nii.gz: no byte of the files is alike."""
    learned = registry.load("here").split_cases("train")[0]
    image, copy = nib.load(learned.image), listed / "there" / "imagesTr" / "case_11.nii.gz"
    if way == "compressed again":
        copy.write_bytes(gzip.compress(gzip.decompress(learned.image.read_bytes()), compresslevel=1, mtime=5))
    elif way == "other axes":
        nib.save(image.as_reoriented(nib.orientations.axcodes2ornt("PSL")), copy)
    elif way == "as floats":
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine), copy)
    else:
        copy.unlink()
        nib.save(image, copy.with_suffix(""))
    suite = suite_of(f"{{name: new, source: {listed / 'there'}, train_on: {{name: here}}}}")
    with pytest.raises(UserError, match=f"'new', case 'case_11', is the scan '{learned.case_id}' of 'here'"):
        planned(suite, listed / "out")


def test_voxels_of_added_datasets_are_not_read_again_to_compare_them(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All scans of both have one shape; the check has kept the hash of each."""
    learned = registry.load("here").split_cases("train")[0]
    copy = listed / "there" / "imagesTr" / "case_11.nii.gz"
    suite = suite_of("{name: there, train_on: {name: here}}")
    monkeypatch.setattr("benchmarks.data.dataset.voxel_hash", None)
    planned(suite, listed / "out")
    copy.unlink()
    nib.save(nib.load(learned.image), copy.with_suffix(""))
    registry.verify_again("there")
    with pytest.raises(UserError, match=f"'there', case 'case_11', is the scan '{learned.case_id}' of 'here'"):
        planned(suite, listed / "out")


def test_own_data_are_tested_whole_where_nothing_is_learned(listed: Path) -> None:
    _, (growing,) = planned(suite_of("{name: here}", "region-growing"), listed / "out")
    assert len(growing.cases) == 10
    assert growing.description()["split_source"].startswith("all cases")
    assert growing.target.window == registry.load("here").targets[0].window  # no label was looked at for it
    _, units = planned(suite_of("{name: here}", "region-growing, ball"), listed / "out")
    assert {len(unit.cases) for unit in units} == {2}
    _, (asked,) = planned(suite_of("{name: here, splits: patient}", "region-growing"), listed / "out")
    assert len(asked.cases) == 2
    _, (second,) = planned(suite_of("{name: here, fold: 1}", "region-growing"), listed / "out")
    assert len(second.cases) == 2
    phantoms = suite_of("{name: kits21, source: phantom, cases: 5}", "region-growing")
    _, (phantom,) = planned(phantoms, listed / "out")
    assert len(phantom.cases) == 2


def test_the_window_is_measured_only_where_something_learns(listed: Path) -> None:
    """The lesions are cubes at 120 HU with a noise of 10 HU."""
    alone, beside = suite_of("{name: here}", "region-growing"), suite_of("{name: here}", "region-growing, ball")
    whole, split = (dataset_of(one, one.datasets[0], Folders(listed / "out")) for one in (alone, beside))
    assert whole.targets[0].window == (-160.0, 240.0)
    assert data_line(whole).endswith("; window -160 to 240 HU, not measured")
    low, high = split.targets[0].window
    assert 80 < low < 100
    assert 140 < high < 160
    assert "measured" not in data_line(split)


def test_all_folds_test_every_case_once(listed: Path) -> None:
    _, units = planned(suite_of("{name: here, fold: all}"), listed / "out")
    assert [unit.fold for unit in units] == [0, 1, 2, 3, 4]
    assert sorted(case.case_id for unit in units for case in unit.cases) == sorted(registry.load("here").cases)
    assert len({unit.key for unit in units}) == 5
    some = suite_of("{name: here, folds: [0, 2]}")
    assert [entry.fold for entry in some.datasets] == [0, 2]
    for wrong in ("{name: here, folds: 2}", "{name: here, folds: []}", "{name: here, fold: 1, folds: [0]}"):
        with pytest.raises(UserError, match="`folds` is a list"):
            suite_of(wrong)


def test_an_entry_that_names_another_target_than_the_added_one_is_refused(listed: Path) -> None:
    """The target of an added dataset is the one that it was added with; that of phantoms is fixed."""
    own = registry.load("here").targets[0]
    same = f"{{name: here, target: {own.labels[0]}, organ: '{own.organ}', lesion: '{own.lesion}'}}"
    _, (unit,) = planned(suite_of(same), listed / "out")
    assert unit.target.labels == own.labels
    for key, value in (("target", "7"), ("organ", "spleen"), ("lesion", "cyst")):
        with pytest.raises(UserError, match=rf"'here': {key} '{value}' is not its target, which is .*data add"):
            planned(suite_of(f"{{name: here, {key}: {value}}}"), listed / "out")
    with pytest.raises(UserError, match="'here': target '7' is not its target"):
        planned(suite_of("{name: there, train_on: {name: here, target: 7}}"), listed / "out")


def test_an_entry_that_names_another_target_than_that_of_phantoms_is_refused(tmp_path: Path) -> None:
    phantom = "name: kits21, source: phantom, cases: 5"
    _, (unit,) = planned(suite_of(f"{{{phantom}, target: 2, organ: kidney}}"), tmp_path)
    assert unit.target.labels == (2,)
    with pytest.raises(UserError, match=r"target '3' is not its target, which is kidney-tumor \(label 2, "):
        planned(suite_of(f"{{{phantom}, target: 3}}"), tmp_path)
    folder = next((tmp_path / "data" / "phantom").iterdir())
    with pytest.raises(UserError, match=r"lesion 'cyst' is not its target, .*name the label as `target`"):
        planned(suite_of(f"{{name: kits21, source: {folder}, lesion: cyst}}"), tmp_path)


def test_what_learns_is_trained_again_and_nothing_else(listed: Path) -> None:
    suite = suite_of(
        "{name: here}",
        "mock-network, region-growing, ball, {name: mock-network, label: once, repeats: 1}",
        "repeats: 3\n",
    )
    _, units = planned(suite, listed / "out")
    assert [unit.entry.title for unit in units] == [
        "mock-network", "mock-network (repeat 2)", "mock-network (repeat 3)", "region-growing", "ball", "once",
    ]  # fmt: skip
    seeds = [unit.job.seed for unit in units[:3] if unit.job]
    assert len(set(seeds)) == 3
    assert seeds[0] == suite.seed
    assert len({unit.cases_digest for unit in units}) == 1


def test_a_budget_of_its_own_is_said_and_replaced_by_one_for_all(listed: Path) -> None:
    suite = suite_of("{name: here}", "mock-network, {name: mock-network, label: long, budget: {steps: 900}}")
    _, (usual, long) = planned(suite, listed / "out")
    assert (usual.description()["budget"]["steps"], long.description()["budget"]["steps"]) == (5, 900)
    assert usual.digest != long.digest
    from benchmarks.execution.suite import BudgetChanges

    _, same = planned(suite.with_budget(BudgetChanges(steps=2)), listed / "out")
    assert {unit.description()["budget"]["steps"] for unit in same} == {2}


def test_what_a_reader_must_know_of_the_data_is_said_before_a_run(tmp_path: Path) -> None:
    root = write_msd(tmp_path / "mine", cases=10)
    for part in ("imagesTr", "labelsTr"):
        (root / part / "case_3.nii.gz").unlink()
    said: list[str] = []

    class Listening(Progress):
        def note(self, text: str) -> None:
            said.append(text)

    work.planned(suite_of(f"{{name: mine, source: {root}}}"), tmp_path / "out", Listening())
    assert said[1:] == ["mine: 1 of the 10 training cases of dataset.json not there: case_3"]
    assert "9 REAL scans" in said[0]


def test_phantoms_and_patients_are_told_apart(listed: Path) -> None:
    suite = suite_of("{name: kits21, source: phantom, cases: 4}, {name: here}")
    datasets, _ = planned(suite, listed / "out")
    assert "4 SYNTHETIC phantoms, no patients" in data_line(datasets[0])
    assert "10 REAL scans, 2 tested" in data_line(datasets[1])


def test_a_run_says_which_method_keeps_cases_from_being_tested(tmp_path: Path) -> None:
    """The ball is a floor that learns its radius; region growing learns nothing."""
    root = write_msd(tmp_path / "mine", cases=10)
    data = f"{{name: mine, source: {root}, target: tumour}}"
    split = "2 tested (by patient, 5 folds, seed 2026); "
    lines = {
        "ball, region-growing": split + "ball learns from the others",
        "region-growing": "10 tested (all cases: nothing is learned from them); window -160 to 240 HU, not measured",
        "ball, tags-tiny, {name: tags-tiny, untrained: true}": split + "2 methods learn from the others",
    }
    for methods, words in lines.items():
        said: list[str] = []

        class Listening(Progress):
            def note(self, text: str) -> None:
                said.append(text)  # noqa: B023

        work.planned(suite_of(data, methods), tmp_path / "out", Listening())
        assert said[0] == f"data: mine: 10 REAL scans, {words}"
        trained = "budget of a training: 5 steps on 1 CPU; --minutes and --steps set another"
        assert said[1:] == ([trained] if "tags-tiny" in methods else [])


def test_the_line_of_the_data_names_the_seed_of_the_split(listed: Path) -> None:
    """A folder and the same folder once it is added are split by other seeds."""
    folder = f"{{name: folder, source: {listed / 'here'}}}"
    suite = suite_of(f"{{name: here}}, {folder}, {{name: kits21, source: phantom, cases: 4}}")
    lines = [data_line(dataset) for dataset in planned(suite, listed / "out")[0]]
    assert ["seed 0)" in line for line in lines] == [True, False, False]
    assert ["seed 2026)" in line for line in lines] == [False, True, True]
