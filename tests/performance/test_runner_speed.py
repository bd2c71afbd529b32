"""What the bench itself costs: an actor call, the rows, the Parquet file. The method does nothing."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import pytest

from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.evaluate import Evaluation
from benchmarks.execution.plan import plan
from benchmarks.execution.suite import parse_suite
from benchmarks.execution.worker import Loading, Order, actor_class
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.results.records import RecordStore

pytestmark = [pytest.mark.bench, pytest.mark.ray]

SUITE = """
name: overhead
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [mock-noop]
protocols: [centre-click]
budget: {steps: 1}
"""
AIM_SECONDS = 0.020


def test_the_runner_costs_less_than_20_ms_per_case_on_a_warm_actor(local_ray: None, tmp_path: Path) -> None:
    import ray

    suite = parse_suite(SUITE, "bench")
    folders = Folders(tmp_path)
    unit = plan(suite, [resolve_dataset(suite.datasets[0], suite.seed, folders)], folders)[0]
    case = unit.cases[0]
    nothing = Evaluation((), (), 0, (), DEFAULT_POLICY.policy_id, None, {})
    actor = actor_class().options(num_cpus=1).remote(Loading(tmp_path / "log", "mock-noop"))
    idle, real = (Order(0, case, [ray.put(asked)], tmp_path / "log") for asked in (nothing, unit.evaluation))
    ray.get(actor.ready.remote())
    rows = ray.get(actor.evaluate.remote(real))
    store = RecordStore(folders.records)
    store.begin_unit(unit.folder, unit.description())
    calls, writes = [], []
    for _ in range(30):
        started = time.perf_counter()
        ray.get(actor.evaluate.remote(idle))
        calls.append(time.perf_counter() - started)
        started = time.perf_counter()
        store.write_case(unit.folder, case.case_id, rows)
        writes.append(time.perf_counter() - started)
    ray.kill(actor)
    call, write, load = median(calls[5:]), median(writes[5:]), _seconds_to_load(case)
    print(f"\nactor call and loading {1e3 * call:.1f} ms (loading alone {1e3 * load:.1f}), record {1e3 * write:.1f} ms")
    assert call - load + write < AIM_SECONDS


def _seconds_to_load(case) -> float:  # type: ignore[no-untyped-def]
    times = []
    for _ in range(10):
        started = time.perf_counter()
        case.load()
        times.append(time.perf_counter() - started)
    return median(times)
