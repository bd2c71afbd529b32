"""Waiting for a processor, against wall time less processor time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.common import processor_queue
from benchmarks.common.processor_queue import seconds_queued


@pytest.mark.skipif(not processor_queue.SCHEDULE.exists(), reason="the system does not count it")
def test_a_thread_that_shares_its_processor_has_waited_for_the_rest() -> None:
    processors = os.sched_getaffinity(0)
    one = min(processors)
    busy = f"import os; os.sched_setaffinity(0, {{{one}}})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as other:
        try:
            os.sched_setaffinity(0, {one})
            assert other.stdout is not None
            other.stdout.readline()
            began, ran, queued = time.perf_counter(), time.thread_time(), seconds_queued()
            while time.perf_counter() - began < 1.0:
                pass
            wall, ran, queued = time.perf_counter() - began, time.thread_time() - ran, seconds_queued() - queued
        finally:
            os.sched_setaffinity(0, processors)
            other.kill()
    assert queued == pytest.approx(wall - ran, abs=0.1)
    assert queued > 0.2


def test_a_system_that_does_not_count_it_says_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_queue, "SCHEDULE", tmp_path / "none")
    assert seconds_queued() == 0.0
