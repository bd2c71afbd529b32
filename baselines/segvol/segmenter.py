"""SegVol on a volume: zoom out (the whole body at low resolution), then zoom in (windows where the target is).

Preprocessing follows the public scripts: no resampling, intensities clipped to percentiles of the foreground and
brought to [0, 1], arrays turned to (z, y, x), the box of non-zero voxels cut out. Every prompt goes into the zoom-out
pass; its prediction selects the windows of the zoom-in pass, whose logits overwrite it.

What upstream takes from the label is taken from the prompt: clicks and box are the user's, in zoom-in windows too
(upstream draws new clicks from the label's map). Two slips of the public window code are not reproduced: prompts that
are not padded with their window, and a region that is enlarged on one side only at the border.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from baselines.frames import StoredOrientation
from baselines.losses import mask_losses
from baselines.network_segmenter import NetworkSegmenter
from baselines.prompting import check_prompts
from baselines.sam.initialisation import initialise
from baselines.sam.training import draw_voxel
from baselines.segvol.drawing import Drawing, draw_prompts
from baselines.segvol.frame import Window, normalised, prepared
from baselines.segvol.network import SIZES, TEMPLATE, SegVol, batch_of_ids, load_official_file, token_ids
from benchmarks.common.errors import UserError
from benchmarks.contestants import Augmentation, Batch, Session, Target, TrainingRecipe
from benchmarks.contestants.precision import finite
from benchmarks.data.boxes import bounding_box
from benchmarks.data.preprocessing import Preprocessing, Shape, crop
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Prompts

SYSTEM = "SegVol"
FILE_NAME = "SegVol_v1.pth"
SOURCE = "released by BAAI-DCAI/SegVol"
AIR = -1000.0  # HU
NEARLY_AIR = 200.0  # HU above air
SPANS = {"official": 2, "tiny": 3}  # windows along each axis of a training crop; tiny sees whole scans
OVERLAP = 0.5
MAX_TOKENS = 77
CACHED_WINDOWS = 64  # embeddings of zoom-in windows that a session keeps
MISSED = -10.0  # logit where zoom-out is not believed
NO_BOX = (-1.0,) * 6  # what upstream embeds where a window holds no predicted voxel

Place = tuple[int, int, int]
Points = list[tuple[Place, bool]]


class SegVolSegmenter(StoredOrientation, NetworkSegmenter):
    """SegVol with text, clicks and a box, alone or together.

    Settings (keys of `config`) beside those of every `NetworkSegmenter`:
        zoom_in: whether the zoom-out prediction is refined in windows.
        zoom_to_clicks: whether zoom-in looks around the positive clicks where zoom-out has found none of them; upstream
            keeps to what zoom-out found.
        orientation: "file" keeps the flips of the scan's own storage, as upstream does; "ras" undoes them. Weights
            trained by the bench know "ras" only, whatever is set here.
        train: "all", or "decoder" (the image encoder stays as it is). The text tower is always frozen.
        window: HU that become 0 and 1; None for percentiles of each scan, as the released weights know them. Between
            air and bone, which percentiles span, a lesion differs from its organ by a fiftieth: too little for a small
            network to begin with.
    """

    module: SegVol
    system = SYSTEM
    choices = {"size": tuple(SIZES), "orientation": ("file", "ras"), "train": ("all", "decoder")}  # noqa: RUF012

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        self._texts: dict[str, Tensor] = {}
        self.hu: Window | None = None
        if config["window"] is not None:
            low, high = config["window"]
            self.hu = float(low), float(high)
        super().__init__(config, device)

    def read_official(self) -> SegVol:
        return load_official_file(self.official_file("segvol", FILE_NAME, SOURCE))

    def untrained(self) -> SegVol:
        network = SegVol(SIZES[self.config["size"]])
        initialise(network)
        return network

    def freeze(self) -> None:
        self.module.image_encoder.requires_grad_(self.config["train"] == "all")
        self.module.text_encoder.clip_text_model.requires_grad_(False)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self._texts.clear()

    def open(self, volume: Volume, target: Target) -> SegVolSession:
        """Normalises the volume and encodes the zoomed-out copy; the target is not looked at."""
        return SegVolSession(self, volume)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens of windows (B, 1, D, H, W) in [0, 1]."""
        with self.half_precision():
            return self.module.encode(images.to(self.device)).float()

    @torch.inference_mode()
    def text_token(self, text: str) -> Tensor:
        """The prompt token (1, C) of a name; raises UserError for one beyond CLIP's length."""
        if text not in self._texts:
            sentence = TEMPLATE.format(text)
            if len(token_ids(sentence)) > MAX_TOKENS:
                raise UserError(f"text prompt too long for {SYSTEM}: more than {MAX_TOKENS} tokens ('{text[:40]}…')")
            self._texts[text] = self.module.encode_text(batch_of_ids([sentence]).to(self.device))
        return self._texts[text]

    @torch.inference_mode()
    def logits(self, tokens: Tensor, points: Points, box: tuple[float, ...] | None, text: Tensor | None) -> Tensor:
        """Logits (D, H, W) of one window; points and box in its voxels, as (d, h, w)."""
        given = None
        if points:
            places = torch.tensor([[place for place, _ in points]], dtype=torch.float32, device=self.device)
            labels = torch.tensor([[float(positive) for _, positive in points]], device=self.device)
            given = places, labels
        corners = None if box is None else torch.tensor([box], dtype=torch.float32, device=self.device)
        low_resolution, _ = self.module.decode(tokens, given, corners, text)
        return self.module.enlarge(finite(low_resolution))[0, 0]

    def recipe(self, target: Target) -> TrainingRecipe:
        """The scan's own grid, in crops much larger than a window: both passes are trained from them.

        HU above air, which each crop's own percentiles then bring to [0, 1]; or [0, 1] already, by the window.
        """
        depth, height, width = self.module.size.image
        span = SPANS[self.config["size"]]
        patch = (width * span, height * span, depth * span)
        if self.hu is None:
            preprocessing, augmentation = Preprocessing(spacing=None, window=None, mean=AIR), Augmentation()
        else:
            low, high = self.hu
            preprocessing = Preprocessing(spacing=None, window=self.hu, mean=low, std=high - low)
            augmentation = Augmentation(intensity_shift=0.0)  # beyond the body there is 0
        return self.training_recipe(
            preprocessing,
            patch,
            augmentation=augmentation,
        )

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Each crop zoomed out or cut to a window, prompted by text, clicks, box, or a mixture.

        A crop without the target gets the text alone and must come out empty.
        """
        self._texts.clear()  # the projection of the text tower is being trained
        drawing = Drawing(*(self.config[key] for key in ("training_clicks", "negative_click", "box_jitter")))
        names = [f"{target.organ} {target.lesion}".strip() or target.name for target in batch.targets]
        texts = self.module.encode_text(batch_of_ids([TEMPLATE.format(name) for name in names]).to(batch.image.device))
        images, labels = [], []
        for crops in zip(batch.image, batch.label, strict=True):
            air = NEARLY_AIR if self.hu is None else 0.0
            body = within_scan(crops[0][0], crops[1][0], air)
            scan, mask = (part.cpu().numpy().transpose(2, 1, 0) for part in body)
            image, label = self._view(normalised(scan) if self.hu is None else scan, mask, batch.generator)
            images.append(image)
            labels.append(label)
        truth = torch.stack(labels)[:, None].to(batch.image.device)
        tokens = self.module.encode(torch.stack(images)[:, None].to(batch.image.device))
        inside = torch.stack(labels) > 0.5
        found = inside.flatten(1).any(1)
        logits = []
        for members in (found.nonzero()[:, 0], (~found).nonzero()[:, 0]):
            if len(members):
                points, box, text = draw_prompts(
                    inside[members], texts[members.to(texts.device)], batch.generator, drawing
                )
                given = None if points is None else (points[0].to(truth.device), points[1].to(truth.device))
                box = None if box is None else box.to(truth.device)
                logits.append(self.module.decode(tokens[members.to(tokens.device)], given, box, text)[0])
        truth = torch.cat([truth[found.to(truth.device)], truth[~found.to(truth.device)]])
        mask_loss = mask_losses(self.module.enlarge(torch.cat(logits)), truth, self.config["dice_share"]).mean()
        return mask_loss, {"mask": mask_loss.detach()}

    def _view(self, image: FloatArray, label: FloatArray, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The body in a crop (D, H, W) zoomed out to a window, or a window around a target voxel if there is any."""
        body = bounding_box(image)
        if body is not None:
            part = tuple(slice(low, high) for low, high in zip(*body, strict=True))
            image, label = image[part], label[part]
        size = self.module.size.image
        if torch.rand((), generator=generator) < self.config["zoomed_out"]:
            both = torch.from_numpy(np.stack([image, label]))[None]
            small = F.interpolate(both, size=size, mode="nearest-exact")[0]
            return small[0], small[1]
        inside = torch.from_numpy(label > 0.5)
        seen = draw_voxel(inside if inside.any() else torch.ones_like(inside), generator)
        centre = []
        for at, length, extent in zip(seen, size, image.shape, strict=True):
            room = length // 2 if self.config["size"] == "official" else length // 4
            at += int(torch.randint(room, (1,), generator=generator)) - room // 2
            centre.append(min(max(at, length // 2), extent - (length + 1) // 2) if extent >= length else extent // 2)
        return torch.from_numpy(crop(image, centre, size)[0]), torch.from_numpy(crop(label, centre, size)[0])


def within_scan(image: Tensor, label: Tensor, air: float = NEARLY_AIR) -> tuple[Tensor, Tensor]:
    """The part of a crop (X, Y, Z) that is brighter than `air`, most of which lies beyond the scan."""
    body = bounding_box((image > air).cpu().numpy())
    if body is None:
        return image, label
    part = tuple(slice(low, high) for low, high in zip(*body, strict=True))
    return image[part], label[part]


class SegVolSession(Session):
    """One normalised volume, its zoomed-out tokens, and the tokens of the windows visited so far."""

    def __init__(self, segmenter: SegVolSegmenter, volume: Volume) -> None:
        self.segmenter = segmenter
        self.window: Shape = segmenter.module.size.image
        self.array, self.frame = prepared(volume, segmenter.flips(volume), self.window, segmenter.hu)
        small = F.interpolate(torch.from_numpy(self.array)[None, None], size=self.window, mode="nearest-exact")
        self._zoomed_out = segmenter.encode(small)
        self._windows: dict[Place, Tensor] = {}

    def segment(self, prompts: Prompts) -> BoolArray:
        return self.frame.restore(self._logits(prompts) > 0, False)

    def _logits(self, prompts: Prompts) -> FloatArray:
        """Logits (d, h, w) of the crop."""
        check_prompts(prompts, self.segmenter.prompts, self.frame.shape, SYSTEM)
        points: Points = [(self.frame.place(click.position), click.positive) for click in prompts.clicks]
        box = self._box(prompts)
        text = None if prompts.text is None else self.segmenter.text_token(prompts.text)
        logits = self._zoom_out(points, box, text)
        if self.segmenter.config["zoom_in"]:
            seen = logits > 0
            clicked = self._missed_clicks(seen, points)
            if clicked is not None:
                logits[:], seen = MISSED, clicked
            region = self._region(seen)
            if region is not None:
                self._zoom_in(logits, region, points, box, text)
        return logits

    def _missed_clicks(self, seen: BoolArray, points: Points) -> BoolArray | None:
        """The positive clicks as a mask, where zoom-out found none of them and the settings mind that."""
        positive = np.array([place for place, sign in points if sign], int).reshape(-1, 3)
        if not self.segmenter.config["zoom_to_clicks"] or not len(positive) or seen[tuple(positive.T)].any():
            return None
        clicked = np.zeros_like(seen)
        clicked[tuple(positive.T)] = True
        return clicked

    def _box(self, prompts: Prompts) -> tuple[Place, Place] | None:
        """The user's box in the crop, both corners inclusive."""
        if prompts.box is None:
            return None
        x, y, z = (n - 1 for n in prompts.box.high)
        corners = np.array([self.frame.place(prompts.box.low), self.frame.place((x, y, z))])
        low, high = corners.min(0).tolist(), corners.max(0).tolist()
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def _zoom_out(self, points: Points, box: tuple[Place, Place] | None, text: Tensor | None) -> FloatArray:
        shrunk: Points = [(self._shrunk(place), positive) for place, positive in points]
        small_box = None if box is None else (*self._shrunk(box[0]), *self._shrunk(box[1]))
        logits = self.segmenter.logits(self._zoomed_out, shrunk, small_box, text)
        whole = F.interpolate(logits[None, None], size=self.frame.size, mode="nearest")
        return np.array(whole[0, 0].float().cpu())

    def _shrunk(self, place: Place) -> Place:
        """A voxel of the crop in the zoomed-out copy."""
        d, h, w = (
            min(int((at + 0.5) * small / size), small - 1)
            for at, small, size in zip(place, self.window, self.frame.size, strict=True)
        )
        return d, h, w

    def _region(self, mask: BoolArray) -> tuple[Place, Shape] | None:
        """Origin and size of the box of a mask, grown to a window where it is smaller; None if empty.

        Where the crop itself is smaller than a window the origin is negative.
        """
        box = bounding_box(mask)
        if box is None:
            return None
        origin, extent = [], []
        for low, high, length, size in zip(*box, self.window, self.frame.size, strict=True):
            long = max(high - low, length)
            start = low - (long - (high - low)) // 2
            start = min(max(start, 0), size - long) if long <= size else (size - long) // 2
            origin.append(start)
            extent.append(long)
        return (origin[0], origin[1], origin[2]), (extent[0], extent[1], extent[2])

    def _zoom_in(
        self,
        logits: FloatArray,
        region: tuple[Place, Shape],
        points: Points,
        box: tuple[Place, Place] | None,
        text: Tensor | None,
    ) -> None:
        """Overwrite the region of the logits by the mean over overlapping windows."""
        origins = list(window_origins(*region, self.window))
        predicted = logits > 0
        start, extent = region
        total, count = np.zeros(extent, np.float32), np.zeros(extent, np.float32)
        for origin in origins:
            inside = [(shifted(place, origin), positive) for place, positive in points]
            inside = [(place, sign) for place, sign in inside if within(place, self.window)]
            window_box: tuple[float, ...] | None = None
            if box is not None and len(origins) == 1:
                window_box = self._clipped(box, origin)
            elif (box is not None or points) and predicted.any():
                window_box = self._predicted_box(predicted, origin)
            if not inside and window_box is None and text is None:
                continue  # between clicks far apart: nobody says that there is anything
            part = self.segmenter.logits(self._tokens(origin), inside, window_box, text).float().cpu().numpy()
            d, h, w = (slice(o - s, o - s + n) for o, s, n in zip(origin, start, self.window, strict=True))
            total[d, h, w] += part
            count[d, h, w] += 1
        total /= np.maximum(count, 1)
        total[count == 0] = MISSED
        there, here = [], []
        for low, size, limit in zip(start, extent, logits.shape, strict=True):
            there.append(slice(max(low, 0), min(low + size, limit)))
            here.append(slice(max(-low, 0), min(low + size, limit) - low))
        logits[tuple(there)] = total[tuple(here)]

    def _clipped(self, box: tuple[Place, Place], origin: Place) -> tuple[float, ...]:
        corners = [
            min(max(at - start, 0), length - 1)
            for corner in box
            for at, start, length in zip(corner, origin, self.window, strict=True)
        ]
        return tuple(float(at) for at in corners)

    def _predicted_box(self, predicted: BoolArray, origin: Place) -> tuple[float, ...]:
        """The box of the zoom-out prediction in a window, both corners inclusive."""
        box = bounding_box(self._cut(predicted, origin))
        if box is None:
            return NO_BOX
        return (*map(float, box[0]), *(float(at - 1) for at in box[1]))

    def _cut(self, array: NDArray[Any], origin: Place) -> NDArray[Any]:
        """The window at `origin`, filled with zeros outside the array."""
        centre = [at + length // 2 for at, length in zip(origin, self.window, strict=True)]
        return crop(array, centre, self.window)[0]

    def _tokens(self, origin: Place) -> Tensor:
        if origin not in self._windows:
            if len(self._windows) >= CACHED_WINDOWS:
                self._windows.pop(next(iter(self._windows)))
            window = self._cut(self.array, origin)
            self._windows[origin] = self.segmenter.encode(torch.from_numpy(window)[None, None])
        return self._windows[origin]


def window_origins(start: Place, extent: Shape, window: Shape) -> Iterator[Place]:
    """Origins of windows that cover a region with half overlap; the last one of an axis is moved inside."""
    axes = []
    for first, long, length in zip(start, extent, window, strict=True):
        step = max(1, int(length * (1 - OVERLAP)))
        steps = range(math.ceil((long - length) / step) + 1)
        axes.append([first + min(i * step, long - length) for i in steps])
    return ((d, h, w) for d in axes[0] for h in axes[1] for w in axes[2])


def shifted(place: Place, origin: Place) -> Place:
    d, h, w = (at - start for at, start in zip(place, origin, strict=True))
    return d, h, w


def within(place: Place, size: Shape) -> bool:
    return all(0 <= at < length for at, length in zip(place, size, strict=True))
