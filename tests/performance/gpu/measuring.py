"""Time limits, device memory and counted work."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

GIB = 2**30


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
