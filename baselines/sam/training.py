"""What the wrappers share in training: prompts drawn from a crop's label, and the losses.

Only the batch's generator is used, and always on the CPU, so that a step draws the same prompts on every device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_SHARE = 1e-4  # of a grid that a target counts as filling


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


def mask_losses(logits: Tensor, label: Tensor, dice_share: float = 0.5) -> Tensor:
    """Soft Dice plus cross-entropy of each mask: logits and label (B, M, *grid), the label broadcast → (B, M).

    Twice their mean, weighted by Dice's share. Dice is smoothed by one voxel, so that an empty label asks for an empty
    mask. In the cross-entropy a target voxel weighs one over the root of the target's share of the grid: half way
    between its share and an equal say.
    """
    label = label.expand_as(logits)
    share = label.flatten(2).mean(-1).clamp(min=LEAST_SHARE).unflatten(-1, (-1, *(1,) * (label.ndim - 2)))
    weight = torch.where(label > 0.5, share.rsqrt(), 1.0)
    entropy = F.binary_cross_entropy_with_logits(logits, label, weight, reduction="none").flatten(2).mean(-1)
    probability, truth = logits.sigmoid().flatten(2), label.flatten(2)
    overlap = 2 * (probability * truth).sum(-1) + 1
    dice, rest = 2 * dice_share, 2 * (1 - dice_share)
    return rest * entropy + dice - dice * overlap / (probability.sum(-1) + truth.sum(-1) + 1)


def true_quality(logits: Tensor, label: Tensor) -> Tensor:
    """IoU of each mask with the label, 1 where both are empty: what the quality head learns to predict."""
    predicted, truth = (logits > 0).flatten(2), (label > 0.5).expand_as(logits).flatten(2)
    union = (predicted | truth).sum(-1)
    return torch.where(union > 0, (predicted & truth).sum(-1) / union.clamp(min=1), 1.0)
