"""One command at a time writes to an output folder, on one machine or on a disk that several share.

The lock is a file that says who holds it and since when; its holder renews it every few seconds. The lock of a
process of this machine that is gone is taken over at once, that of another machine once it is not renewed any more.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from benchmarks.common.errors import UserError
from benchmarks.common.files import in_turn
from benchmarks.common.paths import user_path

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

LOCK_NAME = ".tags-bench.lock"
RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
"""A lock of another machine that was not renewed for so long belongs to nobody."""

_held: set[Path] = set()  # by this process: a command that calls another one is one writer


@contextmanager
def writing_to(out: Path, command: str) -> Iterator[None]:
    """Be the only one that writes to `out` (created if it is not there) for the block. May be nested in a process.

    Raises:
        UserError: another process writes there; the message says which, where and since when. Or nobody can.
    """
    folder = user_path(out).resolve()
    path = folder / LOCK_NAME
    if path in _held:
        yield
        return
    mine = _about_me(command)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take(path, mine)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({os.strerror(error.errno or 0)})") from error
    _held.add(path)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(path, mine["token"], done), daemon=True, name="output-lock")
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        _held.discard(path)
        if _holder(path).get("token") == mine["token"]:
            path.unlink(missing_ok=True)


def only_writer(command: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function with an argument `out`: it runs as the only one that writes there; see `writing_to`."""

    def around(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def alone(*args: P.args, **options: P.kwargs) -> R:
            call = signature.bind(*args, **options)
            call.apply_defaults()
            with writing_to(Path(call.arguments["out"]), command):
                return function(*args, **options)

        return alone

    return around


def _take(path: Path, mine: Mapping[str, Any]) -> None:
    with in_turn(path.with_name(f"{path.name}.turn")):  # two that find the same stale lock take it one by one
        for _ in range(2):
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                holder = _holder(path)
                if not _gone(path, holder):
                    raise UserError(_told(path, holder)) from None
                logger.warning("%s: taken over from %s, which is gone", path, _name(holder))
                path.unlink(missing_ok=True)
                continue
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(mine, file)
                file.flush()
                os.fsync(file.fileno())
            return
    raise UserError(_told(path, _holder(path)))


def _gone(path: Path, holder: Mapping[str, Any]) -> bool:
    """Whether the holder of a lock cannot hold it any more."""
    if holder.get("machine") == _machine():
        started, ticks = _started(holder.get("pid"))
        return ticks != holder["ticks"] if "ticks" in holder else started != holder.get("started")
    try:
        age = _now_on_disk(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return True
    return age > STALE_SECONDS


def _told(path: Path, holder: Mapping[str, Any]) -> str:
    since = holder.get("since", "an unknown time")
    what = holder.get("command", "a command")
    return (
        f"{path.parent}: `tags-bench {what}` is writing there since {since} ({_name(holder)}); "
        f"wait for it, or give another --out"
    )


def _name(holder: Mapping[str, Any]) -> str:
    return f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown machine')}"


def _holder(path: Path) -> dict[str, Any]:
    """What a lock says; nothing, if its holder died before it had written it, or another one is just writing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _about_me(command: str) -> dict[str, Any]:
    started, ticks = _started(os.getpid())
    return {
        "token": uuid.uuid4().hex,
        "command": command,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": started,
        "ticks": ticks,
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _machine() -> str:
    """What tells whether a process number means the same here as where the lock was made: containers count apart."""
    facts = [socket.gethostname()]
    try:
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        pass  # not Linux: the name of the host has to do
    return " ".join(facts)


def _started(pid: Any) -> tuple[float | None, float | None]:
    """When a process of this machine began, so that a number that is used again is not taken for it; None: gone.

    As a time of day, and in ticks since the machine's start, which do not move when the clock is set; where these are
    not told they are the time of day.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None, None
        started = float(process.create_time())
        try:
            facts = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
            return started, float(facts.split()[19])
        except (OSError, IndexError):
            return started, started
    except (psutil.NoSuchProcess, ValueError, TypeError):
        return None, None


def _now_on_disk(folder: Path) -> float:
    """The time by the clock of the disk: that of another machine may differ from ours."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as file:
        return os.fstat(file.fileno()).st_mtime


def _renew(path: Path, token: str, done: threading.Event) -> None:
    while not done.wait(RENEW_SECONDS):
        try:
            if _holder(path).get("token") != token:
                logger.warning("%s: another process has taken this lock; two are writing to one folder", path)
                return
            os.utime(path)
        except OSError as error:
            logger.warning("%s: cannot be renewed (%s)", path, error)
