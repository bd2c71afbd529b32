"""The Universal Model against the golden files: key layout, octant order, and every recorded tensor."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.universal.network import (
    SIZES,
    Backbone,
    LegacyPatchMerging,
    UNetBackbone,
    UniversalModel,
    load_official_file,
    own_key,
)
from tests.parity.rule import Golden, relative_position_index, unchecked

BACKBONES = ("swinunetr", "unet")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_keys_and_shapes(golden: Callable[[str], Golden], backbone: Backbone) -> None:
    own = {key: tuple(value.shape) for key, value in UniversalModel(backbone, SIZES["official"]).state_dict().items()}
    official = golden(f"universal_{backbone}").rows
    assert own == {own_key(row.key.removeprefix("module.")): row.shape for row in official}


def test_legacy_merging_takes_the_octants_of_the_rule() -> None:
    parity = torch.stack(torch.meshgrid(*[torch.arange(4.0) % 2] * 3, indexing="ij"), dim=-1)[None]
    code = (parity @ torch.tensor([100.0, 10.0, 1.0]))[..., None]
    merging = LegacyPatchMerging(1)
    merging.norm, merging.reduction = torch.nn.Identity(), torch.nn.Identity()
    expected = torch.tensor([0, 100, 10, 1, 101, 10, 1, 111])
    assert torch.equal(merging(code), expected.expand(1, 2, 2, 2, 8).float())


def test_relative_position_index_is_the_one_of_the_file() -> None:
    from monai.networks.nets.swin_unetr import WindowAttention

    own = WindowAttention(12, 3, (7, 7, 7)).relative_position_index
    assert np.array_equal(own.numpy(), relative_position_index(7))


def test_running_statistics_have_no_influence() -> None:
    torch.manual_seed(0)
    network, x = UNetBackbone(4).eval(), torch.rand(1, 1, 16, 16, 16)
    before = network(x)[1]
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2)
    assert torch.equal(network(x)[1], before)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_every_recorded_tensor(golden: Callable[[str], Golden], backbone: Backbone, tmp_path: Path) -> None:
    reference = golden(f"universal_{backbone}")
    path = tmp_path / "clip_driven_universal.pth"
    torch.save({"net": reference.state_dict(), "optimizer": {}, "scheduler": {}, "epoch": 1}, path)
    network = load_official_file(path, backbone)
    x = reference.image()
    bottleneck, features = network.backbone(x)
    tensors = {
        "backbone.dec4": bottleneck,
        "backbone.out": features,
        "GAP": network.GAP(bottleneck),
        "text_to_vision_relu": network.text(),
    }
    if backbone == "swinunetr":
        tensors |= {f"swinViT.hidden{i}": state for i, state in enumerate(network.backbone.hidden(x))}
    for name, tensor in tensors.items():
        reference.check(name, tensor)

    recorded = [name for name in reference.tensors() if re.fullmatch(r"logits\.class\d+", name)]
    for name in recorded:
        reference.check(name, network.heads(bottleneck, features, [int(name.removeprefix("logits.class"))]))
    logits = network.heads(bottleneck, features)
    reference.check("logits", logits)
    assert list(unchecked(reference, {*tensors, *recorded, "logits"})) == []

    mean, std = reference.arrays["logits_per_class_mean_std"].T
    flat = logits[0].flatten(1).double()
    allowed = reference.tolerance * std
    assert (np.abs(flat.mean(1).numpy() - mean) <= allowed).all()
    assert (np.abs(flat.std(1, unbiased=False).numpy() - std) <= allowed).all()
