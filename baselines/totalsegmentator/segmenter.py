"""TotalSegmentator through the function of its package.

`totalsegmentator.python_api.totalsegmentator` does all of the work: it finds the organ, crops, resamples, runs nnU-Net
and brings the label map back to the scan's grid. Around it the wrapper keeps the package from what a benchmark cannot
allow: no network (models are there before, usage statistics are off), no models or settings of the home folder, no
unpickling of what a checkpoint says, no worker processes, no more threads than the worker was given.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np
import torch

from baselines.checkpoints import read_checkpoint
from baselines.lesion_words import Lesion, lesion_of, organ_of
from baselines.totalsegmentator.archive import unpack
from baselines.totalsegmentator.tasks import HEPATIC, LIVER, LUNG, Task
from benchmarks.common.errors import UserError
from benchmarks.contestants import PromptKind, Segmenter, Session, Target
from benchmarks.contestants.precision import finite_by_channel
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.prompting.prompts import Prompts

_HOME = {"totalseg_id": "tags-bench", "send_usage_stats": False, "prediction_counter": 0,
         "statistics_disclaimer_shown": True}  # fmt: skip


def build_liver_lesions(config: Mapping[str, Any], device: str) -> TotalSegmentator:
    """The factory of `totalsegmentator-liver`."""
    return TotalSegmentator(LIVER, "totalsegmentator-liver", config, device)


def build_liver_vessels(config: Mapping[str, Any], device: str) -> TotalSegmentator:
    """The factory of `totalsegmentator-hepatic`."""
    return TotalSegmentator(HEPATIC, "totalsegmentator-hepatic", config, device)


def build_lung_nodules(config: Mapping[str, Any], device: str) -> TotalSegmentator:
    """The factory of `totalsegmentator-lung`."""
    return TotalSegmentator(LUNG, "totalsegmentator-lung", config, device)


class TotalSegmentator(Segmenter):
    """One task of TotalSegmentator.

    Settings (keys of `config`):
        checkpoint: the archive of the task's model.
        organs: the archive of the model that finds the organ.
    """

    def __init__(self, task: Task, method: str, config: Mapping[str, Any], device: str) -> None:
        from totalsegmentator.map_to_binary import class_map

        self.task, self.method, self.device = task, method, device
        (self.value,) = (value for value, name in class_map[task.name].items() if name == task.lesion)
        self._folder = tempfile.TemporaryDirectory(prefix="totalsegmentator-")  # goes with this object
        self.home = Path(self._folder.name)
        (self.home / "config.json").write_text(json.dumps(_HOME), encoding="utf-8")
        self.results = self.home / "nnunet" / "results"
        self.results.mkdir(parents=True)
        for setting, model in (("checkpoint", task.model), ("organs", task.organs)):
            unpack(config[setting], model.dataset, method, self.results)

    def open(self, volume: Volume, target: Target) -> TotalSegmentatorSession:
        """A session that segments when it is first asked. Raises UserError for a target that is not the task's."""
        if organ_of(target) != self.task.organ or lesion_of(target) in (Lesion.NONE, Lesion.CYST):
            raise UserError(f"{self.method}: segments lesions of the {self.task.organ}; the target is '{target.text}'")
        return TotalSegmentatorSession(self, volume)

    def segmented(self, volume: Volume) -> BoolArray:
        """The lesions of a volume, on its own grid."""
        from totalsegmentator.python_api import totalsegmentator

        image = nib.Nifti1Image(volume.array, volume.affine)
        try:
            with self._kept_in(), tempfile.TemporaryDirectory(dir=self.home) as out:
                # a file, because without one the package segments the whole scan where it found no organ
                result = totalsegmentator(
                    image, Path(out) / "mask.nii.gz", ml=True, task=self.task.name, quiet=True, nr_thr_saving=1,
                    device="gpu" if self.device == "cuda" else self.device.replace("cuda", "gpu"),
                )  # fmt: skip
                mask = np.asarray(result.dataobj) == self.value
        except SystemExit as error:  # the package's way to report: an actor must not end by it
            raise RuntimeError(f"TotalSegmentator ended itself (exit code {error.code})") from error
        return mask

    @contextlib.contextmanager
    def _kept_in(self) -> Iterator[None]:
        """Folders, threads and the loading of checkpoints as the bench needs them, put back afterwards."""
        # The package replaces functions of nnU-Net when this is imported: before ours, or ours would be lost.
        import totalsegmentator.nnunet  # noqa: F401
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
        places = {"TOTALSEG_HOME_DIR": str(self.home), "TOTALSEG_WEIGHTS_PATH": str(self.results)}
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, places))
            stack.enter_context(mock.patch.object(torch, "load", _reader(torch.load)))
            stack.enter_context(mock.patch.object(multiprocessing, "cpu_count", return_value=threads))
            stack.enter_context(mock.patch.object(nnUNetPredictor, "predict_from_files", _one_after_the_other))
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            try:
                yield
            finally:
                torch.set_num_threads(threads)
                torch.backends.cudnn.benchmark = benchmark


def _reader(load: Callable[..., Any]) -> Callable[..., Any]:
    """In place of `torch.load`: tensors and plain values of a checkpoint, nothing that could act."""

    def read(path: Any, *_: Any, **__: Any) -> Any:
        with mock.patch.object(torch, "load", load):  # what the safe reading itself uses
            return read_checkpoint(path)

    return read


def _one_after_the_other(
    predictor: Any, files: Any, out: Any, save_probabilities: bool = False, overwrite: bool = True, **_: Any
) -> Any:
    """nnU-Net's prediction without its pools: the same steps in this process.

    Another pool lists the files of a folder, and can wait for ever for a process that was ended while it started: the
    list, one channel for each case, is made here. Logits of NaN, which nnU-Net takes for background, are an error.
    """
    cases = [[str(path)] for path in sorted(Path(files).glob("*_0000.nii.gz"))]
    predicted = predictor.predict_logits_from_preprocessed_data

    def checked(data: torch.Tensor) -> torch.Tensor:
        return finite_by_channel(predicted(data))

    with mock.patch.object(predictor, "predict_logits_from_preprocessed_data", checked):
        return predictor.predict_from_files_sequential(cases, out, save_probabilities, overwrite)


class TotalSegmentatorSession(Session):
    """One volume; the result does not depend on prompts, so it is made once."""

    def __init__(self, segmenter: TotalSegmentator, volume: Volume) -> None:
        self.segmenter, self.volume = segmenter, volume
        self._result: BoolArray | None = None

    def segment(self, prompts: Prompts) -> BoolArray:
        """The lesion mask; a copy, so that the caller may write into it."""
        if prompts.kinds != {PromptKind.NONE}:
            raise UserError(f"{self.segmenter.method}: is automatic and takes no prompt")
        if self._result is None:
            self._result = self.segmenter.segmented(self.volume)
        return self._result.copy()
