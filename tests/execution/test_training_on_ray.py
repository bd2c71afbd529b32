"""Trainings on Ray: two workers, a killed process, one that hangs, untrained weights, a sweep's first trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.data.dataset import Case
from benchmarks.execution.training import run_job
from benchmarks.execution.training_job import TrainingJob, checkpoint_folder, finished
from benchmarks.execution.training_watch import (
    TrainingOverdue,
    TrainingProcessDied,
    TrainingWatch,
    training_outcome,
)
from benchmarks.execution.worker import training_task
from tests.execution.training_cases import job_of, loop_of, write_cases

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    return write_cases(tmp_path_factory.mktemp("cases"))


def wait_for_training(reference: Any, watch: TrainingWatch) -> dict[str, Any] | Exception:
    """The figures of a training task on Ray, or what it ended with; an overdue one is killed."""
    import ray

    while not ray.wait([reference], timeout=1.0)[0]:
        if reason := watch.overdue():
            ray.cancel(reference, force=True)
            return TrainingOverdue(reason)
    return training_outcome(reference)


def train(job: TrainingJob, root: Path) -> dict[str, Any] | Exception:
    folder = checkpoint_folder(root, job)
    reference = training_task(job).remote(job, folder, root / "log", root / "cache", False)
    return wait_for_training(reference, TrainingWatch(job, folder))


def weights(root: Path, job: TrainingJob) -> torch.Tensor:
    kept = load_file(checkpoint_folder(root, job) / "checkpoint" / "weights.safetensors")
    return torch.cat([kept["weight"].flatten(), kept["bias"]])


def test_a_killed_training_is_the_machines_fault_and_goes_on(
    local_ray: None, cases: tuple[Case, ...], tmp_path: Path
) -> None:
    config = {"marker": str(tmp_path / "killed"), "die_in_loss": 9}
    job = job_of(cases, steps=12, config=config, validation=cases[:1], validate_at=(0.5,))
    died = train(job, tmp_path)
    assert isinstance(died, TrainingProcessDied), died
    assert not finished(checkpoint_folder(tmp_path, job))
    figures = train(job, tmp_path)
    assert isinstance(figures, dict), figures
    assert "going on from the state of step 6" in (tmp_path / "log").read_text()
    undisturbed = loop_of(replace(job, config={}), tmp_path / "undisturbed")
    undisturbed.run()
    expected = torch.cat([p.detach().flatten() for p in undisturbed.segmenter.module.parameters()])
    assert torch.equal(weights(tmp_path, job), expected)
    left = sorted(path.name for path in checkpoint_folder(tmp_path, job).iterdir())
    assert left == ["checkpoint", "training.json"]


def test_a_training_that_hangs_is_ended(local_ray: None, cases: tuple[Case, ...], tmp_path: Path) -> None:
    config = {"marker": str(tmp_path / "hangs"), "hang_in_loss": 4}
    job = job_of(cases, steps=12, config=config, timeout_minutes=0.2)
    overdue = train(job, tmp_path)
    assert isinstance(overdue, TrainingOverdue), overdue
    assert str(overdue) == "no sign of life within 0.2 minutes"
    (tmp_path / "hangs").touch()  # on a busy machine its start alone may have been too slow
    figures = train(replace(job, timeout_minutes=10.0), tmp_path)
    assert isinstance(figures, dict), figures
    assert figures["steps"] == 12


def test_the_error_of_a_method_keeps_its_kind(local_ray: None, cases: tuple[Case, ...], tmp_path: Path) -> None:
    error = train(job_of(cases, config={"dropout": 2.0}), tmp_path)
    assert isinstance(error, ValueError)
    assert "dropout probability" in str(error)


def test_two_workers_of_ray_are_one_with_the_joined_batch(
    local_ray: None, cases: tuple[Case, ...], tmp_path: Path
) -> None:
    job = job_of(cases, steps=8, workers=2, config={"batch_size": 2})
    figures = train(job, tmp_path)
    assert isinstance(figures, dict), figures
    assert (figures["workers"], figures["steps"]) == (2, 8)
    alone = loop_of(replace(job, workers=1, config={"batch_size": 4}), tmp_path / "alone")
    alone.run()
    expected = torch.cat([p.detach().flatten() for p in alone.segmenter.module.parameters()])
    torch.testing.assert_close(weights(tmp_path, job), expected, rtol=1e-10, atol=1e-10)


def test_an_untrained_checkpoint_holds_the_weights_to_begin_with(
    local_ray: None, cases: tuple[Case, ...], tmp_path: Path
) -> None:
    job = job_of(cases, untrained=True)
    expected = loop_of(job_of(cases), tmp_path / "loop")
    figures = run_job(job, checkpoint_folder(tmp_path, job), cache=tmp_path / "cache")
    assert (figures["steps"], figures["untrained"]) == (0, True)
    first = torch.cat([p.detach().flatten() for p in expected.segmenter.module.parameters()])
    assert torch.equal(weights(tmp_path, job), first)
    assert job.digest() != job_of(cases).digest()
