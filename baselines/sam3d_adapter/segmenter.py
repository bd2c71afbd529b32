"""3DSAM-adapter on a volume: one crop around the clicks.

Preprocessing follows the paper's public pipeline: 1 mm isotropic (linear), intensities clipped to the target's window
and standardised by its mean and deviation, arrays turned to (z, y, x), a crop of 128³ around the middle of the clicks,
zeros (the mean intensity) outside the scan. Probabilities return linearly to the scan's grid; outside the crop is
background.

What upstream takes from the label is taken from the prompt: its clicks are drawn from the label on the 1 mm grid, here
they are the user's. Upstream feeds arrays as the file stores them; `orientation: file` keeps the file's flips, with the
axial axis first in every file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.frames import StoredOrientation
from baselines.losses import mask_losses
from baselines.network_segmenter import NetworkSegmenter
from baselines.prompting import check_prompts
from baselines.sam3d_adapter.encoder import SIZES
from baselines.sam3d_adapter.network import SYSTEM, Sam3dAdapter, load_official_file
from benchmarks.contestants import Batch, Session, Target, TrainingRecipe
from benchmarks.contestants.precision import finite
from benchmarks.data.preprocessing import Prepared, Preprocessing, Shape, crop, paste, prepare
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Prompts

FILE_NAME = "best.pth.tar or last.pth.tar of the dataset"
SOURCE = "released by med-air/3DSAM-adapter, one file per dataset"
BEYOND = 0.0  # the mean intensity: what a crop shows beyond the scan

Place = tuple[int, int, int]


class Sam3dAdapterSegmenter(StoredOrientation, NetworkSegmenter):
    """3DSAM-adapter with positive clicks; all clicks so far place the crop and prompt it together.

    Settings (keys of `config`) beside those of every `NetworkSegmenter`:
        spacing: mm of the isotropic grid; the released weights know 1 only.
        orientation: "file" keeps the flips of the scan's own storage, as upstream does; "ras" undoes them. Weights
            trained by the bench know "ras" only, whatever is set here.
        train: "adapters" (what the paper trains), or "all".
        tumour_points, stray_points: clicks in the tumour of a training crop, and clicks anywhere in it; the paper has
            10 and 20.
    """

    module: Sam3dAdapter
    system = SYSTEM
    choices = {"size": tuple(SIZES), "orientation": ("file", "ras"), "train": ("adapters", "all")}  # noqa: RUF012
    identity = ("size", "spacing")

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        super().__init__(config, device)
        side = self.module.size.crop
        self.crop: Shape = (side, side, side)

    def read_official(self) -> Sam3dAdapter:
        return load_official_file(self.official_file("3dsam-adapter", FILE_NAME, SOURCE))

    def untrained(self) -> Sam3dAdapter:
        return Sam3dAdapter(SIZES[self.config["size"]])

    def freeze(self) -> None:
        if self.config["train"] == "adapters":
            self.module.freeze_backbone()

    def preprocessing(self, target: Target) -> Preprocessing:
        """The grid, and the target's window and statistics."""
        mm = float(self.config["spacing"])
        return Preprocessing(spacing=(mm, mm, mm), window=target.window, mean=target.mean, std=target.std)

    def open(self, volume: Volume, target: Target) -> Sam3dAdapterSession:
        """Resamples the volume; a crop is encoded when its clicks are known."""
        return Sam3dAdapterSession(self, prepare(volume, self.preprocessing(target)), self.flips(volume))

    @torch.inference_mode()
    def encode(self, image: FloatArray) -> list[Tensor]:
        """Features of a crop (d, h, w)."""
        with self.half_precision():
            encoded = self.module.encode(torch.from_numpy(image)[None, None].to(self.device))
        return [part.float() for part in encoded]

    @torch.inference_mode()
    def decode(self, encoded: list[Tensor], points: list[Place]) -> FloatArray:
        """Probabilities (d, h, w) for positive clicks given as (d, w, h)."""
        logits = finite(self.module.decode(encoded, torch.tensor([points], device=self.device)))
        probabilities: FloatArray = logits.softmax(1)[0, 1].cpu().numpy()
        return probabilities

    def recipe(self, target: Target) -> TrainingRecipe:
        """The paper's: crops at the network's size, learning rate falling linearly to a hundredth."""
        return self.training_recipe(self.preprocessing(target), self.crop, fill=BEYOND)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The paper's loss, half Dice and half cross-entropy by default, at the official size.

        Prompts are tumour and stray voxels: the latter teach that a click is a hint and no truth, as clicks carry no
        sign. Other sizes start from nothing, and from there the paper's loss leads to empty masks for hundreds of
        steps: Dice over a few voxels has hardly a gradient, and cross-entropy is content with background. They take
        the other wrappers' loss, which gives the few voxels of a tumour more say.
        """
        hits, stray = int(self.config["tumour_points"]), int(self.config["stray_points"])
        image = batch.image.transpose(2, 4)  # (x, y, z) → (z, y, x)
        label = batch.label.transpose(2, 4)
        points = torch.stack([draw_points(one[0].cpu() > 0.5, hits, stray, batch.generator) for one in label])
        logits = self.module(image, points.to(image.device)).float()
        if self.config["size"] != "official":
            mask_loss = mask_losses(logits[:, 1:] - logits[:, :1], label, self.config["dice_share"]).mean()
            return mask_loss, {"mask": mask_loss.detach()}
        entropy = F.cross_entropy(logits, label[:, 0].long())
        probability, truth = logits.softmax(1)[:, 1].flatten(1), label[:, 0].flatten(1)
        dice = (2 * (probability * truth).sum(1) + 1) / (probability.sum(1) + truth.sum(1) + 1)
        dice_loss = 1 - dice.mean()
        parts = {"dice": dice_loss.detach(), "entropy": entropy.detach()}
        share = self.config["dice_share"]
        return share * dice_loss + (1 - share) * entropy, parts


def draw_points(inside: Tensor, hits: int, stray: int, generator: torch.Generator) -> Tensor:
    """Training clicks (hits + stray, 3) as (d, w, h) for a label (D, H, W); without a tumour all are stray."""
    columns = [torch.randint(n, (hits + stray, 1), generator=generator) for n in inside.shape]
    places = torch.cat(columns, dim=1)
    tumour = inside.nonzero()
    if len(tumour):
        drawn = torch.randint(len(tumour), (hits,), generator=generator)
        places[:hits] = tumour[drawn]
    return places[:, [0, 2, 1]]


class Sam3dAdapterSession(Session):
    """One resampled volume, and the features of the last crop."""

    def __init__(self, segmenter: Sam3dAdapterSegmenter, prepared: Prepared, flips: tuple[int, ...]) -> None:
        self.segmenter = segmenter
        self.prepared = prepared
        self.flips = flips
        self._crop: tuple[Place, list[Tensor]] | None = None

    def segment(self, prompts: Prompts) -> BoolArray:
        return self.prepared.to_native_mask(self._probabilities(prompts))

    def _probabilities(self, prompts: Prompts) -> FloatArray:
        """On the network's grid; 0 outside the crop."""
        check_prompts(prompts, self.segmenter.prompts, self.prepared.native_shape, SYSTEM)
        clicks = self.prepared.to_prepared([click.position for click in prompts.clicks])
        places = np.clip(np.rint(clicks).astype(int), 0, np.array(self.prepared.shape) - 1)
        centre, places = centre_of(places, self.segmenter.crop)
        patch, origin = crop(self.prepared.array, centre, self.segmenter.crop, BEYOND)
        if self._crop is None or self._crop[0] != origin:
            self._crop = origin, self.segmenter.encode(self._turned(patch))
        points = [self._point(place - np.array(origin)) for place in places]
        found = self._turned_back(self.segmenter.decode(self._crop[1], points))
        result = np.zeros(self.prepared.shape, np.float32)
        paste(result, found, origin)
        return result

    def _turned(self, patch: FloatArray) -> FloatArray:
        """(x, y, z) in RAS → (z, y, x) with the file's flips."""
        return np.ascontiguousarray(np.flip(patch, self.flips).transpose(2, 1, 0))

    def _turned_back(self, patch: FloatArray) -> FloatArray:
        return np.flip(patch.transpose(2, 1, 0), self.flips)

    def _point(self, place: np.ndarray) -> Place:
        """A voxel of the crop as the network counts it: (d, w, h), which is (z, x, y)."""
        x, y, z = (
            side - 1 - int(at) if axis in self.flips else int(at)
            for axis, (at, side) in enumerate(zip(place, self.segmenter.crop, strict=True))
        )
        return z, x, y


def centre_of(places: np.ndarray, size: Shape) -> tuple[np.ndarray, np.ndarray]:
    """The middle of the clicks' box, and the clicks (N, 3) that a crop around it holds.

    Clicks spread wider than a crop may all fall outside; then the newest click is the centre.
    """
    for centre in ((places.min(0) + places.max(0)) / 2, places[-1]):
        offset = places - (np.rint(centre).astype(int) - np.array(size) // 2)
        inside = ((offset >= 0) & (offset < np.array(size))).all(1)
        if inside.any():
            break
    return centre, places[inside]
