"""Agreement with MONAI where its definitions are ours, and proof that they differ where the manual says so."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.common.seeds import generator
from benchmarks.data.volume import BoolArray, read_grid, read_label
from benchmarks.metrics import Reference, evaluate_mask

SHARED = Path(os.environ.get("TAGS_BENCH_SHARED") or Path(__file__).resolve().parents[3] / "shared")
pytestmark = pytest.mark.slow  # the import of MONAI takes seconds


def blob(random: np.random.Generator, shape: tuple[int, int, int]) -> BoolArray:
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), 2)
    mask = smooth > np.quantile(smooth, 0.8)
    mask[0], mask[-1], mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1] = (False,) * 6
    return mask


def assert_agrees(prediction: BoolArray, label: BoolArray, spacing: tuple[float, ...]) -> None:
    """Dice, IoU and the surface Dice of areas are ours; the Hausdorff distance is within a voxel's diagonal.

    MONAI measures between centres of border voxels, we between cell corners. Every border voxel has a corner on
    the surface and every such corner a border voxel, half a diagonal away: at both ends together, one.
    """
    import torch
    from monai import metrics

    ours = evaluate_mask(prediction, Reference(label, spacing, (1.0, 2.0)))
    truth, guess = torch.from_numpy(label)[None, None], torch.from_numpy(prediction)[None, None]
    assert ours["dice"] == pytest.approx(metrics.compute_dice(guess, truth).item(), abs=1e-6)
    assert ours["iou"] == pytest.approx(metrics.compute_iou(guess, truth).item(), abs=1e-6)
    for tolerance in (1.0, 2.0):
        theirs = metrics.compute_surface_dice(
            guess, truth, [tolerance], include_background=True, spacing=spacing, use_subvoxels=True
        )
        assert ours[f"nsd@{tolerance:g}mm"] == pytest.approx(theirs.item(), abs=1e-5)  # MONAI sums in float32
    distance = metrics.compute_hausdorff_distance(guess, truth, include_background=True, spacing=spacing).item()
    assert abs(float(ours["hd_mm"]) - distance) <= math.hypot(*spacing) + 1e-4


def test_random_masks() -> None:
    random = generator("monai")
    for _ in range(200):
        shape = tuple(random.integers(8, 24, 3).tolist())
        spacing = tuple(random.uniform(0.5, 4, 3).tolist())
        label, prediction = blob(random, shape), blob(random, shape)
        if label.any() and prediction.any():
            assert_agrees(prediction, label, spacing)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared masks are not at {SHARED}")
@pytest.mark.parametrize(
    "path",
    [
        *sorted((SHARED / "lesion_masks").glob("*/*.nii.gz")),
        *sorted((SHARED / "real_cases").glob("*/labelsTr/*.nii.gz")),
    ],
    ids=lambda path: path.name,
)
def test_real_masks(path: Path) -> None:
    label = read_label(path) == 1
    if not label.any():
        pytest.skip("this label map does not hold the value")
    box = ndimage.find_objects(label.astype(np.int8))[0]
    label = np.pad(label[box], 4)
    spacing = tuple(float(step) for step in np.linalg.norm(read_grid(path)[1][:3, :3], axis=0))
    random = generator("monai", path.name)
    moved = np.roll(label, random.integers(-3, 4, 3), axis=(0, 1, 2))
    assert_agrees(ndimage.binary_dilation(moved), label, spacing)


def test_hausdorff_of_a_shifted_mask() -> None:
    """MONAI measures between border voxels, we between cell corners: for a pure shift both give its length."""
    import torch
    from monai import metrics

    label = np.zeros((30, 30, 30), bool)
    label[5:15, 6:14, 7:20] = True
    for axis, shift in ((0, 3), (1, 5), (2, -4)):
        prediction = np.roll(label, shift, axis)
        spacing = (0.8, 1.1, 2.5)
        ours = evaluate_mask(prediction, Reference(label, spacing))
        theirs = metrics.compute_hausdorff_distance(
            torch.from_numpy(prediction)[None, None],
            torch.from_numpy(label)[None, None],
            include_background=True,
            spacing=spacing,
        )
        assert ours["hd_mm"] == pytest.approx(abs(shift) * spacing[axis], rel=1e-6)
        assert theirs.item() == pytest.approx(abs(shift) * spacing[axis], rel=1e-6)
