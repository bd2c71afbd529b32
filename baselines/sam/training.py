"""What the wrappers share in training: prompts drawn from a crop's label, and what the quality head learns.

Only the batch's generator is used, and always on the CPU, so that a step draws the same prompts on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw(generator: torch.Generator, count: int) -> int:
    """A whole number in [0, count)."""
    return int(torch.randint(count, (1,), generator=generator))


def draw_voxel(region: Tensor, generator: torch.Generator) -> tuple[int, ...]:
    """A voxel of a boolean region, each with the same chance; the region must not be empty."""
    places = region.nonzero()
    return tuple(places[draw(generator, len(places))].tolist())


def draw_error(predicted: Tensor, label: Tensor, generator: torch.Generator) -> tuple[tuple[int, ...], int] | None:
    """A voxel where prediction and label differ, and its true label; None if they agree."""
    wrong = predicted != label
    if not wrong.any():
        return None
    place = draw_voxel(wrong, generator)
    return place, int(label[place])


def true_quality(logits: Tensor, label: Tensor) -> Tensor:
    """IoU of each mask with the label, 1 where both are empty: what the quality head learns to predict."""
    predicted, truth = (logits > 0).flatten(2), (label > 0.5).expand_as(logits).flatten(2)
    union = (predicted | truth).sum(-1)
    return torch.where(union > 0, (predicted & truth).sum(-1) / union.clamp(min=1), 1.0)
