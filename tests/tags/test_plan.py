"""The spacing of the first view: each rule decides where it should, by sums done by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.data.fingerprint import Fingerprint
from tags.plan import Plan, plan_for, unplanned


def found(extents, spacings=((1.0, 1.0, 1.0),)):
    return Fingerprint(np.array(extents, float).reshape(-1, 3), np.array(spacings, float))


@pytest.mark.parametrize(
    ("extents", "spacings", "expected", "reason"),
    [
        # 96 mm in 3/4 of 32 voxels
        ([[96, 90, 80]] * 3, [[1, 1, 1]], 4.0, "three quarters"),
        # 24 mm would give 1 mm, the scans show (0.8 · 0.8 · 6.25)^(1/3) = 1.587 mm
        ([[24, 24, 24]] * 3, [[0.8, 0.8, 6.25]], 1.587, "as fine as the scans"),
        # 6 mm lesions want 1.5 mm; the largest, 96 mm, still fits into 2.25 · 32 · 1.5 = 108 mm
        ([[96, 96, 96]] * 2 + [[6, 6, 6]], [[0.7, 0.7, 0.7]], None, "four voxels"),
        # 2 mm lesions cannot have four voxels of a scan of 1 mm, and 150 mm ones need 150 / 72 mm
        ([[150, 150, 150]] * 10 + [[2, 2, 2]] * 4, [[1, 1, 1]], 150 / 72, "widest"),
        # small lesions alone: as fine as the finest axis, not finer
        ([[2, 2, 2]] * 5, [[0.7, 0.7, 3.0]], 0.7, "four voxels"),
    ],
)
def test_the_rule_that_decides(extents, spacings, expected, reason):
    plan = plan_for(found(extents, spacings), 32)
    assert reason in plan.reason
    if expected is None:
        expected = float(np.percentile([96, 96, 6], 5)) / 4
    assert plan.spacing == pytest.approx(expected, abs=1e-3)
    assert plan.lesions == len(extents)


def test_without_lesions_there_is_a_view_of_128_mm_and_a_plan_is_plain():
    assert plan_for(found([]), 64) == unplanned(64) == Plan(2.0, unplanned(64).reason)
    plan = plan_for(found([[50, 40, 30]]), 32)
    assert Plan(**json.loads(json.dumps(plan.to_mapping()))) == plan
