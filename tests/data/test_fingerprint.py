"""Sizes of lesions and spacings of scans, from label maps whose lesions are known."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.data.dataset import Case
from benchmarks.data.fingerprint import fingerprint, joined
from benchmarks.data.target import Target

TARGET = Target("tumor", "kidney", "tumor", (2,))


def case_of(folder: Path, name: str, label: np.ndarray, spacing: tuple[float, float, float]) -> Case:
    path = folder / f"{name}.nii.gz"
    nib.Nifti1Image(label.astype(np.int16), np.diag([*spacing, 1.0])).to_filename(path)
    return Case("d", name, path, path)


def test_every_lesion_counts_in_mm_and_dust_does_not(tmp_path: Path) -> None:
    first = np.zeros((30, 30, 20))
    first[2:12, 3:7, 5:10] = 2  # 10 × 4 × 5 voxels
    first[20:24, 20:24, 12:14] = 2
    first[28, 28, 18] = 2  # one stray voxel
    first[15:18, 2:9, 2:9] = 1  # another structure
    second = np.zeros((30, 30, 20))
    second[0:3, 0:3, 0:3] = 2
    second[3:6, 3:6, 3:6] = 2  # touches at a corner: one lesion
    found = fingerprint(
        [case_of(tmp_path, "a", first, (0.5, 0.5, 3.0)), case_of(tmp_path, "b", second, (1.0, 1.0, 2.0))], TARGET
    )
    assert sorted(found.extents.tolist()) == [[2.0, 2.0, 6.0], [5.0, 2.0, 15.0], [6.0, 6.0, 12.0]]
    assert found.spacings.tolist() == pytest.approx(np.array([[0.5, 0.5, 3.0], [1.0, 1.0, 2.0]]))


def test_dust_counts_where_there_is_nothing_else_and_an_empty_case_has_no_lesion(tmp_path: Path) -> None:
    label = np.zeros((10, 10, 10))
    empty = case_of(tmp_path, "e", label, (1.0, 1.0, 1.0))
    assert fingerprint([empty], TARGET).extents.shape == (0, 3)
    label[4, 4, 4] = 2
    assert fingerprint([empty, case_of(tmp_path, "d", label, (1.0, 1.0, 1.0))], TARGET).extents.tolist() == [[1, 1, 1]]


def test_several_targets_are_planned_for_together(tmp_path: Path) -> None:
    label = np.zeros((30, 30, 20))
    label[2:12, 3:7, 5:10] = 2
    label[20:24, 20:26, 12:16] = 3
    case = case_of(tmp_path, "a", label, (1.0, 1.0, 2.0))
    other = Target("cyst", "kidney", "cyst", (3,))
    found = joined([fingerprint([case], TARGET), fingerprint([case], other)])
    assert found.extents.tolist() == [[10.0, 4.0, 10.0], [4.0, 6.0, 8.0]]
    assert found.spacings.tolist() == [[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]]
