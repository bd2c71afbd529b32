"""oneDNN's linear layers against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tags import linear as module
from tags.linear import WIDE, linear


@pytest.mark.parametrize("gelu", [False, True])
def test_onednn_gives_what_torch_gives(noise, gelu):
    layer, x = torch.nn.Linear(WIDE, 96), noise(2, 3, 40, WIDE)
    wanted = F.gelu(layer(x)) if gelu else layer(x)
    with torch.no_grad():
        assert module._by_onednn(layer, x)
        assert torch.allclose(linear(layer, x, gelu), wanted, atol=1e-5)
        turned = x.transpose(0, 2)  # not contiguous
        assert torch.allclose(linear(layer, turned, gelu), wanted.transpose(0, 2), atol=1e-5)


def test_training_narrow_layers_and_bf16_stay_with_torch(noise):
    layer, x = torch.nn.Linear(WIDE, 8), noise(2, WIDE)
    assert linear(layer, x).requires_grad
    with torch.no_grad():
        narrow = torch.nn.Linear(WIDE - 8, 8)
        assert not module._by_onednn(narrow, x[:, 8:])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear(layer, x).dtype == torch.bfloat16
        assert not module._by_onednn(layer.double(), x.double())
