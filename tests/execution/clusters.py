"""Ray clusters of several nodes on the loopback of this machine, each node in a working directory of its own."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

# A node of these tests is one of several on one machine, which may be busy besides. Ray's monitor looks at the memory
# of the whole machine and would end workers here for what others use; 0 switches it off, as Ray documents.
LIGHT = {"RAY_memory_monitor_refresh_ms": "0"}
OBJECT_STORE_BYTES = 80 * 2**20  # Ray's least is 75 MiB; scans never travel through it


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def head(folder: Path, cpus: int = 1, **environment: str) -> Iterator[str]:
    """A cluster of one node, its address; only its own processes are ended."""
    port = free_port()
    words = ["--head", "--port", str(port), "--include-dashboard=false", "--num-cpus", str(cpus)]
    with node(folder, words, **environment):
        yield f"127.0.0.1:{port}"


@contextmanager
def node(folder: Path, words: list[str], **environment: str) -> Iterator[psutil.Popen]:
    """`ray start`, and the end of what it started."""
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
    command += ["--num-cpus", "1", "--disable-usage-stats", "--object-store-memory", str(OBJECT_STORE_BYTES), *words]
    log = folder / f"{time.monotonic_ns()}.log"
    with log.open("w") as stream:
        changed = {**os.environ, "RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", **LIGHT, **environment}
        one = psutil.Popen(command, env=changed, stdout=stream, stderr=stream, cwd=folder)
        try:
            for _ in range(120):
                time.sleep(0.5)
                if "Ray runtime started" in log.read_text():
                    break
            assert "Ray runtime started" in log.read_text(), log.read_text()
            yield one
        finally:
            family = [*one.children(recursive=True), one]
            for process in family:
                process.kill()
            psutil.wait_procs(family, timeout=20)


def kill(node: psutil.Popen) -> None:
    """End a node as a power cut does: its raylet and all workers, at once."""
    for process in node.children(recursive=True):
        process.kill()


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as name:
        yield Path(name)
