"""What the writer asks of MLflow: runs found by their tags, and values put into them once."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results.mlflow.store import experiment_name
from benchmarks.results.mlflow.values import KEY_TAG, PARENT_TAG, filter_of

PARAM_LIMIT = 500
BATCH = 500
PLACES = b"tags-bench.places"
"""Metadata of a file of records: which rows of the unit's it has."""

Warn = Callable[[str], None]


class Runs:
    """The runs of one server. Methods raise whatever MLflow and its store raise."""

    def __init__(self, uri: str, artifacts: Path | None, warn: Warn) -> None:
        """Connect.

        Args:
            artifacts: where a new experiment of a local store keeps its artifacts.
        """
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self._artifacts, self._warn = artifacts, warn
        self._experiments: dict[str, str] = {}
        self._children: dict[str, dict[str, Any]] = {}

    def experiment(self, suite: str) -> str:
        """The experiment of a suite; made if it is new, and restored if somebody deleted it."""
        name = experiment_name(suite)
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                location = self._artifacts.resolve().as_uri() if self._artifacts is not None else None
                self._experiments[name] = str(self.client.create_experiment(name, artifact_location=location))
                # without it the page of an experiment opens on traces, of which there are none
                self.client.set_experiment_tag(
                    self._experiments[name], "mlflow.experimentKind", "custom_model_development"
                )
            else:
                if found.lifecycle_stage != "active":
                    self.client.restore_experiment(found.experiment_id)
                    self._warn(f"the MLflow experiment '{name}' had been deleted and is restored")
                self._experiments[name] = str(found.experiment_id)
        return self._experiments[name]

    # Runs

    def create(self, experiment: str, name: str, tags: Mapping[str, str], start: float | None = None) -> str:
        when = None if start is None else milliseconds(start)
        run = self.client.create_run(experiment, start_time=when, run_name=name, tags=dict(tags))
        return str(run.info.run_id)

    def find(self, experiment: str, tags: Mapping[str, str]) -> Any:
        """The newest run of an experiment that carries all these tags, or None."""
        return next(iter(self.search(experiment, tags)), None)

    def search(self, experiment: str, tags: Mapping[str, str]) -> Iterable[Any]:
        """The runs of an experiment that carry all these tags, the newest first."""
        return search_by_tags(self.client, [experiment], tags)

    def child(self, experiment: str, parent: str, key: str) -> Any:
        """The child of a run that has this key, as it was when the children were read; or None."""
        return self.children(experiment, parent).get(key)

    def children(self, experiment: str, parent: str) -> dict[str, Any]:
        """The children of a run by their keys; read once."""
        if parent not in self._children:
            runs = list(self.search(experiment, {PARENT_TAG: parent}))
            self._children[parent] = {run.data.tags.get(KEY_TAG, ""): run for run in reversed(runs)}
        return self._children[parent]

    def changed(self, parent: str) -> None:
        """The children of a run are not those that were read."""
        self._children.pop(parent, None)

    # Their content

    def params(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Parameters cannot be changed in MLflow: those that are there stay."""
        from mlflow.entities import Param

        already = self.client.get_run(run_id).data.params
        new = [Param(key, str(value)[:PARAM_LIMIT]) for key, value in values.items() if key not in already]
        for start in range(0, len(new), 100):
            self.client.log_batch(run_id, params=new[start : start + 100])

    def metrics(self, run_id: str, values: Mapping[str, Any], when: int, step: int = 0) -> None:
        """Time (milliseconds) and step come from what is told: MLflow keeps one of two points that are equal in all."""
        self.points(run_id, [(name, value, when, step) for name, value in values.items()])

    def points(self, run_id: str, points: Iterable[tuple[str, Any, int, int]]) -> None:
        """Points of curves: name, value, time in milliseconds, step."""
        from mlflow.entities import Metric

        finite = [Metric(name, float(v), when, step) for name, v, when, step in points if math.isfinite(float(v))]
        for start in range(0, len(finite), BATCH):
            self.client.log_batch(run_id, metrics=finite[start : start + BATCH])

    def tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def json(self, run_id: str, content: Any, name: str) -> None:
        self.client.log_text(run_id, json.dumps(content, indent=2), name)

    def table(self, run_id: str, rows: pd.DataFrame, name: str) -> None:
        """A table that MLflow's pages show; written whole, where `log_table` would append to what is there."""
        plain = json.loads(rows.to_json(orient="split", index=False))
        self.client.log_dict(run_id, {"columns": plain["columns"], "data": plain["data"]}, name)
        self.client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": name, "type": "table"}]))

    def parquet(self, run_id: str, rows: pd.DataFrame, chosen: pd.Series, name: str) -> None:
        """Some rows of a table; the file has the types of all of it, and says which rows they are."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = chosen.to_numpy(bool)
        table = pa.Table.from_pandas(rows, preserve_index=False).filter(pa.array(wanted))
        places = json.dumps(wanted.nonzero()[0].tolist()).encode()
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), PLACES: places})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            pq.write_table(table, path, compression="zstd")
            self.client.log_artifact(run_id, str(path))

    def dataset(self, run_id: str, description: Mapping[str, Any]) -> None:
        """The test set as a dataset input: a name and one digest for every method, never the volumes."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=str(description["dataset"]),
            digest=dataset_digest(description),
            source_type="tags-bench",
            source=json.dumps({"dataset": description["dataset"], "fold": description["fold"]}),
            profile=json.dumps({"test cases": len(description["cases"])}),
        )
        tags = [InputTag("mlflow.data.context", "evaluation"), InputTag("synthetic", str(description["synthetic"]))]
        self.client.log_inputs(run_id, [DatasetInput(dataset, tags)])


def dataset_digest(description: Mapping[str, Any]) -> str:
    """Of the content of the evaluated files."""
    return str(description.get("cases_digest") or description["dataset_version"])[:36]


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def search_by_tags(client: Any, experiments: list[str], tags: Mapping[str, str]) -> Iterable[Any]:
    """The active runs of some experiments that carry all these tags, the newest first.

    The runs that come are compared: a filter may let in others, see `filter_of`.
    """
    query = filter_of(tags)
    token = None
    while True:
        page = client.search_runs(
            experiments, filter_string=query, order_by=["attributes.start_time DESC"], page_token=token
        )
        yield from (run for run in page if all(run.data.tags.get(name) == value for name, value in tags.items()))
        token = page.token
        if not token:
            return
