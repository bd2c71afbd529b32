"""Surface metrics against the surface-distance package, closed forms, and edge cases where crops go wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from surface_distance import lookup_tables
from surface_distance import metrics as deepmind

import benchmarks.metrics.surface as surface_module
from benchmarks.common.seeds import generator
from benchmarks.data.volume import BoolArray, read_label
from benchmarks.metrics import Reference, evaluate_mask
from benchmarks.metrics.surfels import surfel_areas

SHARED = Path(os.environ.get("TAGS_BENCH_SHARED") or Path(__file__).resolve().parents[3] / "shared")
TOLERANCES = (0.0, 0.5, 1.0, 2.0, 5.0)


def assert_agrees(prediction: BoolArray, reference: Reference, label: BoolArray) -> None:
    """Every surface metric equals what surface-distance computes from its own surfels."""
    ours = evaluate_mask(prediction, reference)
    theirs = deepmind.compute_surface_distances(label, prediction, reference.spacing)
    for tolerance in reference.tolerances:
        expected = deepmind.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert ours[f"nsd@{tolerance:g}mm"] == pytest.approx(expected, abs=1e-9)
    assert ours["hd95_mm"] == pytest.approx(deepmind.compute_robust_hausdorff(theirs, 95), rel=1e-9)
    largest = max(theirs["distances_gt_to_pred"][-1], theirs["distances_pred_to_gt"][-1])
    assert ours["hd_mm"] == pytest.approx(largest, rel=1e-9)
    to_pred, to_gt = deepmind.compute_average_surface_distance(theirs)
    a, b = theirs["surfel_areas_gt"].sum(), theirs["surfel_areas_pred"].sum()
    assert ours["msd_mm"] == pytest.approx((to_pred * a + to_gt * b) / (a + b), rel=1e-9, abs=1e-12)
    assert ours["dice"] == pytest.approx(deepmind.compute_dice_coefficient(label, prediction), rel=1e-12)


def random_mask(random: np.random.Generator, shape: tuple[int, int, int]) -> BoolArray:
    """A blob, speckle, a box or a single voxel; touches the border more often than not."""
    kind = random.integers(5)
    if kind == 0:
        mask = random.random(shape) < random.uniform(0.02, 0.98)
    elif kind == 1:
        mask = np.zeros(shape, bool)
        mask[tuple(random.integers(size) for size in shape)] = True
    elif kind == 2:
        mask = np.zeros(shape, bool)
        ends = [sorted(random.integers(0, size + 1, 2)) for size in shape]
        mask[tuple(slice(low, high) for low, high in ends)] = True
    else:
        smooth = ndimage.gaussian_filter(random.standard_normal(shape), random.uniform(0.5, 2.5))
        mask = smooth > np.quantile(smooth, random.uniform(0.3, 0.95))
    if not mask.any():
        mask[tuple(size // 2 for size in shape)] = True
    return mask


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (3.3, 0.9, 0.4), (8.0, 1.0, 1.0)])
def test_every_neighbour_code_has_the_published_area(spacing: tuple[float, float, float]) -> None:
    expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(surfel_areas(spacing), expected, rtol=1e-12, atol=1e-15)


def test_areas_at_random_spacings() -> None:
    random = generator("surfel areas")
    for _ in range(50):
        spacing = tuple(random.uniform(0.2, 8, 3).tolist())
        expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
        np.testing.assert_allclose(surfel_areas(spacing), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("seed", range(250))
def test_random_masks(seed: int) -> None:
    random = generator("random masks", seed)
    shape = tuple(random.integers(1, 18, 3).tolist())
    spacing = random.uniform(0.4, 6, 3) if seed % 2 else random.choice([0.5, 1.0, 2.0, 3.0], 3)
    label = random_mask(random, shape)
    reference = Reference(label, spacing.tolist(), TOLERANCES)
    for _ in range(2):
        assert_agrees(random_mask(random, shape), reference, label)


def test_prediction_far_outside_the_field_and_then_near() -> None:
    label = np.zeros((90, 80, 70), bool)
    label[4:12, 5:15, 6:20] = True
    reference = Reference(label, (1.0, 0.8, 2.5), TOLERANCES)
    far = np.zeros_like(label)
    far[80:90, 70:80, 60:70] = True
    for prediction in (far, np.roll(label, 2, 0), far | label, np.ones_like(label)):
        assert_agrees(prediction, reference, label)


def test_speckle_takes_the_road_for_large_surfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surface_module, "MANY", 10_001)
    random = generator("speckle")
    label = np.zeros((60, 60, 60), bool)
    label[3:9, 4:9, 5:9] = True
    for share in (0.02, 0.3):
        reference = Reference(label, (1.0, 0.7, 3.0), TOLERANCES)
        prediction = random.random(label.shape) < share
        assert_agrees(prediction, reference, label)
        assert_agrees(np.roll(label, 1, 1), reference, label)


@pytest.mark.parametrize("axis", range(3))
def test_one_slice_volumes(axis: int) -> None:
    random = generator("one slice", axis)
    shape = [25, 25, 25]
    shape[axis] = 1
    label, prediction = random_mask(random, tuple(shape)), random_mask(random, tuple(shape))
    assert_agrees(prediction, Reference(label, (0.8, 0.9, 5.0), TOLERANCES), label)


def test_full_volume_and_single_voxel() -> None:
    full = np.ones((6, 7, 5), bool)
    voxel = np.zeros_like(full)
    voxel[0, 0, 0] = True
    spacing = (1.0, 2.0, 0.5)
    assert_agrees(voxel, Reference(full, spacing, TOLERANCES), full)
    assert_agrees(full, Reference(voxel, spacing, TOLERANCES), voxel)
    same = evaluate_mask(voxel, Reference(voxel, spacing))
    assert (same["dice"], same["nsd@1mm"], same["hd_mm"], same["msd_mm"]) == (1, 1, 0, 0)


def test_concentric_cubes() -> None:
    """A cube in a cube with a gap of 3 voxels: corners are the farthest, and they are 3·√3·spacing away."""
    outer = np.zeros((40, 40, 40), bool)
    outer[10:30, 10:30, 10:30] = True
    inner = np.zeros_like(outer)
    inner[13:27, 13:27, 13:27] = True
    row = evaluate_mask(inner, Reference(outer, (2.0, 2.0, 2.0), (5.9, 6.0, 11.0)))
    assert row["hd_mm"] == pytest.approx(6 * np.sqrt(3))
    assert row["nsd@5.9mm"] == 0
    assert row["nsd@11mm"] == 1
    assert 0.5 < row["nsd@6mm"] < 1
    assert row["dice"] == pytest.approx(2 * 14**3 / (14**3 + 20**3))


def test_concentric_balls() -> None:
    """Radii 10 and 14 mm: all distances within a voxel's diagonal of 4 mm, area of a ball within 10 %."""
    grid = np.indices((40, 40, 40)) - 19.5
    radius = np.sqrt((grid**2).sum(axis=0))
    row = evaluate_mask(radius <= 10, Reference(radius <= 14, (1.0, 1.0, 1.0), (2.0, 6.0)))
    assert row["hd_mm"] == pytest.approx(4, abs=np.sqrt(3))
    assert row["msd_mm"] == pytest.approx(4, abs=0.5)
    assert (row["nsd@2mm"], row["nsd@6mm"]) == (0, 1)


def test_shifted_box() -> None:
    label = np.zeros((50, 30, 20), bool)
    label[10:20, 5:25, 4:16] = True
    row = evaluate_mask(np.roll(label, 4, 0), Reference(label, (0.75, 1.0, 4.0), (2.0, 3.0)))
    assert row["hd_mm"] == row["hd95_mm"] == pytest.approx(3.0)
    assert row["nsd@3mm"] == 1
    assert row["dice"] == pytest.approx(0.6)


def test_axis_and_memory_order_do_not_matter() -> None:
    random = generator("order")
    label, prediction = random_mask(random, (14, 9, 11)), random_mask(random, (14, 9, 11))
    plain = evaluate_mask(prediction, Reference(label, (1.0, 2.0, 3.0)))
    fortran = evaluate_mask(np.asfortranarray(prediction), Reference(np.asfortranarray(label), (1.0, 2.0, 3.0)))
    flipped = evaluate_mask(prediction[::-1], Reference(label[::-1], (1.0, 2.0, 3.0)))
    turned = evaluate_mask(prediction.transpose(2, 0, 1), Reference(label.transpose(2, 0, 1), (3.0, 1.0, 2.0)))
    assert plain == fortran
    for other in (flipped, turned):
        for key in ("dice", "hd_mm", "hd95_mm", "msd_mm", "nsd@1mm", "nsd@2mm", "nsd@5mm"):
            assert other[key] == pytest.approx(plain[key], rel=1e-9)


def real_masks() -> list[Any]:
    """Every real mask; those that take a second or more are `slow` but for a few."""
    kits = sorted((SHARED / "kits_labels").glob("*.nii.gz"))
    lesions = sorted((SHARED / "lesion_masks").glob("*/*.nii.gz"))
    sarcomas = sorted((SHARED / "real_cases/soft_tissue_sarcoma/labelsTr").glob("*.nii.gz"))
    usual = [(path, 2) for path in kits[:4]] + [(path, 1) for path in lesions + sarcomas[:3]]
    others = [(path, 2) for path in kits[4:]] + [(path, 1) for path in sarcomas[3:]]
    return usual + [pytest.param(*other, marks=pytest.mark.slow) for other in others]


def disturbed(mask: BoolArray, random: np.random.Generator) -> BoolArray:
    """A prediction such as a network might make of this mask: moved, rough, with a stray speck."""
    moved = np.roll(mask, random.integers(-4, 5, 3), axis=(0, 1, 2))
    rough = ndimage.binary_dilation(moved) if random.random() < 0.5 else ndimage.binary_erosion(moved)
    rough &= random.random(mask.shape) < 0.9
    rough[tuple(random.integers(size) for size in mask.shape)] = True
    return rough


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared masks are not at {SHARED}")
@pytest.mark.parametrize(("path", "label_value"), real_masks(), ids=lambda value: getattr(value, "name", None))
def test_real_masks(path: Path, label_value: int) -> None:
    import nibabel as nib

    whole = read_label(path)
    label = whole == label_value
    if not label.any():
        pytest.skip("this label map does not hold the value")
    box = ndimage.find_objects(label)[0]
    window = tuple(slice(max(0, part.start - 12), part.stop + 12) for part in box)
    label = label[window]
    if label.size > 6_000_000:
        label = label[::2, ::2, ::2]
    random = generator(path.name)
    zooms = nib.as_closest_canonical(nib.load(path)).header.get_zooms()
    reference = Reference(label, [float(step) for step in zooms], TOLERANCES)
    for _ in range(2):
        assert_agrees(disturbed(label, random), reference, label)
