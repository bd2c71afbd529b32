"""From a file with any affine to the network's grid and back: a click, a box and a mask stay on their tissue."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.contestants import Target
from benchmarks.data.boxes import bounding_box
from benchmarks.data.dataset import Case, target_mask
from benchmarks.data.preprocessing import Preprocessing, crop, paste, prepare
from benchmarks.data.verify import problems, verify_case
from benchmarks.data.volume import read_volume, write_mask

TARGET = Target("t", "o", "l", (2,))
NATIVE = Preprocessing(None, (-100.0, 300.0), 60.0, 50.0)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def scans(draw) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...], np.random.Generator]:
    """An affine with flips, permutations, a turn, a shear, spacings from 0.05 to 40 mm up to 8 : 1, and a lesion."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    axes = draw(st.permutations([0, 1, 2]))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    base = draw(st.sampled_from([0.05, 0.5, 1.0, 5.0]))
    spacing = base * np.array(draw(st.tuples(*[st.floats(1, 8)] * 3)))
    linear = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(zip(axes, signs, strict=True)):
        linear[world, axis] = sign * spacing[axis]
    turn, shear = np.deg2rad(draw(st.sampled_from([0, 12, -20]))), draw(st.sampled_from([0.0, 0.15]))
    turned = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, shear, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turned @ linear
    affine[:3, 3] = random.uniform(-400, 400, 3)
    low = tuple(int(n) for n in random.integers(1, 6, 3))
    size = tuple(int(n) for n in random.integers(5, 9, 3))
    return affine, low, size, random


def write(folder: Path, affine: np.ndarray, low: tuple[int, ...], size: tuple[int, ...], random) -> tuple[Case, int]:
    shape = tuple(int(n) for n in random.integers(15, 19, 3))
    label = np.ones(shape, np.uint8)
    label[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = 2
    hu = np.where(label == 2, 150, -50).astype(np.int16)
    for name, values in (("scan", hu), ("label", label)):
        nib.save(nib.Nifti1Image(values, affine), folder / f"{name}.nii")
    return Case("d", "c", folder / "scan.nii", folder / "label.nii"), int((label == 2).sum())


@quick
@given(scans(), st.tuples(*[st.floats(0.6, 1.7)] * 3))
def test_click_box_and_mask_stay_on_their_tissue(tmp_path, scan, factors):
    affine, low, size, random = scan
    case, voxels = write(tmp_path, affine, low, size, random)
    volume, label = case.load()
    mask = target_mask(label, TARGET)
    assert mask.sum() == voxels
    box = bounding_box(mask)
    # A click in the middle of the lesion of the file is, in mm, in the middle of the lesion of the volume.
    middle = np.array([*(a + (n - 1) / 2 for a, n in zip(low, size, strict=True)), 1.0])
    in_world = nib.load(case.image).affine @ middle
    click = (np.linalg.inv(volume.affine) @ in_world)[:3]
    np.testing.assert_allclose(click, (np.array(box[0]) + np.array(box[1]) - 1) / 2, atol=1e-3)
    # On the network's grid
    x, y, z = (s * f for s, f in zip(volume.spacing, factors, strict=True))
    prepared = prepare(volume, Preprocessing((x, y, z), None))
    there = tuple(np.rint(prepared.to_prepared([click])[0]).astype(int))
    assert prepared.label(mask)[there]
    assert prepared.array[there] > 100
    corners = prepared.to_prepared([np.array(box[0]) - 0.5, np.array(box[1]) - 0.5]) + 0.5
    found = bounding_box(prepared.label(mask))
    assert np.abs(corners - found).max() <= 1.0 + 1e-6
    # and back
    returned = prepared.to_native_mask(prepared.label(mask).astype(np.float32))
    back = prepared.to_native(prepared.to_prepared([click]))[0]
    np.testing.assert_allclose(back, click, atol=1e-9)
    assert returned[tuple(np.rint(back).astype(int))]


@quick
@given(scans(), st.tuples(*[st.integers(4, 24)] * 3))
def test_reorient_crop_and_inverse_are_exact_at_native_spacing(tmp_path, scan, size):
    affine, low, extent, random = scan
    case, _ = write(tmp_path, affine, low, extent, random)
    volume, label = case.load()
    mask = target_mask(label, TARGET)
    prepared = prepare(volume, NATIVE)
    lowest, highest = bounding_box(mask)
    size = tuple(max(n, b - a + 1) for n, a, b in zip(size, lowest, highest, strict=True))
    patch, origin = crop(prepared.label(mask), (np.array(lowest) + highest) / 2, size, False)
    canvas = np.zeros(prepared.shape, np.float32)
    paste(canvas, patch.astype(np.float32), origin)
    write_mask(prepared.to_native_mask(canvas), volume, tmp_path / "out.nii.gz")
    written, given_file = nib.load(tmp_path / "out.nii.gz"), nib.load(case.label)
    np.testing.assert_array_equal(np.asarray(written.dataobj) == 1, np.asarray(given_file.dataobj) == 2)
    np.testing.assert_allclose(written.affine, given_file.affine, rtol=1e-5, atol=1e-3)


def test_padding_of_old_scanners(tmp_path):
    """−3024 outside the circle, and NaN in a float file, neither break the check nor reach the network."""
    hu = np.full((20, 20, 10), -3024, np.float32)
    hu[3:17, 3:17] = np.random.default_rng(0).normal(40, 150, (14, 14, 10))
    label = np.zeros(hu.shape, np.uint8)
    label[8:11, 8:11, 4:6] = 2
    padded, holes = hu.copy(), hu.copy()
    holes[0] = np.nan
    prepared = []
    for name, values in (("padded", padded), ("holes", holes)):
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / f"{name}.nii")
        nib.save(nib.Nifti1Image(label, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "label.nii")
        case = Case("d", name, tmp_path / f"{name}.nii", tmp_path / "label.nii")
        assert problems([verify_case(case, [TARGET], (0, 2))]) == []
        prepared.append(prepare(read_volume(case.image), NATIVE).array)
    np.testing.assert_array_equal(*prepared)
    assert prepared[0].min() == pytest.approx((-100 - 60) / 50)
