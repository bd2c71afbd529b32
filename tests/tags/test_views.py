"""Views: where they look, what they see, and how their answers become one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.data.preprocessing import Preprocessing, prepare
from benchmarks.data.volume import Volume
from tags.views import Answer, View, across, sampled


def grid(shape, spacing=(1.0, 1.0, 1.0), wanted=1.0, function=lambda x, y, z: x):
    """A volume whose values are a function of the mm of each voxel's centre, on a grid of `wanted` mm."""
    mm = [(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)]
    array = function(*np.meshgrid(*mm, indexing="ij")).astype(np.float32)
    return prepare(Volume(array, np.diag([*spacing, 1.0])), Preprocessing((wanted,) * 3, None))


def test_a_view_of_step_one_is_a_crop_with_the_click_at_half_its_side():
    prepared = grid((40, 40, 40), function=lambda x, y, z: x + 100 * y + 10_000 * z)
    view = View.about((20, 12, 30), 1.0, 8)
    assert np.array_equal(view.cut(prepared, -1.0), prepared.array[16:24, 8:16, 26:34])
    assert view.local(np.array([[20, 12, 30]])).tolist() == [[4, 4, 4]]
    assert (View.about((0, 0, 0), 1.0, 8).cut(prepared, -1.0)[:4] == -1).all()


@pytest.mark.parametrize("side", [15, 16])
def test_a_view_about_a_voxel_or_between_two_sees_what_lies_there(side):
    """Each axis has a ramp of its own: what a view shows is where its voxels lie."""
    prepared = grid((80, 80, 80), function=lambda x, y, z: x + 100 * y + 10_000 * z)
    for step in (1.0, 1.5, 2.25):
        about = View.about((40, 38, 42), 1.0, side).centre
        for centre in (about, (40.0, 38.5, 42.0), (40.5, 38.0, 41.5))[: 1 if step == 1 else None]:
            view = View(centre, step, side)
            x, y, z = (start + step * np.arange(side) + 0.5 for start in view.start)
            expected = x[:, None, None] + 100 * y[:, None] + 10_000 * z
            assert np.allclose(view.cut(prepared, 0.0), expected, atol=0.2), (step, centre)  # float32 of 500 000


@pytest.mark.parametrize("side", [15, 16])
@pytest.mark.parametrize("click", [(40.3, 38.7, 42.2), (40.0, 38.5, 42.0)])
def test_a_view_that_was_nearer_and_is_wide_again_sees_what_lies_there(side, click):
    """A nearer view lies about its click, anywhere; a wide one again where its axes say, and hardly further off."""
    prepared = grid((80, 80, 80), function=lambda x, y, z: x + 100 * y + 10_000 * z)
    near = View.about((40, 38, 42), 1.0, side).narrowed(4 / 9, np.array(click))
    for times in (2, 3):
        view = near
        for _ in range(times):
            view = view.widened(1.5)
        assert np.abs(np.array(view.centre) - np.array(near.centre)).max() <= 0.5
        x, y, z = (axis + 0.5 for axis in view.axes)
        expected = x[:, None, None] + 100 * y[:, None] + 10_000 * z
        assert np.allclose(view.cut(prepared, 0.0), expected, atol=0.2), times


@pytest.mark.parametrize("step", [1.5, 2.25])
def test_a_wider_view_keeps_the_centre_and_averages_what_a_voxel_holds(step):
    """A ramp keeps its values; a checkerboard of single voxels, which would alias, becomes grey."""
    ramp = grid((80, 80, 80), function=lambda x, y, z: x)
    view = View.about((40, 40, 40), 1.0, 16).widened(step)
    centres = view.start[0] + step * np.arange(16) + 0.5  # mm
    assert np.allclose(view.cut(ramp, 0.0)[:, 5, 9], centres, atol=1e-3)
    board = grid((80, 80, 80), function=lambda x, y, z: (x + y + z - 1.5) % 2 * 2 - 1)
    assert np.abs(view.cut(board, 0.0)).max() < 0.05
    assert np.abs(board.array).min() == 1


@pytest.mark.parametrize(("step", "side"), [(4.0, 16), (5.3, 15), (7.9, 16)])
def test_a_very_wide_view_is_scipys_mean_filter(step, side):
    """Sampled linearly, and shown in a volume that ends within the view."""
    array = np.random.default_rng(0).normal(size=(70, 45, 20)).astype(np.float32)
    prepared = prepare(Volume(array, np.eye(4)), Preprocessing((1.0,) * 3, None))
    view, width, fill = View.about((30, 10, 15), step, side), round(step), -2.5
    around = np.pad(prepared.array, 80, constant_values=fill)
    means = ndimage.uniform_filter(around.astype(float), width)
    beside = 0.0 if width % 2 else 0.5  # where SciPy puts the middle of an even number of voxels
    mesh = np.meshgrid(*[axis + 80 + beside for axis in view.axes], indexing="ij")
    expected = ndimage.map_coordinates(means, mesh, order=1)
    assert np.allclose(view.cut(prepared, fill), expected, atol=1e-4)


def test_a_nearer_view_has_the_click_where_a_first_view_has_it():
    view = View.about((20, 12, 30), 1.0, 8)
    click = np.array([20.4, 11.6, 30.0])
    for step in (0.4, 0.1):
        assert np.allclose(view.narrowed(step, click).local(click[None]), 4)
    assert view.narrowed(0.4, None).centre == view.centre


def test_linear_samples_are_scipys():
    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    axes = [np.linspace(-1, n, 9) for n in array.shape]
    mesh = np.meshgrid(*axes, indexing="ij")
    expected = ndimage.map_coordinates(array.astype(float), mesh, order=1, mode="nearest")
    assert np.allclose(sampled(array, axes), expected, atol=1e-5)
    assert sampled(array[:1], [np.zeros(3), *axes[1:]]).shape == (3, 9, 9)


def test_an_answer_comes_back_to_its_place_on_the_volumes_own_grid():
    """A function of place, seen in views of two sizes, is the same function of place on the anisotropic scan."""
    prepared = grid((60, 50, 30), (1.0, 1.2, 2.5), 2.0)
    parts = []
    for step in (1.0, 1.5):
        view = View.about((15, 15, 18), step, 16)
        mm = [(view.start[a] + step * np.arange(16) + 0.5) * prepared.spacing[a] for a in range(3)]
        x, y, z = np.meshgrid(*mm, indexing="ij")
        parts.append((view, (x + 2 * y + 3 * z).astype(np.float32)))
    box, values, looked = Answer(tuple(parts)).on_volume(prepared)
    mm = [(np.arange(n) + 0.5) * s for n, s in zip((60, 50, 30), (1.0, 1.2, 2.5), strict=True)]
    x, y, z = np.meshgrid(*(axis[side] for axis, side in zip(mm, box, strict=True)), indexing="ij")
    inner = (slice(4, -4),) * 3  # at a view's own edge its edge value goes on
    assert np.abs(values - (x + 2 * y + 3 * z))[inner].max() < 0.3  # half a voxel of either grid is 0.5 or more
    assert looked.all()
    assert box[0] == slice(6, 54)  # 1.5 · 16 voxels of 2 mm about the middle of the view, at 30 mm


def test_overlapping_views_are_blended_and_the_nearer_centre_counts_more():
    a, b = View.about((16, 16, 16), 1.0, 16), View.about((24, 16, 16), 1.0, 16)
    answer = Answer(((a, np.full((16,) * 3, 0.2, np.float32)), (b, np.full((16,) * 3, 0.8, np.float32))))
    wide = View.about((20, 16, 16), 1.0, 32)
    line = answer.seen_from(wide)[:, 16, 16]
    there = line[line > 0]
    assert there[0] == pytest.approx(0.2)
    assert there[-1] == pytest.approx(0.8)
    assert (np.diff(there) >= -1e-6).all()
    assert ((there > 0.3) & (there < 0.7)).any()
    assert line[0] == line[-1] == 0, "no view looked there"


def test_a_face_counts_only_inside_the_volume():
    mask = np.zeros((8, 8, 8), bool)
    mask[0, 2:6, 2:6] = True
    assert View.about((20, 20, 20), 1.0, 8).touches(mask, (40, 40, 40))
    assert not View.about((4, 20, 20), 1.0, 8).touches(mask, (40, 40, 40))
    assert View.about((4, 20, 20), 1.0, 8).touches(mask[::-1], (40, 40, 40))
    assert not View.about((36, 20, 20), 1.0, 8).touches(mask[::-1], (40, 40, 40))
    assert across(mask) == 4
    assert across(mask & False) == 0
