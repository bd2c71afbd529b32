"""MLflow's own server on the store of an output folder."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from benchmarks.common.addresses import sqlite_path
from benchmarks.common.errors import UserError
from benchmarks.results.mlflow.store import ARTIFACTS, default_uri, experiment_name, quiet_mlflow, relocated
from benchmarks.results.mlflow.view import LEADERBOARD_VIEW, view_link


def opened_store(out: Path, suite: str) -> tuple[str, str]:
    """The store of an output folder, put right if the folder was moved, and the page of a suite in it.

    Raises:
        UserError: there is no store.
    """
    uri = default_uri(out)
    file = sqlite_path(uri)
    if file is None or not file.is_file():
        raise UserError(f"{out}: no MLflow store there; `tags-bench run` makes it, or name another --out")
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    found = MlflowClient(tracking_uri=relocated(uri)).get_experiment_by_name(experiment_name(suite))
    return uri, "" if found is None else view_link(str(found.experiment_id), LEADERBOARD_VIEW)


def server_command(uri: str, out: Path, port: int) -> list[str]:
    """The command that serves a store, to this machine only."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    return [
        *command,
        "--backend-store-uri",
        uri,
        "--artifacts-destination",
        (out / ARTIFACTS).as_uri(),
        "--workers",
        "1",
    ]


def free_port(port: int) -> bool:
    """Whether nobody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
