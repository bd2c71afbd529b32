"""MLflow as a sink: results are sent there, and can be read from there; it decides nothing.

A run puts messages into an outbox on disk (`outbox`), one thread sends them (`sender`), and `writer` turns each into
runs, metrics, artifacts and models, so that sending it again changes nothing. Importing this loads no `mlflow`.
"""

from __future__ import annotations

from benchmarks.results.mlflow.attach import REPORT, attach
from benchmarks.results.mlflow.reader import records_from_mlflow
from benchmarks.results.mlflow.sender import outbox_folder, sync, waiting_elsewhere
from benchmarks.results.mlflow.sink import MlflowSink
from benchmarks.results.mlflow.store import default_uri, experiment_name, quiet_mlflow, relocated
from benchmarks.results.mlflow.summary import Summary, summary_of

__all__ = [
    "REPORT",
    "MlflowSink",
    "Summary",
    "attach",
    "default_uri",
    "experiment_name",
    "outbox_folder",
    "quiet_mlflow",
    "records_from_mlflow",
    "relocated",
    "summary_of",
    "sync",
    "waiting_elsewhere",
]
