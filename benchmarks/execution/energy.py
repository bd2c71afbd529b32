"""How much energy a piece of work took, by the counters of the processors and of the GPU themselves.

Both count everything that runs on them, whoever it belongs to: figures to compare come from a machine that does nothing
else. Where a counter cannot be read (virtual machines, processors whose counter is for root alone), nothing is guessed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PACKAGES = "intel-rapl:?"  # whole processors, those of AMD too; their parts have a second colon


@dataclass(frozen=True)
class Counter:
    """A counter of energy that only grows.

    Attributes:
        read: joules since whenever it began.
        wraps_at: joules at which it begins again; infinite if it never does.
    """

    read: Callable[[], float]
    wraps_at: float = math.inf


class EnergyMeter:
    """Joules since it was made; NaN if no counter can be read, or one has failed in between.

    A process that has CUDA in use also counts its GPU, and only what it can count of all that it uses: where the GPU
    tells and the processors do not, the GPU alone.
    """

    def __init__(self, counters: tuple[Counter, ...] | None = None) -> None:
        self._counters = counters_here() if counters is None else counters
        self._began = [_value(counter) for counter in self._counters]

    def joules(self) -> float:
        """What all counters have counted up to now."""
        if not self._counters:
            return math.nan
        return sum(map(_spent, self._counters, self._began))


def counters_here() -> tuple[Counter, ...]:
    """The counters of this machine that can be read now."""
    return (*processor_counters(POWERCAP), *gpu_counters())


@lru_cache(maxsize=8)
def processor_counters(folder: Path) -> tuple[Counter, ...]:
    """Those of the processors (RAPL), as Linux shows them; all of them or none, for half a machine misleads."""
    packages = sorted(folder.glob(PACKAGES))
    try:
        return tuple(_processor_counter(package) for package in packages)
    except (OSError, ValueError):  # not for us, or not there
        return ()


def _processor_counter(package: Path) -> Counter:
    file = package / "energy_uj"

    def read() -> float:
        return int(file.read_text()) / 1e6

    read()
    return Counter(read, int((package / "max_energy_range_uj").read_text()) / 1e6)


def gpu_counters() -> tuple[Counter, ...]:
    """That of the GPU on which this process works, by NVIDIA's library; none where CUDA is not in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return ()
    return _gpu_counter(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))


@lru_cache(maxsize=8)
def _gpu_counter(uuid: str) -> tuple[Counter, ...]:
    try:
        import pynvml
    except ImportError:  # an environment of a method's own may lack it
        return ()
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:  # an older card, a part of one, or a driver that does not tell
        return ()
    return (Counter(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),)


def _value(counter: Counter) -> float:
    try:
        return counter.read()
    except Exception:  # a file or a driver that has gone: unknown, and no reason to fail a case
        return math.nan


def _spent(counter: Counter, began: float) -> float:
    now = _value(counter)
    return now - began if now >= began or math.isnan(now) else now - began + counter.wraps_at
