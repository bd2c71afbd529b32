"""MLflow's own server on the store of an output folder."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from benchmarks.common.addresses import sqlite_path
from benchmarks.common.errors import UserError, one_line
from benchmarks.results.mlflow.store import ARTIFACTS, default_uri, experiment_name, quiet_mlflow, relocated
from benchmarks.results.mlflow.view import LEADERBOARD_VIEW, view_link


def opened_store(out: Path, suite: str) -> tuple[str, str]:
    """The store of an output folder, put right if the folder was moved, and the page of a suite in it.

    Raises:
        UserError: there is no store, MLflow cannot read it, or it has no run of the suite.
    """
    uri = default_uri(out)
    file = sqlite_path(uri)
    if file is None or not file.is_file():
        raise UserError(f"{out}: no MLflow store there; `tags-bench run` makes it, or name another --out")
    known = _suites_in(uri, file)
    if suite not in known:
        raise UserError(f"{file}: no run of suite '{suite}' (have: {', '.join(sorted(known)) or 'none'})")
    return uri, view_link(known[suite], LEADERBOARD_VIEW)


def _suites_in(uri: str, file: Path) -> dict[str, str]:
    """The suites of a store, with the ids of their experiments; artifacts are looked for where they lie now."""
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    try:
        experiments = MlflowClient(tracking_uri=relocated(uri)).search_experiments()
    except Exception as error:  # SQLite's, SQLAlchemy's, MLflow's own
        raise UserError(
            f"{file}: MLflow cannot read this store ({one_line(error)[:200]}); move it away, and the next "
            "`tags-bench run` writes another from the records"
        ) from error
    prefix = experiment_name("")
    return {one.name.removeprefix(prefix): str(one.experiment_id) for one in experiments if one.name.startswith(prefix)}


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
