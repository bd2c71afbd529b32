"""Training crops: fields of view, turns and flips do what their names say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.data.preprocessing import Preprocessing, prepare
from benchmarks.data.volume import Volume
from tags import augment
from tags.augment import draw_flips, flipped, random_views, rotations, seen
from tags.config import defaults
from tags.search_space import search_space
from tags.views import View
from tests.tags.shapes import ball


def once(image, label, side, factor, **how):
    return random_views(image, label, side, (factor, factor), torch.Generator().manual_seed(0), **how)


@pytest.mark.parametrize(("factor", "radius"), [(0.6, 10.0), (1.0, 6.0), (1.5, 4.0), (2.4, 2.5)])
def test_a_wider_field_keeps_the_centre_and_shrinks_the_target(factor, radius):
    label = ball(6, (39, 39, 39), 79)
    image, found = once(label * 2, label, 33, factor)
    centre = found[0, 0].nonzero().float().mean(dim=0)
    assert (centre - 16).abs().max() < 0.3
    assert found.sum().item() == pytest.approx(4 / 3 * 3.14159 * radius**3, rel=0.2 if radius > 3 else 0.35)
    assert image[0, 0, 16, 16, 16] == pytest.approx(2)


def test_a_field_of_one_without_a_turn_changes_nothing():
    label = torch.zeros(1, 1, 40, 40, 40)
    label[0, 0, 10:30, 16:24, 18:22] = 1
    _, same = once(label, label, 40, 1.0)
    assert torch.equal(same, label)


def test_a_wide_field_does_not_alias():
    """Noise of single voxels is averaged away: at 2.25 a voxel holds 11 of them."""
    noise = torch.randn(1, 1, 80, 80, 80, generator=torch.Generator().manual_seed(0))
    assert seen(noise, 32, torch.full((3,), 2.25)).std() < 0.5 * seen(noise, 32, torch.full((3,), 1.0)).std()


def test_turns_are_turns_about_each_axis_and_keep_lengths():
    quarter = torch.tensor([[0.0, 0.0, torch.pi / 2], [torch.pi / 2, 0.0, 0.0], [0.0, torch.pi / 2, 0.0]])
    about_z, about_x, about_y = rotations(quarter)
    for turn, source, result in ((about_z, 0, 1), (about_x, 1, 2), (about_y, 2, 0)):
        assert torch.allclose(turn @ torch.eye(3)[source], torch.eye(3)[result], atol=1e-6)
    many = rotations(torch.rand(5, 3, generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(many @ many.mT, torch.eye(3).expand(5, 3, 3), atol=1e-5)


def test_a_crop_turned_by_a_quarter_is_the_array_turned():
    image = torch.randn(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(2))
    turned = seen(image, 12, torch.ones(3), rotations(torch.tensor([[0.0, 0.0, torch.pi / 2]]))[0])
    # the view's x axis looks along the crop's y axis, its y axis against x
    expected = np.rot90(image[0, 0].numpy(), -1, axes=(0, 1))
    other = np.rot90(image[0, 0].numpy(), 1, axes=(0, 1))
    best = min(np.abs(turned[0, 0].numpy() - one).max() for one in (expected, other))
    assert best < 1e-4


def test_a_tilted_bar_keeps_its_volume_and_leaves_its_axis():
    bar = torch.zeros(1, 1, 48, 48, 48)
    bar[0, 0, 14:34, 21:27, 21:27] = 1
    _, found = random_views(bar, bar, 48, (1.0, 1.0), torch.Generator().manual_seed(3), tilt=20.0)
    assert found.sum().item() == pytest.approx(bar.sum().item(), rel=0.1)
    assert not torch.equal(found, bar)


def beyond(monkeypatch, zoom, tilt):
    """The share of the voxels of each of 200 views that lie beyond the crop, which is as wide as the widest of them."""
    sampled = torch.nn.functional.grid_sample
    monkeypatch.setattr(
        augment.F, "grid_sample", lambda *told, **how: sampled(*told, **{**how, "padding_mode": "zeros"})
    )
    side = 2 * math.ceil(32 * zoom[1] / 2)
    crops, random = torch.ones(1, 1, side, side, side).expand(10, -1, -1, -1, -1), torch.Generator().manual_seed(0)
    views = [random_views(crops, crops, 32, tuple(zoom), random, 0.1, tilt)[0] for _ in range(20)]
    return (torch.cat(views) < 0.5).float().mean(dim=(1, 2, 3, 4))


@pytest.mark.parametrize(("size", "mean", "most"), [("tiny", 0.008, 0.20), ("vit-b", 0.002, 0.12)])
def test_turned_views_hardly_look_beyond_what_was_cut(monkeypatch, size, mean, most):
    """With every zoom that a sweep tries; by docs/methods/tags.md this much with the method's own."""
    own = defaults(size)
    shares = {tuple(zoom): beyond(monkeypatch, zoom, own["tilt"]) for zoom in search_space(size)["zoom"][1]}
    assert max(float(share.mean()) for share in shares.values()) < 0.04
    usual = shares[tuple(own["zoom"])]
    assert float(usual.mean()) == pytest.approx(mean, abs=0.004)
    assert float(usual.max()) < most + 0.01
    assert float(beyond(monkeypatch, (1.0, 1.0), own["tilt"]).mean()) > 0.05  # nothing but what was cut is seen


def test_flips_follow_their_chances_and_turn_each_crop_by_its_own():
    drawn = draw_flips([(0.0, 1.0, 0.5)] * 400, torch.Generator().manual_seed(0))
    assert all(0 not in axes and 1 in axes for axes in drawn)
    assert 140 < sum(2 in axes for axes in drawn) < 260
    maps = torch.randn(2, 3, 4, 5, 6)
    result = flipped(maps, [[0], [1, 2]])
    assert torch.equal(result[0], maps[0].flip(1))
    assert torch.equal(result[1], maps[1].flip(2, 3))


def test_nothing_is_moved_under_autocast():
    """The places where a crop, and a view at inference, are read stay those of float32."""
    image = torch.randn(2, 1, 78, 78, 78, generator=torch.Generator().manual_seed(0))
    scan = Volume(image[0, 0].numpy(), np.eye(4))
    prepared = prepare(scan, Preprocessing(None, None))

    def crops():
        return random_views(image, image, 32, (0.7, 2.4), torch.Generator().manual_seed(1), 0.1, 20.0)[0]

    def view():
        return View((39.5, 39.5, 39.5), 1.7, 32).cut(prepared, 0.0)

    exact, exact_view = crops(), view()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crops(), exact)
        assert np.array_equal(view(), exact_view)
