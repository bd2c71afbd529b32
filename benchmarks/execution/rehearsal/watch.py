"""The memory of everything that a rehearsal starts, looked at twice a second from outside."""

from __future__ import annotations

import subprocess
import threading
from types import TracebackType


class MemoryWatch:
    """For the length of a block: the largest process below this one, and what all GPUs together hold.

    Attributes:
        largest_gb: resident memory of the largest process, this one left out.
        gpu_gb: largest sum over the GPUs, whoever uses them; 0 without any.
    """

    def __init__(self, every: float = 0.5) -> None:
        self.largest_gb = self.gpu_gb = 0.0
        self._every, self._done = every, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name="memory-watch")

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        import psutil

        me, gpus = psutil.Process(), True
        while not self._done.wait(self._every):
            for process in me.children(recursive=True):
                try:
                    self.largest_gb = max(self.largest_gb, process.memory_info().rss / 1e9)
                except psutil.Error:  # it has just ended
                    continue
            held = _gpu_gb() if gpus else None
            gpus = held is not None
            self.gpu_gb = max(self.gpu_gb, held or 0.0)


def _gpu_gb() -> float | None:
    """Memory in use on all GPUs; None where there are none."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return sum(float(line) for line in done.stdout.split()) / 1000
