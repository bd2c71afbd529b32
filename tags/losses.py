"""Soft Dice plus binary cross-entropy, half and half (as 3DSAM-adapter weighs its two)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0


def dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 − soft Dice, mean over the batch; (B, 1, X, Y, Z). A crop without target asks for an empty mask."""
    probability = logits.float().sigmoid().flatten(1)
    label = label.flatten(1)
    overlap = 2 * (probability * label).sum(dim=1) + SMOOTH
    return (1 - overlap / (probability.sum(dim=1) + label.sum(dim=1) + SMOOTH)).mean()


def segmentation_loss(logits: Tensor, label: Tensor, dice_weight: float = 0.5) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and its parts."""
    dice = dice_loss(logits, label)
    entropy = F.binary_cross_entropy_with_logits(logits.float(), label)
    return dice_weight * dice + (1 - dice_weight) * entropy, {"dice_loss": dice, "cross_entropy": entropy}
