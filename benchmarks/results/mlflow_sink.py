"""Records → MLflow. MLflow is a sink: a server that is away, slow or wrong costs a warning, no result and no waiting.

The driver puts messages into an outbox on disk, and one thread of it sends them. What is not sent when the run ends
is sent by the next run into the same output folder, or by `tags-bench sync`. Workers never see the server.
"""

from __future__ import annotations

import getpass
import io
import json
import logging
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from benchmarks.common.addresses import sqlite_address, sqlite_path, without_password
from benchmarks.common.environment import manifest
from benchmarks.common.errors import UserError, one_line
from benchmarks.common.files import atomically, in_turn
from benchmarks.common.identity import digest
from benchmarks.results.mlflow_outbox import Kind, Outbox
from benchmarks.results.mlflow_writer import (
    CALLED_TAG,
    KEY_TAG,
    PARENT_TAG,
    PLAN_TAG,
    SUITE_TAG,
    MlflowWriter,
    search_by_tags,
)
from benchmarks.results.records import upgraded
from benchmarks.results.sweep import Trial

EXPERIMENT = "tags-bench"
PATIENCE_SECONDS = 10.0
"""How long the end of a run waits for a server that does not take another message."""
LONGEST_PAUSE_SECONDS = 60.0

Status = Literal["FINISHED", "FAILED", "KILLED"]


def default_uri(out: Path) -> str:
    """The SQLite store of an output folder, as an absolute URI. Raises UserError if MLflow cannot open one there."""
    return sqlite_address(out / "mlflow.db")


class MlflowSink:
    """The MLflow side of one output folder. No method waits for the server, and none raises because of it."""

    def __init__(self, out: Path, tracking_uri: str | None = None) -> None:
        """Send what is put here, and what an earlier run left, to a server or to the store of the output folder.

        Raises:
            UserError: the output folder has a name under which MLflow can keep no store.
        """
        self.uri = tracking_uri or default_uri(out)
        self._artifacts = None if tracking_uri else out / "mlflow-artifacts"
        self._outbox = Outbox(outbox_folder(out, self.uri))
        self._out_id = _identity_of(out)
        self._plan: dict[str, Any] = {}
        self._called_at = ""
        self._sender = _Sender(self.uri, self._artifacts, self._outbox)

    @property
    def shown_uri(self) -> str:
        """The address without a password."""
        return without_password(self.uri)

    def begin(self, suite: Mapping[str, Any], plan: str, synthetic: bool, units: Sequence[Mapping[str, Any]]) -> None:
        """A run of a suite begins; an earlier call of the same plan from the same output folder is continued.

        Args:
            plan: digest of what the run consists of.
            units: the descriptions of its units, in the order in which they are shown.
        """
        self._plan = {
            "suite": suite["name"],
            "seed": suite["seed"],
            "plan": plan,
            "synthetic": synthetic,
            "out": self._out_id,
            "user": _user(),
        }
        self._called_at = called_at = datetime.now(UTC).isoformat(timespec="microseconds")
        keys = [_key(unit) for unit in units]
        content = {"plan": self._plan, "suite": suite, "units": keys, "called_at": called_at, "environment": manifest()}
        self._put("begin", f"{plan} {self._out_id}", content)
        self._sender.wake()

    def log_unit(self, description: Mapping[str, Any], rows: pd.DataFrame, training: Mapping[str, Any] | None) -> None:
        """A unit is complete: parameters, metrics, dataset input and tables of a child run."""
        content = {"plan": self._plan, "description": description, "training": training}
        self._put("unit", _key(description), content, rows)
        self._sender.wake()

    def log_training(self, description: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        """A training without evaluation, as a run of its own."""
        content = {
            "description": {**description, "cases": []},
            "training": figures,
            "environment": manifest(),
        }
        self._put("training", str(description["checkpoint"]), content)
        self._sender.wake()

    def log_sweep(
        self, description: Mapping[str, Any], trials: Sequence[Trial], sweep: str, ended: bool = True
    ) -> None:
        """A sweep so far: a parent run, one child per trial with a point for each rung; to be told at every change.

        Args:
            trials: in the order in which they were begun.
            sweep: its name; the same sweep is one run, whenever it goes on.
            ended: whether this is how it remains.
        """
        content = {
            "description": description,
            "trials": [one.as_plain() for one in trials],
            "ended": ended,
            "environment": manifest(),
        }
        self._put("sweep", digest([description["unit"], self._out_id, sweep]), content)
        self._sender.wake()

    def end(self, leaderboard: pd.DataFrame | None, failed: int, status: Status = "FINISHED") -> None:
        """The run of the suite is over, with its leaderboard as a table."""
        rows = None if leaderboard is None or leaderboard.empty else leaderboard
        figures = {"rows": float(0 if rows is None else len(rows)), "failed_rows": float(failed)}
        content = {"plan": self._plan, "figures": figures, "status": status, "called_at": self._called_at}
        self._put("end", f"{self._plan['plan']} {self._out_id}", content, rows)
        self._sender.wake()

    def _put(self, kind: Kind, key: str, content: Mapping[str, Any], rows: pd.DataFrame | None = None) -> None:
        """Keep a message. A disk that does not take it costs a warning: the next call of the suite says it again."""
        try:
            self._outbox.put(kind, key, content, rows)
        except OSError as error:
            self._sender.warn(f"a message to MLflow cannot be kept in {self._outbox.folder} ({one_line(error)[:300]})")

    def close(self, patience: float = PATIENCE_SECONDS) -> int:
        """Wait while messages are being taken, at most `patience` seconds for one; the number that is left."""
        left = self._sender.close(patience)
        if left:
            print(
                f"warning: {left} messages to MLflow at {self.shown_uri} are kept in {self._outbox.folder}; "
                "the next run or `tags-bench sync` sends them",
                file=sys.stderr,
            )
        return left


class _Sender:
    """The thread that sends. A message that fails stays in the outbox and is tried again after a growing pause."""

    def __init__(self, uri: str, artifacts: Path | None, outbox: Outbox) -> None:
        self._uri, self._artifacts, self._outbox = uri, artifacts, outbox
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
        """Send one message; once more over a new connection if what the old one remembers may be what is wrong."""
        for _ in range(2):
            remembered = self._writer is not None
            try:
                self._writer = self._writer or _connected(self._uri, self._artifacts, self.warn)
                message = self._outbox.read(path)
                self._writer.send(message)
                self._outbox.sent(path, message)
                return True
            except Exception as error:  # whatever a server, a store or a network can do; nothing is lost by it
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


def _connected(uri: str, artifacts: Path | None, warn: Any) -> MlflowWriter:
    quiet_mlflow()
    file = sqlite_path(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        _make_store(file)
        artifacts = artifacts or file.parent / "mlflow-artifacts"  # MLflow would put them into the working directory
    return MlflowWriter(uri, EXPERIMENT, artifacts, warn)


def _make_store(file: Path) -> None:
    """An empty SQLite store, if there is none, in one go: MLflow cannot go on with one that it has half made."""
    from mlflow.tracking import MlflowClient

    try:
        sqlite_address(file)
    except UserError:
        return  # no plain path: an address with options, which MLflow reads by itself
    with in_turn(file.with_name(f".{file.name}.lock")):
        if not file.exists():
            with atomically(file) as partial:
                MlflowClient(tracking_uri=sqlite_address(partial)).search_experiments()


def sync(out: Path, tracking_uri: str | None = None, patience: float = PATIENCE_SECONDS) -> tuple[int, int]:
    """Send what earlier runs could not; the numbers of messages sent and left.

    Raises:
        UserError: nothing was ever kept for that server in this output folder.
    """
    uri = tracking_uri or default_uri(out)
    outbox = Outbox(outbox_folder(out, uri))
    waiting = len(outbox.waiting())
    if not waiting:
        return 0, 0
    sender = _Sender(uri, None if tracking_uri else out / "mlflow-artifacts", outbox)
    sender.wake()
    left = sender.close(patience)
    return waiting - left, left


def outbox_folder(out: Path, uri: str) -> Path:
    """Where messages for a server wait; a moved output folder keeps those for its own store."""
    own = uri == default_uri(out)
    return out / "mlflow-outbox" / ("own-store" if own else digest(without_password(uri)))


def _identity_of(out: Path) -> str:
    """A name of an output folder that goes with it when it is moved."""
    path = out / "mlflow-outbox" / "identity"
    if not path.is_file():
        with atomically(path) as partial:
            partial.write_text(uuid.uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _key(description: Mapping[str, Any]) -> str:
    target = description["target"]["name"]
    return str(
        description.get("key") or f"{description['dataset']}|{description['fold']}|{target}|{description['method']}"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def quiet_mlflow() -> None:
    """Keep MLflow's chatter off the terminal, its pickle loading off, and its patience with a server short."""
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which is ours, for --json
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def records_from_mlflow(uri: str, suite: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows and unit descriptions of the latest call of a suite on an MLflow server.

    Raises:
        UserError: the server does not answer, or has no run of that suite.
    """
    shown, file = without_password(uri), sqlite_path(uri)
    if file is not None and not file.is_file():
        raise UserError(f"MLflow at '{shown}' cannot be read: no such file")  # MLflow would create an empty store
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = search_by_tags(client, experiments, {SUITE_TAG: suite}) if experiments else []
        parents = [run for run in runs if run.data.tags.get(PLAN_TAG)]
        if not parents:
            raise UserError(f"MLflow at '{shown}' has no run of suite '{suite}'")
        latest = max(parents, key=_called_at)
        found = search_by_tags(client, [latest.info.experiment_id], {PARENT_TAG: latest.info.run_id})
        children = {child.data.tags.get(KEY_TAG): child.info.run_id for child in found}
        order = json.loads(_artifact(uri, latest.info.run_id, "units.json"))
        read = [_unit_from_mlflow(uri, children[key]) for key in order if key in children]
        frames, units = [rows for rows, _ in read], [unit for _, unit in read]
    except UserError:
        raise
    except Exception as error:  # MLflow's own, the database's, the network's, the file system's
        reason = without_password(one_line(error))[:200]
        raise UserError(f"MLflow at '{shown}' cannot be read: {reason}") from error
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(), units


def _called_at(run: Any) -> tuple[str, int]:
    return run.data.tags.get(CALLED_TAG, ""), run.info.start_time


def _unit_from_mlflow(uri: str, run_id: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    rows = pd.read_parquet(io.BytesIO(_artifact(uri, run_id, "records.parquet")))
    return upgraded(rows, without_password(uri)), json.loads(_artifact(uri, run_id, "unit.json"))


def _artifact(uri: str, run_id: str, name: str) -> bytes:
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory() as folder:
        path = download_artifacts(run_id=run_id, artifact_path=name, dst_path=folder, tracking_uri=uri)
        return Path(path).read_bytes()
