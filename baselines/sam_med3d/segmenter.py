"""SAM-Med3D: one crop around the click, clicks made one after the other.

Preprocessing follows the public scripts: RAS+ orientation, isotropic spacing (linear), CT clamped to
[−1000, 1000] HU, a cubic crop padded with zeros, z-scores by the voxels above zero of that crop. Upstream centres
the crop on the label; here it is centred on the first positive click. A later positive click outside the crop opens
another one, and the masks are united. Each click from the first positive one on is a round that sees all clicks so
far and the low-resolution logits of the round before (zeros at first). The mask goes back by linear interpolation of
its probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.losses import mask_losses
from baselines.prompting import check_prompts
from baselines.sam.encoder import EncoderSize, resize
from baselines.sam.network import SamSize
from baselines.sam.sam_segmenter import SamSegmenter
from baselines.sam.training import draw_error, draw_voxel, true_quality
from benchmarks.contestants import Augmentation, Batch, Session, Target, TrainingRecipe
from benchmarks.contestants.precision import finite
from benchmarks.data.preprocessing import Prepared, Preprocessing, Shape, crop, paste, prepare
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Prompts

CLAMP = (-1000.0, 1000.0)  # HU, as in upstream's training; its current inference script leaves it out
BEYOND = 0.0  # HU of what a crop shows beyond the scan, as in upstream's scripts

SIZES = {
    "official": SamSize(
        EncoderSize(
            axes=3,
            image=128,
            patch=16,
            channels=1,
            dim=768,
            depth=12,
            heads=12,
            window=14,
            global_blocks=(2, 5, 8, 11),
            out=384,
        ),
        features=128,
        point_embeddings=2,
    ),
    "tiny": SamSize(
        EncoderSize(
            axes=3,
            image=32,
            patch=4,
            channels=1,
            dim=48,
            depth=2,
            heads=2,
            window=4,
            global_blocks=(1,),
            out=48,
        ),
        features=16,
        point_embeddings=2,
        decoder_heads=4,
        decoder_hidden=128,
        iou_hidden=64,
        aligned=True,
    ),
}

Place = tuple[int, int, int]
LabelledPoint = tuple[int, int, int, int]  # voxel of a crop, and 1 or 0


class SamMed3D(SamSegmenter):
    """SAM-Med3D on crops.

    Settings (keys of `config`) beside those of every SAM:
        spacing: mm of the isotropic grid; the weights know 1.5 only.
        clamp: whether HU are clamped to ±1000, as in upstream's training.
    """

    system = "SAM-Med3D"
    file_name = "sam_med3d_turbo.pth"
    source = "the checkpoints of uni-medical/SAM-Med3D, turbo"
    sizes = SIZES
    identity = ("size", "spacing")

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        super().__init__(config, device)
        side = self.module.size.encoder.image
        self.window: Shape = (side, side, side)
        mm = float(config["spacing"])
        self.preprocessing = Preprocessing(spacing=(mm, mm, mm), window=CLAMP if config["clamp"] else None)

    def open(self, volume: Volume, target: Target) -> SamMed3DSession:
        """Resamples the volume; a crop is encoded when its first click is known."""
        return SamMed3DSession(self, prepare(volume, self.preprocessing))

    def encode(self, crops: Tensor) -> Tensor:
        """Embeddings of crops (B, 1, X, Y, Z) in HU."""
        with self.half_precision():
            embedding: Tensor = self.module.image_encoder(normalised(crops.to(self.device)))
        return embedding.float()

    def blank(self, count: int) -> Tensor:
        """Mask prompt of the first round: zeros, which are not the same as no mask."""
        return torch.zeros(count, 1, *self.module.prompt_encoder.mask_size, device=self.device)

    def tokens(self, points: list[list[LabelledPoint]]) -> tuple[Tensor, Tensor]:
        """Equally many labelled points of every crop, as the prompt encoder wants them."""
        given = torch.tensor(points, dtype=torch.float32, device=self.device)
        return given[..., :3], given[..., 3]

    def recipe(self, target: Target) -> TrainingRecipe:
        """Crops of the network's size, centred on the target: there a user clicks.

        Intensities are not shifted: a tenth of an HU is nothing here, and the z-scores take it out.
        """
        augmentation = Augmentation(intensity_shift=0.0)
        return self.training_recipe(self.preprocessing, self.window, fill=BEYOND, augmentation=augmentation)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Rounds of clicks: the first inside the target, each later one where the mask is still wrong."""
        labels = batch.label[:, 0].cpu() > 0.5
        members = [index for index, label in enumerate(labels) if label.any()]
        if not members:  # no target in any crop, so nothing to click; the loss still has a gradient: zero
            zero = torch.stack([parameter.sum() for parameter in self.trainable_parameters()]).sum() * 0
            return zero, {"mask": zero.detach(), "quality": zero.detach()}
        embedding = self.module.image_encoder(normalised(batch.image[members])).float()
        truth, labels = batch.label[members], labels[members]
        position = self.module.prompt_encoder.dense_position()
        points: list[list[LabelledPoint]] = [[(*_first_place(label, batch.generator), 1)] for label in labels]
        previous = self.blank(len(members))
        mask_loss, quality_loss = truth.new_zeros(()), truth.new_zeros(())
        rounds, dice_share = int(self.config["training_rounds"]), self.config["dice_share"]
        for _ in range(rounds):
            sparse, dense = self.module.prompt_encoder(self.tokens(points), None, previous)
            low, quality = self.module.mask_decoder(embedding, position, sparse, dense, multimask=False)
            logits = resize(low.float(), self.window)
            mask_loss = mask_loss + mask_losses(logits, truth, dice_share).mean() / rounds
            error = (quality.float() - true_quality(logits, truth)).square().mean()
            quality_loss = quality_loss + error / rounds
            previous = low.detach().float()
            predicted = (logits.detach()[:, 0] > 0).cpu()
            points = [
                [*given, _next_point(mask, label, given, batch.generator)]
                for given, mask, label in zip(points, predicted, labels, strict=True)
            ]
        parts = {"mask": mask_loss.detach(), "quality": quality_loss.detach()}
        return mask_loss + quality_loss, parts


@dataclass
class _Crop:
    """A crop, its embedding, and the logits of the rounds played in it, by the clicks made so far."""

    origin: Place
    embedding: Tensor
    rounds: dict[tuple[LabelledPoint, ...], Tensor] = field(default_factory=dict)


class SamMed3DSession(Session):
    """One resampled volume: crops by the click they are centred on."""

    def __init__(self, segmenter: SamMed3D, prepared: Prepared) -> None:
        self.segmenter = segmenter
        self.prepared = prepared
        self._crops: dict[Place, _Crop] = {}

    def segment(self, prompts: Prompts) -> BoolArray:
        return self.prepared.to_native_mask(self._probabilities(prompts))

    @torch.inference_mode()
    def _probabilities(self, prompts: Prompts) -> FloatArray:
        """On the network's grid; 0 outside the crops, the larger one where crops overlap."""
        segmenter = self.segmenter
        check_prompts(prompts, segmenter.prompts, self.prepared.native_shape, segmenter.system)
        result = np.zeros(self.prepared.shape, np.float32)
        for origin, embedded, points in self._assigned(prompts):
            low = self._logits(embedded, tuple(points))
            probability = resize(finite(low), segmenter.window).sigmoid()[0, 0].cpu().numpy()
            canvas = np.zeros_like(result)
            paste(canvas, probability, origin)
            np.maximum(result, canvas, out=result)
        return result

    def _assigned(self, prompts: Prompts) -> list[tuple[Place, _Crop, list[LabelledPoint]]]:
        """Crops with their clicks: a click joins every crop it lies in, a positive one in none opens a new crop.

        A negative click that lies in no crop agrees with the result there, which is background.
        """
        native = [click.position for click in prompts.clicks]
        last = np.array(self.prepared.shape) - 1
        places = np.clip(np.rint(self.prepared.to_prepared(native)).astype(int), 0, last)
        clicks = [
            ((int(x), int(y), int(z)), click.positive) for (x, y, z), click in zip(places, prompts.clicks, strict=True)
        ]
        centres: list[Place] = []
        for place, positive in clicks:
            if positive and not any(self._inside(place, self._origin(centre)) for centre in centres):
                centres.append(place)
        assigned = []
        for centre in centres:
            embedded = self._crop(centre)
            points: list[LabelledPoint] = []
            for place, positive in clicks:
                if self._inside(place, embedded.origin):
                    x, y, z = (at - start for at, start in zip(place, embedded.origin, strict=True))
                    points.append((x, y, z, int(positive)))
            assigned.append((embedded.origin, embedded, points))
        return assigned

    def _crop(self, centre: Place) -> _Crop:
        if centre not in self._crops:
            patch, origin = crop(self.prepared.array, centre, self.segmenter.window, BEYOND)
            self._crops[centre] = _Crop(origin, self.segmenter.encode(torch.from_numpy(patch)[None, None]))
        return self._crops[centre]

    def _logits(self, embedded: _Crop, points: tuple[LabelledPoint, ...]) -> Tensor:
        """Low-resolution logits after the last of the clicks; earlier rounds are remembered.

        The first round is that of the first positive click: before it there is no mask that a click could correct.
        """
        if points not in embedded.rounds:
            begun = any(label for *_, label in points[:-1])
            earlier = self._logits(embedded, points[:-1]) if begun else self.segmenter.blank(1)
            given = self.segmenter.tokens([list(points)])
            low, _ = self.segmenter.module.decode(embedded.embedding, given, masks=earlier)
            embedded.rounds[points] = low
        return embedded.rounds[points]

    def _origin(self, centre: Place) -> Place:
        x, y, z = (at - size // 2 for at, size in zip(centre, self.segmenter.window, strict=True))
        return x, y, z

    def _inside(self, place: Place, origin: Place) -> bool:
        spans = zip(place, origin, self.segmenter.window, strict=True)
        return all(start <= at < start + size for at, start, size in spans)


def normalised(crops: Tensor) -> Tensor:
    """z-scores of each crop (B, 1, X, Y, Z) by its voxels above zero; a crop without any keeps its values."""
    parts = []
    for patch in crops:
        above = patch[patch > 0]
        if above.numel() > 1 and bool((spread := above.std()) > 0):
            patch = (patch - above.mean()) / spread
        parts.append(patch)
    return torch.stack(parts)


def _first_place(label: Tensor, generator: torch.Generator) -> Place:
    """The crop's centre, where inference has the first click, in half of the crops that allow it."""
    centre = (label.shape[0] // 2, label.shape[1] // 2, label.shape[2] // 2)
    if label[centre] and bool(torch.randint(2, (1,), generator=generator)):
        return centre
    x, y, z = draw_voxel(label, generator)
    return x, y, z


def _next_point(
    predicted: Tensor, label: Tensor, given: list[LabelledPoint], generator: torch.Generator
) -> LabelledPoint:
    error = draw_error(predicted, label, generator)
    if error is None:
        return given[-1]
    (x, y, z), positive = error
    return x, y, z, positive
