"""The training loop with a tiny real method: against NumPy, interrupted, on two workers, with losses that fail."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.common.errors import MachineFault, UserError
from benchmarks.contestants import Budget
from benchmarks.data.cache import Cache
from benchmarks.data.dataset import Case
from benchmarks.execution import loop as loop_module
from benchmarks.execution import state as state_module
from benchmarks.execution.crops import CropSource
from benchmarks.execution.loop import TrainingLoop
from benchmarks.execution.state import load_state, save_state
from benchmarks.execution.worker_group import WorkerGroup
from tests.execution.test_optimisation import ByHand
from tests.execution.training_cases import (
    TARGET,
    everything,
    in_two_processes,
    job_of,
    loop_of,
    watch_losses,
    write_cases,
)

STOCHASTIC = {"dropout": 0.3, "ema_decay": 0.9, "accumulate": 2}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def figures_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "loop.json").read_text(encoding="utf-8")))


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_training_is_the_one_by_hand(cases: tuple[Case, ...], tmp_path: Path) -> None:
    """Every step of the loop again in NumPy: crops, gradient in closed form, clip, schedule, AdamW."""
    job = job_of(cases, steps=10, config={"gradient_clip": 1.0, "batch_size": 3})
    loop = loop_of(job, tmp_path / "work")
    start = np.concatenate([p.detach().numpy().ravel() for p in loop.segmenter.module.parameters()])
    loop.run()
    source = CropSource(cases, TARGET, loop.recipe, job.seed, cache=Cache(tmp_path / "cache"))
    hand, losses, clipped = ByHand(start, 0, 0.1, 1.0), [], 0
    for step in range(10):
        (batch,) = source.step(step)
        voxels = np.hstack([batch.image.double().flatten(1).numpy(), np.ones((3, 1))])
        error = voxels @ hand.weights - batch.label.double().flatten(1).mean(1).numpy()
        gradient = 2 / 3 * error @ voxels
        clipped += np.linalg.norm(gradient) > 1.0
        progress = step / 10
        rate = 0.01 * max(progress, 1e-3) / 0.25 if progress < 0.25 else 0.001 + 0.009 * (1 - progress) / 0.75
        losses.append(float((error**2).mean()))
        hand.step(gradient, rate)
    assert 0 < clipped < 10
    trained = np.concatenate([p.detach().numpy().ravel() for p in loop.segmenter.module.parameters()])
    np.testing.assert_allclose(trained, hand.weights, rtol=1e-6, atol=1e-9)
    assert abs(trained - start).max() > 0.01
    figures = figures_of(tmp_path / "work")
    np.testing.assert_allclose([point["loss"] for point in figures["curve"]], losses, rtol=1e-6)
    np.testing.assert_allclose([point["square"] for point in figures["curve"]], losses, rtol=1e-6)
    assert (figures["steps"], figures["parameters"], figures["skipped_steps"]) == (10, 257, 0)
    assert 0 <= figures["waiting_share"] <= 1
    from safetensors.torch import load_file

    kept = load_file(tmp_path / "work" / "checkpoint" / "weights.safetensors")
    np.testing.assert_array_equal(np.append(kept["weight"], kept["bias"]), trained)


def test_it_learns(cases: tuple[Case, ...], tmp_path: Path) -> None:
    job = job_of(cases, steps=150, config={"weight_decay": 0.0, "gradient_clip": 10.0, "learning_rate": 0.003})
    loop_of(job, tmp_path / "work").run()
    curve = [point["loss"] for point in figures_of(tmp_path / "work")["curve"]]
    assert len(curve) == loop_module.LOG_POINTS + 1
    assert np.mean(curve[-5:]) < np.mean(curve[:5]) / 5


class Interrupted(Exception):
    """Stands for the power cut."""


def interrupt_before(loop: TrainingLoop, step: int) -> None:
    def seen(number: int, loss: torch.Tensor) -> torch.Tensor:
        if number == step:
            raise Interrupted
        return loss

    watch_losses(loop, seen)


@pytest.mark.parametrize("config", [{}, STOCHASTIC], ids=["plain", "dropout-ema-accumulated"])
@pytest.mark.parametrize("cut", [1, 6, 11])
def test_a_resumed_training_is_an_undisturbed_one_bit_for_bit(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], cut: int
) -> None:
    job = job_of(cases, steps=12, config=config, validation=cases[:1], validate_at=(0.25, 0.5, 1.0))
    undisturbed = loop_of(job, tmp_path / "undisturbed")
    undisturbed.run()
    monkeypatch.setattr(loop_module, "STATE_EVERY_SECONDS", -1.0)
    first = loop_of(job, tmp_path / "work")
    interrupt_before(first, cut)
    with pytest.raises(Interrupted):
        first.run()
    torch.manual_seed(99)  # another process has another generator
    second = loop_of(job, tmp_path / "work")
    begun: list[int] = []
    watch_losses(second, lambda step, loss: begun.append(step) or loss)
    second.run()
    assert begun[0] == cut
    assert_same(everything(second), everything(undisturbed))
    told, expected = figures_of(tmp_path / "work"), figures_of(tmp_path / "undisturbed")
    for key, timed in (("curve", ("seconds", "waiting_share", "queued_share")), ("validations", ("seconds",))):
        for point in (*told[key], *expected[key]):
            for name in timed:
                point.pop(name)
        assert told[key] == expected[key]
    for kept in ("weights.safetensors",):
        ours, theirs = (tmp_path / name / "checkpoint" / kept for name in ("work", "undisturbed"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_the_time_of_before_the_cut_counts(cases: tuple[Case, ...], tmp_path: Path) -> None:
    """A budget of minutes that the kept state has spent already leaves nothing to do."""
    loop = loop_of(job_of(cases, budget=Budget(minutes=1.0)), tmp_path / "work")
    loop._keep_state()
    state = load_state(tmp_path / "work" / "state.pt", WorkerGroup())
    assert state is not None
    save_state(tmp_path / "work" / "state.pt", {**state, "elapsed": 60.0, "queued": 30.0, "step": 77})
    loop.run()
    figures = figures_of(tmp_path / "work")
    assert figures["steps"] == 77
    assert figures["seconds_training"] == pytest.approx(60.0, abs=5.0)
    assert figures["queued_share"] == pytest.approx(0.5, abs=0.1)


def test_the_state_is_kept_at_validations_and_by_the_clock(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    real = loop_module.save_state
    monkeypatch.setattr(
        loop_module, "save_state", lambda path, state, *rest: (kept.append(state["step"]), real(path, state, *rest))
    )
    job = job_of(cases, steps=10, validation=cases[:1], validate_at=(0.3, 0.6))
    loop_of(job, tmp_path / "work").run()
    assert kept == [0, 3, 6]
    monkeypatch.setattr(loop_module, "STATE_EVERY_SECONDS", -1.0)
    kept.clear()
    loop_of(replace(job, validate_at=()), tmp_path / "other").run()
    assert kept == list(range(11))


def test_the_state_of_other_weights_is_not_taken(
    cases: tuple[Case, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = loop_of(job_of(cases), tmp_path / "work")
    loop._keep_state()
    state = load_state(tmp_path / "work" / "state.pt", WorkerGroup())
    assert state is not None
    save_state(tmp_path / "work" / "state.pt", {**state, "step": 8, "weights": [torch.zeros(3)]})
    loop.run()
    assert "of another network: starting over" in caplog.text
    assert loop.step == 12
    assert int(loop.optimisation.adamw.state_dict()["state"][0]["step"]) == 12  # all of them were taken


# Losses that are not finite


def fail_steps(loop: TrainingLoop, steps: set[int], bad: float = float("nan")) -> list[torch.Tensor]:
    """The losses of these steps are not finite; gives the weights before every step, as they come."""
    weights: list[torch.Tensor] = []

    def seen(step: int, loss: torch.Tensor) -> torch.Tensor:
        weights.append(loop.segmenter.module.weight.detach().clone())
        return loss + bad if step in steps else loss

    watch_losses(loop, seen)
    return weights


def test_a_step_without_a_finite_loss_is_skipped_and_counted(cases: tuple[Case, ...], tmp_path: Path) -> None:
    loop = loop_of(job_of(cases, steps=12), tmp_path / "work")
    weights = fail_steps(loop, {0, 4, 5}, float("inf"))
    loop.run()
    changed = [not torch.equal(before, after) for before, after in itertools.pairwise(weights)]
    assert changed == [step not in (0, 4, 5) for step in range(11)]
    figures = figures_of(tmp_path / "work")
    assert figures["skipped_steps"] == 3
    assert [point["step"] for point in figures["curve"]] == [s for s in range(1, 13) if s not in (1, 5, 6)]
    assert [point["skipped_steps"] for point in figures["curve"]] == [1] * 3 + [3] * 6
    assert all(torch.isfinite(value).all() for value in everything(loop).values())


def test_after_many_in_a_row_it_goes_back_to_the_last_good_state_and_on(
    cases: tuple[Case, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of(cases, steps=40, validation=cases[:1], validate_at=(0.2,))
    loop = loop_of(job, tmp_path / "work")
    weights = fail_steps(loop, set(range(11, 20)) | {20 - 10})
    loop.run()
    assert "10 steps in a row up to step 20: going back to the weights of step 8" in caplog.text
    assert torch.equal(weights[20], weights[8])
    assert not torch.equal(weights[10], weights[8])
    figures = figures_of(tmp_path / "work")
    assert (figures["steps"], figures["skipped_steps"]) == (40, 10)


def test_a_loss_that_never_becomes_finite_ends_the_training_and_names_the_step(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    loop = loop_of(job_of(cases, steps=100), tmp_path / "work")
    weights = fail_steps(loop, set(range(15, 100)))
    with pytest.raises(
        FloatingPointError, match="'mock-learner' is not finite in 10 steps in a row up to step 40, also"
    ):
        loop.run()
    assert len(weights) == 40  # found at 30 (15 in a row), gone back, found again
    assert not (tmp_path / "work" / "loop.json").exists()


def test_a_short_training_without_any_finite_loss_is_an_error(cases: tuple[Case, ...], tmp_path: Path) -> None:
    loop = loop_of(job_of(cases, steps=3), tmp_path / "work")
    fail_steps(loop, {0, 1, 2})
    with pytest.raises(FloatingPointError, match="not finite in any of 3 steps"):
        loop.run()


def test_no_step_asks_the_device(cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes the host wait for a GPU is reading a value; between log points and looks nothing is read."""
    reads: list[int] = []
    loop = loop_of(job_of(cases, steps=200), tmp_path / "work")
    main = threading.get_ident()
    for name in ("item", "__float__", "__int__", "__bool__", "tolist", "cpu", "numpy"):
        real = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *words: Any, real: Any = real, **named: Any) -> Any:
            if threading.get_ident() == main:
                reads.append(loop.step)
            return real(self, *words, **named)

        monkeypatch.setattr(torch.Tensor, name, counted)
    loop.run()
    allowed = {s for s in range(1, 201) if s % loop_module.LOOK_EVERY_STEPS == 0} | {0}
    allowed |= {int(point["step"]) for point in loop.curve}
    assert set(reads) <= allowed
    assert 200 in reads


# Several workers


JOINED = [{}, {"ema_decay": 0.9, "accumulate": 2}]


def train_one_of_two(rank: int, job: Any, folder: Path) -> dict[str, torch.Tensor]:
    loop = loop_of(job, folder / "work", rank, 2)
    loop.run()
    return everything(loop)


def go_on_from_other_folders(rank: int, job: Any, folder: Path) -> dict[str, torch.Tensor]:
    loop = loop_of(job, folder / f"work{rank}", rank, 2)
    begun: list[int] = []
    watch_losses(loop, lambda step, loss: begun.append(step) or loss)
    loop.run()
    return {**everything(loop), "first_step": torch.tensor(begun[0])}


def fail_on_one_worker(rank: int, job: Any, folder: Path) -> dict[str, torch.Tensor]:
    loop = loop_of(job, folder / "work", rank, 2)
    weights = fail_steps(loop, {4} if rank == 1 else set())
    loop.run()
    unchanged = torch.equal(weights[5], weights[4])
    return {
        **everything(loop),
        "unchanged": torch.tensor(unchanged),
        "skipped": torch.tensor(loop.optimisation.skips()),
    }


def differ_on_purpose(rank: int, job: Any, folder: Path) -> dict[str, torch.Tensor]:
    loop = loop_of(job, folder / "work", rank, 2)
    with torch.no_grad():
        loop.segmenter.module.weight[0, 7] += rank * 1e-12
    with pytest.raises(RuntimeError, match="1 of 2 workers differ from worker 0 in the weights to begin with"):
        loop.run()
    return {}


def joined_job(cases: tuple[Case, ...], config: dict[str, Any], workers: int) -> Any:
    config = {"batch_size": 4 // workers, **config}
    return job_of(cases, steps=12, workers=workers, config=config, validation=cases, validate_at=(0.5,))


@pytest.fixture(scope="module")
def pairs(cases: tuple[Case, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """All that two workers do in these tests, in one pair of processes: starting them takes longer than they do."""
    root = tmp_path_factory.mktemp("pairs")
    resumed = job_of(cases, steps=12, workers=2, config={"batch_size": 2})
    for rank, cut in ((0, 9), (1, 3)):  # folders that are not shared; that of worker 1 has an older, other state
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop_module, "STATE_EVERY_SECONDS", -1.0)
            job = replace(resumed, workers=1, config={"batch_size": 4}, seed=resumed.seed + rank)
            cut_off = loop_of(job, root / "resumed" / f"work{rank}")
            interrupt_before(cut_off, cut)
            with pytest.raises(Interrupted):
                cut_off.run()
    work: dict[str, tuple[Any, ...]] = {
        f"joined{number}": (train_one_of_two, joined_job(cases, config, 2), root / f"joined{number}")
        for number, config in enumerate(JOINED)
    }
    work["resumed"] = (go_on_from_other_folders, resumed, root / "resumed")
    work["failed"] = (fail_on_one_worker, job_of(cases, steps=8, workers=2), root / "failed")
    work["different"] = (differ_on_purpose, job_of(cases, workers=2), root / "different")
    return root, in_two_processes(work, root / "meeting")


@pytest.mark.parametrize("number", range(len(JOINED)), ids=["plain", "accumulated"])
def test_two_workers_are_one_with_the_joined_batch(
    cases: tuple[Case, ...], tmp_path: Path, pairs: tuple[Path, dict[str, Any]], number: int
) -> None:
    root, results = pairs
    one, other = results[f"joined{number}"]
    assert_same(one, other)
    alone = loop_of(joined_job(cases, JOINED[number], 1), tmp_path / "work")
    alone.run()
    assert_same(one, everything(alone), 1e-10)
    two, single = figures_of(root / f"joined{number}" / "work"), figures_of(tmp_path / "work")
    assert two["validations"][0]["validation_dice"] == pytest.approx(single["validations"][0]["validation_dice"])


def test_only_the_state_of_worker_0_counts(
    cases: tuple[Case, ...], tmp_path: Path, pairs: tuple[Path, dict[str, Any]]
) -> None:
    """It is of one worker with the joined batch, so this is also a state that another number of workers takes up."""
    one, other = pairs[1]["resumed"]
    assert_same(one, other)
    assert int(one["first_step"]) == 9
    undisturbed = loop_of(job_of(cases, steps=12, config={"batch_size": 4}), tmp_path / "work")
    undisturbed.run()
    assert_same({name: value for name, value in one.items() if name != "first_step"}, everything(undisturbed), 1e-10)


def test_a_loss_that_fails_on_one_worker_is_skipped_on_all(pairs: tuple[Path, dict[str, Any]]) -> None:
    one, other = pairs[1]["failed"]
    assert_same(one, other)
    assert bool(one["unchanged"])
    assert one["skipped"].tolist() == [1, 0]


def test_workers_that_differ_are_an_error_on_every_worker(pairs: tuple[Path, dict[str, Any]]) -> None:
    assert pairs[1]["different"] == ({}, {})  # each has met the error that it expected


# The file of the state


def test_the_state_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})
    replaced: list[tuple[str, str]] = []
    real = state_module.os.replace

    def power_cut(source: Path, target: Path) -> None:
        replaced.append((source.name, target.name))
        assert load_state(path, WorkerGroup()) == {"format": state_module.FORMAT, "step": 1}
        raise OSError("no power")

    monkeypatch.setattr(state_module.os, "replace", power_cut)
    with pytest.raises(OSError, match="no power"):
        save_state(path, {"step": 2})
    assert load_state(path, WorkerGroup()) == {"format": state_module.FORMAT, "step": 1}
    monkeypatch.setattr(state_module.os, "replace", real)
    save_state(path, {"step": 3})
    assert load_state(path, WorkerGroup()) == {"format": state_module.FORMAT, "step": 3}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


def test_a_damaged_state_starts_over_and_says_so(
    cases: tuple[Case, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = loop_of(job_of(cases, steps=4), tmp_path / "work")
    loop._keep_state()
    path = tmp_path / "work" / "state.pt"
    path.write_bytes(path.read_bytes()[:-200])
    loop.run()
    assert "cannot be read" in caplog.text
    assert loop.step == 4


def test_a_state_of_pickled_code_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"format": state_module.FORMAT, "step": Interrupted()}, tmp_path / "state.pt")
    assert load_state(tmp_path / "state.pt", WorkerGroup()) is None
    assert "starting over" in caplog.text


def test_a_scan_that_must_not_be_read_any_more_is_the_machines_fault(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ticket that runs out between the look at the files and the crops; a damaged file stays an error."""
    loop = loop_of(job_of(cases), tmp_path / "work")
    causes = [PermissionError(errno.EACCES, os.strerror(errno.EACCES)), ValueError("no header")]

    def refused(case: Case) -> None:
        raise UserError(f"{case.image}: not a readable NIfTI file") from causes.pop(0)

    monkeypatch.setattr(Case, "read_image", refused)
    for expected in (MachineFault, UserError):
        with pytest.raises(expected, match="not a readable NIfTI file"):
            loop.run()


def test_a_budget_without_end_is_refused(cases: tuple[Case, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs minutes, steps, or both"):
        loop_of(job_of(cases, budget=Budget()), tmp_path / "work")


def follow_validations(loop: TrainingLoop, dice: list[float]) -> None:
    """The validations of a loop give these values."""
    given = iter(dice)
    loop._validation_dice = lambda case: next(given)  # type: ignore[method-assign]


def kept_weights(folder: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    kept = load_file(folder / "checkpoint" / "weights.safetensors")
    return torch.cat([kept["weight"].flatten(), kept["bias"]])


def weights_after(cases: tuple[Case, ...], folder: Path, steps: int) -> torch.Tensor:
    """The averaged weights of a training of twelve steps after so many of them."""
    loop = loop_of(job_of(cases, steps=12, config=STOCHASTIC), folder)
    seen: list[torch.Tensor] = []

    def look(number: int, loss: torch.Tensor) -> torch.Tensor:
        if number == steps and not seen:
            with loop.optimisation.averaged():
                parameters = loop.segmenter.module.parameters()
                seen.append(torch.cat([p.detach().flatten() for p in parameters]).clone())
        return loss

    watch_losses(loop, look)
    loop.run()
    return seen[0]


@pytest.mark.parametrize("cut", [None, 7])
def test_the_weights_of_the_best_validation_are_kept(
    cases: tuple[Case, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int | None
) -> None:
    """The best of four is the second, after six steps; also if the training is cut off after it."""
    monkeypatch.setattr(loop_module, "STATE_EVERY_SECONDS", -1.0)
    at = (0.25, 0.5, 0.75, 1.0)
    job = job_of(cases, steps=12, config=STOCHASTIC, validation=cases[:1], validate_at=at, keep_best=True)
    loop, dice = loop_of(job, tmp_path / "work"), [0.2, 0.7, 0.7, 0.6]
    follow_validations(loop, dice)
    if cut is not None:
        interrupt_before(loop, cut)
        with pytest.raises(Interrupted):
            loop.run()
        loop = loop_of(job, tmp_path / "work")
        follow_validations(loop, dice[2:])
    loop.run()
    figures = figures_of(tmp_path / "work")
    assert (figures["steps"], figures["kept_step"]) == (12, 6)
    assert torch.equal(kept_weights(tmp_path / "work"), weights_after(cases, tmp_path / "again", 6))
    again = loop_of(job, tmp_path / "work")  # the process ended before its figures were read
    follow_validations(again, dice[3:])  # the last one is not in the kept state
    again.run()
    assert torch.equal(kept_weights(tmp_path / "work"), weights_after(cases, tmp_path / "third", 6))
    plain = job_of(cases, steps=12, config=STOCHASTIC)
    assert len({one.digest() for one in (job, plain, replace(job, validation=cases[1:2]))}) == 3
    validating = replace(plain, validation=job.validation, validate_at=at)
    assert replace(job, keep_best=False).digest() == validating.digest()
    assert replace(plain, validation=job.validation).digest() == plain.digest()  # nothing is decided by it


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, [1, 1, 1, 1]), (2, [1, 1, 2, 2]), (3, [1, 2, 3, 3]), (5, [2, 3, 4, 5])]
)
def test_every_validation_is_made_where_one_step_passes_several(
    cases: tuple[Case, ...], tmp_path: Path, steps: int, expected: list[int]
) -> None:
    """Each at the first step that has spent its share of the budget: ceil(share x steps)."""
    at = (0.25, 0.5, 0.75, 1.0)
    assert expected == [math.ceil(share * steps) for share in at]
    told: list[dict[str, Any]] = []
    loop_of(job_of(cases, steps=steps, validation=cases[:1], validate_at=at), tmp_path / "work").run(told.append)
    assert [one["step"] for one in figures_of(tmp_path / "work")["validations"]] == expected
    assert [one["step"] for one in told] == [step for step in expected if step < steps]  # the end is reported later


def test_a_validation_case_without_the_target_decides_nothing(cases: tuple[Case, ...], tmp_path: Path) -> None:
    job = job_of(cases, steps=4, validation=cases[:2], validate_at=(0.5, 1.0), keep_best=True)
    loop = loop_of(job, tmp_path / "work")
    follow_validations(loop, [math.nan, 0.4, 0.6, math.nan])
    loop.run()
    found = figures_of(tmp_path / "work")
    assert [one["validation_dice"] for one in found["validations"]] == [0.4, 0.6]
    assert found["kept_step"] == 4
    nowhere = replace(job, target=replace(job.target, labels=(77,)))
    with pytest.raises(UserError, match="none of the 2 validation cases holds"):
        loop_of(nowhere, tmp_path / "other")._validate()


def test_a_compiled_module_trains_to_the_same_weights_and_keeps_their_names(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    found = []
    for backend in ("", "eager"):
        loop = loop_of(job_of(cases, steps=4, config={"compile": backend}), tmp_path / f"with-{backend}")
        assert (loop.segmenter.module._compiled_call_impl is not None) == bool(backend)
        loop.run()
        found.append(kept_weights(tmp_path / f"with-{backend}"))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
