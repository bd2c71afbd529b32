"""Prompts of a training step of SegVol, drawn from the label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.sam.training import draw_voxel

MIXTURES = (("text",), ("clicks",), ("box",), ("text", "clicks"), ("text", "box"), ("clicks", "box"))
"""Prompts of a training step. The last is what a window of zoom-in gets: the user's clicks, and the box that zoom-out
predicted."""


@dataclass(frozen=True)
class Drawing:
    """Prompts of a training step: most positive clicks, chance of a negative one, voxels by which a box may be off."""

    clicks: int = 3
    negative: float = 0.5
    jitter: int = 1


USUAL = Drawing()


def draw_prompts(
    inside: Tensor, texts: Tensor, generator: torch.Generator, drawing: Drawing = USUAL
) -> tuple[tuple[Tensor, Tensor] | None, Tensor | None, Tensor | None]:
    """Points, boxes and texts for labels (B, D, H, W), of one of the kinds of `MIXTURES` for all.

    Labels without a target get the text alone.
    """
    if not inside.flatten(1).any(1).all():
        return None, None, texts
    kind = MIXTURES[int(torch.randint(len(MIXTURES), (1,), generator=generator))]
    with_text, clicks, box = "text" in kind, "clicks" in kind, "box" in kind
    points = corners = None
    if clicks:
        count = 1 + int(torch.randint(drawing.clicks, (1,), generator=generator))
        negative = not inside.flatten(1).all(1).any() and bool(torch.rand((), generator=generator) < drawing.negative)
        places = [
            [draw_voxel(one, generator) for _ in range(count)] + [draw_voxel(~one, generator)] * negative
            for one in inside
        ]
        signs = [1.0] * count + [0.0] * negative
        points = torch.tensor(places, dtype=torch.float32), torch.tensor([signs] * len(inside))
    if box:
        corners = torch.stack([_drawn_box(one, drawing.jitter, generator) for one in inside])
    return points, corners, texts if with_text else None


def _drawn_box(inside: Tensor, jitter: int, generator: torch.Generator) -> Tensor:
    """The corners (6) of the box of a mask, each off by up to `jitter`: at inference most boxes are predicted."""
    voxels, last = inside.nonzero(), torch.tensor(inside.shape) - 1
    off = torch.randint(-jitter, jitter + 1, (2, 3), generator=generator)
    low, high = (voxels.amin(0) + off[0]).clamp(min=0), torch.minimum(voxels.amax(0) + off[1], last)
    return torch.cat([torch.minimum(low, high), torch.maximum(low, high)]).float()
