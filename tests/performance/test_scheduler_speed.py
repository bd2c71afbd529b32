"""What the scheduler costs the driver, simulated; and how busy it keeps workers on Ray (`SLOTS`, 16 by default)."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.execution.observer import Nobody
from benchmarks.execution.orders import Item, Key, Need, Node
from benchmarks.execution.plan import Folders, Unit, plan, resolve_dataset
from benchmarks.execution.pool import run
from benchmarks.execution.suite import parse_suite
from tests.execution.simulation import Cluster

pytestmark = pytest.mark.bench


@pytest.mark.parametrize(
    ("cases", "slots", "keys"), [(256, 64, 1), (4_096, 64, 64), (100_000, 64, 1), (100_000, 512, 64)]
)
def test_the_driver_spends_less_than_a_millisecond_on_a_case(cases: int, slots: int, keys: int) -> None:
    """Cases of 1 s, workers that load in 3 s. Without the records and without Ray."""
    cluster = Cluster([Node(f"n{place}", 16) for place in range(slots // 16)], load_seconds=lambda key, node: 3.0)
    cluster.check_room = lambda: None  # type: ignore[method-assign]
    spent = _timed(cluster)
    kinds = [Key(number, Need(1)) for number in range(keys)]
    cluster.submit([Item(kinds[number % keys], number, place=number) for number in range(cases)])
    cluster.play()
    efficiency = cases / slots / (cluster.now - 3.0)
    print(f"\n{cases} cases, {slots} slots, {keys} keys: {1e6 * spent[0] / cases:.0f} µs a case, {efficiency:.0%} busy")
    assert spent[0] / cases < 1e-3
    assert efficiency > 0.95


def _timed(cluster: Cluster) -> list[float]:
    """Seconds inside the scheduler."""
    spent = [0.0]
    for name in ("submit", "loading", "loaded", "finished", "tick"):
        event = getattr(cluster.scheduler, name)

        def timed(*arguments: Any, event: Any = event) -> Any:
            started = time.perf_counter()
            try:
                return event(*arguments)
            finally:
                spent[0] += time.perf_counter() - started

        setattr(cluster.scheduler, name, timed)
    return spent


SUITE = """
name: busy
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [mock-second]
protocols: [none]
save_predictions: false
budget: {steps: 1}
"""


@pytest.mark.ray
def test_real_workers_are_busy_nearly_all_the_time(tmp_path: Path) -> None:
    import ray

    slots = int(os.environ.get("SLOTS", "16"))
    if ray.is_initialized():
        pytest.skip("needs a Ray of its own")
    suite, folders = parse_suite(SUITE, "bench"), Folders(tmp_path)
    (unit,) = plan(suite, [resolve_dataset(suite.datasets[0], suite.seed, folders)], folders)
    one = unit.cases[0]
    unit = replace(unit, cases=tuple(replace(one, case_id=f"{number:04d}") for number in range(4 * slots)))
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    try:
        watch = _Watch()
        outcome = run([unit], folders, watch)
    finally:
        ray.shutdown()
    assert outcome.computed == 4 * slots
    seconds = watch.times[-1] - watch.times[0]
    print(f"\n{4 * slots} cases of 1 s, {slots} slots: {seconds:.1f} s from the first result to the last")


class _Watch(Nobody):
    """Notes when cases are finished."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        if finished_cases:
            self.times.append(time.monotonic())
