"""Waits for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(found: Callable[[], Any], seconds: float, every: float = 0.05) -> Any:
    """What `found` gives as soon as it is true; asked again every so many seconds. Fails if it never is."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        there = found()
        if there:
            return there
        time.sleep(every)
    raise AssertionError(f"it did not come within {seconds:g} s")
