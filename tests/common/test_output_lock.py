"""Two commands never write to one output folder, and a dead one is in nobody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from benchmarks.common import output_lock
from benchmarks.common.errors import UserError
from benchmarks.common.output_lock import LOCK_NAME, writing_to

HOLD = (
    "import sys; from pathlib import Path; from benchmarks.common.output_lock import writing_to\n"
    "with writing_to(Path(sys.argv[1]), 'run'): print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def another(out: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_second_writer_is_told_who_holds_it_and_since_when(tmp_path: Path) -> None:
    with another(tmp_path) as holder:
        with pytest.raises(UserError) as caught, writing_to(tmp_path, "train"):
            pass
        told = str(caught.value)
        assert "`tags-bench run` is writing there since 20" in told
        assert f"process {holder.pid} on {os.uname().nodename}" in told
        assert "\n" not in told
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait()
    with writing_to(tmp_path, "train"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with another(tmp_path) as holder:
        holder.kill()
        holder.wait()
        with writing_to(tmp_path, "run"):
            assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert f"taken over from process {holder.pid}" in caplog.text


def test_a_process_number_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    mine = output_lock._about_me("run")
    (tmp_path / LOCK_NAME).write_text(json.dumps({**mine, "ticks": mine["ticks"] - 1000}))
    with writing_to(tmp_path, "run"):
        pass


def test_a_clock_that_is_set_does_not_free_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with another(tmp_path):
        monkeypatch.setattr(psutil, "boot_time", lambda: 1.0)
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1e9)
        with pytest.raises(UserError, match="is writing there since"), writing_to(tmp_path, "run"):
            pass


@pytest.mark.parametrize(("age", "stale"), [(0, False), (30, False), (3600, True)])
def test_the_lock_of_another_machine_counts_as_long_as_it_is_renewed(tmp_path: Path, age: float, stale: bool) -> None:
    lock = tmp_path / LOCK_NAME
    lock.write_text(json.dumps({"machine": "node7", "host": "node7", "pid": 1, "since": "yesterday", "command": "run"}))
    os.utime(lock, (time.time() - age, time.time() - age))
    if stale:
        with writing_to(tmp_path, "run"):
            pass
    else:
        with pytest.raises(UserError, match=r"since yesterday .process 1 on node7"), writing_to(tmp_path, "run"):
            pass


@pytest.mark.parametrize("text", ["", "null", '{"pid": "x"}', "[" * 100_000])
def test_a_lock_that_says_nothing_counts_until_it_is_old(tmp_path: Path, text: str) -> None:
    lock = tmp_path / LOCK_NAME
    lock.write_text(text)
    with pytest.raises(UserError, match="since an unknown time"), writing_to(tmp_path, "run"):
        pass
    os.utime(lock, (1, 1))
    with writing_to(tmp_path, "run"):
        pass


def test_it_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "RENEW_SECONDS", 0.02)
    with writing_to(tmp_path, "run"):
        os.utime(tmp_path / LOCK_NAME, (1, 1))
        deadline = time.monotonic() + 10
        while (tmp_path / LOCK_NAME).stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - (tmp_path / LOCK_NAME).stat().st_mtime < 60


def test_a_command_inside_a_command_is_one_writer(tmp_path: Path) -> None:
    with writing_to(tmp_path, "ablate"):
        with writing_to(tmp_path / "." / ".." / tmp_path.name, "run"):
            pass
        assert (tmp_path / LOCK_NAME).exists()
    assert not (tmp_path / LOCK_NAME).exists()


def test_an_error_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing_to(tmp_path, "run"):
        raise KeyboardInterrupt
    assert not (tmp_path / LOCK_NAME).exists()


def test_a_function_runs_as_the_only_writer(tmp_path: Path) -> None:
    seen = []

    @output_lock.only_writer("train")
    def work(number: int, *, out: str | Path = tmp_path / "default") -> int:
        """What it does."""
        seen.append(json.loads((Path(out) / LOCK_NAME).read_text())["command"])
        return number + 1

    assert work(1) == 2
    assert work(2, out=str(tmp_path / "given")) == 3
    assert seen == ["train", "train"]
    assert work.__doc__ == "What it does."
    with another(tmp_path / "given"), pytest.raises(UserError, match="is writing there"):
        work(3, out=tmp_path / "given")
    assert len(seen) == 2


def test_a_folder_that_nobody_can_write_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"--out .*: cannot be written \("),
        writing_to(tmp_path / "file" / "out", "run"),
    ):
        pass
