"""Training of the networks that segment slices: prompts drawn from a crop's label, and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.losses import mask_losses
from baselines.sam.slice_network import SliceNetwork
from baselines.sam.slice_prompts import Plane, SlicePrompt
from baselines.sam.training import draw, draw_error, draw_voxel, true_quality
from benchmarks.contestants import Batch


@dataclass(frozen=True)
class SliceTask:
    """Segment slice z of crop `item` by these prompts."""

    item: int
    z: int
    prompt: SlicePrompt


def draw_tasks(item: int, label: Tensor, generator: torch.Generator, jitter: int = 2) -> list[SliceTask]:
    """A slice of a crop's label (X, Y, Z) clicked and boxed, and a followed one; none if the crop holds no target.

    The followed slice may lie beyond the lesion's end. Its label is then empty, and following learns to stop.

    Args:
        jitter: voxels by which each side of a drawn box may be off.
    """
    zs = label.any(0).any(0).nonzero()[:, 0].tolist()
    if not zs:
        return []
    known = zs[draw(generator, len(zs))]
    step = 1 if draw(generator, 2) else -1
    followed = known + step if 0 <= known + step < label.shape[2] else known - step
    seen = label[..., known]
    x, y = draw_voxel(seen, generator)
    inner = draw_voxel(_eroded(seen), generator)
    return [
        SliceTask(item, known, SlicePrompt(((x, y, 1),))),
        SliceTask(item, known, SlicePrompt((), _jittered_box(label.any(2), jitter, generator))),
        SliceTask(item, followed, SlicePrompt(((inner[0], inner[1], 1),), _jittered_box(seen, jitter, generator))),
    ]


def framed(batch: Batch, side: int) -> Batch:
    """Slices of `side` voxels out of crops around the target, framed as a whole slice is at inference.

    A crop's middle is a target voxel, but in a scan the target lies anywhere. So the frame shows all of the body where
    that fits, and otherwise a part of it that holds the middle.
    """
    corners = [
        [_frame(image[0].amax((1 - axis, 2)) > 1, side, batch.generator) for axis in (0, 1)] for image in batch.image
    ]
    image, label = (
        torch.stack([crop[:, x : x + side, y : y + side] for crop, (x, y) in zip(crops, corners, strict=True)])
        for crops in (batch.image, batch.label)
    )
    return replace(batch, image=image, label=label)


def _frame(body: Tensor, side: int, generator: torch.Generator) -> int:
    """Where a frame of `side` begins along an axis of twice that length, of which `body` says what is not air."""
    places = body.nonzero()[:, 0].tolist() or [side]
    starts = sorted((places[0], places[-1] + 1 - side))  # flush with either end of the body
    low, high = (min(max(start, 0), side) for start in starts)
    return low + draw(generator, high - low + 1)


def slice_loss(segmenter: SliceNetwork, batch: Batch, tasks: Sequence[SliceTask]) -> tuple[Tensor, dict[str, Tensor]]:
    """Mask and quality losses of all tasks; clicked slices get further clicks where the last result is wrong."""
    if not tasks:  # no target in any crop, so nothing to prompt for; the loss still has a gradient: zero
        zero = torch.stack([parameter.sum() for parameter in segmenter.trainable_parameters()]).sum() * 0
        return zero, {"mask": zero.detach(), "quality": zero.detach()}
    places = list(dict.fromkeys((task.item, task.z) for task in tasks))  # a slice is encoded once for all its tasks
    slices = torch.stack([batch.image[item, 0, ..., z] for item, z in places])
    labels = torch.stack([batch.label[task.item, 0, ..., task.z] for task in tasks])
    encoded = segmenter.module.image_encoder(segmenter.to_image(slices)).float()
    embedding = encoded[[places.index((task.item, task.z)) for task in tasks]]
    plane = (slices.shape[1], slices.shape[2])
    parts = []
    for members in _groups(tasks):
        prompts, label = [tasks[index].prompt for index in members], labels[members]
        low, loss = _round(segmenter, embedding[members], prompts, label, plane, None)
        parts.append(loss)
        for _ in range(int(segmenter.config["corrections"]) if prompts[0].box is None else 0):
            prompts, mask = _corrected(segmenter, prompts, low, label, plane, batch.generator)
            low, loss = _round(segmenter, embedding[members], prompts, label, plane, mask)
            parts.append(loss)
    mask, quality = (torch.cat([part[index] for part in parts]).mean() for index in (0, 1))
    return mask + quality, {"mask": mask.detach(), "quality": quality.detach()}


def _round(
    segmenter: SliceNetwork,
    embedding: Tensor,
    prompts: Sequence[SlicePrompt],
    label: Tensor,
    plane: Plane,
    mask: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One decoding: low-resolution logits (B, 4, m, m), and the losses of every slice.

    The single mask is trained on all prompts, of the three alternatives only the best, as SAM was.
    """
    network = segmenter.module
    sparse, dense = network.prompt_encoder(*segmenter.tokens(prompts, plane), mask)
    position = network.prompt_encoder.dense_position()
    low, quality = network.mask_decoder.all_masks(embedding, position, sparse, dense)
    logits = segmenter.to_slices(low.float(), plane)
    losses = mask_losses(logits, label[:, None], segmenter.config["dice_share"])
    mask_loss = losses[:, 0] + losses[:, 1:].amin(1)
    quality_loss = F.mse_loss(quality.float(), true_quality(logits, label[:, None]), reduction="none").mean(1)
    return low, (mask_loss, quality_loss)


def _corrected(
    segmenter: SliceNetwork,
    prompts: Sequence[SlicePrompt],
    low: Tensor,
    label: Tensor,
    plane: Plane,
    generator: torch.Generator,
) -> tuple[list[SlicePrompt], Tensor]:
    """The prompts with one more click in the error of the single mask, and that mask as a prompt.

    `slices` takes the best of three after one click alone, or always (SAM-Med2D), and corrects that one.
    """
    low = low[:, :1].detach().float()
    predicted, truth = (segmenter.to_slices(low, plane)[:, 0] > 0).cpu(), (label > 0.5).cpu()
    corrected = []
    for prompt, mask, true in zip(prompts, predicted, truth, strict=True):
        error = draw_error(mask, true, generator)
        (x, y), positive = error if error is not None else (prompt.points[0][:2], 1)
        corrected.append(SlicePrompt((*prompt.points, (x, y, positive)), prompt.box))
    return corrected, segmenter.mask_prompt(low)


def _groups(tasks: Sequence[SliceTask]) -> list[list[int]]:
    """Tasks whose prompts have the same form."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, task in enumerate(tasks):
        groups.setdefault((len(task.prompt.points), task.prompt.box is None), []).append(index)
    return list(groups.values())


def _jittered_box(mask: Tensor, jitter: int, generator: torch.Generator) -> tuple[int, int, int, int]:
    """The box of a mask (X, Y), each side moved by up to `jitter` voxels, inside the plane and never empty."""
    xs, ys = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    off = [draw(generator, 2 * jitter + 1) - jitter for _ in range(4)]
    x0, y0 = max(0, int(xs[0]) + off[0]), max(0, int(ys[0]) + off[1])
    x1 = min(mask.shape[0], max(x0 + 1, int(xs[-1]) + 1 + off[2]))
    y1 = min(mask.shape[1], max(y0 + 1, int(ys[-1]) + 1 + off[3]))
    return min(x0, x1 - 1), min(y0, y1 - 1), x1, y1


def _eroded(mask: Tensor) -> Tensor:
    """The inner part of a mask (X, Y), or all of it if nothing lies deeper than its edge."""
    padded = F.pad(mask.float()[None, None], (1, 1, 1, 1))
    inner = -F.max_pool2d(-padded, 3, stride=1)[0, 0] > 0.5
    return inner if inner.any() else mask
