"""What runs in Ray's processes: one training, or one segmenter that is given case after case."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.contestants import method as find_method
from benchmarks.data.dataset import Case
from benchmarks.execution.evaluate import Evaluation, evaluate_case
from benchmarks.execution.training import (
    TrainingJob,
    device_for,
    load_trained,
    redirect_output,
    run_job,
)


def training_task(job: TrainingJob) -> Any:
    """`_train_task` with its resources. A worker group has processes of its own: the task then needs none."""
    import ray

    alone = job.workers == 1
    return ray.remote(
        num_cpus=job.budget.cpus if alone else 0, num_gpus=job.budget.gpus if alone else 0, max_retries=0
    )(_train_task)


def _train_task(job: TrainingJob, folder: Path, log: Path, cache: Path, fresh: bool) -> dict[str, Any]:
    """Runs in a Ray worker process."""
    import shutil

    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "86400")  # wait for a free machine
    redirect_output(log)
    if fresh and folder.exists():
        shutil.rmtree(folder)
    return run_job(job, folder, log, cache)


class Evaluator:
    """A Ray actor that holds one segmenter."""

    def __init__(
        self,
        method: str,
        config: dict[str, Any],
        use_gpu: bool,
        cpus: int,
        checkpoint: Path | None,
        evaluation: Evaluation,
        log: Path,
    ) -> None:
        redirect_output(log)
        self._arguments = (method, config, use_gpu, cpus, checkpoint)
        self._evaluation = evaluation
        self._segmenter: Any = None

    def ready(self) -> float:
        """Load the segmenter; seconds that it took. In a call of its own, so that its error can be told."""
        from benchmarks.contestants import Budget

        started = time.perf_counter()
        name, config, use_gpu, cpus, checkpoint = self._arguments
        method = find_method(name)
        device = device_for(Budget(gpus=1.0 if use_gpu else 0.0))
        self._segmenter = load_trained(method, config, device, checkpoint)
        _set_threads(cpus)
        return time.perf_counter() - started

    def evaluate(self, case: Case) -> list[dict[str, Any]]:
        return evaluate_case(case, self._segmenter, self._evaluation)


def _set_threads(cpus: int) -> None:
    """As many threads as processors were given; only of a torch that the method itself has imported."""
    import sys

    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(max(1, cpus))


def outcome_of(reference: Any) -> Any:
    """The value of a finished reference, or the exception that it ended with (Ray's wrapping removed)."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except ray.exceptions.RayError as error:
        return error
