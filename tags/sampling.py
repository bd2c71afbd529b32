"""Prompts in training: how many clicks, where, a box, a previous mask, or nothing; and clicks that correct an error.

Everything random comes from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tags.prompt_encoder import ABSENT, NEGATIVE, POSITIVE, PromptTensors


@dataclass(frozen=True)
class Sampling:
    """Probabilities of the training prompts.

    Attributes:
        clicks: most clicks of a crop.
        none: share of crops without any prompt (prompt dropout).
        single: share of the others that get exactly one positive click and nothing else.
        central: share of crops whose first positive click lies deep inside the target instead of anywhere.
        box: share of the crops with several prompts that get a box.
        box_jitter: how far each face of the box may move, as a share of its side.
    """

    clicks: int = 10
    none: float = 0.1
    single: float = 0.5
    central: float = 0.5
    box: float = 0.3
    box_jitter: float = 0.1


def random_number(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def random_voxels(where: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """(number, 3) voxels drawn with replacement from a mask (X, Y, Z) that has at least one."""
    index = where.flatten().nonzero()[:, 0]
    chosen = index[torch.randint(len(index), (number,), generator=generator).to(index.device)]
    return torch.stack(torch.unravel_index(chosen, where.shape), dim=-1).float()


def depth_inside(mask: Tensor, steps: int = 12) -> Tensor:
    """How many erosions by a 3³ cube each voxel of a mask (X, Y, Z) survives, at most `steps`."""
    inside = mask.float()[None, None]
    depth = inside.clone()
    for _ in range(steps):
        inside = 1 - F.max_pool3d(F.pad(1 - inside, (1,) * 6, value=1.0), 3, stride=1)
        if not inside.any():
            break
        depth += inside
    return depth[0, 0]


def deep_voxel(mask: Tensor, generator: torch.Generator) -> Tensor:
    """(1, 3): one of the voxels that lie deepest in the mask."""
    voxels = mask.nonzero()
    low, high = voxels.amin(dim=0), voxels.amax(dim=0) + 1
    box = mask[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
    depth = depth_inside(box)
    return random_voxels(depth == depth.max(), 1, generator) + low


def near(mask: Tensor, reach: int = 4) -> Tensor:
    """The band outside a mask (X, Y, Z) within `reach` voxels of it."""
    grown = mask.float()[None, None]
    for axis in range(3):  # a cube is the product of its sides
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 2 * reach + 1, reach
        grown = F.max_pool3d(grown, kernel, stride=1, padding=padding)
    return (grown[0, 0] > 0) & ~mask


def sample_prompts(label: Tensor, generator: torch.Generator, how: Sampling) -> PromptTensors:
    """Prompts for the labels (B, 1, X, Y, Z) of a batch of crops. A crop without target gets no positive click."""
    batch, device = label.shape[0], label.device
    prompts = PromptTensors.empty(batch, device)
    points = torch.zeros(batch, how.clicks, 3, device=device)
    labels = torch.full((batch, how.clicks), ABSENT, dtype=torch.long, device=device)
    box, has_box = prompts.box.clone(), prompts.has_box.clone()
    for i in range(batch):
        mask = label[i, 0] > 0.5
        if how.clicks == 0 or random_number(generator) < how.none:
            continue
        present = bool(mask.any())
        if random_number(generator) < how.single:
            positive, negative = int(present), 0
        else:
            positive = int(torch.randint(0, how.clicks + 1, (), generator=generator)) if present else 0
            negative = int(torch.randint(0, how.clicks - positive + 1, (), generator=generator))
            if present and random_number(generator) < how.box:
                box[i], has_box[i] = jittered_box(mask, how.box_jitter, generator), True
        if positive:
            points[i, :positive] = random_voxels(mask, positive, generator)
            if random_number(generator) < how.central:
                points[i, 0] = deep_voxel(mask, generator)[0]
            labels[i, :positive] = POSITIVE
        outside = ~mask
        if negative and bool(outside.any()):
            band = near(mask) if present else outside
            source = band if bool(band.any()) and random_number(generator) < 0.5 else outside
            points[i, positive : positive + negative] = random_voxels(source, negative, generator)
            labels[i, positive : positive + negative] = NEGATIVE
    used = int((labels != ABSENT).sum(dim=1).max()) if batch else 0
    return replace(prompts, points=points[:, :used], labels=labels[:, :used], box=box, has_box=has_box)


def jittered_box(mask: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """(2, 3): lowest and highest voxel of the mask, each face moved by up to `jitter` of the side."""
    voxels = mask.nonzero().float()
    low, high = voxels.amin(dim=0), voxels.amax(dim=0)
    side = high - low + 1
    moves = (2 * torch.rand(2, 3, generator=generator) - 1).to(side.device) * jitter * side
    extent = torch.tensor(mask.shape, device=side.device, dtype=side.dtype) - 1
    low, high = (low + moves[0]).round(), (high + moves[1]).round()
    low = torch.minimum(low.clamp(min=0), extent)
    return torch.stack((low, torch.maximum(torch.minimum(high, extent), low)))


def zoomed(
    image: Tensor, label: Tensor, side: int, zoom: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Crops (B, 1, Q, Q, Q) resampled to `side`³ with a random field of view of `side · zoom` voxels about the centre.

    Every crop draws one factor, and each of its axes departs from it by up to a tenth.
    """
    batch = len(image)
    low, high = zoom
    factor = low + (high - low) * torch.rand(batch, 1, generator=generator)
    factor = (factor * (0.9 + 0.2 * torch.rand(batch, 3, generator=generator))).clamp(low, high)
    extent = torch.tensor(image.shape[2:])
    theta = torch.diag_embed((factor * side / extent).flip(-1)).to(image)  # grid_sample wants (z, y, x)
    theta = F.pad(theta, (0, 1))
    grid = F.affine_grid(theta, [batch, 1, side, side, side], align_corners=False)
    both = F.grid_sample(torch.cat((image, label), dim=1), grid, padding_mode="border", align_corners=False)
    return both[:, :1], (both[:, 1:] > 0.5).to(label)


def correct(prompts: PromptTensors, logits: Tensor, label: Tensor, generator: torch.Generator) -> PromptTensors:
    """One more click per crop, in its largest kind of error, and the prediction as previous mask.

    A crop that is already right gets no click.
    """
    predicted, truth = logits[:, 0] > 0, label[:, 0] > 0.5
    points = torch.zeros(len(label), 1, 3, device=label.device)
    labels = torch.full((len(label), 1), ABSENT, dtype=torch.long, device=label.device)
    for i in range(len(label)):
        missed, wrong = truth[i] & ~predicted[i], predicted[i] & ~truth[i]
        error, sign = (missed, POSITIVE) if missed.sum() >= wrong.sum() else (wrong, NEGATIVE)
        if bool(error.any()):
            points[i] = deep_voxel(error, generator)
            labels[i, 0] = sign
    probability = logits.detach().float().sigmoid()
    everywhere = torch.ones_like(prompts.has_mask)
    return replace(prompts.with_points(points, labels), mask=probability, has_mask=everywhere)
