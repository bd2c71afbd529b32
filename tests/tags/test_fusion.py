"""Attention with few queries or keys is the same whichever way it is computed."""

from __future__ import annotations

import pytest
import torch

from tags import fusion
from tags.fusion import Attention


@pytest.mark.parametrize(("queries", "keys"), [(5, 90), (90, 5)])
def test_few_tokens_and_fused_kernels_agree(noise, monkeypatch, queries, keys):
    torch.manual_seed(3)
    attention = Attention(dim=16, heads=2, inner=8)
    q, k = noise(2, queries, 16).requires_grad_(), noise(2, keys, 16, seed=1).requires_grad_()
    bias = noise(2, keys, seed=2)
    bias[0, 1] = -torch.inf
    bias.requires_grad_()
    results = []
    for few in (64, 0):
        monkeypatch.setattr(fusion, "FEW", few)
        out = attention(q, k, k, bias)
        results.append((out, *torch.autograd.grad(out.square().sum(), (q, k, bias))))
    for ours, fused in zip(*results, strict=True):
        assert torch.allclose(ours, fused, atol=1e-5)
