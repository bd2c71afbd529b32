"""Prompt encoder: clicks of either sign, a box, a previous mask; any subset of them, including none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POSITIVE, NEGATIVE, ABSENT = 1, 0, -1
PRIOR = 4.0  # logit that a click adds at its own place before any training
DENSE_EXTRA = 4  # dense channels besides the click maps: contrast, likeness, box, previous mask
SOFTNESS = 4.0  # slope of the border of the ellipsoid that a box is taken for, per radius
LIKE = 0.3  # difference from the clicked tissue, in normalised intensity, at which likeness has fallen to 0.6


def inscribed(low: Sequence[float], high: Sequence[float], axes: Sequence[Tensor]) -> Tensor:
    """(X, Y, Z): what a box says as a mask: near 1 in the middle of the ellipsoid that it holds, a half on its surface.

    Args:
        low, high: its faces.
        axes: coordinates of the voxels along each axis, in the same unit.
    """
    x, y, z = ((2 * at - a - b) / (b - a) for at, a, b in zip(axes, low, high, strict=True))
    distance = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).sqrt()  # 1 on the surface
    return torch.sigmoid(SOFTNESS * (1 - distance))


@dataclass
class PromptTensors:
    """Prompts of a batch of crops, in voxel coordinates of the crop (voxel centres are whole numbers).

    Attributes:
        points: (B, N, 3).
        labels: (B, N): 1 inside the target, 0 outside it, −1 not there.
        box: (B, 2, 3), lowest and highest voxel, both inclusive.
        has_box: (B,) bool.
        mask: (B, 1, X, Y, Z), previous probabilities, or None if no crop has one.
        has_mask: (B,) bool.
    """

    points: Tensor
    labels: Tensor
    box: Tensor
    has_box: Tensor
    mask: Tensor | None
    has_mask: Tensor

    @classmethod
    def empty(cls, batch: int, device: torch.device | str = "cpu") -> PromptTensors:
        """No prompt at all."""
        no = torch.zeros(batch, dtype=torch.bool, device=device)
        return cls(
            points=torch.zeros(batch, 0, 3, device=device),
            labels=torch.zeros(batch, 0, dtype=torch.long, device=device),
            box=torch.zeros(batch, 2, 3, device=device),
            has_box=no,
            mask=None,
            has_mask=no,
        )

    def absent(self) -> Tensor:
        """(B,) bool: the crops without any prompt."""
        return ~(self.has_box | self.has_mask | (self.labels != ABSENT).any(dim=1))

    def with_points(self, points: Tensor, labels: Tensor) -> PromptTensors:
        """The same prompts and further clicks (B, n, 3), (B, n)."""
        return replace(
            self, points=torch.cat((self.points, points), dim=1), labels=torch.cat((self.labels, labels), dim=1)
        )

    def mirrored(self, side: int) -> PromptTensors:
        """The same prompts in crops of `side` voxels whose first axis is turned round."""
        turn = torch.tensor([-1.0, 1.0, 1.0], device=self.points.device)
        ends = torch.tensor([side - 1.0, 0.0, 0.0], device=self.points.device)
        box = turn * self.box + ends
        box[..., 0] = box[..., 0].flip(1)
        mask = None if self.mask is None else self.mask.flip(2)
        return replace(self, points=turn * self.points + ends, box=box, mask=mask)

    def crop(self, index: int) -> PromptTensors:
        """Those of one crop of the batch."""
        one = slice(index, index + 1)
        mask = None if self.mask is None else self.mask[one]
        return PromptTensors(
            self.points[one], self.labels[one], self.box[one], self.has_box[one], mask, self.has_mask[one]
        )


@dataclass
class EncodedPrompts:
    """Prompts as the fusion and the decoder want them.

    Attributes:
        clicks: (B, N, dim), and `clicks_valid` (B, N).
        box: (B, 2, dim), and `box_valid` (B, 2).
        mask: (B, dim, G, G, G), the previous mask's feature, to be added to the image's; None if there is none.
        dense: (B, K, X, Y, Z) maps at the crop's resolution.
    """

    clicks: Tensor
    clicks_valid: Tensor
    box: Tensor
    box_valid: Tensor
    mask: Tensor | None
    dense: Tensor


class FourierPosition(nn.Module):
    """Random Fourier features of a place in the unit cube; fixed, the same in every build."""

    def __init__(self, dim: int, seed: int = 20250522) -> None:
        super().__init__()
        directions = torch.randn(3, dim // 2, generator=torch.Generator().manual_seed(seed))
        self.directions: Tensor
        self.register_buffer("directions", directions)

    def forward(self, places: Tensor) -> Tensor:
        """(…, 3) in [0, 1] → (…, dim)."""
        with torch.autocast(self.directions.device.type, enabled=False):
            angles = 2 * torch.pi * (2 * places.float() - 1) @ self.directions
            return torch.cat((angles.sin(), angles.cos()), dim=-1)

    def grid(self, size: tuple[int, int, int]) -> Tensor:
        """(1, X·Y·Z, dim): positions of the tokens' centres."""
        axes = [(torch.arange(n, device=self.directions.device) + 0.5) / n for n in size]
        return self(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)).flatten(0, 2)[None]


def sample_at(volume: Tensor, places: Tensor) -> Tensor:
    """Trilinear samples of (B, C, X, Y, Z) at places (B, N, 3) in [0, 1] → (B, N, C)."""
    grid = (2 * places - 1).flip(-1)[:, :, None, None].to(volume.dtype)
    sampled = F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[..., 0, 0].transpose(1, 2)


def squared_distance(points: Tensor, valid: Tensor, size: tuple[int, int, int]) -> Tensor:
    """(B, 1, X, Y, Z): squared distance in voxels to the nearest valid point (B, N, 3); infinite without one."""
    batch, number, _ = points.shape
    nearest = torch.full((batch, *size), torch.inf, device=points.device)
    axes = [
        (torch.arange(n, device=points.device) - points[:, :, i, None]).square() for i, n in enumerate(size)
    ]  # each (B, N, n): distances are separable
    axes[0] = axes[0].masked_fill(~valid[:, :, None], torch.inf)
    for i in range(number):
        x, y, z = (axis[:, i] for axis in axes)
        torch.minimum(nearest, x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :], out=nearest)
    return nearest[:, None]


class PromptEncoder(nn.Module):
    """Encodes what a user gave.

    A click's token is the image feature at its place (3DSAM-adapter's visual sampler), its Fourier position and an
    embedding of its sign. The dense maps are ours: how near the clicks are at several scales, how the image differs
    from the clicked tissue, the box and the previous mask.

    Args:
        dim: channels of tokens and features.
        scales: standard deviations in voxels of the click maps.
    """

    def __init__(self, dim: int, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.scales = scales
        self.position = FourierPosition(dim)
        self.sampler = nn.Linear(dim, dim)
        self.sign = nn.Embedding(2, dim)
        self.corner = nn.Embedding(2, dim)
        self.mask_branch = nn.Sequential(
            nn.Conv3d(1, dim // 8, 2, stride=2),
            nn.GELU(),
            nn.Conv3d(dim // 8, dim // 4, 2, stride=2),
            nn.GELU(),
            nn.Conv3d(dim // 4, dim, 1),
        )

    @property
    def dense_channels(self) -> int:
        return 2 * len(self.scales) + DENSE_EXTRA

    def dense_prior(self) -> Tensor:
        """(K,): what each dense map says about the logits before any training: the clicks at their middle scale, and
        that a previous mask was right."""
        prior = torch.zeros(self.dense_channels)
        middle = len(self.scales) // 2
        prior[middle] = PRIOR
        prior[len(self.scales) + middle] = -PRIOR
        prior[2 * len(self.scales) + 1] = PRIOR / 4  # likeness to the clicked tissue
        prior[-1] = PRIOR
        return prior

    def forward(self, prompts: PromptTensors, feature: Tensor, image: Tensor) -> EncodedPrompts:
        """feature: (B, dim, G, G, G), the deepest one; image: (B, 1, X, Y, Z)."""
        size = (image.shape[2], image.shape[3], image.shape[4])
        extent = torch.tensor(size, device=image.device, dtype=torch.float32)
        places = (prompts.points + 0.5) / extent
        valid = prompts.labels != ABSENT
        clicks = self.position(places) + self.sign(prompts.labels.clamp(min=0))
        if places.shape[1]:
            clicks = clicks + self.sampler(sample_at(feature, places))
        edges = torch.stack((prompts.box[:, 0], prompts.box[:, 1] + 1), dim=1) / extent
        box = self.position(edges) + self.corner.weight
        mask = None
        if prompts.mask is not None:
            mask = self.mask_branch(2 * prompts.mask - 1) * prompts.has_mask.view(-1, 1, 1, 1, 1)
        return EncodedPrompts(
            clicks=clicks,
            clicks_valid=valid,
            box=box,
            box_valid=prompts.has_box[:, None].expand(-1, 2),
            mask=mask,
            dense=self.dense_maps(prompts, places, image),
        )

    @torch.no_grad()
    def dense_maps(self, prompts: PromptTensors, places: Tensor, image: Tensor) -> Tensor:
        """(B, K, X, Y, Z): nearness to clicks of either sign at each scale, contrast, likeness, box, mask."""
        size = (image.shape[2], image.shape[3], image.shape[4])
        maps = []
        for sign in (POSITIVE, NEGATIVE):
            distance = squared_distance(prompts.points, prompts.labels == sign, size)
            maps += [torch.exp(-distance / (2 * scale**2)) for scale in self.scales]
        maps += [*self._contrast(prompts, places, image), self._box_map(prompts, size)]
        if prompts.mask is None:
            maps.append(torch.zeros_like(maps[-1]))
        else:
            maps.append((2 * prompts.mask - 1) * prompts.has_mask.view(-1, 1, 1, 1, 1))
        return torch.cat([m.float() for m in maps], dim=1)

    @staticmethod
    def _contrast(prompts: PromptTensors, places: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """How each voxel differs from the mean of the clicked tissue, and how alike its neighbourhood is to it.

        The tissue is that of 3³ neighbourhoods; both maps are 0 without a positive click.
        """
        positive = (prompts.labels == POSITIVE).float()
        if not positive.any():
            return torch.zeros_like(image), torch.zeros_like(image)
        smooth = F.avg_pool3d(image, 3, stride=1, padding=1, count_include_pad=False)
        values = sample_at(smooth, places)[..., 0]
        number = positive.sum(dim=1)
        clicked = ((values * positive).sum(dim=1) / number.clamp(min=1)).view(-1, 1, 1, 1, 1)
        there = (number > 0).view(-1, 1, 1, 1, 1)
        return (image - clicked) * there, torch.exp(-((smooth - clicked) ** 2) / (2 * LIKE**2)) * there

    @staticmethod
    def _box_map(prompts: PromptTensors, size: tuple[int, int, int]) -> Tensor:
        """1 inside the box, 0 elsewhere and without one."""
        inside = prompts.has_box.view(-1, 1, 1, 1)
        for axis, n in enumerate(size):
            index = torch.arange(n, device=inside.device)
            within = (index >= prompts.box[:, 0, axis, None]) & (index <= prompts.box[:, 1, axis, None])
            shape = [within.shape[0], 1, 1, 1]
            shape[1 + axis] = n
            inside = inside & within.view(shape)
        return inside[:, None].float()
