"""What a sweep searches, what its log keeps, and where its best goes, without Ray running."""

from __future__ import annotations

import json
import math
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
import yaml

from benchmarks.common.errors import MachineFault, ProcessSpoilt, UserError
from benchmarks.contestants import Budget, Method, Target, method, methods
from benchmarks.contestants.search_space import knobs_of
from benchmarks.data.dataset import fingerprint_cases
from benchmarks.execution import tuned, tuning
from benchmarks.execution.course import Interrupted, checkpoint_of
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.entries import MethodEntry
from benchmarks.execution.plan import plan
from benchmarks.execution.progress import Progress
from benchmarks.execution.suite import parse_suite
from benchmarks.execution.sweep_log import SweepLog
from benchmarks.execution.sweep_space import SweepSpace
from benchmarks.execution.training_job import TrainingJob
from benchmarks.execution.training_watch import OVERDUE_FILE, work_folder
from benchmarks.execution.tuning import Sweep, run_trial, sweep_name, write_best
from benchmarks.execution.work import Work
from benchmarks.results.sweep import Trial, best_first
from tests.execution.training_cases import job_of, loop_of, write_cases

SPACE = {
    "rate": ["loguniform", 1e-3, 1e-1],
    "share": ["uniform", 0.0, 0.5],
    "layers": ["randint", 1, 4],
    "form": ["choice", ["a", "b"]],
}


def method_with(space: Mapping[str, Any] = SPACE, **settings: object) -> Method:
    return replace(method("mock-noop"), config=settings, search_space=space)


def test_a_sweep_begins_with_the_setting_it_is_given() -> None:
    chosen = method_with(rate=0.01, share=0.2, layers=2, form="a", other=1)
    space = SweepSpace.of(chosen, {"share": 0.3})
    assert space.first_setting() == {"rate": 0.01, "share": 0.3, "layers": 2, "form": "a"}


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ((0.01, 0.2, 2, "a"), ((1e-3, 1e-1), (0.0, 0.5), (1, 4), ("a", "b"))),
        ((0.5, 0.7, 4, "c"), ((1e-3, 0.5), (0.0, 0.7), (1, 5), ("c", "a", "b"))),
        ((1e-4, -1.0, 0, "b"), ((1e-4, 1e-1), (-1.0, 0.5), (0, 4), ("a", "b"))),
    ],
)
def test_a_knob_reaches_to_where_the_sweep_begins(
    settings: tuple[float, float, int, str], ends: tuple[object, ...]
) -> None:
    space = SweepSpace.of(method_with(**dict(zip(SPACE, settings, strict=True))), {})
    knobs = {knob.name: knob for knob in space.knobs}
    assert [(knobs[name].low, knobs[name].high) for name in ("rate", "share", "layers")] == list(ends[:3])
    assert knobs["form"].choices == ends[3]


CONDITIONAL = {
    "fusion": ["choice", ["gated", "none"]],
    "layers": ["lograndint", 1, 9, {"fusion": ["gated"]}],
    "heads": ["choice", [2, 4], {"layers": [1, 2]}],
    "zoom": ["choice", [[0.5, 1.0], [1.0, 2.0]]],
    "on": ["choice", [True, False]],
}


def test_conditions_hold_in_every_point_that_optuna_suggests() -> None:
    space = SweepSpace.of(method_with(CONDITIONAL, fusion="none", layers=3, heads=2, zoom=[1.0, 2.0], on=False), {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.enqueue_trial(space.first_point())
    points = [space(study.ask()) for _ in range(200)]
    assert points[0] == space.first_setting() == {"fusion": "none", "zoom": [1.0, 2.0], "on": False}
    for point in points:
        assert ("layers" in point) == (point["fusion"] == "gated")
        assert ("heads" in point) == (point.get("layers") in (1, 2))
        assert point["zoom"] in ([0.5, 1.0], [1.0, 2.0])
        assert point["on"] in (True, False)
    layers = [point["layers"] for point in points if "layers" in point]
    assert set(layers) == set(range(1, 9))  # 9 is not reached
    assert layers.count(1) > 2 * layers.count(8)  # even on a logarithmic scale


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        (["normal", 0, 1], "x: unknown kind 'normal', known: uniform, loguniform"),
        (["uniform", 1, 1], "x: 1 is not below 1"),
        (["loguniform", 0, 1], "x: a logarithmic range begins above 0, not at 0"),
        (["choice", []], "x: nothing to choose from"),
        (["uniform", 0, 1, {"y": [1]}], "x: its condition names 'y', which is no knob before it"),
        (["uniform", 0], "x: not enough values"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(knob: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        knobs_of({"x": knob})
    with pytest.raises(ValueError, match="method 'mock-noop', search space: x: "):
        method_with({"x": knob}, x=1)
    with pytest.raises(ValueError, match="'z' of search_space is no setting of it"):
        method_with({"z": ["uniform", 0, 1]}, x=1)


def test_every_installed_method_can_begin_a_sweep_with_its_own_setting() -> None:
    for one in methods().values():
        space = SweepSpace.of(one, {})
        for knob in space.knobs:
            assert knob.holds(space.start[knob.name]), f"{one.name}: {knob.name} = {space.start[knob.name]}"
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
        study.enqueue_trial(space.first_point())
        assert space(study.ask()) == space.first_setting(), one.name  # by which a sweep knows that it has tried it


@pytest.mark.parametrize("name", ["tags-tiny", "tags-vit-b", "tags-vit-l", "tags-vit-h"])
def test_tags_searches_adapters_fusion_prompts_and_optimisation_at_every_size(name: str) -> None:
    one = method(name)
    space = SweepSpace.of(one, {})
    assert {knob.name for knob in space.knobs} >= {
        *("learning_rate", "weight_decay", "warm_up", "dice_weight", "adapter_every", "adapter_ratio"),
        *("fusion", "fusion_layers", "fusion_heads", "fusion_hidden", "queries", "semantic_gate", "context"),
        *("foreground", "single_click", "box_share", "corrections", "zoom", "prompt_dropout"),
    }
    rate = next(knob for knob in space.knobs if knob.name == "learning_rate")
    assert rate.low < one.config["learning_rate"] / 4
    assert rate.high > one.config["learning_rate"] * 4
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=2))
    for _ in range(30):
        point = space(study.ask())
        one.configured(point)
        assert ("adapter_ratio" in point) == point["adapters"]
        assert ("queries" in point) == (point["fusion"] != "none")


def test_what_tags_suggests_can_be_built() -> None:
    """The corners that a wrong pair of knobs would break: heads that do not divide, a gate that there is not."""
    one = method("tags-tiny")
    space = SweepSpace.of(one, {})
    for knob in space.knobs:
        values = knob.choices or ([int(knob.low), int(knob.high) - 1] if knob.whole else [knob.low, knob.high])
        for value in values:
            if knob.name in ("fusion_heads", "fusion_hidden", "queries", "semantic_gate", "context", "adapter_every"):
                one.build({knob.name: value})


def test_the_best_setting_keeps_what_the_sweep_had_fixed(tmp_path: Path) -> None:
    job = TrainingJob("mock-learner", {"dropout": 0.5, "batch_size": 1}, Target("t", "", "", (1,)), (), Budget(), 1)
    write_best(
        tmp_path / "best.yaml",
        job,
        Trial(3, {"batch_size": 2, "learning_rate": 0.02}, 0.5, 4, 1.0, "", None),
        MethodEntry(name="mock-learner"),
    )
    assert yaml.safe_load((tmp_path / "best.yaml").read_text(encoding="utf-8")) == {
        "name": "mock-learner",
        "label": "mock-learner-tuned",
        "config": {"dropout": 0.5, "batch_size": 2, "learning_rate": 0.02},
    }


def test_the_best_setting_keeps_how_its_entry_is_trained_and_where(tmp_path: Path) -> None:
    """Without `fine_tune` a run of it would rank the released weights."""
    swept = MethodEntry(
        name="mock-learner", fine_tune=True, budget={"steps": 7}, environment={"python": sys.executable}
    )
    job = TrainingJob("mock-learner", {}, Target("t", "", "", (1,)), (), Budget(), 1)
    write_best(tmp_path / "best.yaml", job, Trial(0, {"batch_size": 2}, 0.5, 4, 1.0, "", None), swept)
    best = MethodEntry.from_file(tmp_path / "best.yaml")
    assert (best.fine_tune, best.budget, best.environment) == (True, swept.budget, swept.environment)
    assert best.config == {"batch_size": 2}


def test_corrected_validation_labels_are_another_sweep(tmp_path: Path) -> None:
    own_cases = write_cases(tmp_path)

    def names() -> set[str]:
        job = TrainingJob(
            "mock-learner", {}, Target("t", "", "", (1,)), own_cases[1:], Budget(), 1, validation=own_cases[:1]
        )
        return {sweep_name(job, "unit"), replace(job, validate_at=(0.5, 1.0)).digest()}

    before = names()
    shutil.copy(own_cases[1].label, own_cases[0].label)
    assert not before & names()


# The log of a sweep ---------------------------------------------------------------------------------------------------


def log_in(folder: Path) -> SweepLog:
    return SweepLog(folder / "trials.json", 2, lambda config: folder / str(config["rate"]))


def rung(number: int, dice: float) -> dict[str, float]:
    return {"rung": number, "validation_dice": dice, "step": 10 * number, "time_total_s": 5.0 * number, "loss": 0.5}


def test_the_log_tells_how_every_trial_ended_and_survives_the_driver(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    for place, name in reversed(list(enumerate(("a", "b", "c", "d", "e")))):  # Tune starts them in any order
        log.began(name, {"rate": float(place)}, place)
    log.reported("a", rung(1, 0.3))
    log.reported("a", {**rung(2, 0.6), "validations": [{"validation_dice": 0.3, "step": 10}]})
    log.ended("a")
    log.reported("b", rung(1, 0.9))
    log.ended("b")
    log.reported("c", {"rung": 0, "validation_dice": 0.0, "problem": "ValueError: too large"})
    log.ended("c")
    log.ended("d", "the node died")
    told = log_in(tmp_path)
    assert told.trials() == log.trials()
    a, b, c, d, e = told.trials()
    assert [(one.status, one.rungs, one.validation_dice) for one in (a, b, c, d, e)] == [
        ("finished", 2, 0.6),
        ("stopped early", 1, 0.9),
        ("failed: ValueError: too large", 0, 0.0),
        ("not run: the node died", 0, 0.0),
        ("running", 0, 0.0),
    ]
    assert [(point["rung"], point["validation_dice"]) for point in a.curve] == [(1, 0.3), (2, 0.6)]
    assert (a.checkpoint, b.checkpoint) == (tmp_path / "0.0", None)
    assert [one.number for one in best_first([e, d, c, b, a])] == [0, 1, 2, 3, 4]
    assert (told.over, told.running) == (3, 1)
    told.began("d", {"rate": 3.0}, 3)  # goes on
    told.forget_lost()
    assert [one.number for one in told.trials()] == [0, 1, 2, 3]  # nobody goes on with e
    told.began("f", {"rate": 9.0}, 2)  # the place of one that Tune has lost
    assert told.trials()[-1].number == 4
    told.begin_experiment("001")
    log_in(tmp_path).began("g", {"rate": 10.0}, 1)
    again = log_in(tmp_path)
    assert [one.number for one in again.trials()] == [0, 1, 2, 3, 4, 6]
    assert (again.experiments, again.experiment_ended) == (["001"], False)
    again.end_experiment()
    assert log_in(tmp_path).experiment_ended


def test_a_damaged_log_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "trials.json").write_text('{"format": 1, "trials": [{}]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"trials\.json cannot be read \('first_number'\); remove its folder"):
        log_in(tmp_path)


def test_the_log_knows_a_setting_whatever_the_file_makes_of_it(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    log.began("a", {"rate": 1.0, "zoom": (0.5, 1.0)}, 0)
    for one in (log, log_in(tmp_path)):
        assert one.has({"rate": 1, "zoom": (0.5, 1.0)})
        assert not one.has({"rate": 2.0, "zoom": (0.5, 1.0)})


# A sweep that is broken off, with a stand-in for Tune -----------------------------------------------------------------


@dataclass
class Grid:
    """What Tune's `fit` gives back: what has become of the trials that it has created."""

    created: int
    num_terminated: int
    num_errors: int = 0

    def __len__(self) -> int:
        return self.created


class StandIn:
    """Tune as far as a sweep sees it: it suggests, tells the log, and ends after so many events as it is let."""

    events = 99

    def __init__(self, trainable: object, tune_config: Any, run_config: Any) -> None:
        self.search, self.number = tune_config.search_alg, tune_config.num_samples
        self.folder, self.callbacks = Path(run_config.storage_path) / run_config.name, run_config.callbacks
        self.folder.mkdir(parents=True)
        (self.folder / "tuner.pkl").touch()

    @staticmethod
    def can_restore(path: str) -> bool:
        return (Path(path) / "tuner.pkl").is_file()

    def fit(self) -> Grid:
        from benchmarks.execution.sweep_callback import _LOGS

        (log,) = (_LOGS[one.name] for one in self.callbacks)
        for place in range(self.number):
            name = f"{self.folder.name}-{place}"
            StandIn.events -= 2
            if StandIn.events < -1:
                return Grid(place, place)
            log.began(name, self.search.suggest(name), place)
            if StandIn.events < 0:
                return Grid(place + 1, place)
            result = {"validation_dice": 0.5, "rung": 1, "step": 1, "training_iteration": 1}
            log.reported(name, result)
            self.search.on_trial_complete(name, result)
            log.ended(name)
        return Grid(self.number, self.number)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    from ray import tune

    monkeypatch.setattr(tune, "Tuner", StandIn)
    cases = write_cases(tmp_path / "data", 2)
    return Sweep(job_of(cases[:1], validation=cases[1:]), tmp_path / "sweep", tmp_path / "checkpoints")


class FailingMachine:
    """In place of Tune's `Tuner`: the trials in `broken` are not run; each leaves half a training."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.broken: set[str] = set()
        self.settings: dict[str, dict[str, Any]] = {}  # by name, of all trials
        self.over: set[str] = set()
        self.restored: list[str] = []

    def __call__(self, trainable: object, tune_config: Any, run_config: Any) -> FailingExperiment:
        folder = Path(run_config.storage_path) / run_config.name
        folder.mkdir(parents=True)
        (folder / "experiment_state-1.json").touch()
        for name in (f"{folder.name}-{place}" for place in range(tune_config.num_samples)):
            self.settings[name] = tune_config.search_alg.suggest(name)
        return FailingExperiment(self, folder.name)

    def can_restore(self, path: str) -> bool:
        return Path(path).is_dir()

    def restore(self, path: str, trainable: object, **how: bool) -> FailingExperiment:
        assert how == {"resume_unfinished": True, "resume_errored": True}
        self.restored.append(Path(path).name)
        return FailingExperiment(self, Path(path).name)


@dataclass
class FailingExperiment:
    machine: FailingMachine
    name: str

    def fit(self) -> Grid:
        from benchmarks.execution.sweep_callback import _LOGS

        (log,) = _LOGS.values()
        machine, names = self.machine, [name for name in self.machine.settings if name.startswith(self.name)]
        for place, name in enumerate(names):
            if name in machine.over:
                continue
            setting = machine.settings[name]
            log.began(name, setting, place)
            work_folder(machine.sweep.checkpoint(setting)).mkdir(parents=True, exist_ok=True)
            if name not in machine.broken:
                log.reported(name, {"validation_dice": 0.5, "rung": 1, "step": 1})
                machine.over.add(name)
            log.ended(name, "the disk is full" if name in machine.broken else "")
        ended = sum(name in machine.over for name in names)
        return Grid(len(names), ended, len(names) - ended)


@pytest.fixture
def machine(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> FailingMachine:
    from ray import tune

    one = FailingMachine(sweep)
    monkeypatch.setattr(tune, "Tuner", one)
    return one


def halves(sweep: Sweep) -> set[Path]:
    """The trainings that are half done."""
    return set((sweep.folder / "checkpoints").glob(".*.partial"))


@pytest.mark.parametrize("old_log", [False, True])
def test_a_trial_that_is_not_run_is_taken_up_in_its_own_experiment_and_from_its_state(
    sweep: Sweep, machine: FailingMachine, old_log: bool
) -> None:
    """Also after a call that has added trials while the machine still failed."""
    machine.broken = {"000-1"}

    def statuses(trials: int) -> list[str]:
        found = sorted(tuning.tune_method(sweep, trials, 1), key=lambda one: one.number)
        return [one.status for one in found]

    not_run = "not run: the disk is full"
    assert statuses(3) == ["stopped early", not_run, "stopped early"]
    half = {work_folder(sweep.checkpoint(machine.settings["000-1"]))}
    assert halves(sweep) == half
    assert statuses(5) == ["stopped early", not_run, *["stopped early"] * 3]
    assert halves(sweep) == half
    if old_log:
        path = sweep.folder / "trials.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        for one in content["trials"]:
            del one["experiment"]
        path.write_text(json.dumps(content), encoding="utf-8")
    machine.broken = set()
    machine.restored.clear()
    assert statuses(5) == ["stopped early"] * 5
    assert machine.restored == (["000", "001"] if old_log else ["000"])
    assert halves(sweep) == set()
    machine.restored.clear()
    assert statuses(5) == ["stopped early"] * 5
    assert machine.restored == []


def test_a_sweep_without_any_result_is_the_machines_fault_where_it_has_ended_a_trial(
    sweep: Sweep, machine: FailingMachine
) -> None:
    machine.broken = {"000-0", "000-1"}
    with pytest.raises(MachineFault, match="no trial of the sweep has a result; trial 0: not run: the disk is full"):
        tuning.tune_method(sweep, 2, 1)
    assert len(halves(sweep)) == 2
    machine.broken = set()
    assert [one.status for one in tuning.tune_method(sweep, 2, 1)] == ["stopped early"] * 2


def test_a_sweep_that_is_killed_at_its_beginning_still_tries_the_methods_own_setting(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune had begun the first trial, and kept no state of it."""

    fit = StandIn.fit

    def killed(self: StandIn) -> None:
        fit(self)
        raise SystemExit(9)

    monkeypatch.setattr(StandIn, "events", 1)
    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "fit", killed)
        with pytest.raises(SystemExit):
            tuning.tune_method(sweep, 3, 1)
    first = sweep.space().first_setting()
    assert [one["config"] for one in json.loads((sweep.folder / "trials.json").read_text())["trials"]] == [first]
    assert not tuning._can_be_restored(sweep.folder / "tune" / "000")
    monkeypatch.setattr(StandIn, "events", 99)
    trials = sorted(tuning.tune_method(sweep, 3, 1), key=lambda one: one.number)
    assert [one.number for one in trials] == [0, 1, 2]
    assert trials[0].config == first
    assert [one.config for one in trials].count(first) == 1
    assert len(tuning.tune_method(sweep, 3, 1)) == 3
    (sweep.folder / "tune" / "000" / "experiment_state-1.json").touch()
    assert tuning._can_be_restored(sweep.folder / "tune" / "000")


def test_a_sweep_that_has_lost_the_methods_own_setting_tries_it_beyond_the_number(sweep: Sweep) -> None:
    """Tune's state was older than the first trial: it went on with others in its place."""
    log = SweepLog(sweep.folder / "trials.json", 4, sweep.checkpoint)
    log.begin_experiment("000")
    for place, rate in enumerate((0.02, 0.03)):
        log.began(f"a{place}", {"learning_rate": rate, "batch_size": 1}, place)
        log.reported(f"a{place}", {"validation_dice": 0.5, "rung": 1, "step": 1})
        log.ended(f"a{place}")
    log.end_experiment()
    trials = tuning.tune_method(sweep, 2, 1)
    assert sorted(one.number for one in trials) == [0, 1, 2]
    assert sweep.space().first_setting() in [one.config for one in trials]


@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, again: bool
) -> None:
    """Tune returns as if all were well at the first one, and is itself interrupted by the second."""
    monkeypatch.setattr(StandIn, "events", 3)
    fit = StandIn.fit

    def twice(self: StandIn) -> Grid:
        grid = fit(self)
        if again:
            raise KeyboardInterrupt
        return grid

    monkeypatch.setattr(StandIn, "fit", twice)
    with pytest.raises(Interrupted) as caught:
        tuning.tune_method(sweep, 3, 1)
    kept = f"what the sweep has found is kept in {sweep.folder}, and the same command goes on from there"
    said = f"interrupted: {kept}; trials that are over: 1"
    assert str(caught.value) == said
    assert caplog.messages == [said]


def test_ctrl_c_before_a_sweep_that_is_taken_up_has_begun_a_trial_loses_none(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune has read its two trials, and begins neither."""

    class Restored:
        def fit(self) -> Grid:
            return Grid(2, 1)

    monkeypatch.setattr(StandIn, "events", 3)
    with pytest.raises(Interrupted):
        tuning.tune_method(sweep, 3, 1)
    kept = (sweep.folder / "trials.json").read_text(encoding="utf-8")
    monkeypatch.setattr(tuning, "_can_be_restored", lambda experiment: True)
    monkeypatch.setattr(tuning, "_restored", lambda experiment, trainable: Restored())
    with pytest.raises(Interrupted):
        tuning.tune_method(sweep, 3, 1)
    assert (sweep.folder / "trials.json").read_text(encoding="utf-8") == kept


def test_ctrl_c_after_a_sweep_is_not_swallowed_by_tune(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    before, fit = signal.getsignal(signal.SIGINT), StandIn.fit

    def fit_as_tune(self: StandIn) -> Grid:
        signal.signal(signal.SIGINT, lambda *event: None)
        return fit(self)

    monkeypatch.setattr(StandIn, "fit", fit_as_tune)
    try:
        tuning.tune_method(sweep, 2, 1)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


# One trial ------------------------------------------------------------------------------------------------------------


def test_a_trial_whose_method_fails_has_the_worst_result_and_one_of_the_machine_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(write_cases(tmp_path / "data", 1))
    told: list[dict[str, Any]] = []

    def ended_by(error: Exception) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise error

        monkeypatch.setattr(tuning, "run_job", fail)
        run_trial(job, tmp_path / "checkpoints", tmp_path / "cache", told.append)

    ended_by(ValueError("too large\nindeed"))
    assert told == [{"validation_dice": 0.0, "rung": 0, "problem": "ValueError: too large indeed"}]
    for fault in (MachineFault("the node died"), OSError(28, "No space left on device")):
        with pytest.raises(type(fault)):
            ended_by(fault)
    with pytest.raises(ProcessSpoilt, match="illegal memory access"):
        ended_by(torch.AcceleratorError("CUDA error: an illegal memory access"))
    assert len(told) == 1


def test_a_machine_that_lacks_what_a_trial_needs_gives_it_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Dice of 0 would be final, teach the search, and let this machine take one trial after another."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cases = write_cases(tmp_path / "data", 2)
    job = job_of(cases[:1], validation=cases[1:])
    told: list[dict[str, Any]] = []

    def lacks(what: str, job: TrainingJob) -> None:
        with pytest.raises(MachineFault, match=what):
            run_trial(job, tmp_path / "checkpoints", tmp_path / "cache", told.append)

    lacks("asks for a GPU and none is visible", replace(job, budget=Budget(steps=1, gpus=1.0)))
    lacks(r"the weights file .*sam\.pth is not there", replace(job, files=(str(tmp_path / "sam.pth"),)))
    for file in (cases[1].label, cases[0].image):
        file.unlink()
        lacks("or its label is not there on ", job)
    assert told == []


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_a_trial_that_trained_to_its_end_is_finished_and_keeps_its_checkpoint_however_few_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    cases = write_cases(tmp_path / "data", 2)
    sweep = Sweep(job_of(cases[:1], steps=steps, validation=cases[1:]), tmp_path / "sweep", tmp_path / "kept")

    def train(job: TrainingJob, folder: Path, cache: Path, report: Any) -> dict[str, Any]:
        """As `run_job`, without Ray."""
        loop_of(job, tmp_path / "work").run(report)
        return dict(json.loads((tmp_path / "work" / "loop.json").read_text(encoding="utf-8")))

    monkeypatch.setattr(tuning, "run_job", train)
    log = SweepLog(tmp_path / "trials.json", len(tuning.RUNGS), sweep.checkpoint)
    log.began("a", {}, 0)
    run_trial(sweep.varied, tmp_path / "checkpoints", tmp_path / "cache", lambda told: log.reported("a", told))
    log.ended("a")
    (trial,) = log.trials()
    assert (trial.status, trial.checkpoint) == ("finished", sweep.checkpoint({}))
    assert [int(point["rung"]) for point in trial.curve] == [1, 2, 3, 4]
    assert [int(point["step"]) for point in trial.curve] == [math.ceil(share * steps) for share in tuning.RUNGS]


def test_a_trial_that_was_overdue_is_not_tried_again(tmp_path: Path) -> None:
    job = job_of(write_cases(tmp_path / "data", 1))
    work = work_folder(tuning.checkpoint_folder(tmp_path / "checkpoints", job))
    work.mkdir(parents=True)
    (work / OVERDUE_FILE).write_text('{"reason": "no sign of life within 3 minutes"}', encoding="utf-8")
    told: list[dict[str, Any]] = []
    run_trial(job, tmp_path / "checkpoints", tmp_path / "cache", told.append)
    reason = "TimeoutError: no sign of life within 3 minutes; the process was ended"
    assert told == [{"validation_dice": 0.0, "rung": 0, "problem": reason}]


def test_the_best_checkpoint_goes_where_a_run_looks_for_it_and_back_into_the_next_sweep(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 2)
    job = job_of(cases[:1], validation=cases[1:])
    sweep = Sweep(job, tmp_path / "sweep", tmp_path / "checkpoints")
    config = {"learning_rate": 0.02, "batch_size": 2}
    trained = sweep.checkpoint(config)
    (trained / "checkpoint").mkdir(parents=True)
    (trained / "checkpoint" / "weights").write_text("w", encoding="utf-8")
    figures = {"validations": [{"validation_dice": 0.1 * n} for n in range(4)]}
    figures |= {"validation": fingerprint_cases(cases[1:])}
    (trained / "training.json").write_text(json.dumps(figures), encoding="utf-8")
    best = Trial(1, config, 0.3, 4, 1.0, "finished", trained)
    tuning._keep_checkpoint(sweep, best)
    run = replace(job, config=config, validation=(), validate_at=())
    kept = tuning.checkpoint_folder(tmp_path / "checkpoints", run)
    assert (kept / "checkpoint" / "weights").read_text(encoding="utf-8") == "w"
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]

    following = Sweep(replace(job, config=config), tmp_path / "next", tmp_path / "checkpoints")
    tuning._bring_checkpoint(following, following.space())
    assert (following.checkpoint(following.space().first_setting()) / "training.json").is_file()
    corrected = Sweep(replace(job, config=config, validation=cases[:1]), tmp_path / "new", tmp_path / "checkpoints")
    tuning._bring_checkpoint(corrected, corrected.space())
    assert not (tmp_path / "new").exists()
    other = Sweep(replace(job, config={"learning_rate": 0.03}), tmp_path / "other", tmp_path / "checkpoints")
    tuning._bring_checkpoint(other, other.space())
    assert not (tmp_path / "other").exists()


SWEPT = """
name: swept
seed: 7
keep_best: KEEP_BEST
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [mock-learner]
protocols: [centre-click]
budget: {steps: 8}
"""


@pytest.mark.parametrize("keep_best", [0, 2])
def test_a_sweep_says_whether_a_run_of_its_best_setting_trains_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_best: int
) -> None:
    """Asked of the run itself, as it is planned with `best.yaml`."""
    suite, folders = parse_suite(SWEPT.replace("KEEP_BEST", str(keep_best)), "test"), Folders(tmp_path)
    dataset = resolve_dataset(suite.datasets[0], suite.seed, folders)
    notes: list[str] = []

    class Told(Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    def tune_method(sweep: Sweep, *rest: object) -> list[Trial]:
        config = {"learning_rate": 0.02, "batch_size": 2}
        trained = sweep.checkpoint(config)
        trained.mkdir(parents=True)
        (trained / "training.json").write_text("{}", encoding="utf-8")
        best = Trial(0, config, 0.3, 4, 1.0, "finished", trained)
        tuning._keep_checkpoint(sweep, best)
        return [best]

    sink = SimpleNamespace(log_sweep=lambda *told, **how: None, close=lambda: None, shown_uri="")
    for name, stand_in in {
        "start_ray": lambda *where: None,
        "_homes": lambda *what: {},
        "MlflowSink": lambda *where: sink,
        "tune_method": tune_method,
        "_written": lambda *what: {},
    }.items():
        monkeypatch.setattr(tuned, name, stand_in)
    work = Work(suite, folders, plan(suite, [dataset], folders), [dataset])
    result = tuned.tuned(work, tuned.Points(1, 1), None, None, Told())
    (unit,) = plan(suite.with_methods([str(result.best_file)]), [dataset], folders)
    place = checkpoint_of(unit, folders)
    assert place is not None
    assert place.is_dir() == (keep_best == 0)
    assert notes == ([] if place.is_dir() else [tuned.TRAINED_AGAIN])


def test_another_validation_split_or_budget_is_another_sweep(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 3)
    job = job_of(cases[:1], validation=cases[1:])
    names = [sweep_name(one, "unit") for one in (job, replace(job, validation=cases[2:]), job_of(cases[:1], steps=3))]
    assert len(set(names)) == 3
    assert names[0] == sweep_name(replace(job), "unit")


def test_a_line_tells_every_trial_that_is_over_and_none_twice() -> None:
    told: list[str] = []

    class Told(Progress):
        def line(self, text: str) -> None:
            told.append(text)

    def trial(number: int, dice: float, status: str) -> Trial:
        return Trial(number, {}, dice, 2, 1.0, status, None)

    lines = tuned._Lines(4, Told())
    before = trial(0, 0.5, "finished")  # of an earlier call
    lines.tell([before, trial(1, 0.1, "running")])
    assert told == []
    lines.tell([before, trial(1, 0.6, "finished"), trial(2, 0.0, "running")])
    lines.tell([before, trial(1, 0.6, "finished"), trial(2, 0.2, "stopped early")])
    assert told == [
        "trial 1, 2 of 4 over: finished, Dice 0.600 at rung 2; best so far 0.600 (trial 1)",
        "trial 2, 3 of 4 over: stopped early, Dice 0.200 at rung 2; best so far 0.600 (trial 1)",
    ]


def test_a_sweep_goes_on_where_tune_itself_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tuner:
        def __init__(self, *problems: Exception) -> None:
            self.problems = list(problems)

        def fit(self) -> Grid:
            if self.problems:
                raise self.problems.pop(0)
            return Grid(1, 0, 1)

    killed = RuntimeError("a worker was killed due to the node running low on memory")
    restored: list[Path] = []

    def restore(experiment: Path, trainable: object) -> Tuner:
        restored.append(experiment)
        return Tuner(*([killed] if len(restored) < 2 else []))

    monkeypatch.setattr(tuning, "_restored", restore)
    tuning._fit(Tuner(killed), tmp_path / "tune" / "000", None)
    assert restored == [tmp_path / "tune" / "000"] * 2
    monkeypatch.setattr(tuning, "_restored", lambda *arguments: Tuner(killed))
    with pytest.raises(MachineFault, match=r"given up 4 times: .*low on memory; what the sweep has found is kept in "):
        tuning._fit(Tuner(killed), tmp_path / "tune" / "000", None)


def test_a_study_that_is_ahead_of_tunes_state_bears_the_same_trial_again(tmp_path: Path) -> None:
    """The driver was killed after Optuna knew that a trial is over, and before Tune had kept it."""
    from benchmarks.execution.sweep_search import search

    space = SweepSpace.of(method_with(rate=0.01, share=0.2, layers=2, form="a"), {})
    result = {"validation_dice": 0.5, "training_iteration": 1}
    one = search(space, tmp_path / "optuna.db", 1, 8, 0, first=True)
    assert one.suggest("t0") == space.first_setting()
    one.save(str(tmp_path / "state"))  # Tune's state, with the trial at work
    one.on_trial_result("t0", result)
    one.on_trial_complete("t0", result)
    again = search(space, tmp_path / "optuna.db", 1, 8, 1, first=False)
    again.restore(str(tmp_path / "state"))
    again.on_trial_result("t0", {**result, "training_iteration": 2})
    again.on_trial_complete("t0", result)
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    assert [(trial.state.name, trial.value) for trial in study.trials] == [("COMPLETE", 0.5)]
    assert again.suggest("t1") != space.first_setting()  # and the sweep goes on


def suggested(space: SweepSpace, file: Path, done: int, number: int) -> list[dict[str, Any] | None]:
    """The next settings of a sweep of 30 trials, each of which has a result at once."""
    from benchmarks.execution.sweep_search import search

    one = search(space, file, 1, 30, done, first=not done)
    found = []
    for name in (f"t{done + place}" for place in range(number)):
        found.append(one.suggest(name))
        one.on_trial_complete(name, {"validation_dice": 0.5, "training_iteration": 1})
    return found


def test_a_larger_number_of_trials_repeats_no_random_setting(tmp_path: Path) -> None:
    """It did: a sampler of the same seed draws the same settings, until it has enough trials to learn from."""
    space = SweepSpace.of(method_with(rate=0.01, share=0.2, layers=2, form="a"), {})
    once = [setting for done in (0, 4) for setting in suggested(space, tmp_path / "once.db", done, 4)]
    assert len({str(setting) for setting in once}) == 8
    again = [setting for done in (0, 4) for setting in suggested(space, tmp_path / "again.db", done, 4)]
    assert again == once
