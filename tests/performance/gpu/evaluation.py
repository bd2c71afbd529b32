"""Sections on the work of an evaluator: one crop, a session, several actors on one device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.execution.evaluate import Evaluation
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.prompting.prompts import Click, Prompts
from benchmarks.prompting.protocol import Protocol
from tags.prompt_encoder import PromptTensors
from tags.targets import anatomy_of, bounds_of
from tests.performance.gpu.measuring import counted_tflop, peak_gib, release
from tests.performance.gpu.report import RANDOM_WEIGHTS, SEED, Report, Row


def measure_inference(report: Report) -> None:
    """Both halves of the model on one crop, then a session on a phantom: first and further click."""
    module, side = report.module, report.module.config.patch
    module.eval()
    try:
        image = torch.randn(1, 1, side, side, side, device=report.device)
        bounds = bounds_of([report.target]).to(report.device)
        points = torch.full((1, 1, 3), side / 2.0, device=report.device)
        click = PromptTensors.empty(1, report.device).with_points(
            points, torch.ones(1, 1, dtype=torch.long, device=report.device)
        )
        with torch.inference_mode(), report.segmenter.autocast():
            encode = partial(module.encode, image, [anatomy_of(report.target)], bounds)
            works: dict[str, Callable[[], object]] = {
                "encode": encode,
                "decode": partial(module.decode, encode(), click),
            }
            for what, work in works.items():
                tflop = counted_tflop(work)
                release(report.device)
                seconds = report.seconds(work, 10)
                report.rows.append(Row("inference", f"{what} {side}³", seconds, tflop, peak_gib(report.device)))
        _session(report)
    finally:
        module.train()


def _session(report: Report) -> None:
    case = report.training_cases[0]
    volume, label = case.load()
    voxels = np.argwhere(np.isin(np.asarray(label), report.target.labels))
    x, y, z = (int(c) for c in voxels[len(voxels) // 2])
    middle, nearby = (x, y, z), (x + 1, y, z)
    settings = report.segmenter.settings
    report.segmenter.settings = replace(settings, widest=1.0)  # random weights would want wider views anywhere
    try:
        release(report.device)
        first = Prompts(clicks=(Click(middle),))
        further = Prompts(clicks=(*first.clicks, Click(nearby, positive=False)))
        session = report.segmenter.open(volume, report.target)
        session.segment(first)
        opened = report.seconds(lambda: report.segmenter.open(volume, report.target), 3)
        both = report.seconds(lambda: report.segmenter.open(volume, report.target).segment(first), 3)
        again = report.seconds(lambda: session.segment(further), 5)
    finally:
        report.segmenter.settings = settings
    report.rows += [
        Row("inference", f"session: open a phantom of {' × '.join(map(str, session.prepared.shape))}", opened),
        Row("inference", "session: first click", both - opened, peak_gib=peak_gib(report.device)),
        Row("inference", "session: further click", again),
    ]


def measure_actors(report: Report) -> None:
    """Cases per second: one evaluator on a GPU against two with half of it each."""
    import ray

    from benchmarks.execution.cluster import start_ray

    start_ray(None)
    try:
        rates = {}
        for number in (1, 2):
            rates[number] = _evaluate(report, number)
            share = f"{1 / number:g} GPU each" if report.on_gpu else "CPU"
            row = Row("actors", f"{number} evaluator(s), {share}: one case", 1 / rates[number])
            row.facts["cases_per_s"] = rates[number]
            report.rows.append(row)
        report.rows[-1].facts["times_as_many"] = rates[2] / rates[1]
    finally:
        ray.shutdown()


def _evaluate(report: Report, number: int) -> float:
    """Cases per second of so many actors at once."""
    import ray

    from benchmarks.execution.worker import Loading, Order, actor_class

    protocol = Protocol("centre-click")
    evaluation = Evaluation((report.target,), (protocol,), SEED, (2.0,), DEFAULT_POLICY.policy_id, None, {})
    reference = [ray.put(evaluation)]
    cpus, gpus = max(1, min(4, (os.cpu_count() or 2) // 2)), 1 / number if report.on_gpu else 0.0
    log, config = report.folder / "actors.log", {**RANDOM_WEIGHTS, "widest": 1.0}
    loading = Loading(log, f"tags-{report.size}", config, cpus=cpus, gpus=gpus)
    actors = [actor_class().options(num_cpus=cpus, num_gpus=gpus).remote(loading) for _ in range(number)]
    cases = [report.training_cases[i % len(report.training_cases)] for i in range(4 if report.quick else 16)]
    orders = [Order(index, case, reference, log) for index, case in enumerate(cases)]
    try:
        ray.get([one.ready.remote() for one in actors])
        ray.get([one.evaluate.remote(orders[0]) for one in actors])  # warm
        started = time.perf_counter()
        rows = ray.get([actors[order.number % number].evaluate.remote(order) for order in orders])
        seconds = time.perf_counter() - started
    finally:
        for one in actors:
            ray.kill(one)
    failed = [row["reason"] for case in rows for row in case if row["status"] == "failed"]
    if failed:
        raise RuntimeError(f"{len(failed)} cases failed: {failed[0]}")
    return len(cases) / seconds
