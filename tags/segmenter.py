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
from torch import Tensor

from benchmarks.common.errors import UserError
from benchmarks.contestants import Batch, Session, Target, Trainable, TrainingRecipe
from benchmarks.data.boxes import bounding_box
from benchmarks.data.preprocessing import Prepared, Preprocessing, crop, prepare
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import Prompts
from tags.anatomy import Anatomy
from tags.canvas import Canvas
from tags.config import Settings, TagsConfig
from tags.grid_prompts import GridPrompts
from tags.losses import segmentation_loss
from tags.model import TAGS, Encoding
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
        prompted = GridPrompts(prompts, self.prepared)
        canvas = Canvas(self.prepared.shape, self._importance)
        with torch.inference_mode(), self.segmenter.autocast():
            self.segmenter.module.eval()
            if prompted.anchors(self.side):
                self._follow(prompted, canvas)
            else:
                for origin in self._windows():
                    canvas.add(self._crop_probability(origin, prompted, None, keep=False), origin)
        return canvas.mean()

    def _follow(self, prompted: GridPrompts, canvas: Canvas) -> None:
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
        self, origin: Voxel, prompted: GridPrompts, inherited: NDArray[np.float64] | None, keep: bool
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


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
