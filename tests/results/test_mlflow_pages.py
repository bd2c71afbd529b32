"""What a person sees in MLflow: ranks, verdicts, notes, views, models, live curves; a folder that was moved."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from benchmarks.prompting.protocol import Protocol
from benchmarks.results.leaderboard import comparisons_of, leaderboard_of
from benchmarks.results.mlflow import MlflowSink, Summary, default_uri, records_from_mlflow, summary_of
from benchmarks.results.mlflow.follower import Follower
from benchmarks.results.mlflow.summary import note_of
from benchmarks.results.mlflow.view import saved_views
from benchmarks.results.tables import Page, Sheet
from tests.results.boards import by_hand, one_stops_early, row_of, unit_of
from tests.results.mlflow_runs import (
    CURVE,
    TRAINING,
    a_run,
    artifact,
    checkpoint_in,
    child_named,
    client_of,
    description_of,
    parents,
    rows_of,
    runs_of,
)
from tests.waiting import wait_for


def test_rank_and_verdict_are_those_of_the_paired_tests() -> None:
    chance = np.random.default_rng(5)
    base = chance.uniform(0.5, 0.8, 24)
    near = (base - 0.001 + chance.normal(0, 0.002, 24)).tolist()
    rows, units = by_hand({"best": base.tolist(), "far": (base - 0.2).tolist(), "near": near})
    board = summary_of(rows, units).board.set_index("method")
    assert board["rank"].to_dict() == {"best": 1, "near": 2, "far": 3}
    pairs = comparisons_of(rows).set_index(["a", "b"])
    assert board.loc["best", "verdict"] == "best"
    assert board.loc["far", "verdict"] == "worse"
    assert pairs.loc[("best", "far"), "p_sign_flip_holm"] < 0.05
    assert board.loc["near", "verdict"].startswith(("the same within 0.02", "worse, by less than 0.02"))


def test_few_patients_have_a_rank_and_no_verdict_of_a_test() -> None:
    rows, units = by_hand({"a": [0.5, 0.6], "b": [0.4, 0.5]})
    board = summary_of(rows, units).board.set_index("method")
    assert board.loc["b", "rank"] == 2
    assert board.loc["b", "verdict"] == "too few patients (2) to tell"


def test_the_row_of_a_method_carries_rank_verdict_and_costs(out: Path) -> None:
    assert a_run(out) == 0
    net, ball = (child_named(runs_of(out), f"{name} · kits21 · iterative") for name in ("net", "ball"))
    assert net.data.metrics["rank"] == ball.data.metrics["rank"] == 1.0  # the same Dice
    assert net.data.tags["verdict"] in ("best", "too few patients (2) to tell")
    assert net.data.metrics["train_minutes"] == pytest.approx(3.0 / 60, abs=1e-3)
    assert net.data.metrics["parameters"] == 1000
    assert net.data.metrics["memory_gb"] == 0.1
    assert "train_minutes" not in ball.data.metrics
    assert net.data.tags["mlflow.user"]
    assert net.data.tags["host"]
    assert net.data.tags["tags-bench"]


def test_a_row_that_arrives_after_the_leaderboard_takes_its_rank_from_it(out: Path) -> None:
    units = [description_of("ball")]
    rows = pd.DataFrame([row_of(units[0], case, Protocol("iterative", rounds=3), 3, 0.5) for case in range(2)])
    sink = MlflowSink(out)
    sink.begin({"name": "suite", "seed": 7}, "plan", True, units)
    sink.end(summary_of(rows, units))
    assert sink.close(30.0) == 0
    late = MlflowSink(out)
    late._plan = sink._plan
    late.log_unit(units[0], rows, None)
    assert late.close(30.0) == 0
    assert child_named(runs_of(out), "ball").data.metrics["rank"] == 1.0


def test_the_experiment_opens_on_its_leaderboard(out: Path) -> None:
    assert a_run(out) == 0
    experiment = client_of(out).get_experiment_by_name("tags-bench/suite")
    (parent,) = parents(runs_of(out))
    note = experiment.tags["mlflow.note.content"]
    assert "| net" in note
    assert "SYNTHETIC" in note
    assert f"#/experiments/{experiment.experiment_id}/runs/{parent.info.run_id}" in note
    assert "viewStateShareKey=leaderboard" in note
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(experiment.tags["mlflow.sharedViewState.leaderboard"])
    state = json.loads(view["state"])
    assert view["name"] == "Leaderboard"
    shown = {column.split("`")[1] for column in state["selectedColumns"] if column.startswith("metrics")}
    net = child_named(runs_of(out), "net · kits21 · iterative")
    assert shown <= net.data.metrics.keys()
    assert {"rank", "dice", "dice_low", "dice_high", "nsd_at_2mm", "hd95_mm", "train_minutes", "memory_gb"} <= shown
    found = client_of(out).search_runs([experiment.experiment_id], filter_string=state["searchFilter"])
    assert {run.data.tags["tagsbench.method"] for run in found} == {"ball", "net"}
    assert max(len(value) for value in experiment.tags.values()) <= 5000  # what MLflow 3.0 takes


def test_the_leaderboard_is_that_of_the_last_call_and_each_run_leads_to_its_own(out: Path) -> None:
    """A method that joins is another plan: the rows of the one before stay in the experiment, and out of the way."""
    for plan in ("first", "second"):
        assert a_run(out, plan=plan) == 0
    client = client_of(out)
    experiment = client.get_experiment_by_name("tags-bench/suite")
    parent_of = {run.data.tags["tagsbench.plan"]: run for run in parents(runs_of(out))}
    assert set(parent_of) == {"first", "second"}

    def found(search: str) -> list[tuple[str, str]]:
        runs = client.search_runs([experiment.experiment_id], filter_string=search)
        return sorted((run.data.tags["tagsbench.method"], run.data.tags["mlflow.parentRunId"]) for run in runs)

    def rows(plan: str) -> list[tuple[str, str]]:
        return [(method, parent_of[plan].info.run_id) for method in ("ball", "net")]

    view = json.loads(experiment.tags["mlflow.sharedViewState.leaderboard"])
    state = json.loads(view["state"])
    assert found(state["searchFilter"]) == rows("second")
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`dice`", False)
    for plan, run in parent_of.items():
        link = re.search(r"\[Its rows as a run table\]\(#(.+?)\)\n", run.data.tags["mlflow.note.content"])
        assert link
        query = parse_qs(urlsplit(link[1]).query)
        assert found(query["searchFilter"][0]) == rows(plan)
        assert query["orderByKey"] == ["metrics.`dice`"]
        assert query["orderByAsc"] == ["false"]


def test_what_was_written_earlier_and_comes_later_changes_neither_view_nor_note(out: Path, monkeypatch) -> None:
    """Messages that were kept while the server was away, of another folder or an earlier plan."""
    assert a_run(out, plan="new") == 0
    experiment = client_of(out).get_experiment_by_name("tags-bench/suite")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    assert a_run(out, plan="old") == 0
    assert len(parents(runs_of(out))) == 2
    after = client_of(out).get_experiment_by_name("tags-bench/suite")
    assert after.tags == experiment.tags
    monkeypatch.undo()
    assert a_run(out, plan="old") == 0
    called = client_of(out).get_experiment_by_name("tags-bench/suite")
    for name in ("mlflow.note.content", "mlflow.sharedViewState.leaderboard"):
        assert called.tags[name] != experiment.tags[name]


def test_a_view_takes_the_tolerance_that_the_suite_has() -> None:
    state = json.loads(json.loads(saved_views([3.0], "run", 0)["mlflow.sharedViewState.leaderboard"])["state"])
    assert "metrics.`nsd_at_3mm`" in state["selectedColumns"]
    assert "metrics.`nsd_at_2mm`" not in state["selectedColumns"]


def test_a_note_is_cut_between_tables_and_says_so() -> None:
    sheets = tuple(Sheet(f"table {n}", ("method",), (("m" * 400,),)) for n in range(30))
    note = note_of(Page(sheets, synthetic=True), 3000)
    assert len(note) <= 3100
    shown = note.count("**table")
    assert 0 < shown < 30
    assert f"{30 - shown} more tables" in note


def test_a_trained_model_is_logged_and_registered_once_without_pickles(out: Path) -> None:
    for _ in range(2):
        assert a_run(out) == 0
    client, runs = client_of(out), runs_of(out)
    experiment = client.get_experiment_by_name("tags-bench/suite").experiment_id
    (model,) = client.search_logged_models([experiment])
    training, result = child_named(runs, "net · kits21 · training"), child_named(runs, "net · kits21 · iterative")
    assert model.source_run_id == training.info.run_id
    inputs = client.get_run(result.info.run_id).inputs.model_inputs
    assert [one.model_id for one in inputs] == [model.model_id]
    row = {metric.key: (metric.value, metric.dataset_name, metric.dataset_digest) for metric in model.metrics}
    assert row["dice/iterative-3"] == (result.data.metrics["dice"], "kits21", "5eed")
    (version,) = client.search_model_versions("name = 'net on kits21'")
    assert model.model_id in version.source
    folder = Path(version.source.removeprefix("file://"))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.json", "weights.safetensors"]
    assert load_file(folder / "weights.safetensors")["weight"].tolist() == [1.0, 1.0, 1.0]


def test_a_model_trained_afresh_is_another_version(out: Path) -> None:
    from safetensors.numpy import save_file

    assert a_run(out) == 0
    save_file({"weight": np.zeros(3, np.float32)}, checkpoint_in(out) / "checkpoint" / "weights.safetensors")
    sink = MlflowSink(out)
    sink.log_training(description_of("net"), {**TRAINING, "seconds_total": 5.0})
    sink.log_model(description_of("net"), checkpoint_in(out, write=False))
    assert sink.close(30.0) == 0
    assert len(client_of(out).search_model_versions("name = 'net on kits21'")) == 2
    trainings = [run for run in runs_of(out) if run.info.run_name.startswith("net · kits21 · training")]
    assert len(trainings) == 2


def test_two_targets_of_a_data_set_have_names_of_their_own(out: Path) -> None:
    """Two calls, as with `--target 1` and `--target 2`: the first keeps the name that one target has alone."""
    for target in ("kidney-tumor", "cyst", "kidney-tumor"):
        unit = {**description_of("net"), "target": {"name": target}, "unit": target, "checkpoint": f"{target}-c0ffee"}
        sink = MlflowSink(out)
        sink.begin({"name": "suite", "seed": 7}, target, True, [unit])
        sink.log_training(unit, TRAINING)
        sink.log_model(unit, checkpoint_in(out))
        sink.log_unit(unit, rows_of(unit), TRAINING)
        sink.end(Summary())
        assert sink.close(30.0) == 0
    client = client_of(out)
    versions = {one.name: len(client.search_model_versions(f"name = '{one.name}'")) for one in
                client.search_registered_models()}  # fmt: skip
    assert versions == {"net on kits21": 1, "net on kits21, cyst": 1}
    names = {run.info.run_name.removesuffix(" [synthetic]") for run in runs_of(out)} - {"suite, leaderboard"}
    protocol = "iterative-3"
    assert names == {
        f"net · {place} · {what}" for place in ("kits21", "kits21, cyst") for what in (protocol, "training")
    }


def test_two_targets_of_one_call_are_both_named(out: Path) -> None:
    units = [{**description_of("ball"), "target": {"name": name}, "unit": name} for name in ("kidney-tumor", "cyst")]
    sink = MlflowSink(out)
    sink.begin({"name": "suite", "seed": 7}, "plan", True, units)
    for unit in units:
        sink.log_unit(unit, rows_of(unit), None)
    rows = pd.concat(map(rows_of, units), ignore_index=True)
    summary = summary_of(rows, units)
    sink.end(summary)
    assert sink.close(30.0) == 0
    for unit in units:
        assert child_named(runs_of(out), f"ball · kits21, {unit['unit']} · iterative-3")
        assert f"kits21, {unit['unit']}, iterative-3: **ball**" in summary.note.splitlines()[0]


def test_a_large_model_says_where_it_is(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.results.mlflow.models.LARGEST_BYTES", 10)
    assert a_run(out) == 0
    client = client_of(out)
    (model,) = client.search_logged_models([client.get_experiment_by_name("tags-bench/suite").experiment_id])
    assert model.tags["mlflow.model.isExternal"] == "true"
    assert model.tags["folder"] == "net-kits21-c0ffee"
    assert not list(Path(model.artifact_location.removeprefix("file://")).glob("*"))


def test_a_training_curve_is_drawn_while_it_goes_on_and_no_point_comes_twice(out: Path, tmp_path: Path) -> None:
    description = description_of("net")
    told: list[Any] = []
    follower = Follower(lambda *given: told.append(given), every=0.02)
    curve = tmp_path / "curve.json"
    follower.follow("c0ffee", description, curve)
    curve.write_text(json.dumps(CURVE[:1]))
    wait_for(lambda: len(told) == 1, 30)
    curve.write_text(json.dumps(CURVE))
    wait_for(lambda: len(told) == 2, 30)
    follower.forget("c0ffee")
    curve.write_text(json.dumps([*CURVE, CURVE[0]]))
    follower.close()
    assert [len(points) for _, points, _ in told] == [1, 2]
    assert told[0][2]["start"] == pytest.approx(curve.stat().st_mtime - 1.0, abs=5.0)

    sink = MlflowSink(out)
    for _, points, times in told:
        sink._log_curve(description, points, times)
        wait_for(lambda: not list((out / "mlflow-outbox").glob("*/*.json")), 30)
    client = client_of(out)
    (run,) = runs_of(out)
    assert run.info.status == "RUNNING"
    assert [p.step for p in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 3]
    sink.log_training(description, TRAINING)
    assert sink.close(30.0) == 0
    (run,) = runs_of(out)
    assert run.info.status == "FINISHED"
    assert [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, "train/loss")] == [(1, 0.9), (3, 0.5)]


@pytest.mark.parametrize("how", ["moved", "copied"])
def test_an_output_folder_that_was_moved_or_copied_is_whole(out: Path, tmp_path: Path, how: str) -> None:
    assert a_run(out) == 0
    expected, _ = records_from_mlflow(default_uri(out), "suite")
    other = tmp_path / "other place"
    if how == "moved":
        shutil.move(out, other)
    else:
        shutil.copytree(out, other)
        for path in out.rglob("records.parquet"):
            path.write_bytes(b"the copy must not look here")
    rows, _ = records_from_mlflow(default_uri(other), "suite")
    pd.testing.assert_frame_equal(rows, expected)
    (parent,) = parents(runs_of(other))
    assert artifact(other, parent.info.run_id, "leaderboard.md").read_text(encoding="utf-8")
    (version,) = client_of(other).search_model_versions("name = 'net on kits21'")
    assert version.source.startswith((other / "mlflow-artifacts").as_uri())
    assert a_run(other) == 0
    assert len(runs_of(other)) == 4  # the runs of before go on


def test_a_report_is_an_artifact_of_the_run(out: Path) -> None:
    (out / "report.html").write_text("<html></html>", encoding="utf-8")
    sink = MlflowSink(out)
    sink.begin({"name": "suite", "seed": 7}, "plan", True, [description_of("ball")])
    sink.attach(out / "report.html", "report.html")
    sink.end(Summary())
    assert sink.close(30.0) == 0
    (parent,) = parents(runs_of(out))
    assert artifact(out, parent.info.run_id, "report.html").read_text(encoding="utf-8") == "<html></html>"


def test_a_unit_without_a_protocol_is_told_too(out: Path) -> None:
    """A method that can follow no protocol has no rows, and a note says so."""
    unit = {**description_of("ball"), "protocols": [], "skipped_protocols": ["iterative-3"]}
    sink = MlflowSink(out)
    sink.begin({"name": "suite", "seed": 7}, "plan", True, [unit])
    sink.log_unit(unit, pd.DataFrame(), None)
    sink.end(Summary())
    assert sink.close(30.0) == 0
    rows, units = records_from_mlflow(default_uri(out), "suite")
    assert rows.empty
    assert [one["skipped_protocols"] for one in units] == [["iterative-3"]]


def test_one_step_is_a_bar_and_several_are_a_curve() -> None:
    from benchmarks.results.mlflow.values import curves_of

    for rounds, steps in ((1, [0]), (3, [1, 2, 3])):
        protocol = Protocol("iterative", rounds=rounds)
        unit = unit_of("a", "kits21", [protocol], 2)
        rows = [row_of(unit, case, protocol, step, 0.123456) for case in range(2) for step in range(1, rounds + 1)]
        curves = curves_of(pd.DataFrame(rows))
        assert [step for step, _ in curves] == steps
        assert curves[-1][1]["dice"] == 0.1235


def test_the_seconds_of_the_last_step_are_those_of_the_leaderboard() -> None:
    from benchmarks.results.mlflow.values import curves_of

    rows, units = one_stops_early()
    board = leaderboard_of(rows, units).set_index("method")["seconds_segment"]
    assert board.to_dict() == {"fast": 1.0, "slow": 9.0}
    for method, mine in rows.groupby("method"):
        assert [values["seconds_segment"] for _, values in curves_of(mine)] == [board[method]] * 2


def test_who_solved_no_case_has_no_rank_and_is_never_the_best() -> None:
    rows, units = by_hand({"a": [0.0] * 24, "b": [0.0] * 24})
    summary = summary_of(rows, units)
    assert summary.board["rank"].isna().all()
    assert set(summary.board["verdict"]) == {"both failed"}
    assert "First" not in summary.note
    rows, units = by_hand({"a": [0.5] * 24, "b": [0.0] * 24})
    summary = summary_of(rows, units)
    board = summary.board.set_index("method")
    assert board.loc["a", "rank"] == 1
    assert (board.loc["a", "verdict"], board.loc["b", "verdict"]) == ("best", "worse")
    assert summary.note.startswith("First by mean Dice: kits21, centre-click: **a** 0.50 [0.50, 0.50].")
