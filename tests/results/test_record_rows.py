"""Rows of a case before they are written: what cannot be true is refused, what is merely unknown is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from benchmarks.results.record_rows import faults_of_case

ROW: dict[str, Any] = {
    "schema_version": 2, "dataset": "kits21", "method": "ball", "case": "one", "target": "tumor", "protocol": "click",
    "step": 1, "status": "ok", "reason": "", "dice": 0.5, "iou": 1 / 3, "nsd@2mm": 0.25, "hd95_mm": 12.0,
    "voxels_reference": 60, "voxels_prediction": 60, "voxels_intersection": 30,
}  # fmt: skip


def faults(*changes: dict[str, Any]) -> dict[str, str]:
    return faults_of_case([{**ROW, "step": number + 1, **change} for number, change in enumerate(changes)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dice": 1.5}, "dice outside its range"),
        ({"nsd@2mm": -0.1}, "nsd@2mm outside its range"),
        ({"hd95_mm": math.inf}, "hd95_mm outside its range"),
        ({"hd95_mm": "far"}, "hd95_mm outside its range"),
        ({"status": "fine"}, "an unknown status"),
        ({"schema_version": "2"}, "a schema that is no number"),
        ({"dice": 0.6}, "a Dice that its voxel counts contradict"),
        ({"iou": 0.5}, "an IoU that its voxel counts contradict"),
        ({"voxels_reference": 29}, "voxel counts that cannot be"),
        ({"voxels_prediction": 29}, "voxel counts that cannot be"),
        ({"voxels_prediction": 0, "voxels_intersection": 0}, "a Dice that no empty mask has"),
        ({"step": 1}, "a row comes twice"),
    ],
)
def test_what_cannot_be_true(change: dict[str, Any], reason: str) -> None:
    assert faults({}, change) == {"one": reason}


def test_what_is_unknown_is_no_fault() -> None:
    unknown = {"dice": math.nan, "iou": None, "nsd@2mm": None, "hd95_mm": math.nan, "status": "no-target",
               "voxels_reference": None, "voxels_prediction": None, "voxels_intersection": None}  # fmt: skip
    assert faults({}, unknown, {"hd95_mm": np.float32(3), "voxels_prediction": np.int64(60)}) == {}


def test_a_column_that_a_row_lacks_is_unknown_there_and_one_that_all_lack_is_a_fault() -> None:
    without = {key: value for key, value in ROW.items() if key not in ("nsd@2mm", "dice")}
    assert faults_of_case([ROW, {**without, "step": 2, "dice": 0.5}]) == {}
    assert faults_of_case([without]) == {"one": "no column 'dice'"}
