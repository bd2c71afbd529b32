"""What the bench changes in a training crop is what the method asked for."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.contestants import NO_AUGMENTATION, Augmentation, Case, Preprocessing, Target, TrainingRecipe
from benchmarks.data.cache import Cache
from benchmarks.execution.crops import CropSource

SHAPE = (6, 8, 10)
TARGET = Target("lesion", "", "lesion", (1,))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    random = np.random.default_rng(1)
    for name, array in (("image", random.normal(0, 100, SHAPE)), ("label", random.random(SHAPE) > 0.7)):
        nib.save(nib.Nifti1Image(array.astype(np.int16), np.eye(4)), tmp_path / f"{name}.nii.gz")
    return Case("d", "c", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")


def crops(case: Case, augmentation: Augmentation, count: int = 24) -> list[tuple[np.ndarray, np.ndarray]]:
    """Crops of the whole volume, so that only the augmentation tells one from another."""
    recipe = TrainingRecipe(Preprocessing(None, None, 0.0, 100.0), SHAPE, 1, foreground=0.0, augmentation=augmentation)
    source = CropSource([case], TARGET, recipe, seed=5, cache=Cache(case.image.parent / "cache"))
    batches = [source.step(step)[0] for step in range(count)]
    assert all(str(batch.generator.device) == "cpu" for batch in batches)
    return [(batch.image[0, 0].numpy(), batch.label[0, 0].numpy() > 0.5) for batch in batches]


def whole(case: Case) -> tuple[np.ndarray, np.ndarray]:
    volume, label = case.load()
    return volume.array / 100, label == 1


def test_none_leaves_the_crop_as_it_is(case: Case) -> None:
    image, label = whole(case)
    for crop, mask in crops(case, NO_AUGMENTATION):
        np.testing.assert_allclose(crop, image, atol=0.01)  # the cache keeps whole HU
        np.testing.assert_array_equal(mask, label)


def test_an_axis_is_turned_in_image_and_label_alike_and_only_if_it_may_be(case: Case) -> None:
    image, label = whole(case)
    for crop, mask in crops(case, Augmentation((0.0, 1.0, 0.0), 0.0, 0.0)):
        np.testing.assert_allclose(crop, image[:, ::-1], atol=0.01)
        np.testing.assert_array_equal(mask, label[:, ::-1])
    turned = [not np.array_equal(mask, label) for _, mask in crops(case, Augmentation((0.0, 0.0, 0.5), 0.0, 0.0))]
    assert 4 < sum(turned) < 20


def test_intensities_keep_within_what_was_asked_for(case: Case) -> None:
    image, _ = whole(case)
    fits = [np.polyfit(image.ravel(), crop.ravel(), 1) for crop, _ in crops(case, Augmentation((0, 0, 0), 0.2, 0.05))]
    scales, shifts = np.array(fits).T
    assert (np.abs(scales - 1) <= 0.2 + 1e-3).all()
    assert (np.abs(shifts) <= 0.05 + 1e-3).all()
    assert scales.std() > 0.05
    assert shifts.std() > 0.01


def test_the_default_turns_every_axis_and_changes_intensities_by_a_tenth() -> None:
    assert Augmentation() == Augmentation((0.5, 0.5, 0.5), 0.1, 0.1)
