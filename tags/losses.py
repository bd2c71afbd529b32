"""Soft Dice plus binary cross-entropy, half and half (as 3DSAM-adapter weighs its two)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 1.0
LEAST_SHARE = 1e-3


def dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """1 − soft Dice, mean over the batch; (B, 1, X, Y, Z). A crop without target asks for an empty mask."""
    probability = logits.float().sigmoid().flatten(1)
    label = label.flatten(1)
    overlap = 2 * (probability * label).sum(dim=1) + SMOOTH
    return (1 - overlap / (probability.sum(dim=1) + label.sum(dim=1) + SMOOTH)).mean()


def rarity(label: Tensor, unprompted: Tensor) -> Tensor:
    """Weights of the voxels (B, 1, X, Y, Z) in the cross-entropy.

    Where nobody says where the target is, a crop that is called empty is nearly right, and training would stay there:
    in these crops (B,) a target voxel weighs one over the root of the target's share.
    """
    share = label.flatten(1).mean(dim=1).clamp(min=LEAST_SHARE)
    weight = torch.where(unprompted, share.rsqrt(), 1.0)
    return torch.where(label > 0.5, weight[:, None, None, None, None], 1.0)


def segmentation_loss(
    logits: Tensor, label: Tensor, dice_weight: float = 0.5, weight: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and its parts; `weight` is that of each voxel in the cross-entropy."""
    dice = dice_loss(logits, label)
    entropy = F.binary_cross_entropy_with_logits(logits.float(), label, weight)
    return dice_weight * dice + (1 - dice_weight) * entropy, {"dice_loss": dice, "cross_entropy": entropy}
