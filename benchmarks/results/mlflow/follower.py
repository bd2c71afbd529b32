"""Curves of trainings that are going on: a thread looks at their files, and tells what is new."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVERY_SECONDS = 5.0

Tell = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]], Mapping[str, float]], None]


@dataclass
class _Followed:
    description: Mapping[str, Any]
    curve: Path
    points: int = 0


class Follower:
    """Looks at the curves of trainings every few seconds; its thread is there only while something is followed."""

    def __init__(self, tell: Tell, every: float = EVERY_SECONDS) -> None:
        self._tell, self._every = tell, every
        self._followed: dict[str, _Followed] = {}
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, key: str, description: Mapping[str, Any], curve: Path) -> None:
        """From now on tell what the file of a training says; a training that is followed already stays as it is."""
        with self._lock:
            self._followed.setdefault(key, _Followed(description, curve))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mlflow-follower", daemon=True)
            self._thread.start()

    def forget(self, key: str) -> None:
        """Look at a training no more: it is over."""
        with self._lock:
            self._followed.pop(key, None)

    def close(self) -> None:
        """Tell nothing more from now on."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._closing.wait(self._every):
            with self._lock:  # so that nothing is told of a training that is over
                for one in self._followed.values():
                    self._look(one)

    def _look(self, one: _Followed) -> None:
        try:
            written = one.curve.stat().st_mtime
            curve = json.loads(one.curve.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # not there yet, or being replaced on a slow file system; the next look finds it
        if curve and len(curve) != one.points:
            one.points = len(curve)
            self._tell(one.description, curve, {"start": written - float(curve[-1]["seconds"])})
