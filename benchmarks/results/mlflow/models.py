"""Trained models in MLflow: logged with their files, registered by method and data set, with their row of results.

Files are safetensors and JSON; whatever else lies in a checkpoint (a tool's own pickles) stays where it is, and the
model then says where. Nothing is pickled, and nothing that is logged runs code when it is read.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.content import sha256_of
from benchmarks.common.identity import digest
from benchmarks.results.mlflow.runs import Runs
from benchmarks.results.mlflow.values import (
    CHECKPOINT_TAG,
    OUT_TAG,
    RESULT,
    TARGET_TAG,
    TRAINING,
    identity_tags,
    synthetic_tags,
)

PLAIN = (".safetensors", ".json")
LARGEST_BYTES = 512 * 2**20
"""A model with more is not copied to MLflow; it says where its files are."""
WEIGHTS_TAG = "tagsbench.weights"  # digest of the files of a model
ROW = ("dice", "dice_low", "dice_high", "nsd_at_2mm", "hd95_mm")
"""What a model shows of its results, `<metric>/<protocol>`."""


class Models:
    """The models of one server."""

    def __init__(self, runs: Runs, remote: bool) -> None:
        self.runs, self.client, self._remote = runs, runs.client, remote

    def log(self, experiment: str, description: Mapping[str, Any], out: str, folder: Path) -> None:
        """Log and register the checkpoint of a training, once; link the results that are there already.

        Args:
            out: identity of the output folder.
            folder: of the checkpoint.
        """
        files = [path for path in sorted((folder / "checkpoint").glob("*")) if path.suffix in PLAIN]
        weights = digest([[path.name, sha256_of(path)] for path in files])
        training = self.runs.find(experiment, identity_tags(TRAINING, description, out))
        source = None if training is None else str(training.info.run_id)
        model = self._find(experiment, description, out)
        if model is None or model.tags.get(WEIGHTS_TAG) != weights:
            tags = identity_tags("model", description, out) | {WEIGHTS_TAG: weights, "folder": folder.name}
            model = self._logged(experiment, description, tags | synthetic_tags(description), files, source)
        self._register(description, model, source)
        for run in self.runs.search(experiment, identity_tags(RESULT, description, out)):
            self._link(model, str(run.info.run_id), source)

    def link_result(self, experiment: str, run_id: str, description: Mapping[str, Any], out: str) -> None:
        """Name the model that gave a result, and give the model its row; nothing if it was not logged (yet)."""
        model = self._find(experiment, description, out) if description["checkpoint"] else None
        if model is not None:
            training = self.runs.find(experiment, identity_tags(TRAINING, description, out))
            source = None if training is None else str(training.info.run_id)
            self._link(model, run_id, source)

    def _find(self, experiment: str, description: Mapping[str, Any], out: str) -> Any:
        """The newest whole model of a checkpoint; one whose logging was cut short stays pending in MLflow."""
        tags = identity_tags("model", description, out)
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        newest_first = [{"field_name": "creation_time", "ascending": False}]
        found = self.client.search_logged_models([experiment], filter_string=query, order_by=newest_first)
        return next((model for model in found if str(model.status) == "READY"), None)

    def _logged(
        self,
        experiment: str,
        description: Mapping[str, Any],
        tags: Mapping[str, str],
        files: Sequence[Path],
        source: str | None,
    ) -> Any:
        from mlflow.entities import LoggedModelOutput

        size = sum(path.stat().st_size for path in files)
        kept = any(path.suffix == ".safetensors" for path in files) and size <= LARGEST_BYTES
        model = self.client.create_logged_model(
            experiment,
            name=_plain(str(description["method"])),
            source_run_id=source,
            tags={**tags, "mlflow.model.isExternal": str(not kept).lower()},
            params={"method": str(description["method"]), "dataset": str(description["dataset"]), "bytes": str(size)},
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

    def _register(self, description: Mapping[str, Any], model: Any, source: str | None) -> None:
        from mlflow.exceptions import MlflowException

        name = self._registered_name(description)
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        mine = {key: model.tags[key] for key in (CHECKPOINT_TAG, OUT_TAG, WEIGHTS_TAG)}
        versions = self.client.search_model_versions(f"name = '{name}'")
        if not any(mine.items() <= version.tags.items() for version in versions):
            self.client.create_model_version(
                name,
                source=f"models:/{model.model_id}" if self._remote else model.artifact_location,
                run_id=source,
                tags=mine | {TARGET_TAG: str(description["target"]["name"])} | synthetic_tags(description),
                model_id=model.model_id,
            )

    def _registered_name(self, description: Mapping[str, Any]) -> str:
        """`METHOD on DATASET`; with the target where that name is of another target of the data set."""
        name = f"{_plain(str(description['method']))} on {_plain(str(description['dataset']))}"
        target = str(description["target"]["name"])
        versions = self.client.search_model_versions(f"name = '{name}'")
        first = next((one.tags[TARGET_TAG] for one in versions if TARGET_TAG in one.tags), target)
        return name if first == target else f"{name}, {_plain(target)}"

    def _link(self, model: Any, run_id: str, source: str | None) -> None:
        """The run names the model as its input; the model gets the row, beside the training that it comes from."""
        from mlflow.entities import LoggedModelInput, Metric

        run = self.client.get_run(run_id)  # a search does not say which models a run has
        if not any(one.model_id == model.model_id for one in run.inputs.model_inputs):
            self.client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
        if source is None or not run.inputs.dataset_inputs:
            return
        test_set, protocol = run.inputs.dataset_inputs[0].dataset, run.data.tags["tagsbench.protocol"]
        row = [
            Metric(
                f"{key}/{protocol}", run.data.metrics[key], int(run.info.start_time), 0,
                model_id=model.model_id, dataset_name=test_set.name, dataset_digest=test_set.digest, run_id=source,
            )
            for key in ROW
            if key in run.data.metrics
        ]  # fmt: skip
        if row:
            self.client.log_batch(source, metrics=row)


def _plain(name: str) -> str:
    """A name that MLflow takes for models: no / : . % or quotes."""
    return "".join("-" if letter in "/:.%\"'" else letter for letter in name)
