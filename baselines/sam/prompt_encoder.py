"""SAM's prompt encoder in two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from baselines.sam.layers import ChannelNorm, convolution

NEGATIVE, POSITIVE, LOW_CORNER, HIGH_CORNER = range(4)
PADDING = -1  # label of a point that is none


class FourierPosition(nn.Module):
    """Random Fourier features of coordinates in [0, 1].

    Upstream's order of coordinates is kept. In 2D both points and grid use (column, row). In 3D the grid uses
    (axis 1, axis 0, axis 2) but points come as (axis 0, axis 1, axis 2): they disagree, and the released weights were
    trained so. Sizes are taken in the grid's order, which only matters where axes differ in size.

    Args:
        aligned: 3D only, for networks trained from scratch: both in the order of the axes, so that a point and the
            cell that it lies in have the same encoding.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, axes: int, features: int, dim: int, aligned: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.order = tuple(range(axes)) if aligned and axes == 3 else (1, 0, *range(2, axes))
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(axes, features))

    def forward(self, unit: Tensor) -> Tensor:
        """(…, axes) → (…, dim): sin, cos and, where `dim` is three times the features, sin again."""
        matrix = self.positional_encoding_gaussian_matrix
        # Products and sums instead of a matrix product: autocast would round the phases to bf16.
        phase = (2 * math.pi * (2 * unit.float() - 1))[..., None].mul(matrix).sum(-2)
        parts = (phase.sin(), phase.cos(), phase.sin())
        return torch.cat(parts[: self.dim // matrix.shape[1]], -1)

    def of_points(self, points: Tensor, image: tuple[int, ...]) -> Tensor:
        """Voxel coordinates (B, N, axes), already shifted to voxel centres."""
        sizes = points.new_tensor([image[axis] for axis in self.order])
        return self(points / sizes)

    def of_grid(self, grid: tuple[int, ...]) -> Tensor:
        """(1, dim, *grid)."""
        device = self.positional_encoding_gaussian_matrix.device
        centres = [(torch.arange(size, device=device) + 0.5) / size for size in grid]
        axes = torch.meshgrid(*centres, indexing="ij")
        return self(torch.stack([axes[axis] for axis in self.order], -1)).movedim(-1, 0)[None]


class PromptEncoder(nn.Module):
    """Points, a box and a previous mask → prompt tokens (B, N, dim) and a dense prompt (B, dim, *grid).

    Args:
        axes: 2 or 3.
        image: voxels along each axis of the network's input.
        grid: tokens along each axis of the embedding.
        dim: channels.
        features: Fourier features per function.
        embeddings: 4 (negative, positive, two box corners) or 2 (no box).
        aligned: see `FourierPosition`.
    """

    def __init__(
        self,
        axes: int,
        image: tuple[int, ...],
        grid: tuple[int, ...],
        dim: int,
        features: int,
        embeddings: int = 4,
        aligned: bool = False,
    ) -> None:
        super().__init__()
        self.image, self.grid, self.dim = image, grid, dim
        conv = convolution(axes)
        self.pe_layer = FourierPosition(axes, features, dim, aligned)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(embeddings))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.no_mask_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            conv(1, 4, 2, stride=2),
            ChannelNorm(4),
            nn.GELU(),
            conv(4, 16, 2, stride=2),
            ChannelNorm(16),
            nn.GELU(),
            conv(16, dim, 1),
        )

    @property
    def mask_size(self) -> tuple[int, ...]:
        """Voxels along each axis of a mask prompt and of the decoder's masks."""
        return tuple(4 * size for size in self.grid)

    def dense_position(self) -> Tensor:
        """Position of the embedding's cells, (1, dim, *grid)."""
        return self.pe_layer.of_grid(self.grid)

    def forward(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode the prompts of B images.

        Args:
            points: voxel coordinates (B, N, axes) and labels (B, N): 1, 0, or −1 for none.
            boxes: (B, 2 · axes), low corner then high corner.
            masks: logits (B, 1, *mask_size).
        """
        tokens = []
        if points is not None:
            tokens.append(self._points(*points, padded=boxes is None))
        if boxes is not None:
            tokens.append(self._box(boxes))
        batch = next((len(given) for given in (*tokens, masks) if given is not None), 1)
        dtype = self.no_mask_embed.weight.dtype
        sparse = torch.cat(tokens, 1) if tokens else self.no_mask_embed.weight.new_empty(batch, 0, self.dim)
        if masks is not None:
            return sparse.to(dtype), self.mask_downscaling(masks)
        blank = self.no_mask_embed.weight.reshape(1, -1, *(1 for _ in self.grid))
        return sparse.to(dtype), blank.expand(batch, -1, *self.grid)

    def _points(self, points: Tensor, labels: Tensor, padded: bool) -> Tensor:
        points = points + 0.5  # voxel index → centre of the voxel
        if padded:
            points = torch.cat([points, points.new_zeros(len(points), 1, points.shape[2])], 1)
            labels = torch.cat([labels, labels.new_full((len(labels), 1), PADDING)], 1)
        position = self.pe_layer.of_points(points, self.image)
        kinds = [self.not_a_point_embed, self.point_embeddings[NEGATIVE], self.point_embeddings[POSITIVE]]
        table = _rows(kinds)
        index = labels.long() + 1  # −1, 0, 1 → rows of the table
        return torch.where(index[..., None] > 0, position, torch.zeros_like(position)) + table[index]

    def _box(self, boxes: Tensor) -> Tensor:
        corners = boxes.reshape(len(boxes), 2, -1) + 0.5
        kinds = [self.point_embeddings[LOW_CORNER], self.point_embeddings[HIGH_CORNER]]
        table = _rows(kinds)
        return self.pe_layer.of_points(corners, self.image) + table


def _rows(embeddings: Sequence[nn.Module]) -> Tensor:
    """The single rows of embeddings as a table."""
    return torch.cat([cast(nn.Embedding, embedding).weight for embedding in embeddings])
