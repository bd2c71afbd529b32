"""Ctrl-C in a terminal: what is finished is kept and said, the exit code is 130, a second one ends at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.results.records import RecordStore
from tests.faults.crashes import NAME, OK, SUITE, Call, Finished, mlflow_faults

INTERRUPTED = 130
KEPT = "cases are finished and kept in"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE)
    return path


def wait_until(call: Call, holds: Callable[[], bool]) -> None:
    while not holds():
        assert call.running, call.log.read_text()
        assert call.seconds < 200, call.log.read_text()
        call.members()
        time.sleep(0.02)


@pytest.mark.slow
def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(suite: Path, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from benchmarks.results.mlflow import default_uri

    out = tmp_path / "out"
    call = Call(suite, out)
    wait_until(call, lambda: any(path.stat().st_size for path in (out / "records").rglob("*.jsonl")))
    call.interrupt()
    assert call.wait() == INTERRUPTED
    told = call.log.read_text()
    assert KEPT in told
    assert "the same command goes on from there" in told
    assert not call.internal_error()
    kept = Finished.of(out)
    assert 0 < kept.cases < 36
    assert f"{kept.cases} of 36 {KEPT}" in told
    client = MlflowClient(tracking_uri=default_uri(out))
    runs = client.search_runs([client.get_experiment_by_name(f"tags-bench/{NAME}").experiment_id])
    assert "KILLED" in {run.info.status for run in runs}

    call = Call(suite, out)
    assert call.wait() == OK
    assert call.computed() == 36 - kept.cases
    assert len(RecordStore(out / "records").read_suite(NAME)[0]) == 72
    assert mlflow_faults(out) == []


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(suite: Path, tmp_path: Path) -> None:
    call = Call(suite, tmp_path / "out")
    wait_until(call, lambda: bool(call.of_role("evaluator")))
    call.interrupt()
    wait_until(call, lambda: KEPT in call.log.read_text())
    call.interrupt()
    began = time.monotonic()
    while call.running and time.monotonic() - began < 10:
        time.sleep(0.05)
    assert time.monotonic() - began < 3
    assert call.wait() == INTERRUPTED
