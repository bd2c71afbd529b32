"""Mask decoder: features of several depths, the raw image and the dense prompts become tumour logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tags.config import TagsConfig


def norm(kind: str, channels: int) -> nn.Module:
    """ "instance" as in 3DSAM-adapter, or "group" (groups of eight channels)."""
    if kind == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 8), channels)
    raise ValueError(f"decoder_norm must be instance or group, not '{kind}'")


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Trilinear, cell-centred."""
    return F.interpolate(x, tuple(size), mode="trilinear", align_corners=False)


def convolution(inputs: int, width: int, kind: str) -> nn.Sequential:
    """3³ convolution, norm, rectifier."""
    return nn.Sequential(nn.Conv3d(inputs, width, 3, padding=1, bias=False), norm(kind, width), nn.ReLU(inplace=True))


class Head(nn.Sequential):
    """Two 3³ convolutions on a feature of the token grid."""

    def __init__(self, dim: int, width: int, kind: str) -> None:
        super().__init__(*convolution(dim, width, kind), *convolution(width, width, kind))


class Pyramid(nn.Module):
    """Follows the raw crop and the dense prompts down to an eighth of the crop's resolution and back to a quarter.

    The tokens' resolution is a quarter, so the encoder's features meet here what a shallow network sees by itself.
    """

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.down = convolution(width, 2 * width, kind)
        self.deep = nn.Sequential(convolution(2 * width, 2 * width, kind), convolution(2 * width, 2 * width, kind))
        self.back = nn.Conv3d(2 * width, 2 * width, 1)
        self.merge = convolution(2 * width, 2 * width, kind)

    def forward(self, fine: Tensor, tokens: Tensor) -> Tensor:
        """fine (B, w, P/2 …), tokens (B, 2w, P/4 …) → (B, 2w, P/4 …)."""
        coarse = self.down(F.max_pool3d(fine, 2)) + tokens
        deep = self.back(self.deep(F.max_pool3d(coarse, 2, ceil_mode=True)))
        return self.merge(coarse + enlarge(deep, coarse.shape[2:]))


class MaskDecoder(nn.Module):
    """Multi-layer aggregation on the token grid, meeting the raw crop and the dense prompts; logits at half resolution.

    What depends on the image only (`static`) is computed once per crop; a further prompt costs the fused level and the
    path of the dense prompts.

    Args:
        config: `decoder_dim` are the channels at half resolution, twice as many on the token grid; `decoder_norm` is
            the normalisation; `pyramid`: the raw crop and the dense prompts also meet the features on the token grid;
            `refine` are the channels of the full-resolution refinement, more than the dense maps and two (0 leaves it
            out, multiples of 16 are fast), `refine_kernel` is the side of its first convolution.
        prior: (K,), first weight of each dense prompt map in the logits: an untrained model says that tumour is near
            positive clicks, and training takes it from there.
    """

    def __init__(self, config: TagsConfig, prior: Tensor) -> None:
        super().__init__()
        dense, dim, levels = len(prior), config.dim, len(config.taps)
        width, kind, refine, kernel = config.decoder_dim, config.decoder_norm, config.refine, config.refine_kernel
        self.heads = nn.ModuleList(Head(dim, width, kind) for _ in range(levels))
        self.project = nn.ModuleList(nn.Conv3d(width, 2 * width, 1, bias=False) for _ in range(levels))
        self.from_image = nn.Conv3d(1, width, 3, padding=1, bias=False)
        self.from_dense = nn.Conv3d(dense, width, 3, padding=1, bias=False)
        self.entry = nn.Sequential(norm(kind, width), nn.ReLU(inplace=True))
        self.pyramid = Pyramid(width, kind) if config.pyramid else None
        self.skip = nn.Conv3d(width, width, 1)
        self.rise = nn.Conv3d(2 * width, width, 1, bias=False)
        self.mix = convolution(width, width, kind)
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

    def static(self, features: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        """The shares of the shallow features (B, 2w, X/4 …) and of the image (B, w, X/2 …)."""
        shares = [
            project(head(feature)) for feature, head, project in zip(features, self.heads, self.project, strict=False)
        ]
        half = [n // 2 for n in image.shape[2:]]
        return torch.stack(shares).sum(dim=0), self.from_image(enlarge(image, half))

    def forward(
        self, static: tuple[Tensor, Tensor], fused: Tensor, image: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, 1, X, Y, Z), and the coarse ones at half the resolution."""
        shallow, from_image = static
        half, full = from_image.shape[2:], image.shape[2:]
        fine = self.entry(from_image + self.from_dense(enlarge(dense, half)))
        tokens = shallow + self.project[-1](self.heads[-1](fused))
        if self.pyramid is not None:
            tokens = self.pyramid(fine, tokens)
        hidden = self.mix(self.skip(fine) + enlarge(self.rise(tokens), half))
        coarse = self.classify(hidden)
        logits = enlarge(coarse, full) + self.prior(dense)
        if self.refine is None:
            return logits, coarse
        reduced = enlarge(self.refine["reduce"](hidden), full)
        refined = self.refine["first"](torch.cat((reduced, logits, image, dense), dim=1))
        refined = F.relu(self.refine["norm"](refined), inplace=True)
        return logits + self.refine["second"](refined), coarse
