"""TAGS as a contestant: training by the bench's loop, and whole volumes through crops that follow the prompts."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor

from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Session, Target, Trainable, TrainingRecipe
from benchmarks.data.boxes import bounding_box
from benchmarks.data.preprocessing import Prepared, Preprocessing, crop, paste, prepare
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Prompts
from tags.anatomy import Anatomy
from tags.config import Settings, TagsConfig
from tags.losses import segmentation_loss
from tags.model import TAGS, Encoding
from tags.prompt_encoder import NEGATIVE, POSITIVE, PromptTensors
from tags.sampling import Sampling, correct, depth_inside, sample_prompts, zoomed
from tags.weights import (
    RANDOM,
    WeightsError,
    find_file,
    load_clip,
    load_sam,
    read_state,
    restore_trained,
    tower_digests,
    trained_state,
)

Voxel = tuple[int, int, int]
TOUCHING_SHARE = 0.05  # of a crop's face that a mask must cover for the next crop to be looked at


def cpu_has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in AMX tiles; without them bf16 autocast costs time."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    try:
        return bool(probe()) if probe is not None else False
    except RuntimeError:
        return False


def anatomy_of(target: Target) -> Anatomy:
    return target.organ, target.lesion


def bounds_of(targets: Iterable[Target]) -> Tensor:
    """(B, 2): the normalised values of the ends of each target's window."""
    return torch.tensor([[(end - t.mean) / t.std for end in t.window] for t in targets], dtype=torch.float32)


class TagsSegmenter(Trainable):
    """TAGS of one size on one device.

    Args:
        config: all options, see `tags.config`.
        device: "cpu" or "cuda[:n]".

    Raises:
        UserError: weights that are missing or do not fit, or an impossible architecture.
    """

    module: TAGS

    def __init__(self, config: Mapping[str, Any], device: str = "cpu") -> None:
        self.device = torch.device(device)
        try:
            self.config = TagsConfig.from_mapping(config)
            self.settings = Settings.from_mapping(config)
            self.module = TAGS(self.config)
            if self.settings.sam_weights != RANDOM:
                path = find_file(self.settings.sam_weights)
                load_sam(self.module, read_state(path), str(path))
            load_clip(self.module, self.settings.clip_weights)
        except (WeightsError, ValueError) as error:
            raise UserError(f"TAGS: {error}") from error
        self._digests: dict[str, str] | None = None

    # Training

    def recipe(self, target: Target) -> TrainingRecipe:
        """Crops at the model's own spacing, with room for its zoom augmentation."""
        s = self.settings
        side = 2 * math.ceil(self.config.patch * s.zoom[1] / 2)
        return TrainingRecipe(
            preprocessing=self.preprocessing(target),
            patch=(side, side, side),
            batch_size=s.batch_size,
            learning_rate=s.learning_rate,
            final_learning_rate=s.final_learning_rate,
            warm_up=s.warm_up,
            weight_decay=s.weight_decay,
            gradient_clip=s.gradient_clip,
            foreground=s.foreground,
            mixed_precision=s.mixed_precision,
        )

    def preprocessing(self, target: Target) -> Preprocessing:
        spacing = (self.settings.spacing,) * 3
        return Preprocessing(spacing=spacing, window=target.window, mean=target.mean, std=target.std)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the first prediction and a random number of correction rounds; the crop is encoded once."""
        s = self.settings
        how = Sampling(
            clicks=s.clicks,
            none=s.prompt_dropout,
            single=s.single_click,
            central=s.central_click,
            box=s.box_share,
        )
        image, label = zoomed(batch.image, batch.label, self.config.patch, s.zoom, batch.generator)
        prompts = sample_prompts(label, batch.generator, how)
        bounds = bounds_of(batch.targets).to(image.device)
        encoding = self.module.encode(image, [anatomy_of(t) for t in batch.targets], bounds)
        rounds = 1 + int(torch.randint(0, s.corrections + 1, (), generator=batch.generator))
        total = torch.zeros((), device=image.device)
        parts: dict[str, Tensor] = {}
        for index in range(rounds):
            logits, coarse = self.module.decode(encoding, prompts)
            value, parts = segmentation_loss(logits, label, s.dice_weight)
            if s.coarse_weight:
                pooled = torch.nn.functional.avg_pool3d(label, 2)
                value = value + s.coarse_weight * segmentation_loss(coarse, pooled, s.dice_weight)[0]
            total = total + value / rounds
            if index + 1 < rounds:
                prompts = correct(prompts, logits.detach(), label, batch.generator)
        return total, {name: value.detach() for name, value in parts.items()}

    def save(self, folder: Path) -> None:
        """`trained.safetensors` holds what was trained; `tags.json` the architecture and the frozen towers' digests."""
        save_file(trained_state(self.module), folder / "trained.safetensors")
        content = {"architecture": _plain(asdict(self.config)), "towers": self.digests()}
        (folder / "tags.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            UserError: no checkpoint, another architecture, or other frozen towers than it was trained on.
        """
        try:
            content = json.loads((folder / "tags.json").read_text(encoding="utf-8"))
            state = load_file(folder / "trained.safetensors")
        except Exception as error:  # missing, truncated, not JSON, not safetensors
            raise UserError(f"{folder}: not a readable TAGS checkpoint ({error})") from error
        own = _plain(asdict(self.config))
        for key in sorted(own.keys() | content["architecture"].keys()):
            there, here = content["architecture"].get(key), own.get(key)
            if there != here and key != "checkpointing":
                raise UserError(f"{folder}: was trained with {key} = {there}, this model has {key} = {here}")
        for tower, digest in content["towers"].items():
            if self.digests().get(tower) != digest:
                raise UserError(
                    f"{folder}: was trained on another frozen {tower.upper()} tower than the one that is loaded; "
                    f"check {tower}_weights"
                )
        try:
            restore_trained(self.module, state, str(folder))
        except WeightsError as error:
            raise UserError(str(error)) from error

    def digests(self) -> dict[str, str]:
        """Digests of the frozen towers; computed once, since nothing changes them."""
        if self._digests is None:
            self._digests = tower_digests(self.module)
        return self._digests

    # Inference

    def open(self, volume: Volume, target: Target) -> TagsSession:
        """Resample and normalise; crops are encoded when a prompt first needs them, and kept."""
        return TagsSession(self, volume, target)

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 where it pays."""
        if not self.settings.mixed_precision:
            return nullcontext()
        if self.device.type == "cpu" and not cpu_has_fast_bf16():
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


class TagsSession(Session):
    """One volume on the model's grid, with the encodings of the crops seen so far.

    The crops follow from the prompts alone (not from what was asked before), and the first click fixes the first
    crop: a further click near it costs only the prompt-dependent half of the model.
    """

    def __init__(self, segmenter: TagsSegmenter, volume: Volume, target: Target) -> None:
        self.segmenter, self.target = segmenter, target
        self.prepared: Prepared = prepare(volume, segmenter.preprocessing(target))
        self.side = segmenter.config.patch
        self.fill = float(self.prepared.array.min())
        self._encodings: OrderedDict[Voxel, Encoding] = OrderedDict()
        weights = np.exp(-0.5 * (np.linspace(-1, 1, self.side) / 0.5) ** 2).astype(np.float32)
        self._importance: FloatArray = weights[:, None, None] * weights[:, None] * weights

    def segment(self, prompts: Prompts) -> BoolArray:
        """The mask on the volume's own grid."""
        return self.prepared.to_native_mask(self._predict(prompts), self.segmenter.settings.threshold)

    def _predict(self, prompts: Prompts) -> FloatArray:
        """Probabilities on the model's grid; 0 where no crop looked."""
        prompted = _GridPrompts(prompts, self.prepared)
        canvas = _Canvas(self.prepared.shape, self._importance)
        with torch.inference_mode(), self.segmenter.autocast():
            self.segmenter.module.eval()
            if prompted.anchors(self.side):
                self._follow(prompted, canvas)
            else:
                for origin in self._windows():
                    canvas.add(self._crop_probability(origin, prompted, None, keep=False), origin)
        return canvas.mean()

    def _follow(self, prompted: _GridPrompts, canvas: _Canvas) -> None:
        """Crops at the prompts, then their neighbours for as long as the mask touches a face.

        A neighbour without a positive click of its own inherits one: the deepest voxel of the mask that reaches into
        it. A network that is told nothing would look for any tumour there, not for the rest of this one.
        """
        threshold = self.segmenter.settings.threshold
        waiting: list[tuple[Voxel, NDArray[np.float64] | None]] = [
            (self._origin(anchor), None) for anchor in prompted.anchors(self.side)
        ]
        room = len(waiting) + self.segmenter.settings.max_grown
        done: set[Voxel] = set()
        while waiting and len(done) < room:
            origin, inherited = waiting.pop(0)
            if origin in done:
                continue
            probability = self._crop_probability(origin, prompted, inherited, keep=True)
            canvas.add(probability, origin)
            done.add(origin)
            mask = prompted.prompted_part(probability > threshold, origin, inherited)
            for neighbour in self._touched_neighbours(mask, origin):
                if neighbour not in done:
                    waiting.append((neighbour, self._reaching_into(mask, origin, neighbour)))

    def _touched_neighbours(self, mask: BoolArray, origin: Voxel) -> list[Voxel]:
        """Origins of the crops half a side further, beyond every face that the mask touches inside the volume."""
        neighbours = []
        for axis in range(3):
            for step in (-1, 1):
                face = mask.take(0 if step < 0 else -1, axis=axis)
                outside = origin[axis] <= 0 if step < 0 else origin[axis] + self.side >= self.prepared.shape[axis]
                if outside or face.mean() < TOUCHING_SHARE:
                    continue
                moved = list(origin)
                moved[axis] += step * self.side // 2
                neighbours.append((moved[0], moved[1], moved[2]))
        return neighbours

    def _reaching_into(self, mask: BoolArray, origin: Voxel, neighbour: Voxel) -> NDArray[np.float64]:
        """The voxel of the model's grid that lies deepest in the part of a mask that a neighbour shares."""
        shift = [n - o for n, o in zip(neighbour, origin, strict=True)]
        shared = np.zeros_like(mask)
        box = tuple(slice(max(0, s), self.side + min(0, s)) for s in shift)
        shared[box] = mask[box]
        depth = depth_inside(torch.from_numpy(shared)).numpy()
        deepest = np.unravel_index(int(depth.argmax()), depth.shape)
        return np.array(deepest, float) + np.array(origin, float)

    def _origin(self, centre: NDArray[np.float64]) -> Voxel:
        x, y, z = (round(float(c)) - self.side // 2 for c in centre)
        return x, y, z

    def _windows(self) -> list[Voxel]:
        """Origins of overlapping windows over the body (everything brighter than the darkest value)."""
        body = bounding_box(self.prepared.array > self.fill + 1e-3)
        if body is None:
            return []
        stride = max(1, round(self.side * (1 - self.segmenter.settings.overlap)))
        axes = []
        for low, high in zip(*body, strict=True):
            number = max(1, -(-(high - low - self.side) // stride) + 1)
            start = (low + high - (number - 1) * stride - self.side) // 2
            axes.append([start + i * stride for i in range(number)])
        return [(x, y, z) for x in axes[0] for y in axes[1] for z in axes[2]]

    def _crop_probability(
        self, origin: Voxel, prompted: _GridPrompts, inherited: NDArray[np.float64] | None, keep: bool
    ) -> FloatArray:
        encoding = self._encode(origin, keep)
        tensors = prompted.in_crop(origin, self.side, self.segmenter.device, inherited)
        logits, _ = self.segmenter.module.decode(encoding, tensors)
        probability: FloatArray = logits[0, 0].float().sigmoid().cpu().numpy()
        return probability

    def _encode(self, origin: Voxel, keep: bool) -> Encoding:
        if origin in self._encodings:
            self._encodings.move_to_end(origin)
            return self._encodings[origin]
        side = (self.side,) * 3
        centre = [o + self.side // 2 for o in origin]
        patch, placed = crop(self.prepared.array, centre, (side[0], side[1], side[2]), self.fill)
        if placed != origin:
            raise RuntimeError(f"a crop was asked for at {origin} and came from {placed}")
        device = self.segmenter.device
        image = torch.from_numpy(patch).to(device)[None, None]
        encoding = self.segmenter.module.encode(image, [anatomy_of(self.target)], bounds_of([self.target]).to(device))
        if keep:
            self._encodings[origin] = encoding
            while len(self._encodings) > self.segmenter.settings.cached_crops:
                self._encodings.popitem(last=False)
        return encoding


class _GridPrompts:
    """The user's prompts on the model's grid."""

    def __init__(self, prompts: Prompts, prepared: Prepared) -> None:
        if prompts.text is not None:
            raise UserError("TAGS takes its anatomy from the target and does not read a text prompt")
        self.points = prepared.to_prepared([c.position for c in prompts.clicks])
        self.positive = np.array([c.positive for c in prompts.clicks], bool)
        self.box: NDArray[np.float64] | None = None
        if prompts.box is not None:
            self.box = prepared.to_prepared([prompts.box.low, [h - 1 for h in prompts.box.high]])
        self.mask: BoolArray | None = None
        self.mask_box: NDArray[np.float64] | None = None
        if prompts.mask is not None and prompts.mask.any():
            self.mask = prepared.label(prompts.mask)
            found = bounding_box(self.mask)
            if found is not None:
                self.mask_box = np.array([found[0], [h - 1 for h in found[1]]], float)

    def anchors(self, side: int) -> list[NDArray[np.float64]]:
        """Centres of the crops to begin with, in an order that further clicks only append to.

        A box (without one, a previous mask) is covered by crops; every positive click that lies in no crop's inner
        half gets its own. Negative clicks alone ask for no crop.
        """
        region = self.box if self.box is not None else None if self.positive.any() else self.mask_box
        centres = [] if region is None else _cover(region, side)
        for point in self.points[self.positive]:
            if not any(np.abs(point - centre).max() < side / 4 for centre in centres):
                centres.append(point)
        return centres

    def prompted_part(self, mask: BoolArray, origin: Voxel, inherited: NDArray[np.float64] | None) -> BoolArray:
        """The connected parts of a crop's mask that hold a positive click; the whole mask if no part does."""
        points = self.points[self.positive] if inherited is None else inherited[None]
        local = np.rint(points - np.array(origin, float)).astype(np.intp)
        local = local[((local >= 0) & (local < mask.shape[0])).all(axis=1)]
        parts, _ = ndimage.label(mask)
        wanted = set(parts[tuple(local.T)].tolist()) - {0}
        return np.isin(parts, list(wanted)) if wanted else mask

    def in_crop(
        self, origin: Voxel, side: int, device: torch.device, inherited: NDArray[np.float64] | None = None
    ) -> PromptTensors:
        """What of the prompts falls into the crop at `origin`, in its coordinates; without a positive click there,
        `inherited` is one."""
        tensors = PromptTensors.empty(1, device)
        local = self.points - np.array(origin, float)
        inside = ((local > -0.5) & (local < side - 0.5)).all(axis=1)
        if inherited is not None and not (inside & self.positive).any():
            here = torch.tensor(inherited - np.array(origin, float), dtype=torch.float32, device=device)
            tensors = tensors.with_points(here[None, None], torch.full((1, 1), POSITIVE, device=device))
        if inside.any():
            points = torch.tensor(local[inside], dtype=torch.float32, device=device)[None]
            signs = torch.tensor(np.where(self.positive[inside], POSITIVE, NEGATIVE), device=device)[None]
            tensors = tensors.with_points(points, signs)
        if self.box is not None:
            low, high = self.box - np.array(origin, float)
            if (high > -0.5).all() and (low < side - 0.5).all():
                corners = np.stack((low.clip(0, side - 1), high.clip(0, side - 1)))
                tensors.box = torch.tensor(corners, dtype=torch.float32, device=device)[None]
                tensors.has_box = torch.ones(1, dtype=torch.bool, device=device)
        if self.mask is not None:
            centre = [o + side // 2 for o in origin]
            patch, _ = crop(self.mask, centre, (side, side, side), False)
            tensors.mask = torch.from_numpy(patch.astype(np.float32)).to(device)[None, None]
            tensors.has_mask = torch.ones(1, dtype=torch.bool, device=device)
        return tensors


def _cover(region: NDArray[np.float64], side: int) -> list[NDArray[np.float64]]:
    """Centres of crops that cover a box, at most half a side apart; one where the box fits."""
    low, high = region
    axes = []
    for a, b in zip(low, high, strict=True):
        number = 1 if b - a < 0.75 * side else int(np.ceil((b - a) / (side / 2)))
        middle, step = (a + b) / 2, (b - a) / number
        axes.append([middle + (i - (number - 1) / 2) * step for i in range(number)])
    grid = [np.array((x, y, z)) for x in axes[0] for y in axes[1] for z in axes[2]]
    return sorted(grid, key=lambda centre: float(np.abs(centre - (low + high) / 2).sum()))


class _Canvas:
    """Weighted mean of overlapping crops."""

    def __init__(self, shape: Voxel, importance: FloatArray) -> None:
        self.shape, self.importance = shape, importance
        self.parts: list[tuple[Voxel, FloatArray]] = []
        self.total: FloatArray | None = None
        self.weight: FloatArray | None = None

    def add(self, probability: FloatArray, origin: Voxel) -> None:
        """The first crop is kept as it is; the canvas is allocated when a second one comes."""
        if self.total is None and not self.parts:
            self.parts.append((origin, probability))
            return
        if self.total is None or self.weight is None:
            self.total, self.weight = np.zeros(self.shape, np.float32), np.zeros(self.shape, np.float32)
            self._blend(self.parts[0][1], self.parts[0][0])
        self._blend(probability, origin)

    def _blend(self, probability: FloatArray, origin: Voxel) -> None:
        inside = tuple(
            slice(max(o, 0), max(0, min(o + n, s)))
            for o, n, s in zip(origin, probability.shape, self.shape, strict=True)
        )
        patch = tuple(slice(i.start - o, max(i.start, i.stop) - o) for i, o in zip(inside, origin, strict=True))
        if self.total is None or self.weight is None or any(i.stop <= i.start for i in inside):
            return
        self.total[inside] += (probability * self.importance)[patch]
        self.weight[inside] += self.importance[patch]

    def mean(self) -> FloatArray:
        if self.total is not None and self.weight is not None:
            np.divide(self.total, self.weight, out=self.total, where=self.weight > 0)
            return self.total
        canvas = np.zeros(self.shape, np.float32)
        for origin, probability in self.parts:
            paste(canvas, probability, origin)
        return canvas


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
