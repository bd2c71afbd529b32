"""Agreement with MetricsReloaded where its definitions are ours, and how far apart they can be elsewhere.

MetricsReloaded is not on PyPI, so that it is no dependency of the tests. With a checkout of it and
scikit-image in the environment: PYTHONPATH=path/to/checkout pytest tests/metrics/test_metrics_reloaded.py
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.common.seeds import generator
from benchmarks.metrics import Reference, evaluate_mask

pairwise = pytest.importorskip(
    "MetricsReloaded.metrics.pairwise_measures", reason="MetricsReloaded is not installed (it is not on PyPI)"
)
BoolArray = NDArray[np.bool_]


def theirs(prediction: BoolArray, label: BoolArray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)):  # type: ignore[no-untyped-def]
    return pairwise.BinaryPairwiseMeasures(
        prediction.astype(np.int64),
        label.astype(np.int64),
        pixdim=list(spacing),
        dict_args={"nsd": 2.0, "hd_perc": 95},
    )


def blob(random: np.random.Generator, shape: tuple[int, int, int]) -> BoolArray:
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), random.uniform(0.5, 2.5))
    mask: BoolArray = smooth > np.quantile(smooth, random.uniform(0.5, 0.95))
    mask[tuple(size // 2 for size in shape)] = True
    return mask


@pytest.mark.parametrize("seed", range(200))
def test_random_masks(seed: int) -> None:
    random = generator("metrics reloaded", seed)
    shape = tuple(random.integers(2, 24, 3).tolist())
    spacing = tuple(random.uniform(0.4, 5, 3).tolist())
    label, prediction = blob(random, shape), blob(random, shape)
    ours, other = evaluate_mask(prediction, Reference(label, spacing)), theirs(prediction, label, spacing)
    assert ours["dice"] == pytest.approx(other.dsc(), abs=1e-6)
    assert ours["iou"] == pytest.approx(other.intersection_over_union(), abs=1e-6)
    assert ours["rve"] == pytest.approx(min(other.absolute_volume_difference_ratio(), 10), abs=1e-6)
    # Theirs runs between centres of border voxels, ours between cell corners. Every border voxel has a corner
    # on the surface and every such corner a border voxel, half a diagonal away: at both ends together, one.
    diagonal = math.hypot(*spacing)
    assert abs(float(ours["hd_mm"]) - other.measured_hausdorff_distance()) <= diagonal + 1e-9


@pytest.mark.parametrize(("axis", "shift"), [(0, 3), (1, 5), (2, -4)])
def test_hausdorff_of_a_shifted_box(axis: int, shift: int) -> None:
    label = np.zeros((30, 30, 30), bool)
    label[5:15, 6:14, 7:20] = True
    spacing = (0.8, 1.1, 2.5)
    prediction = np.roll(label, shift, axis)
    ours, other = evaluate_mask(prediction, Reference(label, spacing)), theirs(prediction, label, spacing)
    assert ours["hd_mm"] == pytest.approx(other.measured_hausdorff_distance(), rel=1e-9)
    assert ours["hd_mm"] == pytest.approx(abs(shift) * spacing[axis], rel=1e-9)


def test_surface_dice_counts_voxels_there_and_areas_here() -> None:
    """A box in a box, anisotropic: what the manual says about the difference of definition."""
    label = np.zeros((30, 30, 30), bool)
    label[5:25, 5:25, 5:25] = True
    prediction = np.zeros_like(label)
    prediction[8:22, 7:23, 5:25] = True
    spacing = (1.0, 1.0, 4.0)
    ours = evaluate_mask(prediction, Reference(label, spacing, (2.0,)))
    assert abs(float(ours["nsd@2mm"]) - theirs(prediction, label, spacing).normalised_surface_distance()) > 0.01


def test_empty_masks() -> None:
    nothing = np.zeros((5, 5, 5), bool)
    something = nothing.copy()
    something[2, 2, 2] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both, one = theirs(nothing, nothing), theirs(nothing, something)
        assert (both.dsc(), both.normalised_surface_distance(), both.measured_hausdorff_distance()) == (1, 1, 0)
        assert math.isnan(both.intersection_over_union())
        assert math.isnan(one.measured_hausdorff_distance())
    row = evaluate_mask(nothing, Reference(nothing, (1.0, 1.0, 1.0)))
    assert (row["dice"], row["nsd@1mm"], row["hd_mm"], row["iou"]) == (1, 1, 0, 1)
