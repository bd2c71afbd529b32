"""Weights that the bench has trained know scans in RAS; those that a training begins with know them as released."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from baselines.sam3d_adapter.method import sam3d_adapter_tiny
from baselines.sam3d_adapter.segmenter import Sam3dAdapterSegmenter
from baselines.segvol.method import segvol_tiny
from baselines.segvol.segmenter import SegVolSegmenter, SegVolSession
from benchmarks.contestants import Budget, Method
from benchmarks.data.volume import FloatArray, Volume
from benchmarks.execution.training import load_segmenter
from benchmarks.execution.training_job import TrainingJob
from benchmarks.prompting.prompts import Click, Prompts
from tests.execution.training_cases import TARGET, loop_of, write_cases

pytestmark = pytest.mark.usefixtures("one_thread")

AS_STORED = {"orientation": "file"}  # as the official size has it
BOTH = pytest.mark.parametrize("method", [segvol_tiny, sam3d_adapter_tiny], ids=lambda method: method.name)


def job_of(method: Method, folder: Path, **changes: Any) -> TrainingJob:
    job = TrainingJob(method.name, AS_STORED, TARGET, write_cases(folder / "cases", 2), Budget(steps=1), seed=3)
    return replace(job, **changes)


def answer_of(segmenter: Any) -> FloatArray:
    """Logits or probabilities of a scan whose file runs from the right to the left and from the front to the back.

    A mask would say less: that of SegVol's fresh weights is empty.
    """
    array = np.random.default_rng(1).normal(40, 60, (44, 40, 24)).astype(np.float32)
    scan = Volume(array, np.diag([1.5, 1.5, 2.0, 1.0]), nib.orientations.axcodes2ornt(("L", "P", "S")))
    session, prompts = segmenter.open(scan, TARGET), Prompts((Click((20, 22, 12)),))
    if isinstance(session, SegVolSession):
        return session.frame.restore(session._logits(prompts), 0.0)
    answer: FloatArray = session._probabilities(prompts)
    return answer


@BOTH
def test_an_untrained_checkpoint_answers_as_the_weights_that_it_holds(method: Method, tmp_path: Path) -> None:
    plain = answer_of(method.build(AS_STORED))
    assert not np.array_equal(plain, answer_of(method.build({"orientation": "ras"})))
    loop_of(job_of(method, tmp_path, untrained=True), tmp_path / "work").run()
    assert np.array_equal(answer_of(load_segmenter(method, AS_STORED, "cpu", tmp_path / "work")), plain)


@BOTH
def test_a_training_looks_at_scans_as_its_crops_do(
    method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its validations, and when its checkpoint is read."""
    job = job_of(method, tmp_path)
    loop = loop_of(replace(job, validation=job.cases, validate_at=(1.0,)), tmp_path / "work")
    seen, original = [], loop.segmenter.open

    def watched(volume: Volume, target: Any) -> Any:
        seen.append(loop.segmenter.orientation)  # type: ignore[attr-defined]
        return original(volume, target)

    monkeypatch.setattr(loop.segmenter, "open", watched)
    loop.run()
    assert seen == ["ras", "ras"]
    assert load_segmenter(method, AS_STORED, "cpu", tmp_path / "work").orientation == "ras"


@BOTH
def test_a_checkpoint_of_before_is_one_of_a_training(method: Method, tmp_path: Path) -> None:
    """It holds nothing but the weights and what they fit."""
    segmenter = method.build(AS_STORED)
    assert isinstance(segmenter, SegVolSegmenter | Sam3dAdapterSegmenter)
    segmenter.trained_here = True
    segmenter.save(tmp_path)
    assert json.loads((tmp_path / "checkpoint.json").read_text(encoding="utf-8")) == segmenter.checkpoint_facts()
    read = method.build(AS_STORED)
    assert isinstance(read, SegVolSegmenter | Sam3dAdapterSegmenter)
    assert read.orientation == "file"
    read.load(tmp_path)
    assert read.orientation == "ras"
    at_once = method.build({**AS_STORED, "checkpoint": str(tmp_path)})
    assert at_once.orientation == "ras"  # type: ignore[attr-defined]
