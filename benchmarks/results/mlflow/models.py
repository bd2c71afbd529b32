"""Trained models in MLflow: logged with their files, registered by method and data set, with their row of results.

Files are safetensors and JSON; whatever else lies in a checkpoint (a tool's own pickles) stays where it is, and the
model then says where. Nothing is pickled, and nothing that is logged runs code when it is read.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results.mlflow.runs import BATCH, Runs, dataset_digest
from benchmarks.results.mlflow.values import CHECKPOINT_TAG, KIND_TAG, RESULT, TRAINING, synthetic_tags

PLAIN = (".safetensors", ".json")
LARGEST_BYTES = 512 * 2**20
"""A model with more is not copied to MLflow; it says where its files are."""
ROW = ("dice", "dice_low", "dice_high", "nsd_at_2mm", "hd95_mm")
"""What a model shows of its results, `<metric>/<protocol>`."""


class Models:
    """The models of one server."""

    def __init__(self, runs: Runs, remote: bool) -> None:
        self.runs, self.client, self._remote = runs, runs.client, remote

    def log(self, experiment: str, description: Mapping[str, Any], folder: Path) -> None:
        """Log and register the checkpoint of a training, once; link the results that are there already."""
        model = self._find(experiment, str(description["checkpoint"]))
        training = self.runs.find(experiment, self._of(description, TRAINING))
        source = str(training.info.run_id) if training is not None else None
        if model is None:
            model = self._logged(experiment, description, folder, source)
        if not self._is_registered(description, model):
            self._register(description, model, source)
        for run in self.runs.search(experiment, self._of(description, RESULT)):
            self._link(model, run, description, str(run.data.tags["tagsbench.protocol"]))

    def link_result(self, experiment: str, run_id: str, description: Mapping[str, Any], protocol: str) -> None:
        """Name the model that gave a result, and give the model its row; nothing if it was not logged (yet)."""
        checkpoint = str(description["checkpoint"])
        model = self._find(experiment, checkpoint) if checkpoint else None
        if model is not None:
            self._link(model, self.client.get_run(run_id), description, protocol)

    def _of(self, description: Mapping[str, Any], kind: str) -> dict[str, str]:
        return {CHECKPOINT_TAG: str(description["checkpoint"]), KIND_TAG: kind}

    def _find(self, experiment: str, checkpoint: str) -> Any:
        """The whole model of a checkpoint; one whose logging was cut short is left to MLflow as pending."""
        query = f"tags.`{CHECKPOINT_TAG}` = '{checkpoint}'"
        found = self.client.search_logged_models([experiment], filter_string=query)
        return next((model for model in found if str(model.status) == "READY"), None)

    def _logged(self, experiment: str, description: Mapping[str, Any], folder: Path, source: str | None) -> Any:
        from mlflow.entities import LoggedModelOutput

        files = [path for path in sorted((folder / "checkpoint").glob("*")) if path.suffix in PLAIN]
        size = sum(path.stat().st_size for path in files)
        kept = any(path.suffix == ".safetensors" for path in files) and size <= LARGEST_BYTES
        tags = {CHECKPOINT_TAG: str(description["checkpoint"]), "folder": folder.name, "bytes": str(size)}
        model = self.client.create_logged_model(
            experiment,
            name=_plain(str(description["method"])),
            source_run_id=source,
            tags=tags | {"mlflow.model.isExternal": str(not kept).lower()} | synthetic_tags(description),
            params={"method": str(description["method"]), "dataset": str(description["dataset"])},
            model_type="segmenter",
        )
        if kept:
            with tempfile.TemporaryDirectory() as place:
                for path in files:
                    shutil.copy(path, place)
                self.client.log_model_artifacts(model.model_id, place)
        if source is not None:
            self.client.log_outputs(source, models=[LoggedModelOutput(model.model_id, step=0)])
        return self.client.finalize_logged_model(model.model_id, "READY")

    # The registry

    def _name(self, description: Mapping[str, Any]) -> str:
        return f"{_plain(str(description['method']))} on {_plain(str(description['dataset']))}"

    def _is_registered(self, description: Mapping[str, Any], model: Any) -> bool:
        versions = self.client.search_model_versions(f"name = '{self._name(description)}'")
        return any(version.tags.get(CHECKPOINT_TAG) == model.tags[CHECKPOINT_TAG] for version in versions)

    def _register(self, description: Mapping[str, Any], model: Any, source: str | None) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self._name(description))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        self.client.create_model_version(
            self._name(description),
            source=f"models:/{model.model_id}" if self._remote else model.artifact_location,
            run_id=source,
            tags={CHECKPOINT_TAG: model.tags[CHECKPOINT_TAG]} | synthetic_tags(description),
            model_id=model.model_id,
        )

    # Results

    def _link(self, model: Any, run: Any, description: Mapping[str, Any], protocol: str) -> None:
        """The run names the model as its input; the model gets the row, beside the training that it comes from."""
        from mlflow.entities import LoggedModelInput, Metric

        if run.inputs is None or not any(one.model_id == model.model_id for one in run.inputs.model_inputs or ()):
            self.client.log_inputs(run.info.run_id, models=[LoggedModelInput(model.model_id)])
        if model.source_run_id is None:
            return
        inputs = run.inputs.dataset_inputs if run.inputs is not None else []
        test_set = inputs[0].dataset if inputs else None
        name = test_set.name if test_set is not None else str(description["dataset"])
        digest = test_set.digest if test_set is not None else dataset_digest(description)
        points = [
            Metric(
                f"{key}/{protocol}", run.data.metrics[key], int(run.info.start_time), 0,
                model_id=model.model_id, dataset_name=name, dataset_digest=digest, run_id=model.source_run_id,
            )
            for key in ROW
            if key in run.data.metrics
        ]  # fmt: skip
        if points:
            self.client.log_batch(model.source_run_id, metrics=points[:BATCH])


def _plain(name: str) -> str:
    """A name that MLflow takes for models: no / : . % or quotes."""
    return "".join("-" if letter in "/:.%\"'" else letter for letter in name)
