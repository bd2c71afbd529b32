"""What a network that segments slices does to one: image, prompts and masks on the way in and out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from baselines.sam.sam_segmenter import SamSegmenter
from baselines.sam.slice_prompts import Plane, SlicePrompt

PIXEL_MEAN, PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # SAM's, for red, green, blue


@dataclass(frozen=True)
class SliceResult:
    """Masks of B slices: logits (B, X, Y), low-resolution logits (B, 1, m, m), predicted IoU (B,)."""

    logits: Tensor
    low: Tensor
    quality: Tensor


class SliceNetwork(SamSegmenter):
    """A SAM in two dimensions; a wrapper of one network says how it wants slices, places and masks."""

    box_end: ClassVar[int]  # added to the exclusive high end of a box

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        super().__init__(config, device)
        self.image = self.module.size.encoder.image
        self.side = 512 if config["size"] == "official" else self.image  # voxels of a training slice

    @abstractmethod
    def to_image(self, slices: Tensor) -> Tensor:
        """Slices (B, X, Y) in 0…255 → the network's input (B, 3, rows, columns)."""

    @abstractmethod
    def to_pixels(self, places: Tensor, plane: Plane) -> Tensor:
        """Voxel coordinates (…, 2) as (x, y) → (column, row) of the network's input."""

    @abstractmethod
    def to_slices(self, masks: Tensor, plane: Plane) -> Tensor:
        """Low-resolution logits (B, M, rows, columns) → logits (B, M, X, Y)."""

    @abstractmethod
    def mask_prompt(self, low: Tensor) -> Tensor:
        """Low-resolution logits of a round → mask prompt of the next."""

    @abstractmethod
    def ambiguous(self, prompt: SlicePrompt) -> bool:
        """Whether the best of three masks is taken instead of the single mask."""

    def encode(self, slices: Tensor) -> Tensor:
        """Embeddings (B, C, rows, columns) of slices (B, X, Y)."""
        image = self.to_image(slices.to(self.device))
        with self.half_precision():
            embedding: Tensor = self.module.image_encoder(image)
        return embedding.float()

    def decode(
        self, embedding: Tensor, prompts: Sequence[SlicePrompt], plane: Plane, masks: Tensor | None = None
    ) -> SliceResult:
        """Segment B slices, each by its own prompts; `masks` are mask prompts (B, 1, m, m) for all of them."""
        groups: dict[tuple[int, bool, bool], list[int]] = {}
        for index, prompt in enumerate(prompts):
            key = (len(prompt.points), prompt.box is None, self.ambiguous(prompt))
            groups.setdefault(key, []).append(index)
        low_parts, quality_parts = [], []
        for (_, _, multimask), members in groups.items():
            points, boxes = self.tokens([prompts[index] for index in members], plane)
            previous = None if masks is None else masks[members]
            low, quality = self.module.decode(embedding[members], points, boxes, previous, multimask)
            chosen, rows = quality.argmax(1), torch.arange(len(members), device=low.device)
            low_parts.append(low[rows, chosen][:, None])
            quality_parts.append(quality[rows, chosen])
        back = torch.tensor([index for members in groups.values() for index in members]).argsort()
        low, quality = torch.cat(low_parts)[back], torch.cat(quality_parts)[back]
        return SliceResult(self.to_slices(low, plane)[:, 0], low, quality)

    def tokens(
        self, prompts: Sequence[SlicePrompt], plane: Plane
    ) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None]:
        """Prompts of the same kind and number as the prompt encoder wants them: points with labels, boxes."""
        points, boxes = None, None
        if prompts[0].points:
            given = torch.tensor([prompt.points for prompt in prompts], dtype=torch.float32, device=self.device)
            points = (self.to_pixels(given[..., :2], plane), given[..., 2])
        if prompts[0].box is not None:
            corners = torch.tensor([prompt.box for prompt in prompts], dtype=torch.float32, device=self.device)
            corners = corners.reshape(-1, 2, 2)
            corners[:, 1] += self.box_end
            boxes = self.to_pixels(corners, plane).flatten(1)
        return points, boxes
