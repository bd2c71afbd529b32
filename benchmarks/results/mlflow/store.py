"""MLflow's SQLite store in an output folder: where it is, how it is made, and what happens when the folder is moved."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from benchmarks.common.addresses import sqlite_address, sqlite_path
from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically, in_turn

ARTIFACTS = "mlflow-artifacts"
"""The folder of artifacts, beside the store."""

_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns in which MLflow keeps where artifacts lie, always as a whole address."""


def experiment_name(suite: str) -> str:
    """The experiment that holds the runs of a suite."""
    return f"tags-bench/{suite}"


def default_uri(out: Path) -> str:
    """The SQLite store of an output folder, as an absolute URI. Raises UserError if MLflow cannot open one there."""
    return sqlite_address(out / "mlflow.db")


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
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # shows tracebacks of what it raises anyway


def make_store(file: Path) -> None:
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


def relocated(uri: str) -> str:
    """The same address; in a store whose folder was moved or copied, artifacts are looked for where they lie now.

    MLflow writes whole paths into its tables. Our stores have their artifacts beside them, in `mlflow-artifacts`: a
    path that ends so in another folder is one of before. Artifacts kept elsewhere stay as they are.
    """
    file = sqlite_path(uri)
    if file is None or not file.is_file() or not (file.parent / ARTIFACTS).is_dir():
        return uri
    here = (file.parent / ARTIFACTS).resolve().as_uri()
    with closing(sqlite3.connect(file, timeout=30.0)) as store, store:
        for before in _bases(store) - {here}:
            for table, column in _LOCATIONS:
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # names of our own, no input
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (here, len(before) + 1, before, len(before) + 1, f"{before}/"),
                )
    return uri


def _bases(store: sqlite3.Connection) -> set[str]:
    """The addresses of artifact folders that end as ours do."""
    try:
        locations = [row[0] for row in store.execute("SELECT artifact_location FROM experiments")]
    except sqlite3.OperationalError:
        return set()  # no store of MLflow, or not yet
    return {location for location in locations if location and location.endswith(f"/{ARTIFACTS}")}
