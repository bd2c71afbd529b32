"""Volumetric stem: SAM's 2D patch embedding on a 3D crop, in one exact convolution.

The chain it stands for is: enlarge the crop four times (trilinear), embed each enlarged axial slice with SAM's frozen
16 × 16 patch embedding (three identical channels), mix 16 enlarged slices with a trainable depth-wise convolution.
Every link is linear and the whole is invariant to shifts by one token, so it equals one convolution on the original
crop: kernel 6, stride 4, replicate padding 1. The enlarged volume (512³ for a 128³ crop) never exists.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tags.config import STRIDE

PATCH = 16  # side of SAM's patch
ENLARGE = PATCH // STRIDE  # how much the crop is enlarged before it
KERNEL = STRIDE + 2  # a token's enlarged voxels touch one source voxel more on either side


def interpolation_matrix() -> Tensor:
    """(16, 6): weight of each of the 6 source voxels under a token for each of its 16 enlarged ones."""
    enlarged = torch.arange(PATCH, dtype=torch.float64)
    source = (enlarged + 0.5) / ENLARGE - 0.5 + 1  # +1: the kernel starts one voxel before the token
    low = source.floor()
    weights = torch.zeros(PATCH, KERNEL, dtype=torch.float64)
    rows = torch.arange(PATCH)
    weights[rows, low.long()] = 1 - (source - low)
    weights[rows, low.long() + 1] = source - low
    return weights.float()


class VolumetricStem(nn.Module):
    """Crop (B, 1, X, Y, Z) → tokens (B, X/4, Y/4, Z/4, C), positions added.

    SAM's image rows lie along the first axis and its columns along the second (`model.as_pictures` turns a crop so);
    the third is the depth.

    Args:
        embed_dim: C.
        grid: tokens per axis, G.
        table: side of SAM's position table.
    """

    def __init__(self, embed_dim: int, grid: int, table: int) -> None:
        super().__init__()
        self.patch_weight = nn.Parameter(torch.empty(embed_dim, 3, PATCH, PATCH))
        self.patch_bias = nn.Parameter(torch.zeros(embed_dim))
        self.depth_weight = nn.Parameter(torch.full((embed_dim, PATCH), 1.0 / PATCH))
        self.depth_bias = nn.Parameter(torch.zeros(embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, table, table, embed_dim))
        self.depth_embed = nn.Parameter(torch.zeros(grid, embed_dim))
        self.interpolation: Tensor
        self.register_buffer("interpolation", interpolation_matrix(), persistent=False)
        self._composed: tuple[object, Tensor, Tensor] | None = None
        nn.init.normal_(self.patch_weight, std=(3 * PATCH * PATCH) ** -0.5)
        nn.init.normal_(self.pos_embed, std=0.02)

    def train(self, mode: bool = True) -> Self:
        """Forget the composed kernel: a fused optimiser changes parameters without raising their version."""
        if mode:
            self._composed = None
        return super().train(mode)

    def composed(self) -> tuple[Tensor, Tensor]:
        """Kernel (C, 1, 6, 6, 6) and bias (C,) of the one convolution; differentiable in training, cached otherwise."""
        parameters = (self.patch_weight, self.patch_bias, self.depth_weight, self.depth_bias)
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            return self._compose()
        key = tuple((p._version, p.data_ptr()) for p in parameters)
        if self._composed is None or self._composed[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._composed = (key, *self._compose())
        return self._composed[1], self._composed[2]

    def _compose(self) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.patch_weight.device.type, enabled=False):
            u = self.interpolation
            planar = u.T @ self.patch_weight.sum(dim=1) @ u
            depth = self.depth_weight @ u
            kernel = planar[:, None, :, :, None] * depth[:, None, None, None, :]
            bias = self.patch_bias * self.depth_weight.sum(dim=1) + self.depth_bias
        return kernel, bias

    def positions(self, size: tuple[int, int, int]) -> Tensor:
        """(1, X, Y, Z, C): SAM's table resized in plane plus the depth embedding resized along z."""
        table = self.pos_embed.permute(0, 3, 1, 2)
        if table.shape[-2:] != size[:2]:
            shrinks = size[0] <= table.shape[-2] and size[1] <= table.shape[-1]
            table = F.interpolate(table, size[:2], mode="area" if shrinks else "bilinear")
        depth = self.depth_embed.T[None]
        if depth.shape[-1] != size[2]:
            depth = F.interpolate(depth, size[2], mode="linear")
        return table.permute(0, 2, 3, 1)[:, :, :, None] + depth.permute(0, 2, 1)[:, None, None]

    def embed(self, image: Tensor) -> Tensor:
        """Tokens (B, X/4, Y/4, Z/4, C) without positions.

        The convolution as one matrix product: with a single input channel its patches are small (a quarter of the
        tokens), and the product comes out in the order that the encoder wants, with no second copy.
        """
        kernel, bias = self.composed()
        patches = F.pad(image, (1,) * 6, mode="replicate")[:, 0]
        for axis in (1, 2, 3):
            patches = patches.unfold(axis, KERNEL, STRIDE)
        return F.linear(patches.flatten(4), kernel.flatten(1), bias)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.embed(image)
        return tokens + self.positions((tokens.shape[1], tokens.shape[2], tokens.shape[3]))
