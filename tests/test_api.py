"""The bench from Python: the lines of the README run as they stand, and every result agrees with the disk."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml

import benchmarks
from benchmarks import api
from benchmarks.common.errors import UserError
from benchmarks.data import registry
from benchmarks.execution import work
from benchmarks.execution.course import NotRun
from benchmarks.execution.suite import DatasetEntry
from benchmarks.results.tables.sheet import digits_of
from tests.scan_folders import write_msd

ROOT = Path(__file__).resolve().parents[1]


def block(page: str, number: int = 0) -> str:
    """A Python block of a document."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8").split("```python\n")[1 + number].split("```")[0]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> benchmarks.Suite:
    """Ten small scans, the mock network for a few steps, one click."""
    monkeypatch.chdir(tmp_path)
    folder = write_msd(tmp_path / "mine", cases=10)
    suite = benchmarks.load_suite(
        "ablation", data=folder, methods=["mock-network"], budget=benchmarks.BudgetChanges(steps=2)
    )
    assert suite.budget.minutes is None
    return suite


@pytest.mark.ray
def test_the_three_lines_of_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for line in block("running.md").splitlines() if line]
    assert len(lines) == 3
    names: dict[str, object] = {}
    exec("\n".join(lines[:-1]), names)
    result = eval(lines[-1], names)  # what a notebook shows

    files = sorted(Path("tags-bench-out/records").rglob("[!.]*.parquet"))
    on_disk = pd.concat([pd.read_parquet(file) for file in files])
    assert len(files) == 2  # one for each method
    assert len(on_disk) == result.computed == result.cases == 48
    keys = ["method", "case", "protocol", "step"]
    columns = [*keys, "dice", "hd95_mm", "status"]
    pd.testing.assert_frame_equal(
        result.rows.sort_values(keys)[columns].reset_index(drop=True),
        on_disk.sort_values(keys)[columns].reset_index(drop=True),
        check_dtype=False,
    )
    means = on_disk[on_disk["protocol"] == "centre-click"].groupby("method")["dice"].mean()
    shown = result.leaderboard[result.leaderboard["protocol"] == "centre-click"].set_index("method")
    assert shown["dice"].to_dict() == pytest.approx(means.to_dict())
    assert result.complete
    assert result.synthetic
    decimals = digits_of(*shown.loc["ball", ["dice_low", "dice_high"]])
    assert f"{means['ball']:.{decimals}f} [" in result._repr_html_()
    assert "SYNTHETIC" in result._repr_html_()
    assert repr(result).count("\n") == 0

    capsys.readouterr()
    exec(block("leaderboard.md"), {})  # the page of the leaderboard, from the records of that run
    printed = capsys.readouterr().out
    assert f"| {means['ball']:.{decimals}f} [" in printed
    assert "sign-flip" in printed
    again = block("running.md", 1).replace("my-results", "tags-bench-out")
    assert '"tags-tiny", "ball"' in again
    second: dict[str, Any] = {}
    exec(again.replace('"tags-tiny", "ball"', '"ball", "region-growing"').replace("kits21", "lits17"), second)
    assert second["result"].computed == 0
    pd.testing.assert_frame_equal(second["result"].leaderboard, result.leaderboard)
    assert capsys.readouterr().out == ""
    assert all(Path(place.removeprefix("sqlite:///")).exists() for place in result.places.values())

    again = benchmarks.run(names["suite"])
    assert again.computed == 0
    pd.testing.assert_frame_equal(again.rows, result.rows)
    read = benchmarks.load_results("phantom")
    assert len(read.rows) == len(result.rows)
    pd.testing.assert_frame_equal(read.leaderboard, result.leaderboard)


@pytest.mark.ray
def test_training_comes_before_a_run_and_is_not_repeated(own: benchmarks.Suite, local_ray: None) -> None:
    trained = benchmarks.train(own, out="out")
    assert trained.rows["steps"].tolist() == [2]
    checkpoint = Path(trained.trainings[0]["checkpoint"])
    weights = next(checkpoint.rglob("weights.safetensors"))
    before = weights.read_bytes()
    stamp = (checkpoint / "training.json").stat().st_mtime_ns
    result = benchmarks.run(own, out="out")
    assert (checkpoint / "training.json").stat().st_mtime_ns == stamp
    assert result.units[0]["checkpoint"] == checkpoint.name.rsplit("-", 1)[1]
    benchmarks.train(own, out="out", fresh=True)
    assert (checkpoint / "training.json").stat().st_mtime_ns > stamp
    assert weights.read_bytes() == before  # by steps, it comes out the same

    scan = Path("mine/imagesTr/case_0.nii.gz")
    wanted = benchmarks.MethodOfRun("mock-network", suite=own.name, out="out")
    found = benchmarks.predict(scan, "mask.nii.gz", wanted)
    assert found.figures["voxels"] == np.count_nonzero(nib.load("mask.nii.gz").get_fdata())
    assert "mock-network" in repr(found)


@pytest.mark.ray
def test_recompute_says_what_is_computed(own: benchmarks.Suite, local_ray: None) -> None:
    floors = own.with_methods(["mock-threshold", "mock-crash"])
    first = benchmarks.run(floors, out="out")
    assert first.computed == first.cases
    assert (first.rows["status"] == "failed").sum() == first.cases / 2
    assert benchmarks.run(floors, out="out").computed == 0
    assert benchmarks.run(floors, out="out", recompute="failed").computed == first.cases / 2
    assert benchmarks.run(floors, out="out", recompute="all").computed == first.cases
    with pytest.raises(UserError, match="did you mean 'failed'"):
        benchmarks.run(floors, out="out", recompute="fail")


@pytest.mark.ray
def test_a_sweep_gives_its_trials_best_first(own: benchmarks.Suite, local_ray: None) -> None:
    found = benchmarks.tune(own, trials=2, concurrent=1, out="out")
    assert len(found.rows) == 2
    assert found.best == found.trials[0].config
    entry = yaml.safe_load(found.best_file.read_text())
    assert entry == {"name": "mock-network", "label": "mock-network-tuned", "config": found.best}
    with pytest.raises(UserError, match="exactly one method"):
        benchmarks.tune(own.with_methods(["mock-network", "ball"]), out="out")


def test_a_sweep_trains_a_setting_once_whatever_repeats_the_suite_has(
    own: benchmarks.Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The suite `paper` has three; and it is the sweep of the suite without repeats."""
    swept = []
    monkeypatch.setattr(api, "tuned", lambda work, *rest: swept.append(work.units))
    of_an_entry = own.model_copy(update={"methods": (own.methods[0].model_copy(update={"repeats": 2}),)})
    for suite in (own, own.with_repeats(2), own.with_untrained(), of_an_entry):
        benchmarks.tune(suite, out="out")
    assert [len(units) for units in swept] == [1] * 4
    assert {units[0].job.digest() for units in swept} == {swept[0][0].job.digest()}
    assert not swept[0][0].job.untrained
    with pytest.raises(UserError, match=r"one target in one fold of one dataset; choose with --methods, .* --fold"):
        benchmarks.tune(own.with_folds([0, 1]), out="out")


def test_scores_of_two_folders(tmp_path: Path) -> None:
    """8 × 8 × 5 voxels against the first half of them: Dice = 2 · 160 / (160 + 320)."""
    labels = write_msd(tmp_path / "mine", cases=2) / "labelsTr"
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(2):
        label = nib.load(labels / f"case_{number}.nii.gz")
        half = np.asarray(label.dataobj).copy()
        half[4 + number + 4 :] = 0
        nib.save(nib.Nifti1Image(half, label.affine), masks / f"case_{number}.nii.gz")
    found = benchmarks.score(masks, labels, tolerances=(3.0,))
    assert found.rows["dice"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert found.means["dice"] == pytest.approx(2 / 3)
    assert "nsd@3mm" in found.rows
    assert "nsd@2mm" not in found.rows


def test_a_case_that_the_machine_kept_from_running_is_said(
    own: benchmarks.Suite, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    missing = NotRun("mock-threshold · mine", "case_1", "the disk is full")
    real = work.run_units
    monkeypatch.setattr(work, "run_units", lambda *given, **named: replace(real(*given, **named), not_run=(missing,)))
    result = benchmarks.run(own.with_methods(["mock-threshold"]), out="out")
    assert not result.complete
    assert result.not_run == (missing,)
    assert "1 not run" in repr(result)
    assert "the disk is full" in result._repr_html_()
    assert "Dice" not in result._repr_html_()


def test_a_suite_is_changed_by_name() -> None:
    suite = benchmarks.load_suite("phantom", datasets=["lits17"], methods=["ball"], seed=7)
    assert [entry.name for entry in suite.datasets] == ["lits17"]
    assert [entry.name for entry in suite.methods] == ["ball"]
    assert suite.seed == 7
    changed = suite.with_budget(benchmarks.BudgetChanges(steps=3, cpus=2, workers=4))
    assert (changed.budget.minutes, changed.budget.steps, changed.budget.cpus, changed.workers) == (None, 3, 2, 4)
    both = suite.with_budget(benchmarks.BudgetChanges(steps=3, minutes=1.0))
    assert (both.budget.minutes, both.budget.steps, both.workers) == (1.0, 3, suite.workers)
    assert suite.with_budget(benchmarks.BudgetChanges()) == suite


def test_an_added_dataset_joins_by_name_and_folds_and_protocols_are_chosen(tmp_path: Path) -> None:
    registry.add(registry.Registration("mine", write_msd(tmp_path / "scans", cases=10)))
    phantoms = benchmarks.load_suite("phantom")
    suite = phantoms.with_datasets(["mine"])
    assert [(entry.name, entry.source) for entry in suite.datasets] == [("mine", "")]
    assert suite.name == "data-mine"  # never among the records of phantoms
    elsewhere = suite.model_copy(update={"datasets": (DatasetEntry(name="mine", source="phantom"),)})
    assert [entry.source for entry in elsewhere.with_datasets(["mine"]).datasets] == [""]  # real data before phantoms
    assert [entry.source for entry in elsewhere.with_datasets(["mine"], phantoms=True).datasets] == ["phantom"]
    with pytest.raises(UserError, match="suite 'phantom' has no phantoms of 'mine'; known: "):
        phantoms.with_datasets(["mine"], phantoms=True)
    folder = phantoms.model_copy(update={"datasets": (DatasetEntry(name="mine", source="/data"),)})
    with pytest.raises(UserError, match="has no phantoms of 'mine'; it lists real scans of that name"):
        folder.with_datasets(["mine"], phantoms=True)
    assert [entry.source for entry in folder.with_datasets(["mine"]).datasets] == ["/data"]
    assert [entry.source for entry in elsewhere.with_added_datasets(["mine"]).datasets] == [""]
    with pytest.raises(UserError, match="run them apart"):
        phantoms.with_datasets(["mine", "kits21"])
    with pytest.raises(UserError, match="no dataset 'kits21' on this machine"):
        phantoms.with_added_datasets(["kits21"])
    assert {entry.fold for entry in suite.with_fold(2).datasets} == {2}
    assert [entry.fold for entry in suite.with_folds([0, 3]).datasets] == [0, 3]
    assert [one.name for one in suite.with_protocols(["box"]).protocols] == ["box"]  # a plain kind, not in the suite
    assert [one.name for one in suite.with_protocols(["centre-click"]).protocols] == ["centre-click"]
    with pytest.raises(UserError, match="did you mean 'centre-click'"):
        suite.with_protocols(["center-click"])
    with pytest.raises(UserError, match="did you mean 'mine'"):
        benchmarks.load_suite("phantom", datasets=["mines"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets": ["lits"]}, "did you mean 'lits17'"),
        ({"data": "nowhere"}, "no such folder or table"),
        ({"data": ".", "datasets": ["lits17"]}, "one or the other"),
        ({"budget": benchmarks.BudgetChanges(minutes=-1)}, "budget: 'minutes'"),
        ({"budget": benchmarks.BudgetChanges(workers=0)}, "'workers' must be 1 or more"),
        ({"methods": ["ball"], "checkpoints": {"bal": Path("x")}}, "did you mean 'ball'"),
    ],
)
def test_a_wrong_change_is_a_user_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        benchmarks.load_suite("phantom", **changes)


def test_the_package_offers_its_verbs() -> None:
    for name in benchmarks.__all__:
        assert getattr(benchmarks, name) is getattr(api, name)
        assert name in dir(benchmarks)
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        benchmarks.rum  # noqa: B018


def test_no_verb_takes_more_than_seven_parameters() -> None:
    functions = [value for name, value in vars(api).items() if inspect.isfunction(value)]
    mine = [one for one in functions if one.__module__ == "benchmarks.api"]
    assert len(mine) > 8
    assert {
        one.__name__: len(inspect.signature(one).parameters)
        for one in mine
        if len(inspect.signature(one).parameters) > 7
    } == {}
