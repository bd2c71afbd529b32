"""Small scans on disk, jobs of the mock learner, and two workers in processes of their own, for tests of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from benchmarks.contestants import Budget, Target
from benchmarks.data.dataset import Case
from benchmarks.execution.loop import TrainingLoop
from benchmarks.execution.training_job import TrainingJob

TARGET = Target("liver-tumor", "liver", "tumor", (1,), window=(-100.0, 200.0))


def write_cases(folder: Path, number: int = 3) -> tuple[Case, ...]:
    """Noise with a bright block that is the label; the block lies elsewhere in each case."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for index in range(number):
        random = np.random.default_rng(index)
        array = random.normal(0, 30, (20, 18, 12)).astype(np.int16)
        label = np.zeros(array.shape, np.uint8)
        low = random.integers(2, 8, 3)
        label[tuple(slice(start, start + 5) for start in low)] = 1
        array[label > 0] += 150
        image_path, label_path = folder / f"scan{index}.nii.gz", folder / f"label{index}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.eye(4)), image_path)
        nib.save(nib.Nifti1Image(label, np.eye(4)), label_path)
        cases.append(Case("small", f"case{index}", image_path, label_path))
    return tuple(cases)


def job_of(cases: tuple[Case, ...], steps: int = 12, **changes: Any) -> TrainingJob:
    """A training of the mock learner; `config` among the changes is laid over its defaults."""
    return replace(TrainingJob("mock-learner", {}, TARGET, cases, Budget(steps=steps), seed=5), **changes)


def loop_of(job: TrainingJob, folder: Path, rank: int = 0, world_size: int = 1) -> TrainingLoop:
    folder.mkdir(parents=True, exist_ok=True)
    return TrainingLoop(job, folder, folder.parent / "cache", "cpu", rank, world_size)


def everything(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    """Weights and moments of a loop, copied."""
    moments = loop.optimisation.adamw.state_dict()["state"]
    found = {f"weight{i}": value for i, value in enumerate(loop.segmenter.module.state_dict().values())}
    found |= {f"{key}{i}": value for i, state in moments.items() for key, value in state.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def watch_losses(loop: TrainingLoop, seen: Callable[[int, torch.Tensor], torch.Tensor]) -> None:
    """Pass every loss through `seen(step, loss)` before its gradient is taken."""
    network = loop.network
    inner = type(network).__call__

    class Watched(type(network)):  # type: ignore[misc]
        def __call__(self, batch: Any) -> Any:
            loss, parts = inner(self, batch)
            return seen(loop.step, loss), parts

    network.__class__ = Watched


def in_two_processes(work: dict[str, tuple[Any, ...]], folder: Path) -> dict[str, tuple[Any, Any]]:
    """Name → (function, arguments), called one after another as `function(rank, *arguments)` in two processes that
    gloo joins; what the two gave, which must be tensors and containers of them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.start_processes(_joined, (work, folder), nprocs=2, start_method="spawn")
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    return {name: (first[name], second[name]) for name in work}


def _joined(rank: int, work: dict[str, tuple[Any, ...]], folder: Path) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.save({name: one[0](rank, *one[1:]) for name, one in work.items()}, folder / f"{rank}.pt")
        dist.barrier()  # gloo aborts a process whose peer leaves first
    finally:
        dist.destroy_process_group()
