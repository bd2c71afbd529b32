"""Prompts in training: how many clicks, where, a box, a previous mask, or nothing; and clicks that correct an error.

Everything random comes from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tags.prompt_encoder import ABSENT, NEGATIVE, POSITIVE, PromptTensors, inscribed


@dataclass(frozen=True)
class Sampling:
    """Probabilities of the training prompts.

    Attributes:
        clicks: most clicks of a crop; 0 leaves boxes and masks alone, by their shares.
        none: share of crops without any prompt (prompt dropout), of those whose centre lies in the target.
        none_elsewhere: the same of all other crops: where nobody says where to look, a view lies anywhere.
        single: share of the others that get exactly one positive click and nothing else; of none without clicks.
        central: share of crops whose first positive click is the crop's centre, where a view looks at inference
            (deep inside the target where the centre does not belong to it), instead of anywhere in the target.
        box: share of the crops with several prompts that get a box; half of those get nothing else. Without a previous
            mask a box comes with the ellipsoid that it holds in the place of one, as at inference.
        box_jitter: how far each face of the box may move, as a share of its side.
        mask: share of crops with a target that get a previous mask; half of those get nothing else.
    """

    clicks: int = 10
    none: float = 0.1
    none_elsewhere: float = 0.5
    single: float = 0.5
    central: float = 0.5
    box: float = 0.3
    box_jitter: float = 0.1
    mask: float = 0.1


def random_number(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def random_voxels(where: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """(number, 3) voxels drawn with replacement from a mask (X, Y, Z) that has at least one."""
    index = where.flatten().nonzero()[:, 0]
    chosen = index[torch.randint(len(index), (number,), generator=generator).to(index.device)]
    return torch.stack(torch.unravel_index(chosen, where.shape), dim=-1).float()


def depth_inside(masks: Tensor, steps: int = 12) -> Tensor:
    """How many erosions by a 3³ cube each voxel of the masks (B, X, Y, Z) survives, at most `steps`."""
    inside = masks.float()[:, None]
    depth = inside.clone()
    for _ in range(steps):
        inside = 1 - F.max_pool3d(F.pad(1 - inside, (1,) * 6, value=1.0), 3, stride=1)
        if not inside.is_cuda and not inside.any():  # on a GPU the question would cost more than the answer saves
            break
        depth += inside
    return depth[:, 0]


def deep_voxels(masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of the voxels that lie deepest in each of the masks (B, X, Y, Z), all of them as likely: (B, 3), (B,) bool.

    Where a mask is empty, the second is False and the voxel means nothing. Nothing here waits for the device.
    """
    corner = torch.zeros(3, device=masks.device)
    if not masks.is_cuda:  # there the erosions of empty space cost; a GPU would have to wait for the box
        corner, masks = _in_its_box(masks)
    depth = depth_inside(masks)
    deepest = (masks & (depth == depth.amax(dim=(1, 2, 3), keepdim=True))).flatten(1)
    number = deepest.sum(dim=1)
    drawn = torch.rand(len(masks), generator=generator).to(masks.device)
    rank = torch.minimum((drawn * number).long(), (number - 1).clamp(min=0))
    index = (deepest.cumsum(dim=1) > rank[:, None]).int().argmax(dim=1)  # the first voxel with so many before it
    return torch.stack(torch.unravel_index(index, masks.shape[1:]), dim=-1) + corner, number > 0


def _in_its_box(masks: Tensor) -> tuple[Tensor, Tensor]:
    """(3,) the corner of the box that holds all of the masks (B, X, Y, Z), and what lies in it."""
    voxels = masks.any(dim=0).nonzero()
    if len(voxels) == 0:
        return torch.zeros(3), masks[:, :1, :1, :1]
    low, high = voxels.amin(dim=0), voxels.amax(dim=0) + 1
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return low.float(), masks[:, x, y, z]


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
    drawn = [_prompts_of(crop[0] > 0.5, generator, how) for crop in label]
    used = max((len(one.points) for one in drawn), default=0)
    points = torch.zeros(len(label), used, 3, device=label.device)
    labels = torch.full((len(label), used), ABSENT, dtype=torch.long, device=label.device)
    prompts = PromptTensors.empty(len(label), label.device)
    box, has_box = prompts.box.clone(), prompts.has_box.clone()
    masks, has_mask = torch.zeros_like(label), prompts.has_mask.clone()
    for i, one in enumerate(drawn):
        points[i, : len(one.points)], labels[i, : len(one.points)] = one.points, one.labels
        if one.box is not None:
            box[i], has_box[i] = one.box, True
        if one.mask is not None:
            masks[i, 0], has_mask[i] = one.mask, True
    mask = masks if bool(has_mask.any()) else None
    return PromptTensors(points, labels, box, has_box, mask, has_mask)


@dataclass
class _Drawn:
    """The prompts of one crop."""

    points: Tensor
    labels: Tensor
    box: Tensor | None = None
    mask: Tensor | None = None


def _prompts_of(mask: Tensor, generator: torch.Generator, how: Sampling) -> _Drawn:
    """Prompts for one target (X, Y, Z)."""
    device = mask.device
    drawn = _Drawn(torch.zeros(0, 3, device=device), torch.zeros(0, dtype=torch.long, device=device))
    centred = bool(mask[tuple(n // 2 for n in mask.shape)])
    none = how.none if centred else how.none_elsewhere
    if random_number(generator) < none:
        return drawn
    present = bool(mask.any())
    if present and random_number(generator) < how.mask:
        drawn.mask = rough_mask(mask, generator)
        if random_number(generator) < 0.5:
            return drawn
    if how.clicks and random_number(generator) < how.single:
        positive, negative = int(present), 0
    else:
        positive = int(torch.randint(0, how.clicks + 1, (), generator=generator)) if present else 0
        negative = int(torch.randint(0, how.clicks - positive + 1, (), generator=generator))
        if present and random_number(generator) < how.box:
            drawn.box = jittered_box(mask, how.box_jitter, generator)
            if drawn.mask is None:
                drawn.mask = _inside(drawn.box, mask)
            if random_number(generator) < 0.5:
                return drawn
    inside = random_voxels(mask, positive, generator) if positive else drawn.points
    if positive and random_number(generator) < how.central:
        inside[0] = _first_click(mask, generator)
    outside = _clicks_outside(mask, negative, generator)
    drawn.points = torch.cat((inside, outside))
    drawn.labels = torch.tensor([POSITIVE] * len(inside) + [NEGATIVE] * len(outside), device=device, dtype=torch.long)
    return drawn


def _first_click(mask: Tensor, generator: torch.Generator) -> Tensor:
    """(3,): the crop's centre; where that is not in the target, one of its deepest voxels."""
    centre = torch.tensor([n // 2 for n in mask.shape], device=mask.device)
    return centre.float() if bool(mask[tuple(centre)]) else deep_voxels(mask[None], generator)[0][0]


def _clicks_outside(mask: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """(number, 3), or none where all is target: anywhere outside, or near the target's border."""
    outside = ~mask
    if number == 0 or not bool(outside.any()):
        return torch.zeros(0, 3, device=mask.device)
    band = near(mask) if bool(mask.any()) else outside
    source = band if bool(band.any()) and random_number(generator) < 0.5 else outside
    return random_voxels(source, number, generator)


def rough_mask(mask: Tensor, generator: torch.Generator) -> Tensor:
    """A previous mask (X, Y, Z) of the target as it may be handed in: in half of the cases perfect, else its border
    is moved in and out by smooth noise of one to a few voxels."""
    exact = mask.float()
    if random_number(generator) < 0.5:
        return exact
    smooth = exact[None, None]
    for _ in range(2):
        smooth = F.avg_pool3d(smooth, 5, stride=1, padding=2)
    strength = 0.3 * random_number(generator)
    knots = torch.randn(1, 1, *(max(2, n // 6) for n in mask.shape), generator=generator).to(mask.device)
    noise = F.interpolate(knots, tuple(mask.shape), mode="trilinear", align_corners=False)
    return (smooth + strength * noise > 0.5)[0, 0].float()


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


def _inside(box: Tensor, mask: Tensor) -> Tensor:
    """(X, Y, Z): the ellipsoid in a box, which is told beside it, as at inference."""
    axes = [torch.arange(n, device=mask.device, dtype=torch.float32) for n in mask.shape]
    return inscribed((box[0] - 0.5).tolist(), (box[1] + 0.5).tolist(), axes)


def correct(prompts: PromptTensors, logits: Tensor, label: Tensor, generator: torch.Generator) -> PromptTensors:
    """One more click per crop, in its largest kind of error, and the prediction as previous mask.

    A crop that is already right gets no click.
    """
    predicted, truth = logits[:, 0] > 0, label[:, 0] > 0.5
    missed, wrong = truth & ~predicted, predicted & ~truth
    more_missed = missed.sum(dim=(1, 2, 3)) >= wrong.sum(dim=(1, 2, 3))
    points, there = deep_voxels(torch.where(more_missed[:, None, None, None], missed, wrong), generator)
    signs = torch.where(more_missed, POSITIVE, NEGATIVE)
    points, labels = points[:, None] * there[:, None, None], torch.where(there, signs, ABSENT)[:, None]
    probability = logits.detach().float().sigmoid()
    everywhere = torch.ones_like(prompts.has_mask)
    return replace(prompts.with_points(points, labels), mask=probability, has_mask=everywhere)
