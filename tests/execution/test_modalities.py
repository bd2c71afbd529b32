"""A scan that is no CT through an evaluation: what a scanner's gain is plays no part, and the rows say what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.contestants import Target, method
from benchmarks.data.dataset import Case
from benchmarks.execution.case_rows import Evaluation
from benchmarks.execution.evaluate import evaluate_case
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.prompting.protocol import Protocol

TARGET = Target("brain-tumor", "brain", "tumor", (1,))


def brain(folder: Path, gain: float, offset: float) -> Case:
    """A head with a bright lesion, as a scanner of that gain stores it."""
    random = np.random.default_rng(0)
    values = np.zeros((40, 40, 24), np.float32)
    label = np.zeros(values.shape, np.uint8)
    label[14:24, 12:22, 8:16] = 1
    values[5:35, 5:35, 3:21] = random.normal(1.0, 0.05, (30, 30, 18))
    values[label == 1] += 1.0
    folder.mkdir()
    nib.save(nib.Nifti1Image(values * np.float32(gain) + np.float32(offset), np.eye(4)), folder / "image.nii")
    nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "label.nii")
    return Case("d", "a", folder / "image.nii", folder / "label.nii", modality="MR")


def row_of(case: Case, name: str) -> dict[str, Any]:
    segmenter = method(name).build()
    if name == "ball":
        segmenter.without_training()  # type: ignore[attr-defined]
    asked = Evaluation((TARGET,), (Protocol("centre-click"),), 7, (1.0,), DEFAULT_POLICY.policy_id, None, {})
    (row,) = evaluate_case(case, segmenter, asked)
    return row


@pytest.mark.parametrize(("gain", "offset"), [(0.01, 0.0), (700.0, -350.0)])
def test_region_growing_does_not_see_the_gain(tmp_path: Path, gain: float, offset: float) -> None:
    """Raw, its least difference of 4 HU would be a flood at the one gain and a speck at the other."""
    usual, other = (row_of(brain(tmp_path / name, *way), "region-growing") for name, way in
                    (("a", (1.0, 0.0)), ("b", (gain, offset))))  # fmt: skip
    assert usual["dice"] > 0.9
    assert other["dice"] == pytest.approx(usual["dice"], abs=0.01)


def test_the_ball_has_its_row_too(tmp_path: Path) -> None:
    row = row_of(brain(tmp_path / "a", 1.0, 0.0), "ball")
    assert row["status"] == "ok"
    assert 0 < row["dice"] < 1


def test_the_real_brain_end_to_end(shared: Path) -> None:
    folder = shared / "real_cases" / "single" / "brain_brats2013_pat0005_t1c"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    case = Case("brain", "pat0005", folder / "image.nii.gz", folder / "label.nii.gz", modality="MR")
    core = Target("brain-tumor", "brain", "tumor", (1, 3, 4))
    asked = Evaluation((core,), (Protocol("centre-click"),), 7, (1.0,), DEFAULT_POLICY.policy_id, None, {})
    (row,) = evaluate_case(case, method("region-growing").build(), asked)
    assert row["status"] == "ok"
    assert 0.3 < row["dice"] < 0.9
