"""Empty masks under every named policy, and the recalculation of stored rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.metrics import (
    POLICIES,
    Reference,
    evaluate_mask,
    failed_values,
    higher_is_better,
    is_metric,
    mean_under_policies,
    under_policy,
)
from benchmarks.metrics.policy import SKIP_ANY, SKIP_BOTH, WORST_VALUE, ZERO_FOR_BOTH

SHAPE = (10, 20, 30)
SPACING = (2.0, 1.0, 0.5)
DIAGONAL = math.sqrt(20**2 + 20**2 + 15**2)
NOTHING = np.zeros(SHAPE, bool)
SOMETHING = NOTHING.copy()
SOMETHING[3:6, 4:9, 10:20] = True
SCORES = ("dice", "iou", "nsd@1mm", "lesion_sensitivity", "lesion_precision", "lesion_f1")
DISTANCES = ("hd_mm", "hd95_mm", "msd_mm")


def test_default_both_empty_is_perfect() -> None:
    row = evaluate_mask(NOTHING, Reference(NOTHING, SPACING))
    assert row["empty"] == "both"
    assert row["policy"] == "worst-value/1"
    assert all(row[key] == 1 for key in SCORES)
    assert all(row[key] == 0 for key in (*DISTANCES, "rve"))


@pytest.mark.parametrize(
    ("reference", "prediction", "empty", "rve"),
    [(SOMETHING, NOTHING, "prediction", 1.0), (NOTHING, SOMETHING, "reference", 10.0)],
)
def test_default_one_empty_is_worst(reference: np.ndarray, prediction: np.ndarray, empty: str, rve: float) -> None:
    row = evaluate_mask(prediction, Reference(reference, SPACING))
    assert row["empty"] == empty
    assert all(row[key] == 0 for key in SCORES)
    assert all(row[key] == pytest.approx(DIAGONAL) for key in DISTANCES)
    assert row["rve"] == rve


@pytest.mark.parametrize("reference", [SOMETHING, NOTHING])
def test_a_failed_case_is_worst_under_every_policy(reference: np.ndarray) -> None:
    target = Reference(reference, SPACING)
    row = failed_values(target)
    assert row.keys() == evaluate_mask(SOMETHING, target).keys()
    for policy in POLICIES.values():
        other = under_policy(row, policy)
        for key in target.metric_keys:
            assert other[key] == row[key]
            worst = 0 if higher_is_better(key) else 10 if key == "rve" else pytest.approx(DIAGONAL)
            assert row[key] == worst


@pytest.mark.parametrize("policy", POLICIES.values(), ids=lambda policy: policy.policy_id)
@pytest.mark.parametrize("reference", [SOMETHING, NOTHING])
@pytest.mark.parametrize("prediction", [SOMETHING, NOTHING])
def test_a_stored_row_gives_what_an_evaluation_would(policy, reference, prediction) -> None:  # type: ignore[no-untyped-def]
    stored = evaluate_mask(prediction, Reference(reference, SPACING))
    fresh = evaluate_mask(prediction, Reference(reference, SPACING, policy=policy))
    again = under_policy(stored, policy)
    assert again.keys() == fresh.keys()
    for key, value in fresh.items():
        same_nan = isinstance(value, float) and math.isnan(value) and math.isnan(float(again[key]))
        assert same_nan or again[key] == value


def test_sensitivity_table_shows_that_skipping_rewards_a_miss() -> None:
    rows = [
        evaluate_mask(prediction, Reference(reference, SPACING))
        for reference, prediction in ((SOMETHING, SOMETHING), (SOMETHING, NOTHING), (NOTHING, NOTHING))
    ]
    table = {row["policy"]: row for row in mean_under_policies(rows, "dice")}
    assert table[WORST_VALUE.policy_id] | {"policy": ""} == {"policy": "", "mean": 2 / 3, "cases": 3, "skipped": 0}
    assert table[SKIP_BOTH.policy_id] | {"policy": ""} == {"policy": "", "mean": 1 / 2, "cases": 2, "skipped": 1}
    assert table[SKIP_ANY.policy_id] | {"policy": ""} == {"policy": "", "mean": 1.0, "cases": 1, "skipped": 2}
    assert table[ZERO_FOR_BOTH.policy_id] | {"policy": ""} == {"policy": "", "mean": 1 / 3, "cases": 3, "skipped": 0}
    assert math.isnan(mean_under_policies(rows[1:], "hd95_mm", [SKIP_ANY])[0]["mean"])  # type: ignore[arg-type]


def test_directions_and_names() -> None:
    row = evaluate_mask(SOMETHING, Reference(SOMETHING, SPACING, (0.25, 3.0)))
    metrics = [key for key in row if is_metric(key)]
    assert metrics == list(Reference(SOMETHING, SPACING, (0.25, 3.0)).metric_keys)
    assert "nsd@0.25mm" in metrics
    assert [key for key in metrics if not higher_is_better(key)] == ["hd_mm", "hd95_mm", "msd_mm", "rve"]
    assert not is_metric("lesions_found@0-10mm")


@pytest.mark.parametrize(
    ("mask", "spacing", "tolerances", "words"),
    [
        (SOMETHING.astype(np.uint8), SPACING, (1.0,), "bool"),
        (SOMETHING[0], SPACING, (1.0,), "3D"),
        (SOMETHING, (1.0, 0.0, 1.0), (1.0,), "spacing"),
        (SOMETHING, SPACING, (-1.0,), "tolerances"),
    ],
)
def test_wrong_arguments(mask, spacing, tolerances, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        Reference(mask, spacing, tolerances)


def test_prediction_of_another_shape() -> None:
    with pytest.raises(ValueError, match="shape"):
        evaluate_mask(SOMETHING[1:], Reference(SOMETHING, SPACING))
