"""Fresh weights of a small SAM: what a click and an empty mask mean before any training."""

from __future__ import annotations

import torch

from baselines.losses import mask_losses
from baselines.sam.decoder import CrossAttention
from baselines.sam.initialisation import initialise
from baselines.sam.network import Sam
from baselines.sam_med3d.segmenter import SIZES


def test_a_cell_attends_most_to_a_click_in_it() -> None:
    torch.manual_seed(0)
    network = Sam(SIZES["tiny"])
    initialise(network)
    attention = network.mask_decoder.get_submodule("transformer.layers.0.cross_attn_image_to_token")
    assert isinstance(attention, CrossAttention)
    encoder = network.prompt_encoder
    with torch.no_grad():
        click = encoder.pe_layer.of_points(torch.tensor([[[10.0, 22.0, 14.0]]]), encoder.image)  # cell (2, 5, 3)
        cells = encoder.dense_position().flatten(2).transpose(1, 2)
        likeness = attention.q_proj(cells) @ attention.k_proj(click).transpose(1, 2)
    assert likeness.argmax() == (2 * 8 + 5) * 8 + 3


def test_masks_start_nearly_empty() -> None:
    torch.manual_seed(0)
    network = Sam(SIZES["tiny"])
    initialise(network)
    with torch.no_grad():
        points = (torch.tensor([[[10.0, 22.0, 14.0]]]), torch.ones(1, 1))
        logits, _ = network.decode(torch.randn(1, 48, 8, 8, 8), points, multimask=True)
    assert -5 < logits.mean() < -1


def test_target_voxels_weigh_by_the_root_of_their_share() -> None:
    label = torch.zeros(1, 1, 10, 10)
    label[..., :2, :2] = 1  # 4 of 100: a weight of 5
    logits = torch.full((1, 1, 10, 10), -2.0)
    inside, outside = (torch.nn.functional.softplus(torch.tensor(value)) for value in (2.0, -2.0))
    entropy = (5 * 4 * inside + 96 * outside) / 100
    chance = torch.sigmoid(torch.tensor(-2.0))
    dice = 1 - (2 * 4 * chance + 1) / (100 * chance + 4 + 1)
    torch.testing.assert_close(mask_losses(logits, label)[0, 0], entropy + dice)
