"""Training crops as inference sees them: any field of view, and turned, stretched and flipped besides.

Everything random comes from the generator that is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tags.semantic import VisualFeatures


def random_views(
    image: Tensor,
    label: Tensor,
    side: int,
    zoom: tuple[float, float],
    generator: torch.Generator,
    stretch: float = 0.0,
    tilt: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Crops (B, 1, Q, Q, Q) seen with a random field of view of `side · zoom` voxels about their centre.

    Args:
        side: of the result, in voxels.
        zoom: its range; the logarithm is drawn evenly, one factor per crop.
        stretch: every axis departs from that by up to this share.
        tilt: degrees; the view is turned about every axis by up to so much.

    Returns:
        image and label (B, 1, side, side, side).
    """
    batch = len(image)
    low, high = (math.log(factor) for factor in zoom)
    factors = torch.exp(low + (high - low) * torch.rand(batch, 1, generator=generator))
    factors = factors * (1 + stretch * (2 * torch.rand(batch, 3, generator=generator) - 1))
    factors = factors.clamp(*zoom)
    angles = math.radians(tilt) * (2 * torch.rand(batch, 3, generator=generator) - 1)
    turned = rotations(angles)
    views = []
    for i in range(batch):  # one by one: a crop that holds the widest view takes 0.2 GB at 128³
        both = torch.cat((image[i : i + 1], label[i : i + 1]), dim=1)
        views.append(seen(both, side, factors[i], turned[i]))
    found = torch.cat(views)
    return found[:, :1], (found[:, 1:] > 0.5).to(label)


def rotations(angles: Tensor) -> Tensor:
    """(B, 3) angles in radians about x, y and z → (B, 3, 3), turned about x first."""
    matrices = torch.eye(3).expand(len(angles), 3, 3)
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn = torch.eye(3).repeat(len(angles), 1, 1)
        cosine, sine = angles[:, axis].cos(), angles[:, axis].sin()
        turn[:, a, a], turn[:, b, b], turn[:, a, b], turn[:, b, a] = cosine, cosine, -sine, sine
        with torch.autocast("cpu", enabled=False):  # would round to bf16
            matrices = turn @ matrices
    return matrices


def seen(volume: Tensor, side: int, factors: Tensor, turn: Tensor | None = None) -> Tensor:
    """A view of `side`³ voxels, each `factors` (3,) source voxels large, about the centre of (1, C, X, Y, Z).

    Before it is sampled, linearly, the source is averaged over cubes of as many voxels as one of the view holds, so
    that a wide view does not alias. Beyond the source its edge goes on.
    """
    with torch.autocast(volume.device.type, enabled=False):  # bf16 would move the places by up to half a voxel
        matrix = torch.diag(factors * side / 2)
        if turn is not None:
            matrix = turn @ matrix
        width = max(1, round(float(factors.max())))
        volume = _middle(volume, [int(reach) + width + 1 for reach in matrix.abs().sum(dim=1)])
        if width > 1:
            volume = F.avg_pool3d(volume, width, stride=1)  # the centre stays where it is
        extent = torch.tensor(volume.shape[2:])
        matrix = (matrix / (extent / 2)[:, None]).flip(0, 1)  # grid_sample wants (z, y, x)
        theta = F.pad(matrix, (0, 1))[None].to(volume)
        grid = F.affine_grid(theta, [1, 1, side, side, side], align_corners=False)
        return F.grid_sample(volume, grid, padding_mode="border", align_corners=False)


def _middle(volume: Tensor, reach: Sequence[int]) -> Tensor:
    """What lies within `reach` voxels of the centre of (1, C, X, Y, Z) along each axis: the rest is not looked at."""
    cut = [max(0, n // 2 - r) for n, r in zip(volume.shape[2:], reach, strict=True)]
    return volume[:, :, *(slice(c, n - c) for c, n in zip(cut, volume.shape[2:], strict=True))]


def draw_flips(chances: Sequence[Sequence[float]], generator: torch.Generator) -> list[list[int]]:
    """For every crop the axes (0, 1, 2) that are turned round, each by its own chance."""
    drawn = (torch.rand(len(chances), 3, generator=generator) < torch.tensor(chances)).tolist()
    return [[axis for axis in range(3) if row[axis]] for row in drawn]


def flipped(maps: Tensor, flips: Sequence[Sequence[int]]) -> Tensor:
    """(B, C, X, Y, Z) with the axes of each crop turned round."""
    if not any(flips):
        return maps
    return torch.stack([one.flip([1 + axis for axis in axes]) for one, axes in zip(maps, flips, strict=True)])


def flipped_features(features: VisualFeatures, flips: Sequence[Sequence[int]]) -> VisualFeatures:
    """What CLIP saw of the upright crop, laid onto the flipped one."""
    return replace(features, patches=flipped(features.patches, flips), joint=flipped(features.joint, flips))
