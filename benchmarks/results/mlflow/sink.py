"""Records → MLflow. MLflow is a sink: a server that is away, slow or wrong costs a warning, no result and no waiting.

The driver puts messages into an outbox on disk, and one thread of it sends them. What is not sent when the run ends
is sent by the next run into the same output folder, or by `tags-bench sync`. Workers never see the server.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from benchmarks.common.addresses import without_password
from benchmarks.common.environment import manifest
from benchmarks.common.errors import one_line
from benchmarks.common.files import atomically
from benchmarks.common.identity import digest
from benchmarks.results.mlflow.called import Called, note_call
from benchmarks.results.mlflow.follower import Follower
from benchmarks.results.mlflow.outbox import Kind
from benchmarks.results.mlflow.sender import PATIENCE_SECONDS, Sender, outbox_for, sync_command
from benchmarks.results.mlflow.store import default_uri
from benchmarks.results.mlflow.summary import Summary
from benchmarks.results.mlflow.values import tolerances_of
from benchmarks.results.records import key_of
from benchmarks.results.sweep import Trial

Status = Literal["FINISHED", "FAILED", "KILLED"]
Times = Mapping[str, float]
"""When something began and ended ("start", "end"), seconds since 1970."""


class MlflowSink:
    """The MLflow side of one output folder. No method waits for the server, and none fails because of it."""

    def __init__(self, out: Path, tracking_uri: str | None = None) -> None:
        """Send what is put here, and what an earlier run left, to a server or to the store of the output folder.

        Raises:
            UserError: the output folder has a name under which MLflow can keep no store.
        """
        self.uri = tracking_uri or default_uri(out)
        self._out = out
        self._outbox = outbox_for(out, self.uri)
        self._out_id = _identity_of(out)
        self._plan: dict[str, Any] = {}
        self._called_at = ""
        self._tolerances_mm: list[float] = []
        self._sender = Sender(self.uri, out, self._outbox)
        self._follower = Follower(self._log_curve)

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
        self._tolerances_mm = tolerances_of(units)
        described = [{"key": key_of(unit), **unit} for unit in units]
        content = {"plan": self._plan, "suite": suite, "units": described, "called_at": called_at, **_origin()}
        self._put("begin", f"{plan} {self._out_id}", content)
        uri = "" if self.uri == default_uri(self._out) else self.shown_uri
        try:
            note_call(self._out, Called(self._plan, uri, tuple(str(unit["unit"]) for unit in units)))
        except OSError as error:
            self._sender.warn(f"no report can be added to the MLflow run later ({one_line(error)[:300]})")

    def follow_training(self, description: Mapping[str, Any], curve: Path) -> None:
        """A training has begun that writes its curve into a file; it is drawn while it goes on."""
        self._follower.follow(str(description["checkpoint"]), description, curve)

    def log_training(self, description: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        """A training has just ended, as a run of its own; the suite's child, if there is one."""
        key = str(description["checkpoint"])
        self._follower.forget(key)
        self._put("training", key, self._training(description, figures, finished=True))

    def log_model(self, description: Mapping[str, Any], folder: Path) -> None:
        """A trained model is in a folder below the output folder: it is logged and registered."""
        place = os.path.relpath(folder, self._out)
        content = {
            "plan": self._plan,
            "out": self._out_id,
            "description": _without_cases(description),
            "folder": place,
        }
        self._put("model", str(description["checkpoint"]), content)

    def log_unit(
        self,
        description: Mapping[str, Any],
        rows: pd.DataFrame,
        training: Mapping[str, Any] | None,
        times: Times | None = None,
    ) -> None:
        """A unit is complete: a run for each of its protocols, with parameters, metrics, test set and tables.

        Args:
            training: figures of its training; what it cost is shown beside the results.
            times: of the evaluation.
        """
        figures = {key: value for key, value in (training or {}).items() if not isinstance(value, (list, dict))}
        content = {"plan": self._plan, "description": description, "training": figures, **_origin()}
        self._put("unit", key_of(description), content, rows, times)

    def log_sweep(
        self, description: Mapping[str, Any], trials: Sequence[Trial], sweep: str, ended: bool = True
    ) -> None:
        """A sweep so far: a parent run, one child per trial with a point for each rung; to be told at every change.

        Args:
            trials: in the order in which they were begun.
            sweep: its name; the same sweep is one run, whenever it goes on.
            ended: whether this is how it remains.
        """
        plain = [one.as_plain() for one in trials]
        content = {"description": description, "trials": plain, "ended": ended, **_origin()}
        self._put("sweep", digest([description["unit"], self._out_id, sweep]), content)

    def go_on(self, called: Called) -> None:
        """What is put from now on belongs to a run that was begun by an earlier call, and may be over."""
        self._plan = dict(called.plan)

    def attach(self, path: Path, name: str) -> None:
        """A file, such as a report, becomes an artifact of the run that was begun. A copy is kept; `close` sends it.

        Args:
            name: of the artifact; a later file of this name takes its place.

        Raises:
            OSError: it cannot be read, or kept.
        """
        with path.open("rb") as file:
            content = {"plan": self._plan, "name": name, "digest": hashlib.file_digest(file, "sha256").hexdigest()}
        self._outbox.put("file", f"{self._plan['plan']} {self._out_id} {name}", content, file=path)

    def end(self, summary: Summary, status: Status = "FINISHED") -> None:
        """The run of the suite is over, with its leaderboard."""
        rows = None if summary.board.empty else summary.board
        figures = {"rows": float(len(summary.board)), "failed_rows": float(summary.failed)}
        content = {"plan": self._plan, "figures": figures, "status": status, "called_at": self._called_at,
                   "note": summary.note, "tables": summary.tables, "tolerances_mm": self._tolerances_mm}  # fmt: skip
        self._put("end", f"{self._plan['plan']} {self._out_id}", content, rows)

    def close(self, patience: float = PATIENCE_SECONDS) -> int:
        """Wait while messages are being taken, at most `patience` seconds for one; the number that is left."""
        self._follower.close()
        if self._outbox.waiting():
            self._sender.wake()
        left = self._sender.close(patience)
        if left:
            command = sync_command(self._out, self._outbox.address)
            print(
                f"warning: {left} messages to MLflow at {self.shown_uri} are kept in {self._outbox.folder}; "
                f"the next run with this address, or `{command}`, sends them",
                file=sys.stderr,
            )
        return left

    def _training(self, description: Mapping[str, Any], figures: Mapping[str, Any], finished: bool) -> dict[str, Any]:
        content = {"plan": self._plan, "out": self._out_id, "description": _without_cases(description)}
        return {**content, "training": figures, "finished": finished, **_origin()}

    def _log_curve(self, description: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], times: Times) -> None:
        content = self._training(description, {"curve": curve, "config": {}}, finished=False)
        self._put("training", str(description["checkpoint"]), content, times=times)

    def _put(
        self,
        kind: Kind,
        key: str,
        content: Mapping[str, Any],
        rows: pd.DataFrame | None = None,
        times: Times | None = None,
    ) -> None:
        """Keep a message. A disk that does not take it costs a warning: the next call of the suite says it again."""
        try:
            self._outbox.put(kind, key, content, rows, times)
        except OSError as error:
            self._sender.warn(f"a message to MLflow cannot be kept in {self._outbox.folder} ({one_line(error)[:300]})")
        self._sender.wake()


def _identity_of(out: Path) -> str:
    """A name of an output folder that goes with it when it is moved."""
    path = out / "mlflow-outbox" / "identity"
    if not path.is_file():
        with atomically(path) as partial:
            partial.write_text(uuid.uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


def _without_cases(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description of a unit without what it says case by case: the rows do."""
    return {**description, "cases": [], "patients": {}}


def _origin() -> dict[str, Any]:
    """Who and what makes a run, and on which machine the driver is."""
    command = " ".join(["tags-bench", *sys.argv[1:2]]) if Path(sys.argv[0]).name == "tags-bench" else "tags-bench"
    return {"environment": manifest(), "source": command, "host": socket.gethostname(), "user": _user()}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
