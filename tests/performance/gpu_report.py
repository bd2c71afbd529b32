"""What TAGS costs on a GPU: one table on the screen, all figures as JSON, from the code that trains and evaluates.

    python -m tests.performance.gpu_report                             # every section, tags-vit-b, one CUDA device
    python -m tests.performance.gpu_report --sections matmul,step      # some of them
    python -m tests.performance.gpu_report --device cpu --size tiny    # does it run at all

Weights are random, which changes no shape and no time. A section that fails, or takes longer than its share of
the time, says why and the next one begins; what is measured is written after every section. FLOP are counted once by
torch's own counter (matrix products, convolutions, attention) in a step without recomputation, so that the achieved
rate is that of useful work.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contestants import Batch, Budget, Target
from benchmarks.data.catalogue import load_dataset
from benchmarks.data.dataset import Case, Dataset
from benchmarks.data.phantom import synthesise
from benchmarks.execution.crops import Ahead, CropSource
from benchmarks.execution.evaluate import Evaluation
from benchmarks.execution.loop import LossNetwork, TrainingLoop
from benchmarks.execution.training_job import TrainingJob
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.prompting.prompts import Click, Prompts
from benchmarks.prompting.protocol import Protocol
from tags.model import TAGS
from tags.prompt_encoder import PromptTensors
from tags.segmenter import TagsSegmenter, anatomy_of, bounds_of

GIB = 2**30
PERIOD = 4  # steps with different prompts and numbers of correction rounds that are repeated
SEED = 20250522
PROGRESS = 0.5  # of the schedule: any value behind the warm-up costs the same
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


class TimeLimitError(Exception):
    """A section took longer than it may."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `TimeLimitError` in the main thread after so many seconds; a timer that ran before goes on afterwards."""

    def stop(*_: object) -> None:
        raise TimeLimitError(f"not finished within {seconds:g} s")

    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - started)))


class FixedSource:
    """The same `PERIOD` batches again and again, on the device from the beginning: a step that waits for no data."""

    seconds_waited = 0.0

    def __init__(self, loop: TrainingLoop, batch_size: int) -> None:
        self.loop = loop
        side = loop.recipe.patch[0]
        random = torch.Generator().manual_seed(SEED)
        self.targets = [loop.job.target] * batch_size
        self.image = torch.randn(batch_size, 1, side, side, side, generator=random).to(loop.device)
        axis = torch.arange(side) - (side - 1) / 2
        ball = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < (side / 8) ** 2
        self.label = ball.float().expand(batch_size, 1, -1, -1, -1).contiguous().to(loop.device)

    def batch(self, step: int) -> Batch:
        """The batch of a step."""
        generator = torch.Generator().manual_seed(SEED + step % PERIOD)
        return Batch(self.image, self.label, self.targets, generator, PROGRESS)

    def take(self) -> list[Batch]:
        """As `Ahead.take`: the batches of the loop's next step."""
        return [self.batch(self.loop.step)]


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def release(device: str) -> None:
    """Give cached device memory back and forget its peak."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float | None:
    """Most device memory that was allocated since `release`."""
    return torch.cuda.max_memory_allocated() / GIB if device.startswith("cuda") else None


def convolution_backward_flop(
    gradient: Sequence[int],
    inputs: Sequence[int],
    weight: Sequence[int],
    *arguments: Any,
    out_shape: object = None,
) -> int:
    """FLOP of both gradients of a convolution; torch's own formula counts a depth-wise one as if it were dense."""
    transposed, mask = arguments[4], arguments[7]
    places = inputs if transposed else gradient
    once = 2 * places[0] * math.prod(places[2:]) * math.prod(weight)
    return once * (int(mask[0]) + int(mask[1]))


def counted_tflop(work: Callable[[], object]) -> float:
    """TFLOP of one call."""
    formulas = {torch.ops.aten.convolution_backward: convolution_backward_flop}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    return float(counter.get_total_flops()) / 1e12


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
        self._tflop: dict[int, float] = {}

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

    # Sections

    def measure_matmul(self) -> None:
        """The yardstick, and the largest product of a ViT-B block on the tokens of two crops."""
        dtype = torch.bfloat16 if self.on_gpu else torch.float32
        side = 8192 if self.on_gpu else 512
        shapes = [(side, side, side)] + ([(65_536, 768, 3072)] if self.on_gpu else [])
        for m, k, n in shapes:
            a = torch.randn(m, k, device=self.device, dtype=dtype)
            b = torch.randn(k, n, device=self.device, dtype=dtype)
            seconds = self.seconds(partial(_ten_products, a, b), 10) / 10
            self.rows.append(
                Row("matmul", f"{m} × {k} × {n}, {dtype}".replace("torch.", ""), seconds, 2e-12 * m * k * n)
            )

    def measure_step(self) -> None:
        """Training steps of the bench's loop on resident data: batch 1 and 2, with and without recomputation."""
        for checkpointing in (False, True):
            for batch_size in (1, 2):
                what = f"batch {batch_size}" + (", checkpointing" if checkpointing else "")
                self._guarded("step", what, partial(self._step, what, batch_size, checkpointing))
        self.module.encoder.checkpointing = False

    def measure_compile(self) -> None:
        """The same with compiled encoder blocks, then with compiled necks, gates and decoder too."""
        module = self.module
        module.encoder.checkpointing = False
        rest: list[torch.nn.Module] = [*module.encoder.necks, module.decoder]
        if module.semantic is not None:
            rest += module.semantic.gates
        stages = {"blocks": list(module.encoder.blocks), "blocks, necks, gates, decoder": rest}
        compiled: list[torch.nn.Module] = []
        try:
            for name, parts in stages.items():
                started = time.perf_counter()
                for part in parts:
                    part.compile()
                    compiled.append(part)
                self._one_period(FixedSource(self.loop, 2))
                first = time.perf_counter() - started
                self._step(f"batch 2, compiled {name}", 2, False, section="compile")
                self.rows[-1].facts["first_steps_s"] = first
        finally:
            for part in compiled:
                part._compiled_call_impl = None

    def _one_period(self, source: FixedSource) -> None:
        for _ in range(PERIOD):
            self.loop._take_step(source, PROGRESS)  # type: ignore[arg-type]
        self.loop.step = 0

    def _step(self, what: str, batch_size: int, checkpointing: bool, section: str = "step") -> None:
        source = FixedSource(self.loop, batch_size)
        self.module.encoder.checkpointing = False
        if batch_size not in self._tflop:
            self._tflop[batch_size] = counted_tflop(lambda: self._one_period(source)) / PERIOD
        self.module.encoder.checkpointing = checkpointing
        release(self.device)
        seconds = self.seconds(lambda: self._one_period(source), 2) / PERIOD
        row = Row(section, what, seconds, self._tflop[batch_size], peak_gib(self.device))
        row.facts["crops_per_s"] = batch_size / seconds
        self.rows.append(row)

    def measure_parts(self) -> None:
        """Forward and backward of single parts on the tokens of two crops: which of them falls behind?"""
        module, batch = self.module, 2
        config = module.config
        grid = config.patch // 4
        block: Any = module.encoder.blocks[0]
        shape = (batch, grid, grid, grid, config.embed_dim)
        tokens = torch.randn(shape, device=self.device, dtype=torch.bfloat16 if self.on_gpu else torch.float32)
        image = torch.randn(batch, 1, *(config.patch,) * 3, device=self.device)
        bounds = bounds_of([self.target] * batch).to(self.device)
        with torch.no_grad(), self.loop.optimisation.autocast():
            seen = module.see(image, bounds)
            encoding = module.encode(image, [anatomy_of(self.target)] * batch, bounds, seen)
            assert seen is not None
            assert module.semantic is not None
            guidance = module.semantic.guidance(seen, (grid,) * 3)
        gate, neck, static = module.semantic.gates[0], module.encoder.necks[0], encoding.static
        feature = encoding.feature.detach().requires_grad_()
        points = torch.full((batch, 4, 3), config.patch / 2.0, device=self.device)
        clicks = PromptTensors.empty(batch, self.device).with_points(
            points, torch.ones(batch, 4, dtype=torch.long, device=self.device)
        )
        parts: dict[str, Callable[[torch.Tensor], torch.Tensor] | None] = {
            "block": block,
            "adapter": block.adapter,
            "norm": block.norm1,
            "attention": block.attn,
            "feed-forward": block.mlp,
            "semantic gate": lambda x: gate(x, guidance),
            "neck": lambda x: neck(x.permute(0, 4, 1, 2, 3)),
            "decoding": lambda x: module.decode(replace(encoding, feature=feature, static=static), clicks)[0],
        }
        for name, part in parts.items():
            if part is not None:
                self._guarded("parts", name, partial(self._part, name, part, tokens))
        self.rows.append(Row("parts", "CLIP (forward only)", self.seconds(lambda: self._see(image, bounds))))
        self.rows[-1].tflop = counted_tflop(lambda: self._see(image, bounds))

    def _see(self, image: torch.Tensor, bounds: torch.Tensor) -> None:
        with torch.no_grad(), self.loop.optimisation.autocast():
            self.module.see(image, bounds)

    def _part(self, name: str, part: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor) -> None:
        x = tokens.detach().requires_grad_()

        def forward() -> torch.Tensor:
            with self.loop.optimisation.autocast():
                return part(x)

        gradient = torch.randn_like(forward())

        def both() -> None:
            x.grad = None
            forward().backward(gradient)

        release(self.device)
        tflop = counted_tflop(both)
        row = Row("parts", name, self.seconds(both), tflop, peak_gib(self.device))
        row.facts["forward_s"] = self.seconds(forward)
        self.rows.append(row)
        self.loop.optimisation.adamw.zero_grad(set_to_none=True)

    def measure_profile(self) -> None:
        """Which kernels a training step of batch 2 spends its time in, and how long the GPU has nothing to do."""
        if not self.on_gpu:
            return
        from torch.profiler import ProfilerActivity, profile

        source = FixedSource(self.loop, 2)
        self._one_period(source)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], record_shapes=True) as profiler:
            started = time.perf_counter()
            self._one_period(source)
            torch.cuda.synchronize()
            wall = time.perf_counter() - started
        on_device = torch.autograd.DeviceType.CUDA
        kernels = [e for e in profiler.key_averages() if e.device_type == on_device]
        busy = sum(e.self_device_time_total for e in kernels) / 1e6
        row = Row("profile", "kernels of a step, batch 2", busy / PERIOD)
        row.facts["wall_under_profiler_s"] = wall / PERIOD
        self.rows.append(row)
        operators = [
            (f"{e.key} {[shape for shape in e.input_shapes if shape]}", e)
            for e in profiler.key_averages(group_by_input_shape=True)
            if e.device_type != on_device
        ]
        self.texts.append(_profile_table("kernel", [(e.key, e) for e in kernels]))
        self.texts.append(_profile_table("operator, shapes of its inputs; own kernels only", operators))

    def measure_inference(self) -> None:
        """Both halves of the model on one crop, then a session on a phantom: first and further click."""
        module, side = self.module, self.module.config.patch
        module.eval()
        try:
            image = torch.randn(1, 1, side, side, side, device=self.device)
            bounds = bounds_of([self.target]).to(self.device)
            points = torch.full((1, 1, 3), side / 2.0, device=self.device)
            click = PromptTensors.empty(1, self.device).with_points(
                points, torch.ones(1, 1, dtype=torch.long, device=self.device)
            )
            with torch.inference_mode(), self.segmenter.autocast():
                encode = partial(module.encode, image, [anatomy_of(self.target)], bounds)
                works: dict[str, Callable[[], object]] = {
                    "encode": encode,
                    "decode": partial(module.decode, encode(), click),
                }
                for what, work in works.items():
                    tflop = counted_tflop(work)
                    release(self.device)
                    seconds = self.seconds(work, 10)
                    self.rows.append(Row("inference", f"{what} {side}³", seconds, tflop, peak_gib(self.device)))
            self._session()
        finally:
            module.train()

    def _session(self) -> None:
        case = self.training_cases[0]
        volume, label = case.load()
        voxels = np.argwhere(np.isin(np.asarray(label), self.target.labels))
        x, y, z = (int(c) for c in voxels[len(voxels) // 2])
        middle, nearby = (x, y, z), (x + 1, y, z)
        settings = self.segmenter.settings
        self.segmenter.settings = replace(settings, max_grown=0)  # random weights would grow anywhere
        try:
            release(self.device)
            first = Prompts(clicks=(Click(middle),))
            further = Prompts(clicks=(*first.clicks, Click(nearby, positive=False)))
            session = self.segmenter.open(volume, self.target)
            session.segment(first)
            opened = self.seconds(lambda: self.segmenter.open(volume, self.target), 3)
            both = self.seconds(lambda: self.segmenter.open(volume, self.target).segment(first), 3)
            again = self.seconds(lambda: session.segment(further), 5)
        finally:
            self.segmenter.settings = settings
        self.rows += [
            Row("inference", f"session: open a phantom of {' × '.join(map(str, session.prepared.shape))}", opened),
            Row("inference", "session: first click", both - opened, peak_gib=peak_gib(self.device)),
            Row("inference", "session: further click", again),
        ]

    def measure_data(self) -> None:
        """How much of a training step is waiting for its crops."""
        loops = {self.size: self.loop}
        if self.size != "tiny":
            loops["tiny"] = self.make_loop("tiny")
        steps = 4 if self.quick else 16
        for size, loop in loops.items():
            source = CropSource(loop.job.cases, loop.job.target, loop.recipe, SEED, cache=loop.cache)
            with Ahead(source.step, first=0) as crops:
                for _ in range(3):
                    loop._take_step(crops, PROGRESS)
                synchronise(self.device)
                waited, started = crops.seconds_waited, time.perf_counter()
                for _ in range(steps):
                    loop._take_step(crops, PROGRESS)
                synchronise(self.device)
                seconds, wait = (time.perf_counter() - started) / steps, (crops.seconds_waited - waited) / steps
            row = Row("data", f"tags-{size}, batch {loop.recipe.batch_size}, step with its crops", seconds)
            row.facts |= {"wait_s": wait, "wait_share": wait / seconds}
            self.rows.append(row)
            loop.step = 0

    def measure_ddp(self) -> None:
        """The loop's path for several workers, with a group of one: the same loss and gradients, and at what cost?"""
        from torch import distributed

        source, plain = FixedSource(self.loop, self.loop.recipe.batch_size), self.loop.network
        backend = "nccl" if self.on_gpu else "gloo"
        store = self.folder / "group"
        distributed.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)
        try:
            # All that is plain comes first: a wrapped module also notices the backward passes that go past its wrapper,
            # and then refuses a step that leaves other parameters without a gradient.
            self._ddp_step("plain", source)
            loss, gradients = self._loss(source)
            loss_again, gradients_again = self._loss(source)
            self.loop.network = LossNetwork(self.segmenter, world_size=2)  # of one worker it makes the plain one
            loss_wrapped, gradients_wrapped = self._loss(source)
            row = Row("ddp", "one loss, DistributedDataParallel against plain")
            row.facts |= {
                "loss": loss,
                "difference": loss_wrapped - loss,
                "difference_of_two_plain": loss_again - loss,
                "gradient_difference": _relative_difference(gradients, gradients_wrapped),
                "gradient_difference_of_two_plain": _relative_difference(gradients, gradients_again),
            }
            self.rows.append(row)
            self._ddp_step("DistributedDataParallel", source)
        finally:
            self.loop.network = plain
            distributed.destroy_process_group()

    def _ddp_step(self, name: str, source: FixedSource) -> None:
        release(self.device)
        seconds = self.seconds(lambda: self._one_period(source), 2) / PERIOD
        what = f"step, {name}, batch {len(source.targets)}"
        self.rows.append(Row("ddp", what, seconds, peak_gib=peak_gib(self.device)))

    def _loss(self, source: FixedSource) -> tuple[float, torch.Tensor]:
        """The loss of one batch, and its gradients as one vector."""
        self.loop.optimisation.adamw.zero_grad(set_to_none=True)
        with self.loop.optimisation.autocast():
            loss, _ = self.loop.network(source.batch(0))
        loss.backward()
        gradients = [p.grad.flatten().float() for p in self.loop.optimisation.parameters if p.grad is not None]
        found = float(loss.detach()), torch.cat(gradients).clone()
        self.loop.optimisation.adamw.zero_grad(set_to_none=True)
        return found

    def measure_actors(self) -> None:
        """Cases per second: one evaluator on a GPU against two with half of it each."""
        import ray

        from benchmarks.execution.cluster import start_ray

        start_ray(None)
        try:
            rates = {}
            for number in (1, 2):
                rates[number] = self._evaluate(number)
                share = f"{1 / number:g} GPU each" if self.on_gpu else "CPU"
                row = Row("actors", f"{number} evaluator(s), {share}: one case", 1 / rates[number])
                row.facts["cases_per_s"] = rates[number]
                self.rows.append(row)
            self.rows[-1].facts["times_as_many"] = rates[2] / rates[1]
        finally:
            ray.shutdown()

    def _evaluate(self, number: int) -> float:
        """Cases per second of so many actors at once."""
        import ray

        from benchmarks.execution.worker import Evaluator

        protocol = Protocol("centre-click")
        asked = Evaluation((self.target,), (protocol,), SEED, (2.0,), DEFAULT_POLICY.policy_id, None, {})
        cpus = max(1, min(4, (os.cpu_count() or 2) // 2))
        actor = ray.remote(num_cpus=cpus, num_gpus=1 / number if self.on_gpu else 0)(Evaluator)
        config = {**RANDOM_WEIGHTS, "max_grown": 0}
        actors = [
            actor.remote(
                f"tags-{self.size}", config, self.on_gpu, cpus, None, asked, self.folder / f"actor-{index}.log"
            )
            for index in range(number)
        ]
        cases = [self.training_cases[i % len(self.training_cases)] for i in range(4 if self.quick else 16)]
        try:
            ray.get([one.ready.remote() for one in actors])
            ray.get([one.evaluate.remote(cases[0]) for one in actors])  # warm
            started = time.perf_counter()
            rows = ray.get([actors[i % number].evaluate.remote(case) for i, case in enumerate(cases)])
            seconds = time.perf_counter() - started
        finally:
            for one in actors:
                ray.kill(one)
        failed = [row["reason"] for case in rows for row in case if row["status"] == "failed"]
        if failed:
            raise RuntimeError(f"{len(failed)} cases failed: {failed[0]}")
        return len(cases) / seconds

    # Around the sections

    def _guarded(self, section: str, what: str, work: Callable[[], None]) -> None:
        """A member of a section that may run out of memory without costing the others."""
        try:
            work()
        except torch.OutOfMemoryError as error:
            self.rows.append(Row(section, what, facts={"error": f"out of memory: {str(error).splitlines()[0]}"}))
            self.loop.optimisation.adamw.zero_grad(set_to_none=True)
            release(self.device)

    def run(self, name: str, limit: float) -> None:
        """One section; its failure is noted."""
        started = time.perf_counter()
        work: Callable[[], None] = getattr(self, f"measure_{name}")
        try:
            with time_limit(limit):
                work()
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


def _ten_products(a: torch.Tensor, b: torch.Tensor) -> None:
    for _ in range(10):
        torch.mm(a, b)


def _profile_table(title: str, events: list[tuple[str, Any]], rows: int = 45) -> str:
    """The events that the device spent most time on."""
    events = sorted(events, key=lambda pair: -pair[1].self_device_time_total)[:rows]
    lines = [f"{'ms/step':>8} {'calls':>6}  {title}"]
    for name, event in events:
        lines.append(f"{event.self_device_time_total / 1e3 / PERIOD:8.2f} {event.count / PERIOD:6.1f}  {name[:170]}")
    return "\n".join(lines)


def _relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).norm() / one.norm().clamp(min=1e-30))


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


LIMITS = {  # seconds
    "matmul": 20.0,
    "step": 90.0,
    "parts": 40.0,
    "profile": 60.0,
    "inference": 40.0,
    "data": 60.0,
    "ddp": 40.0,
    "actors": 120.0,
    "compile": 300.0,
}
SECTIONS = tuple(LIMITS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 if a section failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sections", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--size", default="vit-b", help="of TAGS: vit-b, vit-l, vit-h, tiny")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--cases", type=int, default=4, help="phantoms for training and evaluation")
    parser.add_argument("--cpus", type=int, default=min(8, os.cpu_count() or 1), help="of one training worker")
    parser.add_argument("--quick", action="store_true", help="one repetition each")
    parser.add_argument("--limits", default="", help="seconds for a section, such as compile=60,actors=40")
    parser.add_argument("--out", type=Path, default=None, help="folder for report.json, report.txt, profile.txt")
    asked = parser.parse_args(arguments)
    names = asked.sections.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        parser.error(f"no section '{unknown[0]}'; there are {', '.join(SECTIONS)}")
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device; --device cpu --size tiny shows that it runs")
    limits = {
        **LIMITS,
        **{name: float(value) for name, _, value in (one.partition("=") for one in asked.limits.split(",") if one)},
    }
    print(json.dumps(environment(asked.device)), flush=True)
    with tempfile.TemporaryDirectory(prefix="gpu-report-") as folder:
        report = Report(asked.size, asked.device, Path(folder), asked.quick, asked.cases, asked.cpus)
        for name in names:
            report.run(name, limits[name])
            if asked.out is not None:
                write(report, asked.out)
        print("\n\n".join([*report.texts, report.table()]), flush=True)
        if asked.out is not None:
            write(report, asked.out)
    return 1 if report.errors else 0


def write(report: Report, folder: Path) -> None:
    """All that is known so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    (folder / "report.txt").write_text(report.table() + "\n", encoding="utf-8")
    (folder / "profile.txt").write_text("\n\n".join(report.texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
