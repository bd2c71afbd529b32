"""3DSAM-adapter's image encoder: SAM-B's with a volumetric stem, adapters and 8³ windows; source as in `network`.

Images enter as (B, 1, D, H, W); inside, tokens and features are in the order (H, W, D).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.sam.layers import ChannelNorm, Feedforward

ENLARGE = 4  # the crop is enlarged so that SAM's 16² patches see the scale that they were trained on
PATCH = 16
FOREIGN = -100.0  # attention logit between tokens that the cyclic shift brought together


@dataclass(frozen=True)
class Size:
    """Widths and depths; the defaults are those of the released weights.

    Attributes:
        crop: voxels per axis; the token grid has crop / 4.
        levels: number of blocks before each of the four features.
        global_blocks: blocks that SAM had with global attention; here only their longer position tables remain.
        tables: rows of the relative position tables in windowed and global blocks.
    """

    crop: int = 128
    width: int = 768
    heads: int = 12
    levels: tuple[int, int, int, int] = (3, 6, 9, 12)
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    tables: tuple[int, int] = (27, 127)
    window: int = 8
    feature: int = 256
    prompt_hidden: int = 2048
    decoder: int = 128

    @property
    def grid(self) -> int:
        return self.crop * ENLARGE // PATCH


SIZES = {
    "official": Size(),
    "tiny": Size(
        crop=32, width=48, heads=3, levels=(1, 2, 3, 4), global_blocks=(), tables=(7, 7), window=4,
        feature=16, prompt_hidden=64, decoder=16,
    ),
}  # fmt: skip


def enlargement_matrix() -> Tensor:
    """(16, 6): each of a patch's 16 enlarged samples as weights of the 6 voxels that linear enlargement reads."""
    matrix = torch.zeros(PATCH, 6)
    for row in range(PATCH):
        position = (PATCH + row + 0.5) / ENLARGE - 0.5 - 3  # counted from the first of the six voxels
        lower = int(position)
        matrix[row, lower] = 1 - (position - lower)
        matrix[row, lower + 1] += position - lower
    return matrix


class PatchEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)


class SpatialAdapter(nn.Module):
    """Bottleneck with a depth-wise 3³ convolution, on channels-last tokens; added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width // 2)
        self.conv = nn.Conv3d(width // 2, width // 2, 3, padding=1, groups=width // 2)
        self.linear2 = nn.Linear(width // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.linear1(x)).permute(0, 4, 1, 2, 3)
        inner = F.relu(self.conv(inner)).permute(0, 2, 3, 4, 1)
        return x + F.relu(self.linear2(inner))


class WindowAttention(nn.Module):
    """Attention inside cubic windows with decomposed relative positions, shifted or not.

    Position biases and the shift's mask are appended to queries and keys: with q′ = [q/√d, b_h, b_w, b_d, s] and
    k′ = [k, one-hot of the key's h, w, d, half], q′·k′ is the biased and masked logit, so plain fused attention is
    exact and no (windows, tokens, tokens) array exists.
    """

    def __init__(self, size: Size, table_rows: int) -> None:
        super().__init__()
        head = size.width // size.heads
        self.heads, self.window = size.heads, size.window
        self.qkv = nn.Linear(size.width, 3 * size.width)
        self.proj = nn.Linear(size.width, size.width)
        self.rel_pos_h = nn.Parameter(torch.zeros(table_rows, head))
        self.rel_pos_w = nn.Parameter(torch.zeros(table_rows, head))
        self.rel_pos_d = nn.Parameter(torch.zeros(table_rows, head))
        self.lr = nn.Parameter(torch.ones(()), requires_grad=False)  # weight of the position biases

    def forward(self, x: Tensor, shifted: bool) -> Tensor:
        """(B, H, W, D, C) → the same shape; each axis a multiple of the window."""
        batch, n = len(x), self.window
        counts = [extent // n for extent in x.shape[1:4]]
        shift = n // 2
        if shifted:
            x = x.roll((-shift, -shift, -shift), (1, 2, 3))
        windows = into_windows(x, n)
        q, k, v = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        head = q.shape[-1]
        query_parts, key_parts = [q * head**-0.5, *self._position_biases(q)], [k, self._key_positions(k)]
        if shifted:
            strange, half = shift_features(counts, n, q)
            query_parts.append(strange.repeat(batch, 1, 1)[:, None].expand(-1, self.heads, -1, -1))
            key_parts.append(half.expand(len(k), self.heads, -1, -1))
        q, k = torch.cat(query_parts, dim=-1), torch.cat(key_parts, dim=-1)
        v = F.pad(v, (0, q.shape[-1] - head))  # equal widths keep the fused kernel on the CPU
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)[..., :head]
        x = from_windows(self.proj(out.transpose(1, 2).flatten(2)), n, counts)
        return x.roll((shift, shift, shift), (1, 2, 3)) if shifted else x

    def _position_biases(self, q: Tensor) -> list[Tensor]:
        """Per axis (windows, heads, tokens, n): the query's product with the table row of every key coordinate."""
        n = self.window
        cube = q.unflatten(2, (n, n, n))
        index = torch.arange(n, device=q.device)
        index = index[:, None] - index[None] + n - 1
        biases = []
        for letter, table in zip("ijk", (self.rel_pos_h, self.rel_pos_w, self.rel_pos_d), strict=True):
            rows = F.interpolate(table.t()[None], size=2 * n - 1, mode="linear")[0].t()[index]
            bias = torch.einsum(f"bmijkc,{letter}xc->bmijkx", cube, (self.lr * rows).to(q.dtype))
            biases.append(bias.flatten(2, 4))
        return biases

    def _key_positions(self, k: Tensor) -> Tensor:
        n = self.window
        one_hot = torch.eye(n, dtype=k.dtype, device=k.device)
        axes = [one_hot.view(n, 1, 1, n), one_hot.view(1, n, 1, n), one_hot.view(1, 1, n, n)]
        cube = torch.cat([axis.expand(n, n, n, n) for axis in axes], dim=-1)
        return cube.flatten(0, 2).expand(*k.shape[:2], -1, -1)


def into_windows(x: Tensor, n: int) -> Tensor:
    """(B, H, W, D, C) → (B · windows, n³, C), both row-major."""
    for axis in (1, 3, 5):
        x = x.unflatten(axis, (-1, n))
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3)


def from_windows(x: Tensor, n: int, counts: list[int]) -> Tensor:
    """The inverse of `into_windows`."""
    x = x.unflatten(0, (-1, *counts)).unflatten(4, (n, n, n))
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def shift_features(counts: list[int], n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Query (windows, tokens, 6) and key (tokens, 6) features whose product masks what the shift brought together.

    Only the last window of an axis holds both ends of the volume; its halves must not see each other. Upstream
    adds −100 once, this sum adds it per axis that disagrees: either is zero after the softmax.
    """
    half = F.one_hot(torch.arange(n, device=like.device) * 2 // n, 2).to(like.dtype)
    key = torch.cat(
        [half[:, None, None].expand(n, n, n, 2), half[:, None].expand(n, n, n, 2), half.expand(n, n, n, 2)], -1
    )
    key = key.flatten(0, 2)
    last = [torch.arange(count, device=like.device) == count - 1 for count in counts]
    flags = torch.stack(torch.meshgrid(*last, indexing="ij"), dim=-1).flatten(0, 2).repeat_interleave(2, dim=-1)
    return FOREIGN * flags[:, None].to(like.dtype) * (1 - key), key


def shift_mask(grid: int, n: int) -> Tensor:
    """The additive mask (windows, tokens, tokens) as the official file stores it: 0 or −100."""
    strange, half = shift_features([grid // n] * 3, n, torch.empty(0))
    return (strange @ half.t()).clamp(min=FOREIGN)


class Block(nn.Module):
    """Adapter, window attention, MLP; even blocks shift their windows by a half."""

    def __init__(self, size: Size, index: int) -> None:
        super().__init__()
        self.shifted = index % 2 == 0
        self.adapter = SpatialAdapter(size.width)
        self.norm1 = nn.LayerNorm(size.width, eps=1e-6)
        self.attn = WindowAttention(size, size.tables[index in size.global_blocks])
        self.norm2 = nn.LayerNorm(size.width, eps=1e-6)
        self.mlp = Feedforward(size.width, 4 * size.width, nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        x = self.adapter(x)
        x = x + self.attn(self.norm1(x), self.shifted)
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """(B, 1, D, H, W) → four features (B, C, H/4, W/4, D/4)."""

    enlargement: Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        self.levels = size.levels
        self.patch_embed = PatchEmbedding(width)
        self.slice_embed = nn.Conv3d(width, width, (1, 1, PATCH), (1, 1, PATCH), groups=width)
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 * size.grid, 2 * size.grid, width))
        self.depth_embed = nn.Parameter(torch.ones(1, size.grid, width))
        self.blocks = nn.ModuleList(Block(size, i) for i in range(size.levels[-1]))
        self.neck_3d = nn.ModuleList(neck(width, size.feature) for _ in size.levels)
        self.register_buffer("enlargement", enlargement_matrix(), persistent=False)

    def stem(self, image: Tensor) -> Tensor:
        """(B, 1, D, H, W) → tokens (B, H/4, W/4, D/4, C), positions added.

        Upstream enlarges three copies of the crop fourfold (3 × 512³), embeds 16² patches of every slice as SAM does,
        and mixes 16 slices depth-wise. All three are linear, so they are one convolution over 6³ voxels of the crop.
        """
        u = self.enlargement
        patch = torch.einsum("iy,cij,jx->cyx", u, self.patch_embed.proj.weight.sum(1), u)
        slices = self.slice_embed.weight[:, 0, 0, 0]
        kernel = (slices @ u)[:, :, None, None] * patch[:, None]
        bias = cast(Tensor, self.patch_embed.proj.bias) * slices.sum(1) + cast(Tensor, self.slice_embed.bias)
        padded = F.pad(image, (1,) * 6, mode="replicate")
        tokens = F.conv3d(padded, kernel[:, None].contiguous(), bias, stride=ENLARGE).permute(0, 3, 4, 2, 1)
        in_plane = F.avg_pool2d(self.pos_embed.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        return tokens + in_plane[:, :, :, None] + self.depth_embed[:, None, None]

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        features: list[Tensor] = []
        for index, block in enumerate(self.blocks, start=1):
            x = block(x)
            if index in self.levels:
                features.append(self.neck_3d[len(features)](x.permute(0, 4, 1, 2, 3)))
        return features


def neck(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(width, out, 1, bias=False),
        ChannelNorm(out),
        nn.Conv3d(out, out, 3, padding=1, bias=False),
        ChannelNorm(out),
    )
