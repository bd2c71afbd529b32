"""The thread that sends what is in an outbox, and keeps what a server does not take."""

from __future__ import annotations

import shlex
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.common.addresses import sqlite_path, without_password
from benchmarks.common.errors import one_line
from benchmarks.common.identity import digest
from benchmarks.results.mlflow.called import called_folder
from benchmarks.results.mlflow.outbox import ADDRESS, Outbox
from benchmarks.results.mlflow.store import ARTIFACTS, default_uri, make_store, quiet_mlflow, relocated
from benchmarks.results.mlflow.writer import MlflowWriter

PATIENCE_SECONDS = 10.0
"""How long the end of a run waits for a server that does not take another message."""
LONGEST_PAUSE_SECONDS = 60.0
DATABASES = ("postgresql", "mysql", "mssql")
"""Addresses of stores that have no folder of their own for artifacts."""

_SENDING: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
"""One sender at a time for each outbox of this process."""


class Sender:
    """Sends the messages of an outbox, one after the other; a message that fails is tried again after a pause."""

    def __init__(self, uri: str, out: Path, outbox: Outbox) -> None:
        self._uri, self._out, self._outbox = uri, out, outbox
        self._news, self._closing = threading.Event(), threading.Event()
        self._sent = 0
        self._warned: set[str] = set()
        self._writer: MlflowWriter | None = None
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)
            self._thread.start()
        self._news.set()

    def close(self, patience: float) -> int:
        self._closing.set()
        self._news.set()
        if self._thread is not None:
            sent = -1
            while self._thread.is_alive() and sent != self._sent:
                sent = self._sent
                self._thread.join(patience)
        return len(self._outbox.waiting())

    def _work(self) -> None:
        pause = 1.0
        while True:
            self._news.clear()
            for path in self._outbox.waiting():
                if self._delivered(path):
                    self._sent += 1
                    pause = 1.0
                    continue
                if self._closing.wait(pause):
                    return
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            if not self._outbox.waiting():
                if self._closing.is_set():
                    return
                self._news.wait()

    def _delivered(self, path: Path) -> bool:
        """Send one message, unless the thread of an earlier call, which a slow server still holds, has sent it."""
        with _SENDING[self._outbox.folder]:
            return not path.is_file() or self._sent_now(path)

    def _sent_now(self, path: Path) -> bool:
        """Send it; once more over a new connection if what the old one remembers may be what is wrong."""
        for _ in range(2):
            remembered = self._writer is not None
            try:
                self._writer = self._writer or _connected(self._uri, self._out, self.warn)
                message = self._outbox.read(path)
                self._writer.send(message)
                self._outbox.sent(path)
                return True
            except Exception as error:  # whatever a server, a store or a network can do; nothing is lost by it
                if isinstance(error, FileNotFoundError) and not path.is_file():
                    return True  # a newer message took its place while it was read
                self._writer = None
                if not remembered:
                    self.warn(f"MLflow at {self._uri} does not take everything ({one_line(error)[:300]})")
                    return False
        return False

    def warn(self, text: str) -> None:
        text = without_password(text)
        if text not in self._warned:
            self._warned.add(text)
            print(f"warning: {text}", file=sys.stderr)


def _connected(uri: str, out: Path, warn: Any) -> MlflowWriter:
    quiet_mlflow()
    artifacts = None
    file = sqlite_path(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        make_store(file)
        artifacts = file.parent / ARTIFACTS  # MLflow would put them into the working directory
        artifacts.mkdir(exist_ok=True)
        relocated(uri)
    elif uri.startswith(DATABASES):
        artifacts = out / ARTIFACTS
    return MlflowWriter(uri, out, artifacts, warn)


def sync(out: Path, tracking_uri: str | None = None, patience: float = PATIENCE_SECONDS) -> tuple[int, int]:
    """Send what earlier runs could not; the numbers of messages sent and left."""
    uri = tracking_uri or default_uri(out)
    outbox = outbox_for(out, uri)
    waiting = len(outbox.waiting())
    if not waiting:
        return 0, 0
    sender = Sender(uri, out, outbox)
    sender.wake()
    left = sender.close(patience)
    return waiting - left, left


def waiting_elsewhere(out: Path, tracking_uri: str | None = None) -> list[str]:
    """A line for each other server for which messages wait in an output folder, with the command that sends them."""
    mine, own = (outbox_folder(out, uri) for uri in (tracking_uri or default_uri(out), default_uri(out)))
    lines = []
    for folder in sorted(path for path in own.parent.glob("*/") if path not in (mine, called_folder(out))):
        messages = len(Outbox(folder).waiting())
        if not messages:
            continue
        note = folder / ADDRESS
        if folder == own:
            server, command = "the store of the output folder", sync_command(out)
        elif note.is_file():
            server = note.read_text(encoding="utf-8").strip()
            command = sync_command(out, server)
        else:  # of an earlier version, which kept no address
            server, command = f"another server (in {folder})", sync_command(out, "URI")
        wait = "1 message waits" if messages == 1 else f"{messages} messages wait"
        lines.append(f"{wait} for {server}: `{command}`")
    return lines


def sync_command(out: Path, shown_uri: str = "") -> str:
    """What sends the messages for a server, to be copied; without an address those for the store of the folder."""
    server = ["--tracking-uri", shown_uri] if shown_uri else []
    return shlex.join(["tags-bench", "sync", *server, "--out", str(out)])


def outbox_for(out: Path, uri: str) -> Outbox:
    """The outbox for a server, with what was kept apart when a slash at the end of an address counted."""
    folder = outbox_folder(out, uri)
    if uri == default_uri(out):
        return Outbox(folder)
    address = _server_of(uri)
    outbox = Outbox(folder, address)
    outbox.take_in(folder.with_name(digest(f"{address}/")))
    return outbox


def outbox_folder(out: Path, uri: str) -> Path:
    """Where messages for a server wait; a moved output folder keeps those for its own store."""
    own = uri == default_uri(out)
    return out / "mlflow-outbox" / ("own-store" if own else digest(_server_of(uri)))


def _server_of(uri: str) -> str:
    """An address without a password; that of a server is the same with a slash at its end."""
    shown = without_password(uri)
    return shown.rstrip("/") if shown.startswith(("http://", "https://")) else shown
