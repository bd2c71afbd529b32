"""The one-convolution stem equals the chain that it stands for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tags.stem import VolumetricStem, interpolation_matrix
from tests.tags.naive_stem import naive_embed


@pytest.fixture
def stem():
    torch.manual_seed(3)
    stem = VolumetricStem(embed_dim=24, grid=8, table=16)
    with torch.no_grad():
        stem.depth_weight.normal_()
        stem.depth_bias.normal_()
        stem.patch_bias.normal_()
    return stem


@pytest.mark.parametrize("shape", [(32, 32, 32), (16, 24, 8), (4, 4, 4)])
def test_equals_the_naive_chain_borders_included(stem, noise, shape):
    image = noise(2, 1, *shape)
    with torch.no_grad():
        composed, naive = stem.embed(image), naive_embed(stem, image)
    assert composed.shape == naive.shape == (2, *(n // 4 for n in shape), 24)
    assert (composed - naive).abs().max() <= 1e-4 * naive.abs().max()


def test_a_fused_optimiser_leaves_no_kernel_of_before(stem, noise):
    """It does not raise a parameter's version, which the kept kernel is known by."""
    image = noise(1, 1, 8, 8, 8)
    optimiser = torch.optim.AdamW(stem.parameters(), lr=0.5, fused=True)
    with torch.no_grad():
        before = stem.eval().embed(image)
    stem.train().embed(image).square().sum().backward()
    optimiser.step()
    with torch.no_grad():
        after, naive = stem.eval().embed(image), naive_embed(stem, image)
    assert not torch.allclose(before, after, rtol=1e-2)
    assert (after - naive).abs().max() <= 1e-4 * naive.abs().max()


def test_interpolation_matrix_is_torch_trilinear():
    ramp = torch.zeros(1, 1, 18)
    for voxel in range(6):
        ramp.zero_()
        ramp[0, 0, 6 + voxel] = 1
        enlarged = F.interpolate(ramp, scale_factor=4, mode="linear", align_corners=False)[0, 0]
        assert torch.allclose(enlarged[28:44], interpolation_matrix()[:, voxel], atol=1e-6)


def test_gradients_equal_those_of_the_naive_chain(stem, noise):
    image = noise(1, 1, 8, 8, 8)
    stem.embed(image).square().sum().backward()
    composed = {name: p.grad.clone() for name, p in stem.named_parameters() if p.grad is not None}
    stem.zero_grad()
    naive_embed(stem, image).square().sum().backward()
    for name in ("patch_weight", "patch_bias", "depth_weight", "depth_bias"):
        expected = dict(stem.named_parameters())[name].grad
        assert torch.allclose(composed[name], expected, rtol=1e-3, atol=1e-3 * expected.abs().max())


def test_the_cached_kernel_follows_a_change_of_the_weights(stem, noise):
    image = noise(1, 1, 8, 8, 8)
    with torch.no_grad():
        before = stem.embed(image)
        assert torch.equal(before, stem.embed(image))
        stem.depth_weight.mul_(2)
        stem.depth_bias.mul_(2)
        assert torch.allclose(stem.embed(image), 2 * before, atol=1e-5)


def test_a_shift_by_one_token_shifts_the_tokens(stem, noise):
    volume = noise(1, 1, 40, 40, 40)
    with torch.no_grad():
        here = stem.embed(volume[..., :32, :32, :32])
        there = stem.embed(volume[..., 4:36, 4:36, 4:36])
    inner = slice(1, -2)
    assert torch.allclose(here[:, 2:-1, 2:-1, 2:-1], there[:, inner, inner, inner], atol=1e-5)


def test_positions_keep_sams_table_where_the_size_fits(stem):
    positions = stem.positions((16, 16, 8))
    assert torch.equal(positions[0, :, :, 3], stem.pos_embed[0] + stem.depth_embed[3])
    halved = stem.positions((8, 8, 8))
    pooled = F.avg_pool2d(stem.pos_embed.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert torch.allclose(halved[0, :, :, 0], pooled[0] + stem.depth_embed[0], atol=1e-6)
