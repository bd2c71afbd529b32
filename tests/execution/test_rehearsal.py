"""A rehearsal: what is missing, what passes, what the whole costs; and nothing of it is ever a result."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.commands.rehearse import as_plain
from benchmarks.common.errors import UserError
from benchmarks.data import registry
from benchmarks.execution.entries import DatasetEntry
from benchmarks.execution.rehearsal import road
from benchmarks.execution.rehearsal.checks import (
    data_checks,
    file_checks,
    files_of,
    licence_rows,
    machine_checks,
    room_checks,
)
from benchmarks.execution.rehearsal.costs import SCAN_LITRES, Cost, case_counts, costs, total
from benchmarks.execution.rehearsal.road import Passage, Rehearsed, rehearsal_suite, shortened
from benchmarks.execution.rehearsal.whole import Rehearsal
from benchmarks.execution.suite import load_suite, parse_suite
from benchmarks.weights.stand_ins import StandIn
from tests.scan_folders import write_msd

SUITE = """
name: small
datasets: [{name: kits21, splits: 3dsam-adapter}, {name: mine}]
methods: [mock-network, region-growing]
protocols: [none, centre-click, {kind: iterative, rounds: 5}]
budget: {minutes: 30, cpus: 12, gpus: 1}
repeats: 3
"""


def passage(method: str, dataset: str, **facts: object) -> Passage:
    known = {"case_seconds": 36.0, "case_litres": 10.0, "case_gb": 0.5, "checkpoint_gb": 2.0, "step_seconds": 0.72}
    told = {"unit": "digest", "data": "phantom", "weights": "by rule", "state": "ok"}
    return Passage(method=method, dataset=dataset, **{**told, **known, **facts})  # type: ignore[arg-type]


def test_the_suite_paper_names_every_system_at_its_official_size_on_real_data_in_official_splits() -> None:
    suite = load_suite("paper")
    assert [(entry.name, entry.source, entry.splits) for entry in suite.datasets] == [
        (name, "", "3dsam-adapter") for name in ("kits21", "msd-pancreas", "lits17")
    ]
    names = {entry.name for entry in suite.methods}
    systems = {"tags-vit-b", "nnunet", "nnunet-organ", "sam-b", "sam-med2d", "sam-med3d", "segvol"}
    assert systems | {"universal-swinunetr", "universal-unet", "3dsam-adapter"} <= names
    assert not any("tiny" in name or "small" in name for name in names)
    presets = {(entry.name, entry.config.get("plans", "default")) for entry in suite.methods if "nnunet" in entry.name}
    assert presets == {(name, plans) for name in ("nnunet", "nnunet-organ") for plans in ("default", "resenc-l")}
    own = [entry for entry in suite.methods if entry.budget is not None]
    assert {entry.budget.steps for entry in own if entry.budget} == {1000 * 250}
    assert {entry.name for entry in suite.methods if entry.name.startswith("nnunet")} == {entry.name for entry in own}
    assert suite.repeats == 3


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    suite = load_suite("paper")
    kits = data_checks(suite)[0]
    assert (kits.state, "CC BY-NC-SA 4.0" in kits.detail) == ("missing", True)
    assert kits.remedy == "`tags-bench data fetch kits21`, or `tags-bench data add kits21 --from DIR`"
    files = {check.what: check for check in file_checks(suite)}
    assert files["sam_vit_b_01ec64.pth"].remedy == "`tags-bench weights fetch sam_vit_b_01ec64.pth`"
    assert "drive.google.com" in files["sam-med2d_b.pth"].remedy
    assert "3dsam-adapter_msd-colon.pth.tar" not in files  # no dataset of the suite
    assert {one.file.name for one in files_of(suite)} == set(files)
    file = files_of(suite)[0].file
    file.path.parent.mkdir(parents=True, exist_ok=True)
    file.path.write_bytes(b"something else")
    assert next(one for one in file_checks(suite) if one.what == file.name).state == "wrong"


def test_too_few_processors_for_the_augmentation_of_nnunet_on_a_gpu_are_said() -> None:
    suite = load_suite("paper")
    assert suite.budget.cpus == 12
    assert "augmentation" not in {check.what for check in machine_checks(suite)}
    few = suite.model_copy(update={"budget": suite.budget.model_copy(update={"cpus": 8})})
    said = next(check for check in machine_checks(few) if check.what == "augmentation")
    assert (said.state, said.remedy) == ("too little", "--cpus 12")
    others = few.with_methods(["sam-b"])
    assert "augmentation" not in {check.what for check in machine_checks(others)}
    on_cpu = few.model_copy(update={"budget": few.budget.model_copy(update={"gpus": 0.0})})
    assert "augmentation" not in {check.what for check in machine_checks(on_cpu)}


def test_room_is_held_against_what_was_measured(tmp_path: Path) -> None:
    small, huge = passage("a", "kits21", largest_gb=0.1), passage("b", "kits21", largest_gb=5000.0)
    fits = {one.what: one for one in room_checks(tmp_path, [small], Cost("all", 0, 0.0, 0.0, 0.0, 0.001))}
    assert [fits[what].state for what in ("memory", "GPU memory", "disk")] == ["ok", "not measured", "ok"]
    over = {one.what: one for one in room_checks(tmp_path, [small, huge], Cost("all", 0, 0.0, 0.0, 0.0, 1e6, 1e5))}
    assert (over["memory"].state, over["disk"].state) == ("too little", "too little")
    assert "5000.0 GB (b on kits21)" in over["memory"].detail


def test_licences_and_what_was_seen_of_the_suites_own_data(call) -> None:
    entries = [entry for entry in load_suite("paper").methods if entry.name in ("sam-b", "3dsam-adapter", "nnunet")]
    rows = {row["method"]: row for row in licence_rows(entries, ["kits21", "lits17"])}
    assert rows["nnunet"]["has seen"] == rows["sam-b"]["has seen"] == "unseen"
    assert rows["3dsam-adapter"]["has seen"] == "trained-on"
    rows = {row["method"]: row for row in licence_rows(entries, ["kits21", "mine"])}
    assert rows["sam-b"]["has seen"] == "kits21: unseen, mine: unknown"


def test_a_licence_that_restricts_the_use_has_to_be_accepted_first() -> None:
    suite = parse_suite(SUITE.replace("mock-network, region-growing", "vista3d"), "test")
    (missing,) = file_checks(suite)
    assert (missing.state, missing.detail.endswith("; no checksum published")) == ("missing", True)
    file = files_of(suite)[0].file
    file.path.parent.mkdir(parents=True, exist_ok=True)
    import torch

    torch.save({"point_head.x": torch.zeros(3)}, file.path)
    (found,) = file_checks(suite)
    assert found.state == "not accepted"
    assert found.remedy == "`tags-bench weights fetch vista3d-model.pt --accept-licence`"


class Silent:
    """A progress that says nothing."""

    def step(self, text: str) -> AbstractContextManager[None]:
        return nullcontext()

    def note(self, text: str) -> None: ...


@pytest.mark.parametrize(("real", "told"), [(False, "walked"), (True, "restrict its use")])
def test_a_stand_in_asks_for_no_licence_on_the_road_and_the_file_does(
    real: bool, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes, once made by the rule and once found on this machine; no licence was accepted."""
    import torch

    suite = parse_suite(SUITE.replace("mock-network, region-growing", "vista3d").replace(", {name: mine}", ""), "test")
    (one,) = files_of(suite)
    path = tmp_path / one.file.name
    torch.save({"point_head.x": torch.zeros(3)}, path)
    how = Rehearsed(tmp_path / "out", {one.file.name: StandIn(one.file, real, path)})
    monkeypatch.setattr(road, "_walked", lambda suite, work, begun, *_: replace(begun, state="ok", reason="walked"))
    (passage,) = road.along_the_road(suite, rehearsal_suite(suite, 1, 0.0), how, Silent())  # type: ignore[arg-type]
    assert told in passage.reason
    assert passage.weights == ("official" if real else "by rule")


def test_a_registered_dataset_is_taken_and_a_partial_one_said(tmp_path: Path) -> None:
    registry.add(registry.Registration("mine", write_msd(tmp_path / "scans", cases=10)))
    suite = parse_suite(SUITE, "test")
    mine = data_checks(suite)[1]
    assert mine.state == "ok"
    assert "10 cases, 0 left out" in mine.detail
    short = rehearsal_suite(suite, 1, 0.0)
    assert [(entry.name, entry.source) for entry in short.datasets] == [("kits21", "phantom"), ("mine", "")]


def test_a_rehearsal_is_short_and_says_what_it_is() -> None:
    suite = parse_suite(SUITE.replace(", {name: mine}", ""), "test")
    short = rehearsal_suite(suite, 2, 0.0)
    assert (short.name, short.rehearsal, short.repeats) == ("rehearsal-small", True, 1)
    assert (short.budget.minutes, short.budget.steps, short.budget.cpus, short.budget.gpus) == (None, 2, 2, 0.0)
    assert [protocol.name for protocol in short.protocols] == ["automatic", "centre-click", "iterative-2"]
    with pytest.raises(UserError, match="'mine' is not on this machine and has no phantoms"):
        rehearsal_suite(parse_suite(SUITE, "test"), 1, 0.0)


def test_one_protocol_of_each_kind() -> None:
    names = [protocol.name for protocol in shortened(load_suite("paper").protocols)]
    assert names == ["automatic", "text", "centre-click", "box", "iterative-2"]


@pytest.mark.parametrize(("name", "counts"), [("kits21", (209, 61)), ("msd-pancreas", (196, 57)), ("lits17", (83, 24))])
def test_the_cases_of_the_official_split_are_known_without_the_data(name: str, counts: tuple[int, int]) -> None:
    assert case_counts(DatasetEntry(name=name, splits="3dsam-adapter")) == counts
    outside = DatasetEntry(name=name, splits="3dsam-adapter", train_on=DatasetEntry(name="other"))
    assert case_counts(outside)[1] == {"kits21": 300, "msd-pancreas": 281, "lits17": 118}[name]
    training, tested = case_counts(DatasetEntry(name=name, splits="patient", fold="all"))
    assert tested == {"kits21": 300, "msd-pancreas": 281, "lits17": 131}[name]
    assert training == 4 * tested


def test_costs_by_hand() -> None:
    """Three trainings of half an hour; 61 cases of 36 s under three models, five times that if all grows with size."""
    suite = parse_suite(SUITE.replace(", {name: mine}", ""), "test")
    network, growing = costs(suite, [passage("mock-network", "kits21"), passage("region-growing", "kits21")])
    assert (network.trainings, network.training_hours) == (3, 1.5)
    assert network.low_hours == pytest.approx(3 * 61 * 36 / 3600)
    assert network.high_hours == pytest.approx(network.low_hours * SCAN_LITRES / 10)
    assert network.disk_gb == pytest.approx(3 * 61 * 0.5 * 5 + 3 * 2.0)
    assert network.money(2.0, workers=1, gpus=1) == pytest.approx((2 * (1.5 + 1.83), 2 * (1.5 + 9.15)))
    assert (growing.trainings, growing.low_hours) == (0, pytest.approx(61 * 36 / 3600))
    both = total([network, growing])
    assert (both.method, both.trainings, both.training_hours) == ("all", 3, 1.5)
    assert both.low_hours == pytest.approx(4 * 61 * 36 / 3600)
    steps = parse_suite(SUITE.replace(", {name: mine}", "").replace("minutes: 30", "steps: 5000"), "test")
    assert costs(steps, [passage("mock-network", "kits21")])[0].training_hours == pytest.approx(3 * 5000 * 0.72 / 3600)
    folds = parse_suite(SUITE.replace("splits: 3dsam-adapter}, {name: mine}", "splits: patient, fold: all}"), "test")
    assert costs(folds, [passage("mock-network", "kits21")])[0].trainings == 15
    failed = costs(suite, [passage("mock-network", "kits21", state="failed")])[0]
    assert (failed.guessed, failed.known) == (("kits21",), False)
    assert (failed.trainings, failed.training_hours, failed.low_hours) == (3, 1.5, 0.0)  # a budget of minutes is known
    assert network.known_hours == 1.5
    assert costs(steps, [passage("mock-network", "kits21")])[0].known_hours == 0.0


@pytest.mark.ray
def test_from_end_to_end_and_never_a_result(call, tmp_path: Path, local_ray: None) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(SUITE.replace(", {name: mine}", "").replace("region-growing]", "region-growing, mock-official]"))
    words = ["rehearse", "--suite", str(file), "--cpus", "1", "--gpus", "0", "--out", "out"]
    outcome = call(*words, "--json")
    assert outcome.code == 1, outcome.err  # mock-official has no file, and announces no stand-in
    assert "REHEARSAL" in outcome.err
    told = json.loads(outcome.out)
    states = {one["method"]: (one["data"], one["weights"], one["state"]) for one in told["passages"]}
    assert states["mock-network"] == ("phantom", "trained here", "ok")
    assert states["region-growing"] == ("phantom", "none", "ok")
    assert states["mock-official"][2] == "refused"
    assert told["passages"][0]["largest_gb"] > 0
    assert told["passages"][0]["step_seconds"] > 0
    assert Path("out/REHEARSAL.txt").is_file()
    records = [path.name for path in Path("out/records").iterdir() if path.is_dir()]
    assert records
    assert all(name.startswith("rehearsal-small") for name in records)
    for name in records:
        for reading in (["leaderboard"], ["report"], ["show", "mine"], ["compare", "out", "out"]):
            refused = call(*reading, "--suite", name, "--out", "out")
            assert refused.code == 2
            assert "was rehearsed, not run" in refused.err
    kept = {path: path.stat().st_mtime_ns for path in Path("out/passages").iterdir()}
    assert len(kept) == 2
    kept_only = call(*words, "--kept", "--price", "2")
    assert kept_only.code == 1
    assert "not rehearsed so far on kits21" not in kept_only.out
    (kept_file,) = (path for path in Path("out/passages").iterdir() if "region-growing" in path.name)
    aside = kept_file.rename("aside.json")
    assert "not rehearsed so far on kits21: region-growing\n" in call(*words, "--kept").out
    aside.rename(kept_file)
    assert "measured on 1 processor, no GPU; the suite asks for 12 processors, 1 GPU" in kept_only.out
    assert "at least 3.0" in kept_only.out  # three trainings of half an hour at 2; what was measured here has no price
    shown = call(*words)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # what has passed does not go again
    assert "missing: kits21: `tags-bench data fetch kits21`" in shown.out
    assert "did not pass: mock-official on kits21: refused" in shown.out


@pytest.mark.parametrize(
    ("cpus", "cost", "whole"),
    [
        (12, {"low": 4.0, "high": 7.0}, {"low": 5.0, "high": 8.0}),
        (2, {"low": 2.0, "high": None}, {"low": 2.0, "high": None}),
    ],
)
def test_a_price_gives_a_cost_in_json_too(cpus: int, cost: dict[str, float], whole: dict[str, float]) -> None:
    """Hours times 2; on another worker than the suite asks for, of the hours of a budget in minutes alone."""
    trained = Cost("trained", 3, 1.5, 0.5, 2.0, 1.0, known_hours=1.0)
    floor = Cost("floor", 0, 0.0, 0.5, 0.5, 1.0)
    found = Rehearsal(parse_suite(SUITE, "small"), {}, (), (), (trained, floor), cpus, 1)
    told = as_plain(found, 2.0)
    assert told["costs"][0]["cost"] == cost
    assert told["cost"] == whole
    assert "cost" not in as_plain(found)


@pytest.mark.parametrize("before", [False, True])
def test_a_passage_ends_the_ray_that_it_started_and_no_other(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray goes on, an idle process keeps the memory of one method and has it counted for the next."""
    ended: list[bool] = []
    state = [before]
    monkeypatch.setattr(road, "is_running", lambda: state[-1])
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(shutdown=lambda: ended.append(True)))
    with suppress(UserError), road._processes_of_its_own():
        state.append(True)
        raise UserError("a method that fails ends it, too")
    assert ended == ([] if before else [True])


def test_a_folder_with_results_is_left_alone(call) -> None:
    Path("out/records").mkdir(parents=True)
    outcome = call("rehearse", "--methods", "region-growing", "--out", "out")
    assert outcome.code == 2
    assert "a rehearsal needs a folder of its own" in outcome.err
    Path("marked").mkdir()
    Path("marked/REHEARSAL.txt").touch()
    outcome = call("run", "--methods", "region-growing", "--out", "marked")
    assert outcome.code == 2
    assert "is a folder of rehearsals; results need another one" in outcome.err
