"""Training crops: functions of seed, step and place; made ahead in order, with errors that surface."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from benchmarks.contestants import NO_AUGMENTATION, TrainingRecipe
from benchmarks.data.cache import Cache
from benchmarks.data.dataset import Case
from benchmarks.data.preprocessing import Preprocessing
from benchmarks.execution.crops import Ahead, CropSource, WorkerPlace
from tests.execution.training_cases import TARGET, write_cases

RECIPE = TrainingRecipe(Preprocessing(None, (-200.0, 300.0), 0.0, 100.0), (8, 8, 4), batch_size=4)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    return write_cases(tmp_path_factory.mktemp("cases"))


def images(source: CropSource, step: int) -> list[torch.Tensor]:
    return [image for batch in source.step(step) for image in batch.image]


def test_a_crop_is_cut_from_a_case_and_its_label_lies_on_it(cases: tuple[Case, ...], tmp_path: Path) -> None:
    """The block is 150 HU brighter than noise of 30 HU: after any flip and shift the label tells bright from dark."""
    source = CropSource(cases, TARGET, replace(RECIPE, foreground=1.0), 1, cache=Cache(tmp_path))
    for step in range(10):
        (batch,) = source.step(step)
        assert batch.image.shape == batch.label.shape == (4, 1, 8, 8, 4)
        for image, label in zip(batch.image, batch.label, strict=True):
            assert label.any()
            assert image[label > 0].mean() - image[label == 0].mean() > 1.2  # 150 HU are 1.5


def test_the_centre_is_in_the_target_for_the_share_that_the_recipe_wants(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    """A crop of one voxel shows its centre."""
    tiny = replace(RECIPE, patch=(1, 1, 1), batch_size=400, foreground=0.75)
    (batch,) = CropSource(cases, TARGET, tiny, 1, cache=Cache(tmp_path)).step(0)
    background_hits = 0.25 * 125 / (20 * 18 * 12)
    assert float(batch.label.mean()) == pytest.approx(0.75 + background_hits, abs=4 * (0.75 * 0.25 / 400) ** 0.5)


@pytest.mark.parametrize("fill", [None, 0.5])
def test_beyond_the_scan_is_its_lowest_value_or_what_the_recipe_says(
    cases: tuple[Case, ...], tmp_path: Path, fill: float | None
) -> None:
    """The scan has 20 x 18 x 12 voxels."""
    recipe = replace(RECIPE, patch=(60, 60, 60), batch_size=1, foreground=1.0, fill=fill)
    recipe = replace(recipe, augmentation=NO_AUGMENTATION if fill is None else RECIPE.augmentation)
    (batch,) = CropSource(cases, TARGET, recipe, 1, cache=Cache(tmp_path)).step(0)
    corners = batch.image[0, 0, ::59, ::59, ::59].unique()
    low = float(batch.image.min()) if fill is None else fill
    assert corners.tolist() == [pytest.approx(low)]
    assert int((batch.image[0, 0] == corners[0]).sum()) >= 60**3 - 20 * 18 * 12


@pytest.mark.parametrize("side", [8, 26, 60])
def test_crops_anywhere_lie_on_both_sides_alike(cases: tuple[Case, ...], tmp_path: Path, side: int) -> None:
    """Of a scan smaller than the crop, too: its middle is on average that of the crop, from one end to the other."""
    recipe = replace(RECIPE, patch=(side,) * 3, batch_size=300, foreground=0.0, fill=99.0, augmentation=NO_AUGMENTATION)
    (batch,) = CropSource(cases, TARGET, recipe, 1, cache=Cache(tmp_path)).step(0)
    for axis, extent in enumerate((20, 18, 12)):
        places = np.arange(side)
        others = tuple(other for other in range(3) if other != axis)
        shown = [np.flatnonzero((image[0].numpy() < 99).any(axis=others)) for image in batch.image]
        if side <= extent:  # never beyond the scan
            assert all(len(one) == side for one in shown)
            continue
        middles = np.array([places[one].mean() for one in shown]) - (side - 1) / 2
        reach = min(side - extent, extent) / 2  # all of the scan is shown if its middle lies within half the difference
        assert [middles.min(), middles.max()] == pytest.approx([-reach, reach], abs=1)
        assert middles.mean() == pytest.approx(0, abs=4 * (2 * reach + 1) / (12 * 300) ** 0.5)


def test_workers_see_together_what_one_worker_sees(cases: tuple[Case, ...], tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    whole = images(CropSource(cases, TARGET, RECIPE, 1, cache=cache), 3)
    half = replace(RECIPE, batch_size=2)
    shares = [images(CropSource(cases, TARGET, half, 1, worker=WorkerPlace(r, 2), cache=cache), 3) for r in range(2)]
    accumulated = images(CropSource(cases, TARGET, replace(half, accumulate=2), 1, cache=cache), 3)
    assert torch.equal(torch.stack(whole), torch.stack([*shares[0], *shares[1]]))
    assert torch.equal(torch.stack(whole), torch.stack(accumulated))
    quarter = replace(RECIPE, batch_size=1, accumulate=2)
    shares = [images(CropSource(cases, TARGET, quarter, 1, worker=WorkerPlace(r, 2), cache=cache), 3) for r in range(2)]
    assert torch.equal(torch.stack(whole), torch.stack([shares[0][0], shares[1][0], shares[0][1], shares[1][1]]))


def test_steps_places_and_seeds_give_other_crops_and_the_same_ones_the_same(
    cases: tuple[Case, ...], tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    first, again = (CropSource(cases, TARGET, RECIPE, 1, cache=cache) for _ in range(2))
    assert torch.equal(torch.stack(images(first, 2)), torch.stack(images(again, 2)))
    other = CropSource(cases, TARGET, RECIPE, 2, cache=cache)
    drawn = [*images(first, 2), *images(first, 3), *images(other, 2)]
    assert len({image.numpy().tobytes() for image in drawn}) == len(drawn)
    prompts = [batch.generator.initial_seed() for s in (first, other) for step in (2, 3) for batch in s.step(step)]
    assert len(set(prompts)) == 4


def test_every_flip_and_intensity_change_occurs(cases: tuple[Case, ...], tmp_path: Path) -> None:
    whole = replace(RECIPE, patch=(20, 18, 12), batch_size=1, foreground=0.0)
    source = CropSource(cases[:1], TARGET, whole, 1, cache=Cache(tmp_path))
    plain = cases[0].load()[0].array.clip(-200, 300) / 100
    flips, shifts, scales = set(), [], []
    for step in range(60):
        image = source.step(step)[0].image[0, 0].numpy()
        for axes in [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]:
            scale, shift = np.polyfit(plain.ravel(), np.flip(image, axes).ravel(), 1)
            if abs(np.flip(image, axes) - (plain * scale + shift)).max() < 1e-2:
                flips.add(axes)
                shifts.append(shift)
                scales.append(scale)
                break
    assert len(scales) == 60
    assert len(flips) == 8
    assert 0.08 < max(shifts) < 0.11
    assert -0.11 < min(shifts) < -0.08
    assert 1.08 < max(scales) < 1.11
    assert 0.89 < min(scales) < 0.92


def test_items_come_in_order_and_only_so_many_ahead() -> None:
    made: list[int] = []
    with Ahead(lambda number: made.append(number) or number, first=7, depth=2) as ahead:
        assert [ahead.take() for _ in range(5)] == [7, 8, 9, 10, 11]
        deadline = time.monotonic() + 5
        while len(made) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == list(range(7, 15))  # five taken, two waiting, one in the hand of the thread
    assert not any(thread.name == "crops" for thread in threading.enumerate())


def test_an_error_is_raised_where_its_item_is_taken() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise OSError("the disk is gone")
        return number

    with Ahead(make, first=0) as ahead:
        assert [ahead.take(), ahead.take()] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            ahead.take()


def test_waiting_is_measured() -> None:
    release, second = threading.Event(), threading.Event()

    def make(number: int) -> int:
        release.wait(10)
        if number == 2:
            second.set()  # item 1 has been handed over
        return number

    with Ahead(make, first=0) as ahead:
        threading.Timer(0.3, release.set).start()
        ahead.take()
        assert ahead.seconds_waited >= 0.2
        waited = ahead.seconds_waited
        assert second.wait(10)
        ahead.take()
        assert ahead.seconds_waited - waited < 0.2


def test_deep_centres_lie_deep_in_every_lesion_alike(tmp_path: Path) -> None:
    """A large and a small cube, joined to nothing: half of the deep centres belong to each, in its middle."""
    label = np.zeros((40, 30, 30), np.int16)
    label[2:22, 5:25, 5:25] = 1
    label[30:35, 10:15, 10:15] = 1
    image = np.arange(label.size, dtype=np.float32).reshape(label.shape)
    for name, array in (("image", image), ("label", label)):
        nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])).to_filename(tmp_path / f"{name}.nii.gz")
    case = Case("d", "c", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    plain = replace(RECIPE, patch=(1, 1, 1), batch_size=200, foreground=1.0, augmentation=NO_AUGMENTATION)
    plain = replace(plain, preprocessing=Preprocessing(None, None))

    def centres(deep: float) -> np.ndarray:
        source = CropSource([case], TARGET, replace(plain, deep=deep), 1, cache=Cache(tmp_path / "cache"))
        values = torch.stack(images(source, 0)).flatten().numpy().astype(int)
        return np.stack(np.unravel_index(values, label.shape), axis=1)

    deep = centres(1.0)
    small = deep[:, 0] >= 30
    assert 70 <= small.sum() <= 130, "every lesion is as likely, however small"
    assert (deep[small] == [32, 12, 12]).all(axis=1).mean() > 0.1
    assert np.abs(deep[small] - [32, 12, 12]).max() <= 1
    reach = np.abs(deep[~small] - [11.5, 14.5, 14.5]).max(axis=0)
    assert reach[:2].max() <= 2.5, "0.8 of a depth of 10 mm"
    assert 2.5 < reach[2] <= 6.5, "voxels are twice as high as wide: depth is in mm"
    anywhere = centres(0.0)
    assert (anywhere[:, 0] >= 30).mean() < 0.05
    assert np.abs(anywhere - [11.5, 14.5, 14.5]).max() > 8
    mixed = centres(0.5)
    assert 0.1 < (mixed[:, 0] >= 30).mean() < 0.4


def test_a_case_without_the_target_gives_empty_crops(tmp_path: Path) -> None:
    """Half of all patients have no cyst; a training that wants deep centres takes them as it takes any other case."""
    for name, kind in (("image", np.float32), ("label", np.int16)):
        nib.Nifti1Image(np.zeros((20, 20, 20), kind), np.eye(4)).to_filename(tmp_path / f"{name}.nii.gz")
    case = Case("d", "c", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    recipe = replace(RECIPE, patch=(8, 8, 8), foreground=1.0, deep=1.0, preprocessing=Preprocessing(None, None))
    source = CropSource([case], TARGET, recipe, 1, cache=Cache(tmp_path / "cache"))
    assert all(batch.label.sum() == 0 for batch in source.step(0))
