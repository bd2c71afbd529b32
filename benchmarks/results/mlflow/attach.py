"""Files that were made of a run after it, such as its report, become artifacts of its MLflow run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError, one_line
from benchmarks.common.identity import digest
from benchmarks.common.output_lock import writing_to
from benchmarks.results.mlflow.called import last_call
from benchmarks.results.mlflow.sink import MlflowSink

REPORT = "report.html"


def attach(out: Path, units: Iterable[Mapping[str, Any]], files: Mapping[str, Path], private: bool = False) -> str:
    """Add files to the MLflow run of the suite that was called last from an output folder; the newest of a name stays.

    They go through the outbox: a server that is away costs a warning, and the next run or `tags-bench sync` sends them.

    Args:
        units: the descriptions of what the files show.
        files: artifact name → file.
        private: they hold scans of patients, which go into the store of the output folder and to no server.

    Returns:
        Where they are, or why not, in one line; empty if there is nothing that they could be added to.
    """
    shown, out = list(units), out.resolve()
    suites = {str(unit["suite"]) for unit in shown}
    called = last_call(out, suites.pop()) if len(suites) == 1 else None
    if called is None or not {str(unit["unit"]) for unit in shown} & set(called.units):
        return ""
    if private and called.uri:
        return f"not sent to MLflow at {called.uri}, because it holds scans; --no-scans makes one that is"
    try:
        sink = MlflowSink(out, called.uri or None)
        sink.go_on(called)
        for name, path in files.items():
            sink.attach(path, _artifact_name(name))
    except (OSError, UserError) as error:  # a folder of somebody else, or one in which MLflow can keep no store
        return f"not in MLflow: {one_line(error)[:300]}"
    try:
        with writing_to(out, "report"):
            left = sink.close()
    except UserError:  # a run is writing there
        return f"the run that goes on sends it to MLflow ({sink.shown_uri})"
    return "" if left else f"in MLflow ({sink.shown_uri}), as an artifact of the run of the suite"


def _artifact_name(name: str) -> str:
    """A name that every store of artifacts takes, and that no other name becomes."""
    plain = re.sub(r"[^A-Za-z0-9_./-]", "_", name)
    return plain if plain == name else f"{Path(plain).with_suffix('')}-{digest(name, 8)}{Path(plain).suffix}"
