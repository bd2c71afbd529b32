"""Mask decoder: features of several depths, the raw image and the dense prompts become tumour logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(kind: str, channels: int) -> nn.Module:
    """ "instance" as in 3DSAM-adapter, or "group" (groups of eight channels)."""
    if kind == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 8), channels)
    raise ValueError(f"decoder_norm must be instance or group, not '{kind}'")


class Head(nn.Sequential):
    """Two 3³ convolutions on a feature of the token grid."""

    def __init__(self, dim: int, width: int, kind: str) -> None:
        super().__init__(
            nn.Conv3d(dim, width, 3, padding=1, bias=False),
            norm(kind, width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, 3, padding=1, bias=False),
            norm(kind, width),
            nn.ReLU(inplace=True),
        )


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Trilinear, cell-centred."""
    return F.interpolate(x, tuple(size), mode="trilinear", align_corners=False)


class MaskDecoder(nn.Module):
    """Multi-layer aggregation at half the crop's resolution, then a light refinement at the full one.

    Every level is projected on the token grid and the levels are added there, before the one enlargement: enlarging
    and projecting commute, so this is the projection of the enlarged, concatenated levels at an eighth of the cost.
    What depends on the image only (`static`) is computed once per crop; a further prompt costs the fused level.

    Args:
        dim: channels of the features.
        levels: features before the fused one.
        width: channels inside.
        kind: normalisation.
        prior: (K,), first weight of each dense prompt map in the logits: an untrained model says that tumour is near
            positive clicks, and training takes it from there.
        refine: channels of the full-resolution refinement, more than the dense maps and two; 0 leaves it out.
            Multiples of 16 are fast.
        kernel: side of the refinement's first convolution.
    """

    def __init__(self, dim: int, levels: int, width: int, kind: str, prior: Tensor, refine: int, kernel: int) -> None:
        super().__init__()
        dense = len(prior)
        self.heads = nn.ModuleList(Head(dim, width, kind) for _ in range(levels + 1))
        self.project = nn.ModuleList(nn.Conv3d(width, width, 1, bias=False) for _ in range(levels + 1))
        self.from_image = nn.Conv3d(1, width, 3, padding=1, bias=False)
        self.from_dense = nn.Conv3d(dense, width, 3, padding=1, bias=False)
        self.mix = nn.Sequential(
            norm(kind, width),
            nn.ReLU(inplace=True),
            nn.Conv3d(width, width, 3, padding=1, bias=False),
            norm(kind, width),
            nn.ReLU(inplace=True),
        )
        self.classify = nn.Conv3d(width, 1, 1)
        if self.classify.bias is not None:
            nn.init.constant_(self.classify.bias, -2.0)  # tumour is rare
        self.prior = nn.Conv3d(dense, 1, 1, bias=False)
        with torch.no_grad():
            self.prior.weight.copy_(prior.view(1, -1, 1, 1, 1))
        self.refine: nn.ModuleDict | None = None
        if refine:
            if refine <= dense + 2:
                raise ValueError(f"refine must be 0 or more than {dense + 2} (dense maps, image, logits), not {refine}")
            self.refine = nn.ModuleDict(
                {
                    "reduce": nn.Conv3d(width, refine - 2 - dense, 1, bias=False),
                    "first": nn.Conv3d(refine, refine, kernel, padding=kernel // 2, bias=False),
                    "norm": norm(kind, refine),
                    "second": nn.Conv3d(refine, 1, 1),
                }
            )

    def static(self, features: Sequence[Tensor], image: Tensor) -> Tensor:
        """(B, width, X/2, Y/2, Z/2): the share of the shallow features and of the image."""
        half = [n // 2 for n in image.shape[2:]]
        shares = [
            project(head(feature)) for feature, head, project in zip(features, self.heads, self.project, strict=False)
        ]
        return enlarge(torch.stack(shares).sum(dim=0), half) + self.from_image(enlarge(image, half))

    def forward(self, static: Tensor, fused: Tensor, image: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 1, X, Y, Z), and the coarse ones at half the resolution."""
        half, full = static.shape[2:], image.shape[2:]
        share = enlarge(self.project[-1](self.heads[-1](fused)), half)
        hidden = self.mix(static + share + self.from_dense(enlarge(dense, half)))
        coarse = self.classify(hidden)
        logits = enlarge(coarse, full) + self.prior(dense)
        if self.refine is None:
            return logits, coarse
        reduced = enlarge(self.refine["reduce"](hidden), full)
        inputs = torch.cat((reduced, logits, image, dense), dim=1)
        refined = F.relu(self.refine["norm"](self.refine["first"](inputs)))
        return logits + self.refine["second"](refined), coarse
