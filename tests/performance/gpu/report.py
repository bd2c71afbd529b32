"""What the sections share, and the table of what they found."""

from __future__ import annotations

import os
import platform
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import Budget, Target
from benchmarks.data.catalogue import load_dataset
from benchmarks.data.dataset import Case, Dataset
from benchmarks.data.phantom import synthesise
from benchmarks.execution.loop import TrainingLoop
from benchmarks.execution.training_job import TrainingJob
from tags.model import TAGS
from tags.segmenter import TagsSegmenter
from tests.performance.gpu.measuring import GIB, release, synchronise, time_limit

SEED = 20250522
RANDOM_WEIGHTS = {"sam_weights": "random", "clip_weights": "random"}


@dataclass
class Row:
    """One measured thing.

    Attributes:
        section, what: its place in the table.
        seconds: of one repetition.
        tflop: counted work of one repetition.
        peak_gib: of allocated device memory.
        facts: whatever else was measured.
    """

    section: str
    what: str
    seconds: float | None = None
    tflop: float | None = None
    peak_gib: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Report:
    """What the sections share, and what they found.

    Args:
        size: of TAGS, "vit-b" or "tiny" for instance.
        device: "cuda" or "cpu".
        folder: for phantoms, cache and logs.
        quick: as few repetitions as possible.
        cases: phantoms.
        cpus: of one training worker.
    """

    def __init__(self, size: str, device: str, folder: Path, quick: bool, cases: int, cpus: int) -> None:
        self.size, self.device, self.folder = size, device, folder
        self.quick, self.cases, self.cpus = quick, cases, cpus
        self.rows: list[Row] = []
        self.texts: list[str] = []
        self.errors: dict[str, str] = {}
        self.step_tflop: dict[int, float] = {}

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def seconds(self, work: Callable[[], object], repeats: int = 5) -> float:
        """Median wall time of a call, after one for warming up."""
        times = []
        for index in range(1 + (1 if self.quick else repeats)):
            synchronise(self.device)
            started = time.perf_counter()
            work()
            synchronise(self.device)
            if index:
                times.append(time.perf_counter() - started)
        return statistics.median(times)

    @cached_property
    def dataset(self) -> Dataset:
        root = synthesise("kits21", self.folder / "phantom", seed=SEED, cases=self.cases)
        return load_dataset("kits21", root, seed=SEED)

    @property
    def target(self) -> Target:
        return self.dataset.targets[0]

    @property
    def training_cases(self) -> tuple[Case, ...]:
        return tuple(self.dataset.cases.values())

    def job(self, size: str) -> TrainingJob:
        """A training of TAGS on the phantoms; its budget is never spent here."""
        config = dict(RANDOM_WEIGHTS)
        budget = Budget(steps=10**6, cpus=self.cpus, gpus=1.0 if self.on_gpu else 0.0)
        return TrainingJob(f"tags-{size}", config, self.target, self.training_cases, budget, SEED)

    def make_loop(self, size: str) -> TrainingLoop:
        """The state of one worker's training."""
        folder = self.folder / f"loop-{size}"
        folder.mkdir(exist_ok=True)
        loop = TrainingLoop(self.job(size), folder, self.folder / "cache", "cuda" if self.on_gpu else "cpu")
        loop.segmenter.module.train()
        return loop

    @cached_property
    def loop(self) -> TrainingLoop:
        return self.make_loop(self.size)

    @property
    def segmenter(self) -> TagsSegmenter:
        assert isinstance(self.loop.segmenter, TagsSegmenter)
        return self.loop.segmenter

    @property
    def module(self) -> TAGS:
        return self.segmenter.module

    def matmul_rate(self) -> float | None:
        """TFLOP/s of the yardstick; None if that section has not run."""
        return next((r.tflop / r.seconds for r in self.rows if r.section == "matmul" and r.tflop and r.seconds), None)

    def guarded(self, section: str, what: str, work: Callable[[], None]) -> None:
        """A member of a section that may run out of memory without costing the others."""
        try:
            work()
        except torch.OutOfMemoryError as error:
            self.rows.append(Row(section, what, facts={"error": f"out of memory: {str(error).splitlines()[0]}"}))
            self.loop.optimisation.adamw.zero_grad(set_to_none=True)
            release(self.device)

    def run(self, name: str, measure: Callable[[Report], None], limit: float) -> None:
        """One section; its failure is noted."""
        started = time.perf_counter()
        try:
            with time_limit(limit):
                measure(self)
        except Exception:
            self.errors[name] = traceback.format_exc()
            print(f"section {name} failed:\n{self.errors[name]}", flush=True)
        print(f"[{name}: {time.perf_counter() - started:.0f} s]", flush=True)
        release(self.device)

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {"environment": environment(self.device), "size": self.size, "matmul_tflop_per_s": self.matmul_rate(),
                "rows": [asdict(row) for row in self.rows], "errors": self.errors}  # fmt: skip

    def table(self) -> str:
        """Everything but the profile."""
        rate = self.matmul_rate()
        lines = [f"{'what':<58} {'seconds':>9} {'TFLOP':>8} {'TFLOP/s':>8} {'of matmul':>9} {'peak GiB':>8}  more"]
        for row in self.rows:
            achieved = row.tflop / row.seconds if row.tflop and row.seconds else None
            share = achieved / rate if achieved and rate else None
            cells = [f"{row.section}: {row.what}"[:58].ljust(58)]
            for value, width, form in (
                (row.seconds, 9, ".4f"), (row.tflop, 8, ".2f"), (achieved, 8, ".1f"),
                (share, 9, ".1%"), (row.peak_gib, 8, ".2f"),
            ):  # fmt: skip
                cells.append((" " * width) if value is None else f"{value:{width}{form}}")
            more = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.facts.items())
            lines.append(" ".join(cells) + "  " + more)
        return "\n".join(lines)


def environment(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpus": os.cpu_count(),
        "device": device,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "card": properties.name,
            "memory_gib": round(properties.total_memory / GIB, 1),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts
