"""From a number back to what made it: `show`, `compare`, and `score` of the masks that a run kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.scan_folders import write_msd


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A run of two methods on eight small scans, one of them with three rounds of clicks."""
    import benchmarks

    folder = tmp_path_factory.mktemp("audit")
    suite = folder / "suite.yaml"
    write_msd(folder / "mine", cases=10)
    suite.write_text(
        f"""
name: mine
title: mine
seed: 7
datasets: [{{name: mine, source: {folder / "mine"}}}]
methods: [{{name: mock-threshold}}, {{name: mock-crash}}]
protocols: [{{kind: iterative, rounds: 3}}, {{kind: none}}]
budget: {{steps: 1}}
"""
    )
    benchmarks.run(suite, out=folder / "out")
    return folder


def test_a_case_leads_to_its_masks_prompts_log_and_record(call, finished: Path) -> None:
    where = ("--suite", "mine", "--out", str(finished / "out"))
    told = call("show", "nothing", *where)
    assert told.code == 2
    assert "no case 'nothing'" in told.errors[0]

    records = pd.concat(
        [pd.read_parquet(path) for path in (finished / "out" / "records").rglob("unit.parquet")], ignore_index=True
    )
    case = str(records["case"].iloc[0])
    trails = json.loads(call("show", f"mine/{case}", *where, "--json").out)
    assert {one["method"] for one in trails} == {"mock-threshold", "mock-crash"}
    by_method = {one["method"]: one for one in trails}
    good = by_method["mock-threshold"]
    for step in good["steps"]:
        mine = records[
            (records["case"] == case)
            & (records["method"] == "mock-threshold")
            & (records["protocol"] == step["protocol"])
            & (records["step"] == step["step"])
        ]
        assert step["dice"] == pytest.approx(mine["dice"].iloc[0])
        assert (finished / "out" / step["mask"]).is_file()
    for name in ("record", "description", "log", "masks"):
        assert (finished / "out" / good["places"][name]).exists(), name
    clicks = [s["prompts"]["clicks"] for s in good["steps"] if s["protocol"] == "iterative-3" and not s["carried"]]
    assert [len(one) for one in clicks] == list(range(1, len(clicks) + 1))
    assert good["decided_by"]["seed"] == 7
    assert all(step["status"] == "failed" and not step["mask"] for step in by_method["mock-crash"]["steps"])

    text = call("show", case, "--method", "mock-threshold", *where)
    assert text.code == 0, text.err
    for word in ("iterative-3", '"positive": true', "what decided the numbers", "cases_digest", ".nii.gz"):
        assert word in text.out
    wrong = call("show", case, "--method", "mock-thresold", *where)
    assert (wrong.code, "did you mean 'mock-threshold'" in wrong.err) == (2, True)


def test_a_moved_output_folder_is_shown_as_well(call, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "out", tmp_path / "elsewhere")
    records = next((tmp_path / "elsewhere" / "records").rglob("unit.parquet"))
    case = str(pd.read_parquet(records)["case"].iloc[0])
    (trail,) = json.loads(
        call("show", case, "--method", "mock-threshold", "--suite", "mine", "--out", "elsewhere", "--json").out
    )
    assert all((tmp_path / "elsewhere" / step["mask"]).is_file() for step in trail["steps"])


def test_kept_masks_score_as_the_records_say(call, finished: Path) -> None:
    (folder,) = (finished / "out" / "predictions" / "mine" / "mine").glob("mock-threshold-*")
    words = ("score", str(folder), str(finished / "mine" / "labelsTr"), "--label", "1", "--json")
    several = call(*words)
    assert several.code == 2
    assert "choose one with --protocol: automatic, iterative-3" in several.errors[0]
    wrong = call(*words, "--protocol", "iterative")
    assert "no protocol 'iterative'" in wrong.errors[0]
    for labels in (finished / "mine" / "labelsTr", finished / "mine"):  # files, or the data set in its layout
        done = call("score", str(folder), str(labels), "--label", "1", "--json", "--protocol", "iterative-3")
        assert done.code == 0, done.err
        scored = {row["case"]: row for row in json.loads(done.out)}
        records = pd.concat(
            [
                pd.read_parquet(path)
                for path in (finished / "out" / "records").rglob("mock-threshold-*/rows/unit.parquet")
            ]
        )
        last = records[(records["protocol"] == "iterative-3") & (records["step"] == 3)]
        assert set(scored) == set(last["case"]), "those that the unit tests, and no others"
        for row in last.to_dict("records"):
            assert scored[row["case"]]["status"] == "ok"
            assert scored[row["case"]]["dice"] == pytest.approx(row["dice"], abs=1e-12)
        mean = call("score", str(folder), str(labels), "--label", "1", "--protocol", "iterative-3").out
        assert f"{last['dice'].mean():.3f}" in mean
    unlabelled = call("score", str(folder), str(finished / "mine"), "--protocol", "iterative-3")
    assert "choose one with --label" in unlabelled.errors[0]


def test_a_step_that_failed_has_no_mask_of_an_earlier_one(call, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "out", tmp_path / "out")
    (folder,) = (tmp_path / "out" / "predictions" / "mine" / "mine").glob("mock-threshold-*")
    steps = sorted(folder.glob("*/*iterative-3.3.json"))
    for kept in (steps[0], steps[0].with_suffix(".nii.gz")):
        kept.unlink(missing_ok=True)
    case, others = steps[0].parent.name, {path.parent.name for path in steps[1:]}
    words = ("--label", "1", "--json", "--protocol", "iterative-3")
    scored = json.loads(call("score", str(folder), str(finished / "mine"), *words).out)
    assert {row["case"]: row["status"] for row in scored} == {case: "failed"} | dict.fromkeys(others, "ok")
    (trail,) = json.loads(
        call("show", case, "--method", "mock-threshold", "--suite", "mine", "--out", "out", "--json").out
    )
    has = {step["step"]: bool(step["mask"]) for step in trail["steps"] if step["protocol"] == "iterative-3"}
    assert has == {1: True, 2: True, 3: False}


def test_two_runs_and_two_methods_are_compared(call, finished: Path) -> None:
    where = ("--suite", "mine", "--out", str(finished / "out"))
    both = call("compare", "mock-threshold", "mock-crash", *where, "--json")
    assert both.code == 0, both.err
    told = json.loads(both.out)
    board = {
        (row["method"], row["protocol"]): row["dice"] for row in json.loads(call("leaderboard", *where, "--json").out)
    }
    assert len(told["pairs"]) == 2
    for pair in told["pairs"]:
        expected = board["mock-crash", pair["protocol"]] - board["mock-threshold", pair["protocol"]]
        assert pair["difference"] == pytest.approx(expected)
    out = str(finished / "out")
    same = json.loads(call("compare", out, out, "--suite", "mine", "--json").out)
    assert {pair["difference"] for pair in same["pairs"]} == {0.0}
    text = call("compare", "mock-threshold", "mock-crash", *where)
    assert "difference [95 % CI]" in text.out
    wrong = call("compare", "mock-threshold", "mock-crush", *where)
    assert (wrong.code, "did you mean 'mock-crash'" in wrong.err) == (2, True)
    metric = call("compare", "mock-threshold", "mock-crash", *where, "--metric", "hd95")
    assert "did you mean 'hd95_mm'" in metric.errors[0]


def test_figures_by_one_command(call, finished: Path) -> None:
    pytest.importorskip("matplotlib")
    done = call("leaderboard", "--suite", "mine", "--out", str(finished / "out"), "--figures", "figures")
    assert done.code == 0, done.err
    drawn = sorted(path.name for path in Path("figures").iterdir())
    assert "curves.svg" in drawn
    for kind in ("means", "boxes", "costs"):
        assert sum(name.startswith(f"{kind}-mine") for name in drawn) == 2
    text = next(Path("figures").glob("means-*iterative*")).read_text(encoding="utf-8")
    assert ">mock-threshold<" in text
    assert sorted(done.out.split()) == [f"figures/{name}" for name in drawn]
