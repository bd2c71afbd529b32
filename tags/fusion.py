"""Multi-prompt fusion: clicks, box, anatomy, CLIP's view and learned queries meet the image feature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TYPES = ("clicks", "box", "organ", "lesion", "clip", "queries")
GATED = TYPES[:-1]  # learned queries are the place to look when every prompt is turned down

# Up to so many queries or keys the scores are smaller than the tokens. Fused kernels divide their work over blocks of
# queries (forward) or of keys (backward), so that with few of them most of a GPU stands idle.
FEW = 64


class Attention(nn.Module):
    """Multi-head attention with an inner width and a bias on the keys."""

    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None = None) -> Tensor:
        """key_bias: (B, keys), added to the scores; −∞ hides a key."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        mask = None if key_bias is None else key_bias[:, None, None, :].to(q.dtype)
        if min(q.shape[-2], k.shape[-2]) <= FEW:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            out = (scores if mask is None else scores + mask).softmax(dim=-1).to(v.dtype) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(out.transpose(1, 2).flatten(2))


class TwoWayLayer(nn.Module):
    """Tokens look at each other and at the image, then the image looks at the tokens."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attention = Attention(dim, heads, dim)
        self.from_image = Attention(dim, heads, dim // 2)
        self.from_tokens = Attention(dim, heads, dim // 2)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))

    def forward(
        self, tokens: Tensor, places: Tensor, image: Tensor, positions: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        q = tokens + places
        tokens = self.norm1(tokens + self.self_attention(q, q, tokens, bias))
        tokens = self.norm2(tokens + self.from_image(tokens + places, image + positions, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.from_tokens(image + positions, tokens + places, tokens, bias))
        return tokens, image


class GatedFusion(nn.Module):
    """Two-way attention in which each prompt type enters through a gate that the image decides.

    A gate g in (0, 1) is added to the attention scores of its type's tokens as log g, so that a type which does not
    help in this image can be turned down smoothly, whatever the norms do afterwards.
    """

    def __init__(self, dim: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(dim // 4, len(GATED))
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, 2.0)  # every type starts nearly fully open
        self.gate = nn.Sequential(nn.Linear(dim, dim // 4), nn.GELU(), last)
        self.layers = nn.ModuleList(TwoWayLayer(dim, heads, hidden) for _ in range(layers))

    def forward(self, image: Tensor, positions: Tensor, tokens: Tensor, valid: Tensor, types: Tensor) -> Tensor:
        """image, positions: (B, V, dim), (1, V, dim); tokens (B, N, dim); valid (B, N); types (N,)."""
        opened = F.logsigmoid(self.gate(image.mean(dim=1)).float())
        opened = F.pad(opened, (0, len(TYPES) - len(GATED)))
        bias = opened[:, types].masked_fill(~valid, -torch.inf)
        places = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, places, image, positions, bias)
        return image


class ConcatFusion(nn.Module):
    """The plain way, for comparison: the mean token of each type, concatenated with the image feature and projected."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim * (1 + len(TYPES)), dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor, positions: Tensor, tokens: Tensor, valid: Tensor, types: Tensor) -> Tensor:
        belongs = F.one_hot(types, len(TYPES)).to(tokens.dtype)[None] * valid[:, :, None]
        means = torch.einsum("bnt,bnd->btd", belongs, tokens) / belongs.sum(dim=1).clamp(min=1)[:, :, None]
        weight = self.project.weight
        dim = image.shape[-1]
        # the tokens' part of the projection is the same at every place: computed once and broadcast
        constant = F.linear(means.flatten(1), weight[:, dim:], self.project.bias)
        return self.norm(image + F.linear(image + positions, weight[:, :dim]) + constant[:, None])


class MultiPromptFusion(nn.Module):
    """Collects the tokens of all prompt types and fuses them into the deepest image feature.

    Args:
        dim: channels.
        clip_dim: channels of CLIP's pooled image embedding; 0 without semantic guidance.
        queries: learned tokens.
        form: "gated", "concat" or "none" (the image feature passes unchanged; clicks then act through the dense maps).
    """

    def __init__(self, dim: int, clip_dim: int, queries: int, form: str, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        if form not in ("gated", "concat", "none"):
            raise ValueError(f"fusion must be gated, concat or none, not '{form}'")
        self.fuse: GatedFusion | ConcatFusion | None = None
        if form == "none":
            return
        self.fuse = GatedFusion(dim, layers, heads, hidden) if form == "gated" else ConcatFusion(dim)
        self.type_embedding = nn.Embedding(len(TYPES), dim)
        self.queries = nn.Parameter(torch.randn(queries, dim) * 0.02)
        self.from_clip = nn.Sequential(nn.LayerNorm(clip_dim), nn.Linear(clip_dim, dim)) if clip_dim else None

    def forward(
        self,
        feature: Tensor,
        positions: Tensor,
        clicks: tuple[Tensor, Tensor],
        box: tuple[Tensor, Tensor],
        anatomy: Tensor | None,
        clip: Tensor | None,
    ) -> Tensor:
        """The fused feature.

        Args:
            feature: (B, dim, X, Y, Z).
            positions: (1, X·Y·Z, dim).
            clicks, box: tokens (B, n, dim) and whether each is there (B, n).
            anatomy: (B, 2, dim), organ and lesion, or None.
            clip: (B, E) pooled image embedding, or None.
        """
        if self.fuse is None:
            return feature
        batch = feature.shape[0]
        parts: list[tuple[str, Tensor, Tensor | None]] = [("clicks", *clicks), ("box", *box)]
        if anatomy is not None:
            parts += [("organ", anatomy[:, :1], None), ("lesion", anatomy[:, 1:], None)]
        if clip is not None and self.from_clip is not None:
            parts.append(("clip", self.from_clip(clip)[:, None], None))
        parts.append(("queries", self.queries.expand(batch, -1, -1), None))

        tokens = torch.cat([part for _, part, _ in parts], dim=1)
        there = [part.new_ones(part.shape[:2], dtype=torch.bool) if v is None else v for _, part, v in parts]
        kinds = [TYPES.index(name) for name, part, _ in parts for _ in range(part.shape[1])]
        types = torch.tensor(kinds, device=tokens.device)
        tokens = tokens + self.type_embedding(types)
        image = self.fuse(feature.flatten(2).transpose(1, 2), positions, tokens, torch.cat(there, dim=1), types)
        return image.transpose(1, 2).unflatten(2, feature.shape[2:])
