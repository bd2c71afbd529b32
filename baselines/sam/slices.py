"""Driving a volume with a network that segments slices: the protocol of SAM-B and SAM-Med2D.

Slices are axial (the last axis of the RAS+ volume), image column = x, image row = y, windowed to 0…255 by the
target's window for the whole volume. How a 3D prompt reaches the slices:

- **Box**: every slice of the box gets the box's x and y extent (and the clicks made on it). Nothing is propagated:
  the user has said where the lesion begins and ends.
- **Clicks**: a slice with a positive click is segmented by the clicks on it: by the first positive one with all before
  it, then one after the other, each round seeing the mask that was taken in the round before. In the bench's training
  (`slice_training`) a correction sees the single mask instead, also where the best of three is taken here. From there
  the lesion is followed slice by slice, upwards and downwards: the largest part of the mask on the slice before
  gives the next one a box and a point (its innermost pixel), and any clicks made there count too. Following stops at an
  empty mask, where the network's own quality estimate falls below `least_quality`, farther from the click than `reach`
  times the largest in-plane extent of the mask on the clicked slice, at another slice with a positive click, and at the
  end of the volume.

Slices are encoded in batches, when they are first needed, and their embeddings are kept for the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from baselines.prompting import check_prompts
from baselines.sam.slice_network import SliceNetwork, SliceResult
from baselines.sam.slice_prompts import Plane, SlicePrompt
from baselines.sam.slice_training import draw_tasks, framed, slice_loss
from benchmarks.contestants import Batch, Session, Target, TrainingRecipe
from benchmarks.contestants.precision import finite
from benchmarks.data.preprocessing import Preprocessing
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Prompts


class SliceSegmenter(SliceNetwork):
    """A SAM in two dimensions that drives a volume.

    Settings (keys of `config`) beside those of every SAM:
        batch_size: slices encoded at a time.
        least_quality, reach: when following a lesion stops; see the module.
    """

    def open(self, volume: Volume, target: Target) -> SliceSession:
        """Encodes nothing yet: which slices are needed depends on the prompts."""
        return SliceSession(self, volume, target)

    def recipe(self, target: Target) -> TrainingRecipe:
        """Crops of whole or nearly whole slices at their own spacing, windowed to 0…255."""
        low, high = target.window
        return self.training_recipe(
            Preprocessing(spacing=None, window=target.window, mean=low, std=(high - low) / 255),
            patch=(2 * self.side, 2 * self.side, 5),
        )

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Slices of every crop: clicked (with corrections), boxed, and followed from their neighbour."""
        batch = framed(batch, self.side)
        tasks = [
            task
            for item, label in enumerate(batch.label[:, 0].cpu())
            for task in draw_tasks(item, label > 0.5, batch.generator, int(self.config["box_jitter"]))
        ]
        return slice_loss(self, batch, tasks)


@dataclass
class _Front:
    """Where following a lesion has come to: the slice, its direction, the mask there, the last slice allowed."""

    z: int
    step: int
    mask: BoolArray
    last: int

    @property
    def following(self) -> int:
        return self.z + self.step


class SliceSession(Session):
    """One volume: embeddings by slice, and the rounds already played by (slice, clicks)."""

    def __init__(self, segmenter: SliceSegmenter, volume: Volume, target: Target) -> None:
        self.segmenter = segmenter
        self.volume = volume
        self.window = target.window
        self._embeddings: dict[int, Tensor] = {}
        self._rounds: dict[tuple[int, tuple[tuple[int, int, int], ...]], SliceResult] = {}

    @property
    def plane(self) -> Plane:
        return self.volume.shape[0], self.volume.shape[1]

    def segment(self, prompts: Prompts) -> BoolArray:
        mask = np.zeros(self.volume.shape, np.bool_)
        for z, logits in self._logits(prompts).items():
            mask[..., z] = logits > 0
        return mask

    @torch.inference_mode()
    def _logits(self, prompts: Prompts) -> dict[int, FloatArray]:
        """Logits (X, Y) by slice; slices that are absent hold nothing."""
        check_prompts(prompts, self.segmenter.prompts, self.volume.shape, self.segmenter.system)
        points: dict[int, list[tuple[int, int, int]]] = {}
        for click in prompts.clicks:
            x, y, z = click.position
            points.setdefault(z, []).append((x, y, int(click.positive)))
        if prompts.box is not None:
            return self._in_box(prompts.box.low, prompts.box.high, points)
        return self._from_clicks(points)

    def _in_box(
        self, low: tuple[int, int, int], high: tuple[int, int, int], points: Mapping[int, list[tuple[int, int, int]]]
    ) -> dict[int, FloatArray]:
        found: dict[int, FloatArray] = {}
        zs = range(low[2], high[2])
        for start in range(0, len(zs), self._batch):
            part = zs[start : start + self._batch]
            box = (low[0], low[1], high[0], high[1])
            given = [SlicePrompt(tuple(points.get(z, ())), box) for z in part]
            result = self.segmenter.decode(self._embed(part), given, self.plane)
            found.update(zip(part, _arrays(result.logits), strict=True))
        for z in points:  # a click outside the box says that there is more
            if z not in zs and any(label for *_, label in points[z]):
                found[z] = _arrays(self._clicked(z, tuple(points[z])).logits)[0]
        return found

    def _from_clicks(self, points: Mapping[int, list[tuple[int, int, int]]]) -> dict[int, FloatArray]:
        seeds = sorted(z for z, given in points.items() if any(label for *_, label in given))
        found: dict[int, FloatArray] = {}
        fronts: list[_Front] = []
        for z in seeds:
            found[z] = _arrays(self._clicked(z, tuple(points[z])).logits)[0]
            fronts += self._fronts(z, found[z] > 0, seeds)
        while fronts := [front for front in fronts if front.mask.any() and front.z != front.last]:
            self._look_ahead(fronts)
            zs = [front.following for front in fronts]
            given = [follow_prompt(front.mask, points.get(z, ())) for front, z in zip(fronts, zs, strict=True)]
            result = self.segmenter.decode(self._embed(zs), given, self.plane)
            trusted = result.quality >= self.segmenter.config["least_quality"]
            for front, logits, trust in zip(fronts, _arrays(result.logits), trusted.tolist(), strict=True):
                front.z = front.following
                front.mask = logits > 0 if trust else np.zeros_like(front.mask)
                if trust:
                    found[front.z] = np.maximum(found[front.z], logits) if front.z in found else logits
        return found

    def _fronts(self, z: int, mask: BoolArray, seeds: Sequence[int]) -> list[_Front]:
        """Both ways from a clicked slice, as far as `reach`, the next clicked slice and the volume allow."""
        if not mask.any():
            return []
        extents = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
        longest = max((e[-1] - e[0] + 1) * step for e, step in zip(extents, self.volume.spacing[:2], strict=True))
        slices = int(self.segmenter.config["reach"] * longest / self.volume.spacing[2])
        above = min([s - 1 for s in seeds if s > z] + [self.volume.shape[2] - 1, z + slices])
        below = max([s + 1 for s in seeds if s < z] + [0, z - slices])
        return [_Front(z, 1, mask, above), _Front(z, -1, mask, below)]

    def _clicked(self, z: int, points: tuple[tuple[int, int, int], ...]) -> SliceResult:
        """The last of the rounds in which a slice's clicks were made; earlier rounds are remembered.

        The first round is that of the first positive click: before it there is no mask that a click could correct.
        """
        if (z, points) not in self._rounds:
            begun = any(label for *_, label in points[:-1])
            earlier = self._clicked(z, points[:-1]) if begun else None
            mask = None if earlier is None else self.segmenter.mask_prompt(earlier.low)
            self._rounds[z, points] = self.segmenter.decode(self._embed([z]), [SlicePrompt(points)], self.plane, mask)
        return self._rounds[z, points]

    def _look_ahead(self, fronts: Sequence[_Front]) -> None:
        """Encode the next slices of all fronts together, if any front needs one that is not there yet."""
        if all(front.following in self._embeddings for front in fronts):
            return
        count = max(1, self._batch // len(fronts))
        ahead: list[int] = []
        for front in fronts:
            ahead += list(range(front.following, front.last + front.step, front.step))[:count]
        self._embed(ahead)

    def _embed(self, zs: Sequence[int]) -> Tensor:
        """Embeddings of slices, encoded in batches where missing."""
        missing = sorted({z for z in zs if z not in self._embeddings})
        for start in range(0, len(missing), self._batch):
            part = missing[start : start + self._batch]
            self._embeddings.update(zip(part, self.segmenter.encode(self._slices(part)), strict=True))
        return torch.stack([self._embeddings[z] for z in zs])

    def _slices(self, zs: Sequence[int]) -> Tensor:
        """Slices (B, X, Y) as whole grey levels 0…255."""
        low, high = self.window
        values = np.stack([self.volume.array[..., z] for z in zs])
        grey = (np.clip(values, low, high) - low) * (255 / (high - low))
        return torch.from_numpy(np.rint(grey).astype(np.float32))

    @property
    def _batch(self) -> int:
        return int(self.segmenter.config["batch_size"])


def follow_prompt(mask: BoolArray, points: Sequence[tuple[int, int, int]] = ()) -> SlicePrompt:
    """What the mask (X, Y) of a slice says to the next one: its largest part's box and innermost pixel."""
    parts, count = ndimage.label(mask)
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])) if count > 1 else mask
    xs, ys = np.flatnonzero(largest.any(1)), np.flatnonzero(largest.any(0))
    x0, x1, y0, y1 = int(xs[0]), int(xs[-1]) + 1, int(ys[0]), int(ys[-1]) + 1
    depth = ndimage.distance_transform_edt(np.pad(largest[x0:x1, y0:y1], 1))[1:-1, 1:-1]
    x, y = np.unravel_index(int(depth.argmax()), depth.shape)
    return SlicePrompt(((x0 + int(x), y0 + int(y), 1), *points), (x0, y0, x1, y1))


def _arrays(logits: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = finite(logits).float().cpu().numpy()
    return array
