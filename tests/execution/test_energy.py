"""Energy by the counters of the machine: against counters that are written by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.execution import energy
from benchmarks.execution.energy import Counter, EnergyMeter, gpu_counters, processor_counters


def package(folder: Path, number: int, microjoules: int, wraps_at: int = 262_143_328_850) -> Path:
    """A processor as Linux shows it, with a part of its own that must not be counted twice."""
    place = folder / f"intel-rapl:{number}"
    for one, value in ((place, microjoules), (place / f"intel-rapl:{number}:0", microjoules // 2)):
        one.mkdir(parents=True, exist_ok=True)
        (one / "energy_uj").write_text(f"{value}\n")
        (one / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return place / "energy_uj"


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Counters are looked up once per process."""
    processor_counters.cache_clear()


def test_joules_are_the_sum_over_all_processors(tmp_path: Path) -> None:
    first, second = package(tmp_path, 0, 5_000_000), package(tmp_path, 1, 70_000_000)
    meter = EnergyMeter(processor_counters(tmp_path))
    first.write_text("7500000\n")
    second.write_text("71000000\n")
    assert meter.joules() == pytest.approx(2.5 + 1.0)


def test_a_counter_that_began_again_is_counted_on(tmp_path: Path) -> None:
    file = package(tmp_path, 0, 99_000_000, wraps_at=100_000_000)
    meter = EnergyMeter(processor_counters(tmp_path))
    file.write_text("3000000\n")
    assert meter.joules() == pytest.approx(4.0)


def test_nothing_is_guessed_where_a_counter_cannot_be_read(tmp_path: Path) -> None:
    assert processor_counters(tmp_path) == ()
    processor_counters.cache_clear()
    package(tmp_path, 0, 1)
    package(tmp_path, 1, 1).unlink()
    assert processor_counters(tmp_path) == ()  # one of two processors would be half of the truth
    assert math.isnan(EnergyMeter(()).joules())


def test_a_counter_that_fails_on_the_way_leaves_the_energy_unknown(tmp_path: Path) -> None:
    file = package(tmp_path, 0, 1_000_000)
    steady = Counter(lambda: 5.0)
    meter = EnergyMeter((*processor_counters(tmp_path), steady))
    file.unlink()
    assert math.isnan(meter.joules())


def test_no_gpu_is_counted_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_counters() == ()
    monkeypatch.setattr(energy, "POWERCAP", Path("/nowhere"))
    assert energy.counters_here() == ()


def test_a_card_that_the_driver_does_not_know_is_not_counted() -> None:
    """Where there is no driver at all, NVIDIA's own library says so."""
    assert energy._gpu_counter("00000000-0000-0000-0000-000000000000") == ()
