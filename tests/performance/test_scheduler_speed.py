"""What the scheduler costs the driver, simulated; and how busy it keeps workers on Ray (`SLOTS`, 16 by default)."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.data.dataset import Case
from benchmarks.execution.datasets import Folders, resolve_dataset
from benchmarks.execution.observer import Nobody
from benchmarks.execution.orders import Item, Key, Need, Node
from benchmarks.execution.plan import Unit, plan
from benchmarks.execution.pool import run
from benchmarks.execution.suite import parse_suite
from benchmarks.results.records import RecordStore
from tests.execution.simulation import Cluster
from tests.execution.training_cases import write_cases
from tests.performance.plain_actor import PlainActor
from tests.performance.scheduler_simulation import timed

pytestmark = pytest.mark.bench


@pytest.mark.parametrize(
    ("cases", "slots", "keys"), [(256, 64, 1), (4_096, 64, 64), (100_000, 64, 1), (100_000, 512, 64)]
)
def test_the_driver_spends_less_than_a_millisecond_on_a_case(cases: int, slots: int, keys: int) -> None:
    """Cases of 1 s, workers that load in 3 s. Without the records and without Ray."""
    cluster = Cluster([Node(f"n{place}", 16) for place in range(slots // 16)], load_seconds=lambda key, node: 3.0)
    cluster.check_room = lambda: None  # type: ignore[method-assign]
    spent = timed(cluster.scheduler)
    kinds = [Key(number, Need(1)) for number in range(keys)]
    cluster.submit([Item(kinds[number % keys], number, place=number) for number in range(cases)])
    cluster.play()
    efficiency = cases / slots / (cluster.now - 3.0)
    print(f"\n{cases} cases, {slots} slots, {keys} keys: {1e6 * spent[0] / cases:.0f} µs a case, {efficiency:.0%} busy")
    assert spent[0] / cases < 1e-3
    assert efficiency > 0.95


SUITE = """
name: busy
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [{name: mock-together, config: {folder: FOLDER, number: SLOTS}}]
protocols: [none]
save_predictions: false
budget: {steps: 1}
"""


@pytest.mark.ray
@pytest.mark.timeout(3600)
def test_real_workers_are_busy_nearly_all_the_time(tmp_path: Path) -> None:
    """Four cases of 1 s for each slot, of which nearly all is sleep: the scans are tiny, the slots not real processors.

    The workers wait for each other before the first case, so that their start, which depends on the machine, is apart.
    """
    import ray

    slots = int(os.environ.get("SLOTS", "16"))
    if ray.is_initialized():
        pytest.skip("needs a Ray of its own")
    (tmp_path / "ready").mkdir()
    unit, folders = _busy_unit(tmp_path, slots), Folders(tmp_path)
    watch, began = _Watch(), time.time()
    used = time.process_time()
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    try:
        outcome = run([unit], folders, watch)
    finally:
        ray.shutdown()
    used = time.process_time() - used
    assert outcome.computed == 4 * slots
    rows = RecordStore(folders.records).read_unit(unit.folder)
    assert set(rows["status"]) == {"ok"}
    assert rows["seconds_segment"].min() >= 1.0
    arrived = sorted(path.stat().st_mtime for path in (tmp_path / "ready").iterdir())
    ready = arrived[slots - 1]  # a process that died in the rush and its successor both leave a mark
    seconds = watch.times[-1] - ready
    busy = 4 * slots * 1.0 / slots / seconds
    machine = f"{os.cpu_count()} processors with a load of {os.getloadavg()[0]:.0f}"
    start = f"{len(arrived)} processes, ready after {ready - began:.0f} s"
    driver = f"driver {1e3 * used / outcome.computed:.1f} ms of processor a case, {_memory_mb():.0f} MB"
    slept = ready + 4.0  # nobody has cases left, and what is counted from here on is their ends alone
    tail = f"after {watch.times[-1] - slept:.2f} s of them nobody sleeps, processors {watch.processors_busy(slept):.0%}"
    busy_line = f"then {seconds:.2f} s to the last record, slots busy {busy:.1%}; {tail}; {driver}"
    print(f"\n{4 * slots} cases of 1 s, {slots} slots on {machine}: {start}, {busy_line}")
    assert busy > 0.5


@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", ["sleep", "evaluate"])
def test_plain_actors_for_comparison(what: str, tmp_path: Path) -> None:
    """The same number of actors of Ray with four calls each from the beginning: no scheduler, no records.

    They sleep for a second; or read a case, sleep, score it and return its rows, as our workers do.
    """
    import ray

    slots = int(os.environ.get("SLOTS", "16"))
    if ray.is_initialized():
        pytest.skip("needs a Ray of its own")
    unit = _busy_unit(tmp_path, slots)
    ray.init(address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False)
    try:
        kept = ray.put(unit.evaluation)
        actors = [ray.remote(num_cpus=1)(PlainActor).remote(kept) for _ in range(slots)]
        ray.get([actor.warm_up.remote() for actor in actors])
        began, before = time.perf_counter(), psutil.cpu_times().idle
        work = [(actors[number % slots], case) for number, case in enumerate(unit.cases)]
        waiting = [actor.sleep.remote() if what == "sleep" else actor.evaluate.remote(case) for actor, case in work]
        while waiting:
            ready, waiting = ray.wait(waiting)
            ray.get(ready)
        seconds = time.perf_counter() - began
        processors = 1 - (psutil.cpu_times().idle - before) / seconds / (os.cpu_count() or 1)
    finally:
        ray.shutdown()
    how = f"{seconds:.2f} s, busy {4.0 / seconds:.1%}, processors {processors:.0%}"
    print(f"\n{4 * slots} times {what} on {slots} plain actors: {how}")
    assert seconds < 8.0


MANY = """
name: many
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [mock-noop]
protocols: [none]
save_predictions: false
budget: {steps: 1}
"""
SLOTS, CASES = 2, 16


@pytest.mark.ray
@pytest.mark.timeout(3600)
def test_the_drivers_seconds_for_a_case_do_not_grow_with_the_units(tmp_path: Path) -> None:
    """4 and 64 units of 16 cases that cost nothing, on two slots of one Ray.

    The units are of one method with one configuration, so that they share their workers, as the folds of a suite do.
    The driver's own processor time is taken, records included, after a first run that starts and imports everything.
    """
    import ray

    if ray.is_initialized():
        pytest.skip("needs a Ray of its own")
    suite, folders = parse_suite(MANY, "bench"), Folders(tmp_path)
    (unit,) = plan(suite, [resolve_dataset(suite.datasets[0], suite.seed, folders)], folders)
    (tiny,) = write_cases(tmp_path / "tiny", 1)
    told = {}
    ray.init(address="local", num_cpus=SLOTS, include_dashboard=False, log_to_driver=False)
    try:
        for number in (1, 4, 64):
            units = _folds(unit, tiny, number)
            used, began = time.process_time(), time.perf_counter()
            outcome = run(units, folders, Nobody())
            told[number] = (time.process_time() - used) / outcome.computed, time.perf_counter() - began
            assert (outcome.computed, outcome.not_run) == (number * CASES, ())
            store = RecordStore(folders.records)
            assert all(set(store.read_unit(one.folder)["status"]) == {"ok"} for one in units)
    finally:
        ray.shutdown()
    for number in (4, 64):
        seconds, whole = told[number]
        print(f"\n{number} units of {CASES} cases: driver {1e3 * seconds:.1f} ms a case, {whole:.0f} s in all")
    print(f"{os.cpu_count()} processors with a load of {os.getloadavg()[0]:.0f}")
    assert told[64][0] < 1.5 * told[4][0]


def _busy_unit(folder: Path, slots: int) -> Unit:
    """Four cases for each slot."""
    text = SUITE.replace("FOLDER", str(folder / "ready")).replace("SLOTS", str(slots))
    suite, folders = parse_suite(text, "bench"), Folders(folder)
    (unit,) = plan(suite, [resolve_dataset(suite.datasets[0], suite.seed, folders)], folders)
    (tiny,) = write_cases(folder / "tiny", 1)
    return _with_cases(unit, tiny, [f"{n:04d}" for n in range(4 * slots)])


def _with_cases(unit: Unit, case: Case, names: list[str]) -> Unit:
    """The unit on one small scan under many names, whose prompts no bank has."""
    cases = tuple(replace(unit.cases[0], case_id=name, image=case.image, label=case.label) for name in names)
    targets = tuple(replace(target, labels=(1,)) for target in unit.evaluation.targets)
    return replace(unit, cases=cases, evaluation=replace(unit.evaluation, banks={}, targets=targets))


def _folds(unit: Unit, case: Case, number: int) -> list[Unit]:
    """So many units, folds of one method."""
    units = []
    for fold in range(number):
        name = f"{number:04d}{fold:04d}"
        one = _with_cases(unit, case, [f"{number}-{fold}-{n}" for n in range(CASES)])
        provenance = {**one.evaluation.provenance, "unit": name, "fold": fold}
        place = unit.folder.with_name(f"{unit.folder.name}-{number}-{fold:02d}")
        evaluation = replace(one.evaluation, provenance=provenance)
        units.append(replace(one, fold=fold, digest=name, folder=place, evaluation=evaluation))
    return units


def _memory_mb() -> float:
    return float(psutil.Process().memory_info().rss / 2**20)


class _Watch(Nobody):
    """Notes when cases are finished, and how busy the machine's processors have been until then."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.idle: list[float] = []

    def advanced(self, unit: Unit, finished_cases: int) -> None:
        if finished_cases:
            self.times.append(time.time())
            self.idle.append(psutil.cpu_times().idle)

    def processors_busy(self, since: float) -> float:
        """Share of the processors' time that was used, from the first case that was finished after a moment on."""
        first = next(number for number, at in enumerate(self.times) if at >= since)
        seconds = (self.times[-1] - self.times[first]) * (os.cpu_count() or 1)
        return 1 - (self.idle[-1] - self.idle[first]) / seconds
