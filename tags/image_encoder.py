"""SAM's ViT on 3D tokens: frozen blocks, shifted cubic windows, a third relative-position axis, spatial adapters.

Names of SAM's own parameters are kept, so that its checkpoint maps one to one. The relative-position bias and every
mask (window shift, padding) depend on a query and on one coordinate of a key at a time. They are therefore appended
to the head dimension: q' = [q, √d·b_x, √d·b_y, √d·b_z], k' = [k, 1_x, 1_y, 1_z]. Plain attention on q', k' is exact, no
score matrix and no mask is materialised, and flash kernels apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tags.adapters import SpatialAdapter
from tags.config import TagsConfig
from tags.linear import linear
from tags.recompute import recomputed, recomputed_block

MASKED = -1e4  # exp() of it, over √d too, is zero in every float type in use, and bf16 holds it
CHUNK_TOKENS = {"cpu": 2048, "cuda": 65_536}  # handled at once without gradients: bounds memory, costs no speed


def chunk_tokens(x: Tensor) -> int:
    """How many tokens to handle at once on the device of x."""
    return CHUNK_TOKENS.get(x.device.type, max(CHUNK_TOKENS.values()))


def relative_table(table: Tensor, size: int) -> Tensor:
    """Rows for every offset in a window: (L, d) → (size, size, d), entry [q, k] for offset q − k."""
    length = 2 * size - 1
    if table.shape[0] != length:
        table = F.interpolate(table.T[None], length, mode="linear")[0].T
    index = torch.arange(size, device=table.device)
    return table[index[:, None] - index[None, :] + size - 1]


@lru_cache(maxsize=64)
def axis_mask(size: int, window: int, shift: int) -> Tensor:
    """(windows, window, window): 0 where key coordinate k may be seen from q, −10⁴ where not, along one axis.

    After padding `size` up to whole windows and rolling by −`shift`, a window may hold voxels that are not
    neighbours (they came round the edge) and padding; neither is seen.
    """
    windows = -(-size // window)
    padded = windows * window
    with torch.inference_mode(False):
        source = (torch.arange(padded) + shift) % padded
        wrapped = torch.arange(padded) >= padded - shift
        source, wrapped = source.view(windows, window), wrapped.view(windows, window)
        hidden = (wrapped[:, :, None] ^ wrapped[:, None, :]) | (source[:, None, :] >= size)
        return hidden.float() * MASKED


class Reordered(torch.autograd.Function):
    """Tokens (B, N, C) in another order: one copy, and one for the gradient (`index_select` itself would add it up).

    Arguments are the tokens, where each token of the result comes from, and the inverse of that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return gradients[0].index_select(1, back), None, None


@lru_cache(maxsize=64)
def window_order(
    size: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where the tokens of all windows come from in a grid rolled by −`shift`, window by window; and the inverse."""
    x, y, z = (n // w for n, w in zip(size, window, strict=True))
    with torch.inference_mode(False):
        tokens = torch.arange(math.prod(size), device=device)
        rolled = tokens.view(size).roll([-s for s in shift], dims=(0, 1, 2))
        order = rolled.view(x, window[0], y, window[1], z, window[2]).permute(0, 2, 4, 1, 3, 5).flatten()
        back = tokens.view(x, y, z, *window).permute(0, 3, 1, 4, 2, 5).reshape(size)
        return order, back.roll(shift, dims=(0, 1, 2)).flatten()


@dataclass(frozen=True)
class Windows:
    """How a grid of `size` tokens falls into windows, shifted or not; short axes are padded, see `axis_mask`."""

    size: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...]

    @property
    def padded(self) -> tuple[int, ...]:
        """The grid filled up to whole windows."""
        return tuple(-(-n // w) * w for n, w in zip(self.size, self.window, strict=True))

    @property
    def several(self) -> bool:
        return self.padded != self.window

    def _order(self, device: torch.device) -> tuple[Tensor, Tensor]:
        return window_order(self.padded, self.window, self.shift, device)

    def cut(self, x: Tensor) -> Tensor:
        """(B, X, Y, Z, C) → (B · windows, x, y, z, C); a copy where there are several windows."""
        if self.padded != self.size:
            (px, py, pz), (x_, y_, z_) = self.padded, self.size
            x = F.pad(x, (0, 0, 0, pz - z_, 0, py - y_, 0, px - x_))
        channels = x.shape[-1]
        if self.several:
            order, back = self._order(x.device)
            x = Reordered.apply(x.flatten(1, 3), order, back)
        return x.reshape(-1, *self.window, channels)

    def join(self, windows: Tensor, batch: int) -> Tensor:
        """What `cut` cut, put together."""
        x, channels = windows, windows.shape[-1]
        if self.several:
            order, back = self._order(x.device)
            x = Reordered.apply(x.view(batch, -1, channels), back, order)
        x = x.view(batch, *self.padded, channels)
        if self.padded != self.size:
            x = x[:, : self.size[0], : self.size[1], : self.size[2]]
        return x

    def mask(self, batch: int, device: torch.device) -> Tensor | None:
        """(B · windows, tokens, x + y + z), see `window_mask`; None where every token sees its whole window."""
        if self.padded == self.size and not any(self.shift):
            return None
        return window_mask(self.size, self.window, self.shift, device).repeat(batch, 1, 1)


class WindowAttention(nn.Module):
    """Multi-head attention in cubic windows with decomposed relative positions.

    Args:
        dim: channels.
        heads: attention heads.
        window: side of a window in tokens; an axis shorter than it is one window.
        shift: whether the windows are shifted by half their side.
        table: rows of SAM's relative-position tables (27 in its windowed blocks, 127 in its global ones).
    """

    def __init__(self, dim: int, heads: int, window: int, shift: bool, table: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(table, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(table, dim // heads))
        self.rel_pos_d = nn.Parameter(torch.zeros(table, dim // heads))

    def layout(self, size: Sequence[int]) -> Windows:
        """How this attention cuts a grid of tokens."""
        window = tuple(min(self.window, n) for n in size)
        shift = tuple(w // 2 if self.shift and n > w else 0 for n, w in zip(size, window, strict=True))
        return Windows(tuple(size), window, shift)

    def forward(self, x: Tensor) -> Tensor:
        """(B, X, Y, Z, C) → the same shape."""
        if torch.is_autocast_enabled(x.device.type):  # as `qkv` would, before the copies that make the windows
            x = x.to(torch.get_autocast_dtype(x.device.type))
        layout = self.layout(x.shape[1:4])
        windows, mask = layout.cut(x), layout.mask(len(x), x.device)
        return layout.join(self.within(windows, mask), len(x))

    def within(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Attention in each window (windows, X, Y, Z, C) by itself; the mask is `Windows.mask`."""
        return self._attend(windows, self._table(windows.shape[1:4]), mask)

    def _table(self, window: Sequence[int]) -> Tensor:
        """(tokens, x + y + z, d): for every place in a window, the rows that its query is multiplied with."""
        x, y, z = window
        rows_x = relative_table(self.rel_pos_h, x)[:, None, None].expand(-1, y, z, -1, -1)
        rows_y = relative_table(self.rel_pos_w, y)[None, :, None].expand(x, -1, z, -1, -1)
        rows_z = relative_table(self.rel_pos_d, z)[None, None, :].expand(x, y, -1, -1, -1)
        return torch.cat((rows_x, rows_y, rows_z), dim=3).flatten(0, 2)

    def _attend(self, x: Tensor, table: Tensor, mask: Tensor | None) -> Tensor:
        """x (windows, X, Y, Z, C), table (tokens, x + y + z, d), mask (windows, tokens, x + y + z)."""
        number, *window, channels = x.shape
        depth = channels // self.heads
        q, k, v = linear(self.qkv, x).view(number, -1, 3, self.heads, depth).permute(2, 0, 3, 1, 4)
        scale = depth**-0.5
        bias = torch.einsum("nalc,lkc->nalk", q, (table / scale).to(q.dtype))  # `scale` takes it back below
        if mask is not None:
            bias = bias + mask[:, None].to(bias.dtype)
        width = depth + bias.shape[-1]
        spare = -width % 8  # flash kernels want head dimensions in eights
        coordinates = key_coordinates(window[0], window[1], window[2], spare, k.dtype, k.device)
        q = torch.cat((q, bias, *([bias.new_zeros(*bias.shape[:-1], spare)] if spare else [])), dim=-1)
        k = torch.cat((k, coordinates.expand(number, self.heads, -1, -1)), dim=-1)
        v = F.pad(v, (0, width + spare - depth))
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)[..., :depth]
        return linear(self.proj, out.transpose(1, 2).reshape(number, *window, channels))


@lru_cache(maxsize=64)
def window_mask(size: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device) -> Tensor:
    """(windows, tokens, x + y + z): `axis_mask` of every axis, for each window and each query in it.

    Kept on the device: to send it there again in every block makes the host wait for the device.
    """
    with torch.inference_mode(False):
        x, y, z = (axis_mask(n, w, s) for n, w, s in zip(size, window, shift, strict=True))
        count, side = [len(x), len(y), len(z)], [*window]
        masks = (
            x[:, None, None, :, None, None].expand(*count, *side, -1),
            y[None, :, None, None, :, None].expand(*count, *side, -1),
            z[None, None, :, None, None, :].expand(*count, *side, -1),
        )
        mask = torch.cat(masks, dim=-1).reshape(count[0] * count[1] * count[2], side[0] * side[1] * side[2], -1)
        return mask.to(device)


@lru_cache(maxsize=64)
def key_coordinates(x: int, y: int, z: int, spare: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(x·y·z, x + y + z + spare): one-hot coordinates of every token of a window along each axis, then zeros."""
    with torch.inference_mode(False):
        hot = torch.cat(
            (
                torch.eye(x)[:, None, None].expand(x, y, z, x),
                torch.eye(y)[None, :, None].expand(x, y, z, y),
                torch.eye(z)[None, None, :].expand(x, y, z, z),
                torch.zeros(x, y, z, spare),
            ),
            dim=-1,
        )
        return hot.reshape(x * y * z, -1).to(device, dtype)


class MLP(nn.Module):
    """SAM's feed-forward part."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.lin2(F.gelu(self.lin1(x)))
        out, chunk = torch.empty_like(x, memory_format=torch.contiguous_format), chunk_tokens(x)
        for part, place in zip(x.flatten(0, -2).split(chunk), out.flatten(0, -2).split(chunk), strict=True):
            place.copy_(linear(self.lin2, linear(self.lin1, part, gelu=True)))
        return out


def added(change: Tensor, stream: Tensor) -> Tensor:
    """The sum of the stream and a change to it, which is used up: in place, a copy less at the peak. Under autocast the
    change is rounded and the stream is not: their sum must not be either, or small changes are lost."""
    return change.add_(stream) if change.dtype == stream.dtype else change + stream


class Block(nn.Module):
    """Adapter, windowed attention, feed-forward; each residual."""

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float,
        window: int,
        shift: bool,
        table: int,
        adapter: SpatialAdapter | None,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = WindowAttention(dim, heads, window, shift, table)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        if self.adapter is not None:
            x = self.adapter(x)
        if torch.is_grad_enabled():
            return self.after_adapter(x)
        layout, parts = self.parts(x)
        if len(parts) == 1:
            return self.after_adapter(x)
        windows = layout.cut(x)
        out = windows if layout.several else torch.empty_like(windows)  # several windows: a copy by now
        for part, mask in parts:
            out[part] = self.within(windows[part], mask)
        return layout.join(out, len(x))

    def after_adapter(self, x: Tensor) -> Tensor:
        """Attention and feed-forward on the whole grid (B, X, Y, Z, C)."""
        x = added(self.attn(self.norm1(x)), x)
        return added(self.mlp(self.norm2(x)), x)

    def within(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """The same on some windows: after the adapter no token sees beyond its own."""
        x = added(self.attn.within(self.norm1(windows), mask), windows)
        return added(self.mlp(self.norm2(x)), x)

    def parts(self, x: Tensor) -> tuple[Windows, list[tuple[slice, Tensor | None]]]:
        """The windows of a grid, and how many of them, with their mask, are handled at once."""
        layout = self.attn.layout(x.shape[1:4])
        number = len(x) * math.prod(layout.padded) // math.prod(layout.window)
        several = max(1, chunk_tokens(x) // math.prod(layout.window))
        mask = layout.mask(len(x), x.device) if number > several else None
        cut = [slice(start, start + several) for start in range(0, number, several)]
        return layout, [(part, None if mask is None else mask[part]) for part in cut]


class ChannelNorm(nn.Module):
    """SAM's neck normalisation: over the channels of (B, C, X, Y, Z), at every place."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return x.movedim(-1, 1)


def neck(embed_dim: int, dim: int) -> nn.Sequential:
    """SAM's neck with a 3 × 3 × 3 kernel: 1³ convolution, norm, 3³ convolution, norm."""
    return nn.Sequential(
        nn.Conv3d(embed_dim, dim, 1, bias=False),
        ChannelNorm(dim),
        nn.Conv3d(dim, dim, 3, padding=1, bias=False),
        ChannelNorm(dim),
    )


def _block(config: TagsConfig, index: int) -> Block:
    adapter = None
    if index in config.adapter_blocks:
        adapter = SpatialAdapter(config.embed_dim, config.adapter_ratio, config.adapter_kernel)
    shift = config.shift and index % 2 == 0
    return Block(config.embed_dim, config.heads, config.mlp_ratio, config.window, shift, config.tables[index], adapter)


class ImageEncoder(nn.Module):
    """Tokens (B, X, Y, Z, C) → one feature (B, dim, X, Y, Z) per tap, from shallow to deep.

    Windows are shifted in every second block, beginning with the first. `checkpointing` recomputes blocks,
    guidance and necks in the backward pass to save memory.
    """

    def __init__(self, config: TagsConfig) -> None:
        super().__init__()
        self.taps, self.checkpointing = config.taps, config.checkpointing
        self.blocks = nn.ModuleList(_block(config, index) for index in range(config.depth))
        self.necks = nn.ModuleList(neck(config.embed_dim, config.dim) for _ in config.taps)

    def forward(self, x: Tensor, guide: Callable[[int, Tensor], Tensor] | None = None) -> list[Tensor]:
        """`guide(tap, tokens)` may change the tokens after the blocks of each tap (semantic guidance)."""
        features, again = [], self.checkpointing and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks):
            x = recomputed_block(block, x) if again else block(x)
            if index + 1 in self.taps:
                tap = self.taps.index(index + 1)
                if guide is not None:
                    x = recomputed(guide, tap, x) if again else guide(tap, x)
                neck, tokens = self.necks[tap], x.permute(0, 4, 1, 2, 3)
                features.append(recomputed(neck, tokens) if again else neck(tokens))
        return features
