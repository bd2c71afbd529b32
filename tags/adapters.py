"""Spatial adapters: what lets a frozen 2D transformer block see its neighbours in 3D."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tags.linear import linear


class SpatialAdapter(nn.Module):
    """Down-projection, depth-wise 3D convolution, up-projection, added to the input (B, X, Y, Z, C).

    The shape is that of 3DSAM-adapter (arXiv 2306.13465). The last layer starts at zero, so that an untrained adapter
    is the identity; no activation follows it, because a rectifier there would have no gradient at zero.

    Args:
        dim: C.
        ratio: bottleneck width as a share of C.
        kernel: side of the depth-wise convolution, odd.
    """

    def __init__(self, dim: int, ratio: float = 0.5, kernel: int = 3) -> None:
        super().__init__()
        width = max(8, int(dim * ratio))
        self.down = nn.Linear(dim, width)
        self.conv = nn.Conv3d(width, width, kernel, padding=kernel // 2, groups=width)
        self.up = nn.Linear(width, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = linear(self.down, x, gelu=True).permute(0, 4, 1, 2, 3)
        if hidden.is_cuda:
            # Channels last, as the tokens come, cuDNN takes 247 ms on an H100 for both directions of a block's
            # convolution (2 × 384 × 32³, bf16); torch's own kernel takes 3 ms, this copy included.
            hidden = hidden.contiguous()
        hidden = F.gelu(self.conv(hidden)).permute(0, 2, 3, 4, 1)
        return linear(self.up, hidden) + x
