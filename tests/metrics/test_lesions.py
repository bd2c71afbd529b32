"""Components against SciPy, matching by hand-made cases, counts by size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

import benchmarks.metrics.lesions as lesions_module
from benchmarks.common.seeds import generator
from benchmarks.data.volume import BoolArray
from benchmarks.metrics import RULES, Reference, evaluate_mask, failed_values, scores_by_size
from benchmarks.metrics.crop import Crop
from benchmarks.metrics.lesions import count_by_size, lesions_of, size_bin_names

SPACING = (1.0, 1.0, 1.0)


def boxes(*ranges: tuple[int, int], shape: tuple[int, int, int] = (60, 8, 8)) -> BoolArray:
    """Bars of 4 × 4 voxels along x."""
    mask = np.zeros(shape, bool)
    for low, high in ranges:
        mask[low:high, 2:6, 2:6] = True
    return mask


@pytest.mark.parametrize("many_runs", [0, 10**6])
def test_components_are_scipys(many_runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lesions_module, "MANY_RUNS", many_runs)
    random = generator("components")
    for _ in range(200):
        mask = random.random(random.integers(1, 12, 3)) < random.uniform(0.02, 0.9)
        if not mask.any():
            continue
        expected, count = ndimage.label(mask, np.ones((3, 3, 3)))
        ours = lesions_of(Crop(mask, (0, 0, 0)))
        assert ours.count == count
        painted = np.zeros(mask.shape, np.int32)
        painted[mask] = np.repeat(ours.labels + 1, ours.runs.lengths)
        np.testing.assert_array_equal(painted, expected)
        np.testing.assert_array_equal(ours.voxels, np.bincount(expected.ravel())[1:])


def lesion_row(prediction: BoolArray, label: BoolArray, rule: str = "iou-0.1") -> tuple[object, ...]:
    row = evaluate_mask(prediction, Reference(label, SPACING, rule=RULES[rule]))
    assert row["lesion_rule"] == RULES[rule].name
    found, there, predicted = (int(row[f"lesions_{name}"]) for name in ("found", "reference", "predicted"))
    assert row["lesion_sensitivity"] == pytest.approx(found / there)
    assert row["lesion_precision"] == pytest.approx(found / predicted)
    assert row["lesion_f1"] == pytest.approx(2 * found / (there + predicted))
    return found, there, predicted


def test_one_hit_one_miss_one_false_alarm() -> None:
    assert lesion_row(boxes((0, 10), (40, 50)), boxes((0, 10), (20, 30))) == (1, 2, 2)


def test_a_flood_finds_one_lesion_only() -> None:
    label = boxes((0, 10), (20, 30), (40, 50))
    flood = boxes((0, 50))
    assert lesion_row(flood, label, "any") == (1, 3, 1)
    assert lesion_row(np.ones_like(flood), label) == (0, 3, 1)  # IoU of each below 0.1
    assert lesion_row(np.ones_like(flood), label, "any") == (1, 3, 1)


def test_specks_inside_a_lesion_are_one_hit() -> None:
    assert lesion_row(boxes((0, 2), (4, 6), (8, 14)), boxes((0, 16)), "any") == (1, 1, 3)
    assert lesion_row(boxes((0, 2), (4, 6), (8, 14)), boxes((0, 16)), "iou-0.5") == (0, 1, 3)


def test_iou_thresholds_are_inclusive() -> None:
    label, prediction = boxes((0, 10)), boxes((5, 15))  # IoU 5/15
    assert lesion_row(prediction, label, "iou-0.5") == (0, 1, 1)
    assert lesion_row(prediction, label, "iou-0.1") == (1, 1, 1)
    assert lesion_row(boxes((0, 5)), label, "iou-0.5") == (1, 1, 1)  # IoU exactly 0.5
    assert lesion_row(boxes((0, 1)), label, "iou-0.1") == (1, 1, 1)  # exactly 0.1


def test_the_larger_overlap_is_served_first() -> None:
    """One prediction touches two lesions, a second prediction the first of them only: both can be paired."""
    label = boxes((0, 10), (14, 30))
    prediction = boxes((8, 28)) | boxes((0, 4))
    assert lesion_row(prediction, label, "any") == (2, 2, 2)


def test_touching_by_a_corner_is_one_lesion() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    assert evaluate_mask(mask, Reference(mask, SPACING))["lesions_reference"] == 1


def test_counts_by_size() -> None:
    assert size_bin_names() == ["0-10mm", "10-20mm", "20mm+"]
    assert count_by_size(np.array([1.0, 9.99, 10.0, 20.0, 70.0])) == [2, 1, 2]
    label = np.zeros((60, 40, 40), bool)
    label[0:4, 0:4, 0:4] = True  # 64 mm³: 4.96 mm
    label[10:22, 0:12, 0:12] = True  # 1728 mm³: 14.9 mm
    label[30:55, 0:25, 0:25] = True  # 15625 mm³: 31.0 mm
    prediction = label.copy()
    prediction[:25] = False
    row = evaluate_mask(prediction, Reference(label, SPACING))
    assert [row[f"lesions_reference@{name}"] for name in size_bin_names()] == [1, 1, 1]
    assert [row[f"lesions_found@{name}"] for name in size_bin_names()] == [0, 0, 1]
    assert [row[f"lesions_predicted@{name}"] for name in size_bin_names()] == [0, 0, 1]
    assert [row[f"lesions_matched@{name}"] for name in size_bin_names()] == [0, 0, 1]


def test_a_found_lesion_and_its_prediction_may_be_of_two_sizes() -> None:
    """True lesions of 31.0 and 14.9 mm; predictions of 14.9 mm in the large one and of 5 mm beside everything."""
    label = np.zeros((60, 40, 40), bool)
    label[30:55, 0:25, 0:25] = True
    label[0:12, 0:12, 0:12] = True
    prediction = np.zeros_like(label)
    prediction[30:42, 0:12, 0:12] = True  # IoU 1728 / 15625
    prediction[20:24, 30:34, 30:34] = True
    rows = [evaluate_mask(prediction, Reference(label, SPACING))] * 2
    small, middle, large = scores_by_size(rows)
    assert (small["lesions"], small["predicted"], small["precision"]) == (0, 2, 0)
    assert math.isnan(float(small["sensitivity"]))
    assert math.isnan(float(small["f1"]))
    assert (middle["lesions"], middle["found"], middle["predicted"], middle["matched"]) == (2, 0, 2, 2)
    assert (middle["sensitivity"], middle["precision"], middle["f1"]) == (0, 1, 0)
    assert (large["lesions"], large["found"], large["predicted"], large["sensitivity"]) == (2, 2, 0, 1)
    assert math.isnan(float(large["precision"]))
    for name in ("reference", "predicted"):
        assert sum(int(rows[0][f"lesions_{name}@{size}"]) for size in size_bin_names()) == rows[0][f"lesions_{name}"]


def test_a_failed_case_and_an_empty_reference_count_by_size() -> None:
    label = boxes((0, 10))
    failed = failed_values(Reference(label, SPACING))
    false_alarm = evaluate_mask(label, Reference(np.zeros_like(label), SPACING))
    table = scores_by_size([failed, false_alarm])
    assert sum(int(row["lesions"]) for row in table) == sum(int(row["predicted"]) for row in table) == 1
    assert sum(int(row["found"]) + int(row["matched"]) for row in table) == 0
