"""Small volumes take oneDNN and give the same numbers; training and everything else stays with torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.contestants.convolutions import by_onednn

LAYERS = [
    nn.Conv3d(8, 8, 3, padding=1),
    nn.Conv3d(8, 4, 3, stride=2, padding=1, bias=False),
    nn.Conv3d(8, 8, (3, 3, 1), padding=(1, 1, 0), groups=4),
    nn.Conv3d(8, 4, 3, padding=2, dilation=2),
    nn.Conv3d(8, 4, 1),
    nn.Conv3d(8, 4, 3, padding="same"),
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []
    real = torch.mkldnn_convolution

    def counted(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return real(x, *rest)

    monkeypatch.setattr(torch, "mkldnn_convolution", counted)
    return seen


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_numbers_are_those_of_torch(layer: nn.Conv3d, calls: list[tuple[int, ...]]) -> None:
    quick = nn.Sequential(copy.deepcopy(layer))
    by_onednn(quick)
    x = torch.randn(1, 8, 10, 9, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.allclose(quick(x), layer(x), atol=1e-5)
        assert torch.equal(quick(torch.cat([x, x])), layer(torch.cat([x, x])))
    plain = max(layer.kernel_size) > 1 and layer.padding != "same"
    assert calls == [(1, 8, 10, 9, 7)] * plain
    assert list(quick.state_dict()) == [f"0.{name}" for name in layer.state_dict()]


def test_training_and_copies_are_torchs_own(calls: list[tuple[int, ...]]) -> None:
    net = nn.Sequential(nn.Conv3d(2, 2, 3))
    by_onednn(net)
    twin = copy.deepcopy(net)
    x = torch.randn(1, 2, 5, 5, 5)
    net(x).sum().backward()
    assert net[0].weight.grad is not None
    assert not calls
    with torch.no_grad():
        twin[0].weight.zero_()
        assert torch.equal(twin(x), twin[0].bias[None, :, None, None, None].expand(1, 2, 3, 3, 3))  # its own weights
        assert len(calls) == 1
        with torch.autocast("cpu", torch.bfloat16):
            assert net(x).dtype == torch.bfloat16
