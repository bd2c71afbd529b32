"""SAM's image encoder: a ViT with windowed and global blocks, in two or three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.sam.attention import GridAttention, MixedAxesAttention
from baselines.sam.layers import ChannelNorm, Feedforward, convolution


@dataclass(frozen=True)
class EncoderSize:
    """Numbers of an image encoder.

    Attributes:
        axes: 2 (slices) or 3 (volumes).
        image: voxels along every axis of the input.
        patch: voxels along every axis of a token.
        channels: of the input.
        dim, depth, heads: of the transformer; the feed-forward part is four times as wide.
        window: tokens along every axis of a window.
        global_blocks: blocks without windows.
        out: channels of the embedding.
        adapters: SAM-Med2D's adapter beside the feed-forward part.
    """

    axes: int
    image: int
    patch: int
    channels: int
    dim: int
    depth: int
    heads: int
    window: int
    global_blocks: tuple[int, ...]
    out: int
    adapters: bool = False

    @property
    def grid(self) -> int:
        """Tokens along every axis."""
        return self.image // self.patch


class ImageEncoder(nn.Module):
    """(B, channels, *image) → embedding (B, out, *grid)."""

    def __init__(self, size: EncoderSize) -> None:
        super().__init__()
        self.size = size
        conv = convolution(size.axes)
        grid = (size.grid,) * size.axes
        self.patch_embed = nn.Module()
        self.patch_embed.proj = conv(size.channels, size.dim, size.patch, size.patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, *grid, size.dim))
        self.blocks = nn.ModuleList(
            Block(size, None if index in size.global_blocks else size.window, grid) for index in range(size.depth)
        )
        self.neck = nn.Sequential(
            conv(size.dim, size.out, 1, bias=False),
            ChannelNorm(size.out),
            conv(size.out, size.out, 3, padding=1, bias=False),
            ChannelNorm(size.out),
        )

    def forward(self, image: Tensor) -> Tensor:
        proj: Callable[[Tensor], Tensor] = self.patch_embed.proj  # type: ignore[assignment]
        x = proj(image).movedim(1, -1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.movedim(-1, 1))


class Block(nn.Module):
    """Attention, then the feed-forward part (and SAM-Med2D's adapter beside it), both residual."""

    def __init__(self, size: EncoderSize, window: int | None, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.dim, eps=1e-6)
        attention = GridAttention if size.axes == 2 else MixedAxesAttention
        self.attn = attention(size.dim, size.heads, size.axes, window, grid)
        self.norm2 = nn.LayerNorm(size.dim, eps=1e-6)
        self.mlp = Feedforward(size.dim, 4 * size.dim, nn.GELU)
        self.Adapter = Adapter(size.dim) if size.adapters else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        normed = self.norm2(x)
        x = x + self.mlp(normed)
        return x if self.Adapter is None else x + self.Adapter(normed)


class Adapter(nn.Module):
    """SAM-Med2D's adapter: a gate on the channels, then a bottleneck in space (paper, figure 4)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.channel = nn.Sequential(
            nn.Linear(dim, dim // 4, bias=False),
            nn.ReLU(),
            nn.Linear(dim // 4, dim, bias=False),
            nn.Sigmoid(),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(dim, dim, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.ConvTranspose2d(dim, dim, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
        )
        self.norm = nn.LayerNorm(dim)  # torch's own eps, 1e-5, unlike the block's

    def forward(self, x: Tensor) -> Tensor:
        gated = x * self.channel(x.mean((1, 2), keepdim=True))
        return self.norm(x + self.spatial(gated.movedim(-1, 1)).movedim(1, -1))


def resize(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Linear interpolation of (B, C, *grid) in the half-voxel convention."""
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(x, size, mode=mode, align_corners=False)
