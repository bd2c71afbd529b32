"""Prompt encoder and the sampling of training prompts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from tags.prompt_encoder import ABSENT, NEGATIVE, POSITIVE, PromptTensors, sample_at, squared_distance
from tags.sampling import (
    Sampling,
    correct,
    deep_voxels,
    depth_inside,
    jittered_box,
    near,
    random_voxels,
    rough_mask,
    sample_prompts,
)
from tests.tags.shapes import ball


def clicks(*triples, labels=None):
    points = torch.tensor([triples], dtype=torch.float32)
    signs = torch.tensor([labels or [POSITIVE] * len(triples)])
    return PromptTensors.empty(1).with_points(points, signs)


def test_sampler_reads_voxels_in_axis_order(noise):
    volume = noise(1, 2, 5, 6, 7)
    voxels = torch.tensor([[[0, 0, 0], [4, 5, 6], [1, 2, 3], [3, 0, 5]]])
    places = (voxels + 0.5) / torch.tensor([5.0, 6.0, 7.0])
    expected = volume[0][:, voxels[0, :, 0], voxels[0, :, 1], voxels[0, :, 2]].T
    assert torch.allclose(sample_at(volume, places)[0], expected, atol=1e-5)


def test_distance_is_to_the_nearest_valid_click():
    points = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [0.0, 0.0, 0.0]]])
    valid = torch.tensor([[True, True, False]])
    distance = squared_distance(points, valid, (5, 6, 7))[0, 0]
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (5, 6, 7)), indexing="ij"), dim=-1).float()
    expected = torch.cdist(grid.reshape(-1, 3), points[0, :2]).square().min(dim=1).values.view(5, 6, 7)
    assert torch.allclose(distance, expected, atol=1e-3)
    assert torch.isinf(squared_distance(points, torch.zeros_like(valid), (5, 6, 7))).all()


def test_dense_maps_say_what_was_given(build, noise):
    model = build()
    image = noise(1, 1, 32, 32, 32)
    empty = model.prompts.dense_maps(PromptTensors.empty(1), torch.zeros(1, 0, 3), image)
    assert empty.shape[1] == model.prompts.dense_channels
    assert not empty.any()
    prompts = clicks((5, 6, 7))
    prompts.box = torch.tensor([[[2.0, 3.0, 4.0], [8.0, 9.0, 10.0]]])
    prompts.has_box = torch.tensor([True])
    maps = model.prompts.dense_maps(prompts, (prompts.points + 0.5) / 32, image)[0]
    assert (maps[:3, 5, 6, 7] == 1).all()
    assert not maps[3:6].any(), "no negative click was given"
    clicked = image[0, 0, 4:7, 5:8, 6:9].mean()
    assert torch.allclose(maps[6], image[0, 0] - clicked, atol=1e-5), "contrast to the clicked tissue"
    assert maps[7, 5, 6, 7].item() == pytest.approx(1), "nothing is more like it than itself"
    assert maps[7].max() <= 1
    assert maps[-2].sum() == 7**3
    assert maps[-2, 2:9, 3:10, 4:11].all()


def test_contrast_and_likeness_are_to_the_tissue_of_the_positive_clicks(build, noise):
    """Likeness is a Gaussian of 0.3 in the means of 3³ neighbourhoods, here SciPy's; a negative click says nothing."""
    image = noise(2, 1, 16, 16, 16)
    places = torch.tensor([[[5.0, 6, 7], [0, 15, 9], [12, 2, 3]]] * 2)
    prompts = PromptTensors.empty(2).with_points(places, torch.tensor([[1, 1, 0], [0, 0, ABSENT]]))
    maps = build().prompts.dense_maps(prompts, (places + 0.5) / 16, image).numpy()
    voxels = image[0, 0].numpy().astype(float)
    sums, numbers = (ndimage.convolve(one, np.ones((3, 3, 3)), mode="constant") for one in (voxels, np.ones((16,) * 3)))
    smooth = sums / numbers
    clicked = (smooth[5, 6, 7] + smooth[0, 15, 9]) / 2
    np.testing.assert_allclose(maps[0, 6], voxels - clicked, atol=1e-5)
    np.testing.assert_allclose(maps[0, 7], np.exp(-((smooth - clicked) ** 2) / (2 * 0.3**2)), atol=1e-5)
    assert not maps[1, 6:8].any(), "no positive click was given"


def test_crops_of_a_batch_do_not_mix(build, noise, bounds):
    """Each crop's logits are those it gets alone, whatever its neighbours were given."""
    model, image = build(), noise(2, 1, 32, 32, 32)
    prompts = PromptTensors.empty(2).with_points(
        torch.tensor([[[5.0, 6, 7], [9, 9, 9]], [[20.0, 3, 4], [0, 0, 0]]]), torch.tensor([[1, 0], [1, ABSENT]])
    )
    with torch.no_grad():
        both = model(image, [("kidney", "tumor")] * 2, bounds.expand(2, 2), prompts)
        alone = model(image[1:], [("kidney", "tumor")], bounds, clicks((20, 3, 4)))
    assert torch.allclose(both[1:], alone, atol=1e-4)


def test_order_of_clicks_does_not_matter(build, noise, bounds):
    model, image = build(), noise(1, 1, 32, 32, 32)
    encoding = model.encode(image, [("kidney", "tumor")], bounds)
    triples, signs = [(4, 5, 6), (20, 21, 9), (11, 3, 30)], [1, 0, 1]
    with torch.no_grad():
        here, _ = model.decode(encoding, clicks(*triples, labels=signs))
        there, _ = model.decode(encoding, clicks(*triples[::-1], labels=signs[::-1]))
    assert torch.allclose(here, there, atol=1e-4)


@pytest.mark.parametrize("fusion", ["gated", "concat", "none"])
def test_the_sign_of_a_click_matters(build, noise, bounds, fusion):
    model, image = build(fusion=fusion), noise(1, 1, 32, 32, 32)
    encoding = model.encode(image, [("kidney", "tumor")], bounds)
    with torch.no_grad():
        logits = [model.decode(encoding, clicks((16, 16, 16), labels=[sign]))[0] for sign in (POSITIVE, NEGATIVE)]
    assert (logits[0] - logits[1]).abs().max() > 1e-3


def test_a_negative_click_token_is_not_a_positive_one(build, noise):
    """The token itself differs, not only the dense map."""
    model, image = build(), noise(1, 1, 32, 32, 32)
    feature = noise(1, 32, 8, 8, 8)
    plus, minus = (model.prompts(clicks((9, 9, 9), labels=[s]), feature, image).clicks for s in (1, 0))
    assert (plus - minus).abs().max() > 1e-3


def test_sampled_clicks_lie_where_their_sign_says():
    label = torch.cat((ball(), ball(3, (8, 20, 10)), torch.zeros(1, 1, 32, 32, 32)))
    generator = torch.Generator().manual_seed(0)
    counts, boxes, nothing = [], 0, 0
    for _ in range(60):
        prompts = sample_prompts(label, generator, Sampling())
        for i in range(3):
            for point, sign in zip(prompts.points[i].long().tolist(), prompts.labels[i].tolist(), strict=True):
                if sign != ABSENT:
                    assert label[i, 0][tuple(point)] == sign
        assert not (prompts.labels[2] == POSITIVE).any(), "there is no target in the third crop"
        counts.append(int((prompts.labels[0] == POSITIVE).sum()))
        boxes += int(prompts.has_box.sum())
        nothing += int((prompts.labels[0] == ABSENT).all() and not prompts.has_box[0])
    assert min(counts) == 0
    assert max(counts) >= 8
    assert counts.count(1) > 15
    assert boxes > 5
    assert nothing >= 2


def test_a_sampled_box_comes_with_the_ellipsoid_that_it_holds():
    how = Sampling(none=0, single=0, box=1, mask=0)
    drawn = [sample_prompts(ball(9), torch.Generator().manual_seed(seed), how) for seed in range(10)]
    assert any(bool((prompts.labels != ABSENT).any()) for prompts in drawn), "with clicks and without"
    for prompts in drawn:
        assert bool(prompts.has_box.all())
        assert bool(prompts.has_mask.all())
        volume = float((prompts.box[0, 1] - prompts.box[0, 0] + 1).prod())
        assert float((prompts.mask > 0.5).sum()) == pytest.approx(np.pi / 6 * volume, rel=0.06)
        middle = prompts.box[0].mean(dim=0).round().long()
        assert prompts.mask[0, 0][tuple(middle)] > 0.95


@pytest.mark.parametrize(("box", "mask"), [(1, 0), (0, 1)])
def test_without_clicks_there_are_boxes_and_masks_by_their_shares(box, mask):
    label = torch.cat((ball(9), ball(4, (8, 8, 8)), torch.zeros(1, 1, 32, 32, 32)))
    how = Sampling(clicks=0, none=0, none_elsewhere=0, box=box, mask=mask)
    for seed in range(10):
        prompts = sample_prompts(label, torch.Generator().manual_seed(seed), how)
        assert not (prompts.labels != ABSENT).any()
        assert prompts.has_box.tolist() == [bool(box)] * 2 + [False]
        assert prompts.has_mask.tolist() == [True, True, False], "the mask, or the ellipsoid in the box"


def test_the_first_click_is_the_centre_that_a_view_is_about():
    """A ball off the crop's centre that still holds it, and one that does not."""
    label = torch.cat((ball(9, (20, 18, 16)), ball(4, (8, 8, 8))))
    prompts = sample_prompts(label, torch.Generator().manual_seed(0), Sampling(none=0, single=1, central=1, mask=0))
    assert prompts.points[0, 0].tolist() == [16, 16, 16]
    assert (prompts.points[1, 0] - 8).abs().max() <= 1, "one of the deepest voxels"


@pytest.mark.parametrize(("none", "elsewhere"), [(0.0, 1.0), (1.0, 0.0)])
def test_crops_about_the_target_and_crops_elsewhere_go_without_prompts_by_shares_of_their_own(none, elsewhere):
    label = torch.cat((ball(4), ball(4, (8, 8, 8)), torch.zeros(1, 1, 32, 32, 32)))  # the first holds the centre
    how = Sampling(none=none, none_elsewhere=elsewhere, single=0, mask=0)
    drawn = [sample_prompts(label, torch.Generator().manual_seed(seed), how).absent() for seed in range(40)]
    shares = torch.stack(drawn).float().mean(dim=0)
    told = torch.tensor([none, elsewhere, elsewhere])
    assert (shares[told == 1] == 1).all()
    assert (shares[told == 0] < 0.5).all(), "a draw of 0 clicks remains"


def test_any_prompt_makes_a_crop_prompted():
    prompts = PromptTensors.empty(4)
    points = torch.zeros(4, 1, 3)
    signs = torch.tensor([[POSITIVE], [NEGATIVE], [ABSENT], [ABSENT]])
    assert prompts.absent().tolist() == [True] * 4
    assert prompts.with_points(points, signs).absent().tolist() == [False, False, True, True]
    assert replace(prompts, has_box=torch.tensor([True, False, False, False])).absent().tolist() == [False] + 3 * [True]
    assert replace(prompts, has_mask=torch.tensor([False] * 3 + [True])).absent().tolist() == 3 * [True] + [False]


def test_previous_masks_are_given_as_often_as_asked_and_alone_in_half_of_the_crops():
    generator, given, alone = torch.Generator().manual_seed(0), 0, 0
    for _ in range(200):
        prompts = sample_prompts(torch.cat((ball(), torch.zeros_like(ball()))), generator, Sampling(none=0, mask=0.5))
        assert not prompts.has_mask[1], "there is no target in the second crop"
        given += int(prompts.has_mask[0])
        alone += int(prompts.has_mask[0] and not prompts.has_box[0] and (prompts.labels[0] == ABSENT).all())
        assert (prompts.mask is None) == (not prompts.has_mask.any())
    assert 70 < given < 130
    assert 0.3 < alone / given < 0.7


def test_half_of_the_rough_masks_are_perfect_and_the_others_near():
    mask, generator, perfect, overlaps = ball(8)[0, 0] > 0, torch.Generator().manual_seed(0), 0, []
    for _ in range(60):
        rough = rough_mask(mask, generator) > 0.5
        perfect += int(torch.equal(rough, mask))
        overlaps.append(float(2 * (rough & mask).sum() / (rough.sum() + mask.sum())))
    assert 20 <= perfect <= 40
    assert min(overlaps) > 0.6
    assert min(overlaps) < 0.97


def test_sampling_follows_its_generator_alone():
    torch.manual_seed(1)
    first = sample_prompts(ball(), torch.Generator().manual_seed(5), Sampling())
    torch.manual_seed(2)
    second = sample_prompts(ball(), torch.Generator().manual_seed(5), Sampling())
    assert torch.equal(first.points, second.points)
    assert torch.equal(first.labels, second.labels)


def test_the_deepest_voxel_of_a_ball_is_its_centre():
    masks = torch.stack([ball(6, (10, 14, 20))[0, 0] > 0, ball(5, (16, 9, 12))[0, 0] > 0])
    voxels, there = deep_voxels(masks, torch.Generator().manual_seed(0))
    assert there.tolist() == [True, True]
    assert (voxels - torch.tensor([[10, 14, 20], [16, 9, 12]])).abs().max() <= 1


def test_depth_is_the_distance_in_the_chessboard_metric():
    """As SciPy's; what lies beyond the crop is outside."""
    masks = torch.stack([ball(6)[0, 0] > 0, ball(9, (4, 16, 27))[0, 0] > 0])
    expected = [ndimage.distance_transform_cdt(np.pad(one.numpy(), 1), "chessboard")[1:-1, 1:-1, 1:-1] for one in masks]
    assert torch.equal(depth_inside(masks), torch.from_numpy(np.stack(expected)).float())
    assert int(depth_inside(masks, steps=2).max()) == 3


def test_deepest_voxels_are_drawn_evenly_and_of_each_mask_by_itself():
    masks = torch.zeros(3, 4, 5, 6, dtype=torch.bool)
    masks[0, 1, 2, 3] = masks[0, 3, 0, 5] = masks[0, 0, 0, 0] = True
    masks[2, 2, 2, 2] = True
    generator, counts = torch.Generator().manual_seed(0), Counter[tuple[int, ...]]()
    for _ in range(600):
        voxels, there = deep_voxels(masks, generator)
        assert there.tolist() == [True, False, True]
        assert voxels[2].tolist() == [2, 2, 2]
        counts[tuple(voxels[0].int().tolist())] += 1
    assert set(counts) == {(1, 2, 3), (3, 0, 5), (0, 0, 0)}
    assert min(counts.values()) > 150


def test_near_is_a_band_outside():
    mask = ball()[0, 0] > 0
    band = near(mask, 2)
    assert not (band & mask).any()
    assert band[16 + 7, 16, 16]
    assert not band[16 + 9, 16, 16]


def test_random_voxels_reach_every_voxel():
    mask = torch.zeros(3, 4, 5, dtype=torch.bool)
    mask[1, 2, 3] = mask[2, 0, 4] = True
    seen = {tuple(v) for v in random_voxels(mask, 50, torch.Generator().manual_seed(0)).int().tolist()}
    assert seen == {(1, 2, 3), (2, 0, 4)}


def test_box_without_jitter_is_the_bounding_box():
    low, high = jittered_box(ball(5)[0, 0] > 0, 0.0, torch.Generator())
    assert low.tolist() == [11, 11, 11]
    assert high.tolist() == [21, 21, 21]


def test_correction_clicks_the_larger_error():
    label = torch.cat((ball(6), ball(6), ball(6)))
    logits = torch.cat((torch.full_like(ball(), -5), torch.full_like(ball(), 5), 10 * ball(6) - 5))
    prompts = correct(PromptTensors.empty(3), logits, label, torch.Generator().manual_seed(0))
    assert prompts.labels[:, 0].tolist() == [POSITIVE, NEGATIVE, ABSENT]
    assert label[0, 0][tuple(prompts.points[0, 0].long())] == 1
    assert label[1, 0][tuple(prompts.points[1, 0].long())] == 0
    assert prompts.has_mask.all()
    assert torch.equal(prompts.mask, logits.sigmoid())
