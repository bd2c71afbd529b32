"""SAM's mask decoder in two or three dimensions: two-way attention, upscaling, a network per mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.sam.layers import ChannelNorm, Feedforward, Perceptron, transposed_convolution

MASKS = 4  # token 0 is the single mask, tokens 1 to 3 are the alternatives


class CrossAttention(nn.Module):
    """Multi-head attention whose inner width may be smaller than its outer one."""

    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        projected = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        parts = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projected)
        mixed = F.scaled_dot_product_attention(*parts)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class TwoWayBlock(nn.Module):
    """Tokens look at each other, at the image; then the image looks at the tokens."""

    def __init__(self, dim: int, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = CrossAttention(dim, heads, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = CrossAttention(dim, heads, dim // 2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Feedforward(dim, hidden, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = CrossAttention(dim, heads, dim // 2)

    def forward(self, tokens: Tensor, cells: Tensor, token_position: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:  # the tokens are their own position there, and nothing is added to them
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            placed = tokens + token_position
            tokens = self.norm1(tokens + self.self_attn(placed, placed, tokens))
        placed_cells = cells + position
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_position, placed_cells, cells))
        tokens = self.norm3(tokens + self.mlp(tokens))
        cells = self.norm4(cells + self.cross_attn_image_to_token(placed_cells, tokens + token_position, tokens))
        return tokens, cells


class TwoWayTransformer(nn.Module):
    """Two blocks, then the tokens look at the image once more. Shapes: (B, N, dim), (B, cells, dim)."""

    def __init__(self, dim: int, heads: int, hidden: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, heads, hidden, index == 0) for index in range(depth))
        self.final_attn_token_to_image = CrossAttention(dim, heads, dim // 2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, cells: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        token_position = tokens
        for layer in self.layers:
            tokens, cells = layer(tokens, cells, token_position, position)
        seen = self.final_attn_token_to_image(tokens + token_position, cells + position, cells)
        return self.norm_final_attn(tokens + seen), cells


class MaskDecoder(nn.Module):
    """Embedding and prompts → mask logits (B, 1 or 3, 4 × grid) and predicted IoU (B, 1 or 3)."""

    def __init__(self, axes: int, dim: int, heads: int = 8, hidden: int = 2048, iou_hidden: int = 256) -> None:
        super().__init__()
        transposed = transposed_convolution(axes)
        self.transformer = TwoWayTransformer(dim, heads, hidden)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(MASKS, dim)
        self.output_upscaling = nn.Sequential(
            transposed(dim, dim // 4, 2, stride=2),
            ChannelNorm(dim // 4),
            nn.GELU(),
            transposed(dim // 4, dim // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Perceptron(dim, dim, dim // 8) for _ in range(MASKS))
        self.iou_prediction_head = Perceptron(dim, iou_hidden, MASKS)

    def forward(
        self, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Masks of B prompts.

        Args:
            embedding: (B, dim, *grid), or (1, dim, *grid) for many prompts on one image.
            position: (1, dim, *grid).
            sparse, dense: of the prompt encoder.
            multimask: the three alternatives instead of the single mask.
        """
        masks, quality = self.all_masks(embedding, position, sparse, dense)
        return (masks[:, 1:], quality[:, 1:]) if multimask else (masks[:, :1], quality[:, :1])

    def all_masks(self, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """All four masks (B, 4, 4 × grid) and their predicted IoU (B, 4)."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(sparse), -1, -1), sparse], 1)
        source = embedding + dense
        grid = source.shape[2:]
        tokens, cells = self.transformer(tokens, _as_cells(source), _as_cells(position))
        upscaled = self.output_upscaling(cells.transpose(1, 2).unflatten(2, grid))
        weights = [network(tokens[:, 1 + index]) for index, network in enumerate(self.output_hypernetworks_mlps)]
        masks = torch.einsum("bmc,bcn->bmn", torch.stack(weights, 1), upscaled.flatten(2))
        return masks.unflatten(2, upscaled.shape[2:]), self.iou_prediction_head(tokens[:, 0])


def _as_cells(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)
