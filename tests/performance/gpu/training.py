"""Sections on the training step: whole, by its parts and kernels, with its data, distributed, compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.contestants import Batch
from benchmarks.execution.crops import Ahead, CropSource
from benchmarks.execution.loop import TrainingLoop
from benchmarks.execution.loss_network import LossNetwork
from tags.model import TAGS
from tags.prompt_encoder import PromptTensors
from tags.targets import anatomy_of, bounds_of
from tests.performance.gpu.measuring import counted_tflop, peak_gib, release, synchronise
from tests.performance.gpu.report import SEED, Report, Row

PERIOD = 4  # steps with different prompts and numbers of correction rounds that are repeated
PROGRESS = 0.5  # of the schedule: any value behind the warm-up costs the same


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


def measure_matmul(report: Report) -> None:
    """The yardstick, and the largest product of a ViT-B block on the tokens of two crops."""
    dtype = torch.bfloat16 if report.on_gpu else torch.float32
    side = 8192 if report.on_gpu else 512
    shapes = [(side, side, side)] + ([(65_536, 768, 3072)] if report.on_gpu else [])
    for m, k, n in shapes:
        a = torch.randn(m, k, device=report.device, dtype=dtype)
        b = torch.randn(k, n, device=report.device, dtype=dtype)
        seconds = report.seconds(partial(_ten_products, a, b), 10) / 10
        report.rows.append(Row("matmul", f"{m} × {k} × {n}, {dtype}".replace("torch.", ""), seconds, 2e-12 * m * k * n))


def _ten_products(a: torch.Tensor, b: torch.Tensor) -> None:
    for _ in range(10):
        torch.mm(a, b)


def measure_step(report: Report) -> None:
    """Training steps of the bench's loop on resident data: batch 1 and 2, with and without recomputation."""
    try:
        for checkpointing in (False, True):
            for batch_size in (1, 2):
                what = f"batch {batch_size}" + (", checkpointing" if checkpointing else "")
                report.guarded("step", what, partial(_step, report, what, batch_size, checkpointing))
    finally:  # whatever ended this: the sections behind it are timed without
        recompute(report.module, False)


def recompute(module: TAGS, checkpointing: bool) -> None:
    """Whether the encoder's blocks, gates and necks, and the decoding rounds, are computed again."""
    module.encoder.checkpointing = checkpointing
    module.config = replace(module.config, checkpointing=checkpointing)


def measure_compile(report: Report) -> None:
    """The same with compiled encoder blocks, then with compiled necks, gates and decoder too."""
    module = report.module
    recompute(module, False)
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
            _one_period(report, FixedSource(report.loop, 2))
            first = time.perf_counter() - started
            _step(report, f"batch 2, compiled {name}", 2, False, section="compile")
            report.rows[-1].facts["first_steps_s"] = first
    finally:
        for part in compiled:
            part._compiled_call_impl = None


def _one_period(report: Report, source: FixedSource) -> None:
    for _ in range(PERIOD):
        report.loop._take_step(source, PROGRESS)  # type: ignore[arg-type]
    report.loop.step = 0


def _step(report: Report, what: str, batch_size: int, checkpointing: bool, section: str = "step") -> None:
    source = FixedSource(report.loop, batch_size)
    recompute(report.module, False)
    if batch_size not in report.step_tflop:
        report.step_tflop[batch_size] = counted_tflop(lambda: _one_period(report, source)) / PERIOD
    recompute(report.module, checkpointing)
    release(report.device)
    seconds = report.seconds(lambda: _one_period(report, source), 2) / PERIOD
    row = Row(section, what, seconds, report.step_tflop[batch_size], peak_gib(report.device))
    row.facts["crops_per_s"] = batch_size / seconds
    report.rows.append(row)


def measure_parts(report: Report) -> None:
    """Forward and backward of single parts on the tokens of two crops: which of them falls behind?"""
    module, batch = report.module, 2
    config = module.config
    grid = config.patch // 4
    block: Any = module.encoder.blocks[0]
    shape = (batch, grid, grid, grid, config.embed_dim)
    tokens = torch.randn(shape, device=report.device, dtype=torch.bfloat16 if report.on_gpu else torch.float32)
    image = torch.randn(batch, 1, *(config.patch,) * 3, device=report.device)
    bounds = bounds_of([report.target] * batch).to(report.device)
    with torch.no_grad(), report.loop.optimisation.autocast():
        seen = module.see(image, bounds)
        encoding = module.encode(image, [anatomy_of(report.target)] * batch, bounds, seen)
        assert seen is not None
        assert module.semantic is not None
        guidance = module.semantic.guidance(seen, (grid,) * 3)
    gate, neck, static = module.semantic.gates[0], module.encoder.necks[0], encoding.static
    feature = encoding.feature.detach().requires_grad_()
    points = torch.full((batch, 4, 3), config.patch / 2.0, device=report.device)
    clicks = PromptTensors.empty(batch, report.device).with_points(
        points, torch.ones(batch, 4, dtype=torch.long, device=report.device)
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
            report.guarded("parts", name, partial(_part, report, name, part, tokens))
    report.rows.append(Row("parts", "CLIP (forward only)", report.seconds(lambda: _see(report, image, bounds))))
    report.rows[-1].tflop = counted_tflop(lambda: _see(report, image, bounds))


def _see(report: Report, image: torch.Tensor, bounds: torch.Tensor) -> None:
    with torch.no_grad(), report.loop.optimisation.autocast():
        report.module.see(image, bounds)


def _part(report: Report, name: str, part: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor) -> None:
    x = tokens.detach().requires_grad_()

    def forward() -> torch.Tensor:
        with report.loop.optimisation.autocast():
            return part(x)

    gradient = torch.randn_like(forward())

    def both() -> None:
        x.grad = None
        forward().backward(gradient)

    release(report.device)
    tflop = counted_tflop(both)
    row = Row("parts", name, report.seconds(both), tflop, peak_gib(report.device))
    row.facts["forward_s"] = report.seconds(forward)
    report.rows.append(row)
    report.loop.optimisation.adamw.zero_grad(set_to_none=True)


def measure_profile(report: Report) -> None:
    """Which kernels a training step of batch 2 spends its time in, and how long the GPU has nothing to do."""
    if not report.on_gpu:
        return
    from torch.profiler import ProfilerActivity, profile

    source = FixedSource(report.loop, 2)
    _one_period(report, source)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], record_shapes=True) as profiler:
        started = time.perf_counter()
        _one_period(report, source)
        torch.cuda.synchronize()
        wall = time.perf_counter() - started
    on_device = torch.autograd.DeviceType.CUDA
    kernels = [e for e in profiler.key_averages() if e.device_type == on_device]
    busy = sum(e.self_device_time_total for e in kernels) / 1e6
    row = Row("profile", "kernels of a step, batch 2", busy / PERIOD)
    row.facts["wall_under_profiler_s"] = wall / PERIOD
    report.rows.append(row)
    operators = [
        (f"{e.key} {[shape for shape in e.input_shapes if shape]}", e)
        for e in profiler.key_averages(group_by_input_shape=True)
        if e.device_type != on_device
    ]
    report.texts.append(_profile_table("kernel", [(e.key, e) for e in kernels]))
    report.texts.append(_profile_table("operator, shapes of its inputs; own kernels only", operators))


def _profile_table(title: str, events: list[tuple[str, Any]], rows: int = 45) -> str:
    """The events that the device spent most time on."""
    events = sorted(events, key=lambda pair: -pair[1].self_device_time_total)[:rows]
    lines = [f"{'ms/step':>8} {'calls':>6}  {title}"]
    for name, event in events:
        lines.append(f"{event.self_device_time_total / 1e3 / PERIOD:8.2f} {event.count / PERIOD:6.1f}  {name[:170]}")
    return "\n".join(lines)


def measure_data(report: Report) -> None:
    """How much of a training step is waiting for its crops."""
    loops = {report.size: report.loop}
    if report.size != "tiny":
        loops["tiny"] = report.make_loop("tiny")
    steps = 4 if report.quick else 16
    for size, loop in loops.items():
        source = CropSource(loop.job.cases, loop.job.target, loop.recipe, SEED, cache=loop.cache)
        with Ahead(source.step, first=0) as crops:
            for _ in range(3):
                loop._take_step(crops, PROGRESS)
            synchronise(report.device)
            waited, started = crops.seconds_waited, time.perf_counter()
            for _ in range(steps):
                loop._take_step(crops, PROGRESS)
            synchronise(report.device)
            seconds, wait = (time.perf_counter() - started) / steps, (crops.seconds_waited - waited) / steps
        row = Row("data", f"tags-{size}, batch {loop.recipe.batch_size}, step with its crops", seconds)
        row.facts |= {"wait_s": wait, "wait_share": wait / seconds}
        report.rows.append(row)
        loop.step = 0


def measure_ddp(report: Report) -> None:
    """The loop's path for several workers, with a group of one: the same loss and gradients, and at what cost?"""
    from torch import distributed

    source, plain = FixedSource(report.loop, report.loop.recipe.batch_size), report.loop.network
    backend = "nccl" if report.on_gpu else "gloo"
    store = report.folder / "group"
    distributed.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)
    try:
        # All that is plain comes first: a wrapped module also notices the backward passes that go past its wrapper,
        # and then refuses a step that leaves other parameters without a gradient.
        _ddp_step(report, "plain", source)
        loss, gradients = _loss(report, source)
        loss_again, gradients_again = _loss(report, source)
        report.loop.network = LossNetwork(report.segmenter, world_size=2)  # of one worker it makes the plain one
        loss_wrapped, gradients_wrapped = _loss(report, source)
        row = Row("ddp", "one loss, DistributedDataParallel against plain")
        row.facts |= {
            "loss": loss,
            "difference": loss_wrapped - loss,
            "difference_of_two_plain": loss_again - loss,
            "gradient_difference": _relative_difference(gradients, gradients_wrapped),
            "gradient_difference_of_two_plain": _relative_difference(gradients, gradients_again),
        }
        report.rows.append(row)
        _ddp_step(report, "DistributedDataParallel", source)
    finally:
        report.loop.network = plain
        distributed.destroy_process_group()


def _ddp_step(report: Report, name: str, source: FixedSource) -> None:
    release(report.device)
    seconds = report.seconds(lambda: _one_period(report, source), 2) / PERIOD
    what = f"step, {name}, batch {len(source.targets)}"
    report.rows.append(Row("ddp", what, seconds, peak_gib=peak_gib(report.device)))


def _loss(report: Report, source: FixedSource) -> tuple[float, torch.Tensor]:
    """The loss of one batch, and its gradients as one vector."""
    report.loop.optimisation.adamw.zero_grad(set_to_none=True)
    with report.loop.optimisation.autocast():
        loss, _ = report.loop.network(source.batch(0))
    loss.backward()
    gradients = [p.grad.flatten().float() for p in report.loop.optimisation.parameters if p.grad is not None]
    found = float(loss.detach()), torch.cat(gradients).clone()
    report.loop.optimisation.adamw.zero_grad(set_to_none=True)
    return found


def _relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).norm() / one.norm().clamp(min=1e-30))
