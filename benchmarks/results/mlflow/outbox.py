"""What is still to be sent to an MLflow server: a folder of messages, so that a server that is away loses nothing.

A message is one JSON file, with its table of rows in a Parquet file beside it, or a copy of the file that it brings.
It holds everything that is needed to send it, at any time, by any process, once or again: the order does not matter
and a second sending changes nothing. A file is never written again, so whoever reads one, or removes it once it is
sent, never meets half of another message.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from benchmarks.common.files import atomically, write_json
from benchmarks.common.identity import digest

Kind = Literal["begin", "unit", "training", "model", "sweep", "file", "end"]

BROUGHT = ".file"
ADDRESS = "address"
"""The file beside the messages that says for which server they are."""
ORIGIN = ("environment", "source", "host", "user")
"""What of a message says where it comes from."""
TOLD_WITH = {"training": ("plan", "description")}
"""What of a message of a kind says for whom it is told: a training is the same in each run that makes use of it."""


@dataclass(frozen=True)
class Message:
    """One thing to be written to MLflow.

    Attributes:
        kind: which run it makes or completes.
        key: names what is told within its kind and the run of the suite; a later message of the same kind, key and
            run takes the place of an earlier.
        content: JSON-like; what the writer of that kind takes.
        rows: the records of a unit, or a leaderboard.
        written_at: when the message was made, seconds since 1970.
        times: when what is told began and ended, likewise; empty if nobody looked at the clock.
        file: the copy of a file that it brings.
    """

    kind: Kind
    key: str
    content: Mapping[str, Any]
    rows: pd.DataFrame | None
    written_at: float
    times: Mapping[str, float] = field(default_factory=dict)
    file: Path | None = None

    @property
    def digest(self) -> str:
        """Of what is told, not of when, where, by whom and for whom: equal for a message that says the same again."""
        rows = "" if self.rows is None else self.rows.to_json(orient="split", double_precision=12)
        left_out = (*ORIGIN, *TOLD_WITH.get(self.kind, ()))
        told = {key: value for key, value in self.content.items() if key not in left_out}
        return digest([self.kind, self.key, told, rows])


class Outbox:
    """The messages for one server.

    Attributes:
        address: of the server, without a password, kept beside its messages for whoever finds them; empty for none.
    """

    def __init__(self, folder: Path, address: str = "") -> None:
        self.folder, self.address = folder, address

    def put(
        self,
        kind: Kind,
        key: str,
        content: Mapping[str, Any],
        rows: pd.DataFrame | None = None,
        times: Mapping[str, float] | None = None,
        file: Path | None = None,
    ) -> Path:
        """Keep a message until it is sent; one of the same kind, key and run that waits is replaced."""
        run = _run_of(content)
        name = f"{kind}-{digest([kind, key, run])}"
        unnamed = self.folder / f"{kind}-{digest([kind, key])}.json"  # as versions that left the run out named it
        before = [*self.folder.glob(f"{name}*.json"), *([unnamed] if _is_of(unnamed, run) else [])]
        path = self.folder / f"{name}-{uuid.uuid4().hex[:12]}.json"
        plain = json.loads(json.dumps(content, default=_plain))
        stored = {"kind": kind, "key": key, "content": plain, "rows": rows is not None, "at": time.time()}
        try:
            self._note_address()
            if rows is not None:
                with atomically(path.with_suffix(".parquet")) as partial:
                    rows.to_parquet(partial, index=False)
            if file is not None:
                with atomically(path.with_suffix(BROUGHT)) as partial:
                    shutil.copyfile(file, partial)
            write_json(path, {**stored, "times": dict(times or {})})
        except BaseException:
            _drop(path)  # a disk without room keeps nothing of it
            raise
        for one in before:
            _drop(one)
        return path

    def _note_address(self) -> None:
        note = self.folder / ADDRESS
        if self.address and not note.is_file():
            with atomically(note) as partial:
                partial.write_text(self.address, encoding="utf-8")

    def take_in(self, other: Path) -> None:
        """Move the messages that wait in another folder here; each is one once its .json has come."""
        for path in sorted(other.glob("*"), key=lambda path: path.suffix == ".json"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another call has just moved it
                path.replace(self.folder / path.name)

    def waiting(self) -> list[Path]:
        """The messages that are to be sent, in the order in which they were written; any may be sent meanwhile."""
        files = [(_written(path), path) for path in self.folder.glob("*.json")]
        return [path for _, path in sorted((time, path) for time, path in files if time is not None)]

    def read(self, path: Path) -> Message:
        """A message. Raises ValueError or OSError if its files are damaged, or it was replaced just now."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        rows = pd.read_parquet(path.with_suffix(".parquet")) if stored["rows"] else None
        at = float(stored["at"])
        file = path.with_suffix(BROUGHT)
        times = stored.get("times", {})
        return Message(
            stored["kind"], stored["key"], stored["content"], rows, at, times, file if file.is_file() else None
        )

    def sent(self, path: Path) -> None:
        """Drop a message. One that has taken its place meanwhile has a file of its own, and stays."""
        _drop(path)


def _drop(path: Path) -> None:
    """Remove the files of a message; first that without which the others are none."""
    for suffix in (".json", ".parquet", BROUGHT):
        path.with_suffix(suffix).unlink(missing_ok=True)


def _run_of(content: Mapping[str, Any]) -> list[str]:
    """The run that a message belongs to: its suite, too, for suites of equal units have one plan, and `train` none."""
    plan = content.get("plan") or {}
    suite = plan.get("suite") or content.get("description", {}).get("suite", "")
    return [str(suite), str(plan.get("plan", "")), str(plan.get("out", ""))]


def _is_of(path: Path, run: list[str]) -> bool:
    """Whether a file holds a message of a run; not if there is none, or it is damaged, which its sender says."""
    try:
        return _run_of(json.loads(path.read_text(encoding="utf-8"))["content"]) == run
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _written(path: Path) -> int | None:
    """When a message was written, nanoseconds; None if the thread that sends has just dropped it."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
