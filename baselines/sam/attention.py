"""Attention with decomposed relative position, in two or three dimensions, windowed or global.

Three exact rearrangements make it fast; the golden files hold them to the public arithmetic.

1. The relative position bias of a key is a sum of one term per axis. The terms are appended to the query, and the
   key's one-hot coordinates to the key: the plain scalar product then holds the bias, and any fused attention
   kernel will do. In float32 on a CPU, where wider heads cost more than they save, and where no gradient is
   needed, the terms go into the kernel's mask instead, for some rows of queries at a time.
2. SAM pads the grid to whole windows with zero tokens that are *not* masked. Padded tokens are never computed
   here: their keys and values are the bias of `qkv`, and their queries are thrown away in the end.
3. All padded keys of a window share one key and one value, and their biases are sums of few-axis terms, so that
   the sum of their exponentials factorises. They become one virtual key whose logit carries the logarithm of that
   sum. In SAM-Med3D (grid 8³ in a window of 14³) this leaves 512 × 513 products out of 2744 × 2744.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUERIES_PER_MASK = 1024  # bounds the memory of a mask, and keeps it near the cache

AXIS_NAMES = {2: ("h", "w"), 3: ("d", "h", "w")}


class GridAttention(nn.Module):
    """Self-attention of the tokens of a grid, inside windows or over all of it.

    Shapes: (B, *grid, C) → the same.

    Args:
        dim: channels C.
        heads: attention heads.
        axes: 2 or 3.
        window: side of a window; None is global.
        grid: tokens along each axis; sizes the position tables if global.
    """

    def __init__(self, dim: int, heads: int, axes: int, window: int | None, grid: Sequence[int]) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.axis_names = AXIS_NAMES[axes]
        for name, size in zip(self.axis_names, grid, strict=True):
            span = size if window is None else window
            setattr(self, f"rel_pos_{name}", nn.Parameter(torch.zeros(2 * span - 1, dim // heads)))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        grid = x.shape[1:-1]
        spans = [size if self.window is None else self.window for size in grid]
        regions = list(itertools.product(*(_segments(size, span) for size, span in zip(grid, spans, strict=True))))
        if len(regions) == 1:
            return self.proj(self._attend(qkv, spans))
        mixed = torch.empty_like(x, dtype=qkv.dtype)
        for region in regions:
            place = (slice(None), *region)
            mixed[place] = self._attend(qkv[place], spans)
        return self.proj(mixed)

    def _attend(self, qkv: Tensor, spans: Sequence[int]) -> Tensor:
        """Attention in the equal windows of a region; a region narrower than a window holds one padded window."""
        batch, *grid, channels = qkv.shape
        width = channels // 3 // self.heads
        inside = [min(size, span) for size, span in zip(grid, spans, strict=True)]
        counts = [size // real for size, real in zip(grid, inside, strict=True)]
        axes = len(grid)
        # (B, n0, p0, n1, p1, …, 3, heads, width) → (3, B, n0, n1, …, heads, p0, p1, …, width)
        split = [part for pair in zip(counts, inside, strict=True) for part in pair]
        number, place = [1 + 2 * i for i in range(axes)], [2 + 2 * i for i in range(axes)]
        last = 1 + 2 * axes
        order = (last, 0, *number, last + 1, *place, last + 2)
        windows = qkv.reshape(batch, *split, 3, self.heads, width).permute(order)
        q, k, v = windows.reshape(3, -1, self.heads, *inside, width).unbind(0)
        out = self._windows(q, k.flatten(2, -2), v.flatten(2, -2), inside, spans)
        out = out.reshape(batch, *counts, self.heads, *inside, width)
        back = [0]
        for axis in range(axes):
            back += [1 + axis, 2 + axes + axis]
        return out.permute(*back, 1 + axes, 2 + 2 * axes).reshape(batch, *grid, channels // 3)

    def _windows(self, q: Tensor, k: Tensor, v: Tensor, inside: Sequence[int], spans: Sequence[int]) -> Tensor:
        """One fused attention over (windows, heads): q (N, H, *inside, D), k and v (N, H, T, D) → (N, H, T, D)."""
        biases = [
            self._axis_bias(q, axis, name, inside[axis], spans[axis]) for axis, name in enumerate(self.axis_names)
        ]
        extra = [bias[..., :real] for bias, real in zip(biases, inside, strict=True)]
        padding = _padding_logit(biases, inside) if _padded(inside, spans) else None
        if padding is not None:
            _, key, value = self._padding_token(k)
            k, v = torch.cat([k, key], 2), torch.cat([v, value], 2)
        if q.device.type == "cpu" and q.dtype == torch.float32 and not (torch.is_grad_enabled() and q.requires_grad):
            return _attend_masked(q, k, v, extra, padding)
        return _attend_folded(q, k, v, extra, padding)

    def _padding_token(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of a padded token, (N, H, 1, D): a zero token goes through `qkv` as its bias."""
        count, heads, _, width = like.shape
        parts = self.qkv.bias.to(like.dtype).reshape(3, 1, heads, 1, width).expand(3, count, -1, -1, -1)
        return parts[0], parts[1], parts[2]

    def _axis_bias(self, q: Tensor, axis: int, name: str, real: int, span: int) -> Tensor:
        """q · table[i − j] for every key coordinate j of the padded window: (N, H, *inside, span)."""
        lines = q.movedim(2 + axis, -2)  # the axis beside the channels, so that the table multiplies as matrices
        return torch.einsum("...id,ijd->...ij", lines, self._table(name, real, span, q)).movedim(-2, 2 + axis)

    def _table(self, name: str, queries: int, keys: int, like: Tensor) -> Tensor:
        """Position embedding of every pair of coordinates: (queries, keys, D)."""
        table: Tensor = getattr(self, f"rel_pos_{name}")
        first = torch.arange(queries, device=like.device)[:, None]
        return table[first - torch.arange(keys, device=like.device) + keys - 1].to(like.dtype)


class MixedAxesAttention(GridAttention):
    """Attention of SAM-Med3D, whose position bias upstream adds along other axes than it computes it for.

    For a query at (d, h, w) and a key at (d′, h′, w′) the published weights were trained with

        q(d, h, w) · D[d − w′]  +  q(d, h, d′) · H[h − w′]  +  q(d, h, h′) · W[h′ − w′]

    (a broadcast that passes unnoticed because windows are cubes). The second and third term look up the query
    of another place, which is the bias of `qkv` where that place is padded. The three terms go into the mask
    of the fused attention: after the virtual key there are only 512 × 513 of them.
    """

    def _windows(self, q: Tensor, k: Tensor, v: Tensor, inside: Sequence[int], spans: Sequence[int]) -> Tensor:
        depth, height, width = inside
        span = spans[0]
        lines = q
        if width < span:
            beyond = self._padding_token(k)[0][:, :, None, None].expand(-1, -1, depth, height, span - width, -1)
            lines = torch.cat([q, beyond], -2)
        along_d = torch.einsum("nadhwc,dkc->nadhwk", q, self._table("d", depth, span, q))
        along_h = torch.einsum("nadhwc,hkc->nadhwk", lines, self._table("h", height, span, q))
        along_w = torch.einsum("nadhwc,wkc->nadhwk", lines, self._table("w", span, span, q))
        # (N, H, d, h, w, d', h', w')
        mask = (
            along_d[..., :, None, None, :width]
            + along_h[..., None, :depth, None, :width]
            + along_w[..., None, None, :height, :width]
        )
        tokens = depth * height * width
        mask = mask.reshape(*mask.shape[:2], tokens, tokens)
        if _padded(inside, spans):
            logit = _mixed_padding_logit(along_d.float(), along_h.float(), along_w.float(), inside)
            mask = torch.cat([mask, logit.flatten(2)[..., None].to(mask.dtype)], -1)
            _, key, value = self._padding_token(k)
            k, v = torch.cat([k, key], 2), torch.cat([v, value], 2)
        return F.scaled_dot_product_attention(q.flatten(2, -2), k, v, attn_mask=mask)


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, extra: Sequence[Tensor], padding: Tensor | None) -> Tensor:
    """Fused attention with the position terms in its mask.

    Args:
        q: (N, H, *inside, D).
        k, v: (N, H, T, D), the virtual key and value last if there is padding.
        extra: for each axis the terms (N, H, *inside, inside[axis]).
        padding: logit of the virtual key without its product, (N, H, *inside, 1).
    """
    count, heads, *inside, _ = q.shape
    last = len(inside) + 1
    tokens = math.prod(inside)
    rows = min(inside[0], max(1, QUERIES_PER_MASK * inside[0] // tokens))
    memory = q.new_empty(count, heads, rows, *inside[1:], k.shape[2])  # written again and again: fresh memory is slow
    parts = []
    for start in range(0, inside[0], rows):
        queries, *terms = (x[:, :, start : start + rows] for x in (q, *extra))
        mask = memory[:, :, : queries.shape[2]]
        first = terms[0]
        for term in terms[1:-1]:
            first = (first[..., None] + term[..., None, :]).flatten(-2)
        torch.add(first[..., None], terms[-1][..., None, :], out=mask[..., :tokens].unflatten(-1, (-1, inside[-1])))
        if padding is not None:
            mask[..., tokens:] = padding[:, :, start : start + rows]
        parts.append(F.scaled_dot_product_attention(queries.flatten(2, last), k, v, attn_mask=mask.flatten(2, last)))
    return torch.cat(parts, 2)


def _attend_folded(q: Tensor, k: Tensor, v: Tensor, extra: Sequence[Tensor], padding: Tensor | None) -> Tensor:
    """The same with the terms in the channels of queries and keys."""
    count, heads, *inside, width = q.shape
    columns = [*extra, *(_as_sum(padding, q.dtype) if padding is not None else ())]
    queries = torch.cat([q * width**-0.5, *columns], -1).flatten(2, -2)
    marks = _coordinates(tuple(inside), k.device, k.dtype)
    if padding is not None:
        marks = F.pad(marks, (0, queries.shape[-1] - width - marks.shape[1], 0, 1))
        marks[-1, sum(inside) :] = 1
    keys = torch.cat([k, marks.expand(count, heads, -1, -1)], -1)
    full = -(-queries.shape[-1] // 8) * 8  # fused kernels want one width for all three, a multiple of eight
    queries, keys, v = (F.pad(part, (0, full - part.shape[-1])) for part in (queries, keys, v))
    return F.scaled_dot_product_attention(queries, keys, v, scale=1.0)[..., :width]


def _padded(inside: Sequence[int], spans: Sequence[int]) -> bool:
    return any(real < span for real, span in zip(inside, spans, strict=True))


def _segments(size: int, span: int) -> list[slice]:
    """An axis as the part cut into whole windows, and the rest."""
    whole = size // span * span
    return [part for part in (slice(0, whole), slice(whole, size)) if part.stop > part.start]


def _coordinates(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """One-hot coordinates of the cells of a grid, axes side by side: (cells, sum of shape)."""
    axes = [torch.eye(size, device=device, dtype=dtype) for size in shape]
    columns = []
    for axis, eye in enumerate(axes):
        view = [1] * len(shape) + [shape[axis]]
        view[axis] = shape[axis]
        columns.append(eye.reshape(view).expand(*shape, shape[axis]).reshape(-1, shape[axis]))
    return torch.cat(columns, -1)


def _padding_logit(biases: Sequence[Tensor], inside: Sequence[int]) -> Tensor:
    """log Σ exp(bias) over the padded keys of a window: (N, H, *inside, 1), float32.

    The padding is the disjoint union over axes a of (inside on the axes before a) × (padded on a) × (any on
    the axes after a); within each part the sum of exponentials is a product over axes.
    """
    wide = [bias.float() for bias in biases]
    real = [bias[..., :size].logsumexp(-1) for bias, size in zip(wide, inside, strict=True)]
    anywhere = [bias.logsumexp(-1) for bias in wide]
    terms = []
    for axis, size in enumerate(inside):
        if size < wide[axis].shape[-1]:
            beyond = wide[axis][..., size:].logsumexp(-1)
            terms.append(sum(real[:axis]) + beyond + sum(anywhere[axis + 1 :]))
    return torch.stack(terms).logsumexp(0)[..., None]


def _mixed_padding_logit(along_d: Tensor, along_h: Tensor, along_w: Tensor, inside: Sequence[int]) -> Tensor:
    """The same for `MixedAxesAttention`: (N, H, d, h, w).

    For a fixed w′ the terms of d′ and h′ are independent, so their sums multiply; w′ itself is summed last.
    """
    depth, height, width = inside
    any_d, real_d = along_h.logsumexp(-2), along_h[..., :depth, :].logsumexp(-2)
    any_h = along_w.logsumexp(-2)
    parts = []  # each (N, H, d, h, w')
    if depth < along_h.shape[-2]:
        parts.append(along_h[..., depth:, :].logsumexp(-2) + any_h)
    if height < along_w.shape[-2]:
        parts.append(real_d + along_w[..., height:, :].logsumexp(-2))
    beyond = (any_d + any_h)[..., width:]
    real = torch.stack(parts).logsumexp(0)[..., :width] if parts else beyond[..., :0]
    return (along_d[..., -real.shape[-1] - beyond.shape[-1] :] + torch.cat([real, beyond], -1)[..., None, :]).logsumexp(
        -1
    )


def _as_sum(value: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """A float32 value as one column, or as two of a shorter type whose sum is closer to it."""
    if dtype == torch.float32:
        return [value]
    coarse = value.to(dtype)
    return [coarse, (value - coarse.float()).to(dtype)]
