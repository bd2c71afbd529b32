"""MLflow → records: what a server holds of a suite, as the records of its output folder say it."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common.addresses import sqlite_path, without_password
from benchmarks.common.errors import UserError, one_line
from benchmarks.results.mlflow.runs import PLACES, search_by_tags
from benchmarks.results.mlflow.store import quiet_mlflow, relocated
from benchmarks.results.mlflow.values import (
    CALLED_TAG,
    KEY_TAG,
    OUT_TAG,
    PARENT_TAG,
    PLAN_TAG,
    SUITE_TAG,
    protocols_of,
    result_key,
)
from benchmarks.results.record_index import those_that_count
from benchmarks.results.records import upgraded, with_newest_patients


def records_from_mlflow(uri: str, suite: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The rows and unit descriptions of a suite on an MLflow server.

    They are those of the output folder that was called last: the units that count, in the order of the calls, as
    `RecordStore.read_suite` gives them.

    Raises:
        UserError: the server does not answer, or has no run of that suite.
    """
    shown, file = without_password(uri), sqlite_path(uri)
    if file is not None and not file.is_file():
        raise UserError(f"MLflow at '{shown}' cannot be read: no such file")  # MLflow would create an empty store
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    try:
        source = _Source(relocated(uri), MlflowClient(tracking_uri=uri))
        calls = source.calls(suite)
        if not calls:
            raise UserError(f"MLflow at '{shown}' has no run of suite '{suite}'")
        found = [source.unit(call, unit, latest) for call, unit, latest in source.current(calls)]
    except UserError:
        raise
    except Exception as error:  # MLflow's own, the database's, the network's, the file system's
        reason = without_password(one_line(error))[:200]
        raise UserError(f"MLflow at '{shown}' cannot be read: {reason}") from error
    frames, units = [rows for rows, _ in found if not rows.empty], [unit for _, unit in found]
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return with_newest_patients(rows, units), units


class _Source:
    """A server that is read."""

    def __init__(self, uri: str, client: Any) -> None:
        self.uri, self.client = uri, client
        self._results: dict[str, dict[str, Any]] = {}

    def calls(self, suite: str) -> list[Any]:
        """The parent runs of the output folder that was called last, the oldest first."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        runs = search_by_tags(self.client, experiments, {SUITE_TAG: suite}) if experiments else []
        parents = sorted((run for run in runs if run.data.tags.get(PLAN_TAG)), key=_called_at)
        return [run for run in parents if run.data.tags.get(OUT_TAG) == parents[-1].data.tags.get(OUT_TAG)]

    def current(self, calls: list[Any]) -> list[tuple[Any, dict[str, Any], bool]]:
        """The units that count, as in the records, each with its call and whether that is the latest one."""
        units = [(call, unit) for call in calls for unit in json.loads(self._artifact(call, "units.json"))]
        counting = [units[place] for place in those_that_count(enumerate(unit for _, unit in units))]
        return [(call, unit, call is calls[-1]) for call, unit in counting]

    def unit(self, call: Any, unit: Mapping[str, Any], latest: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The rows of a unit, in the order of its records, and its description."""
        if call.info.run_id not in self._results:
            children = search_by_tags(self.client, [call.info.experiment_id], {PARENT_TAG: call.info.run_id})
            self._results[call.info.run_id] = {child.data.tags.get(KEY_TAG): child for child in children}
        results = self._results[call.info.run_id]
        keys = [result_key(unit["key"], protocol) for protocol in protocols_of(unit)]
        runs = [results[key] for key in keys if key in results]
        described = json.loads(self._artifact(runs[0], "unit.json")) if runs else unit
        rows = _together([self._artifact(run, "records.parquet") for run in runs])
        return upgraded(rows, without_password(self.uri)), {"key": unit["key"], **described, "latest_call": latest}

    def _artifact(self, run: Any, name: str) -> bytes:
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory() as folder:
            path = download_artifacts(
                run_id=run.info.run_id, artifact_path=name, dst_path=folder, tracking_uri=self.uri
            )
            return Path(path).read_bytes()


def _together(files: list[bytes]) -> pd.DataFrame:
    """The rows of all protocols of a unit, in the order of its records."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(io.BytesIO(content)) for content in files]
    if not tables:
        return pd.DataFrame()
    places = [place for table in tables for place in json.loads(table.schema.metadata[PLACES])]
    rows = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    return rows.iloc[np.argsort(places, kind="stable")].reset_index(drop=True)


def _called_at(run: Any) -> tuple[str, int]:
    return run.data.tags.get(CALLED_TAG, ""), run.info.start_time
