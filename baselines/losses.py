"""The loss of a mask that the wrappers of published networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_SHARE = 1e-4  # of a grid that a target counts as filling


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
