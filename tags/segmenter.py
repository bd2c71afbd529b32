"""TAGS as a contestant: its plan, its training by the bench's loop, its checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.common.errors import UserError
from benchmarks.contestants import Augmentation, Batch, Target, Trainable, TrainingRecipe
from benchmarks.contestants.precision import half_precision
from benchmarks.data.fingerprint import fingerprint, joined
from benchmarks.data.preprocessing import Preprocessing
from benchmarks.data.volume import Volume
from tags.augment import draw_flips, flipped, flipped_features, random_views
from tags.config import Settings, TagsConfig
from tags.intensity import intensity_augmented
from tags.losses import rarity, segmentation_loss
from tags.model import TAGS
from tags.plan import Plan, fixed, plan_for, unplanned
from tags.sampling import Sampling, correct, sample_prompts
from tags.session import TagsSession
from tags.targets import anatomy_of, bounds_of, flips_of
from tags.weights import (
    RANDOM,
    SEED,
    WeightsError,
    find_file,
    load_clip,
    load_sam,
    read_state,
    restore_trained,
    seed_sam,
    tower_digests,
    trained_state,
)

if TYPE_CHECKING:
    from benchmarks.data.dataset import Case

FLOAT16 = False
"""Trained networks have values of 1e9 in their residual stream, which float16 does not hold."""


def cpu_has_fast_bf16() -> bool:
    """Whether this CPU multiplies bf16 in AMX tiles; without them bf16 autocast costs time."""
    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    try:
        return bool(probe()) if probe is not None else False
    except RuntimeError:
        return False


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
            elif self.config.freeze_backbone:
                seed_sam(self.module, SEED)
            load_clip(self.module, self.settings.clip_weights)
        except (WeightsError, ValueError) as error:
            raise UserError(f"TAGS: {error}") from error
        self._digests: dict[str, str] | None = None
        spacing = self.settings.spacing
        self.decided: Plan = unplanned(self.config.patch) if spacing is None else fixed(spacing)

    # Training

    def plan(self, parts: Sequence[tuple[Target, Sequence[Case]]]) -> None:
        """Let the lesions of the training cases decide the spacing, unless it is set by hand."""
        if self.settings.spacing is None:
            self.decided = plan_for(joined([fingerprint(cases, target) for target, cases in parts]), self.config.patch)

    def recipe(self, target: Target) -> TrainingRecipe:
        """Crops at the plan's spacing, as wide as the widest view; corners of a turned one may lie beyond, where their
        edge goes on. Flips are `loss`'s: CLIP looks before them.
        """
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
            deep=s.deep,
            mixed_precision=s.mixed_precision,
            float16=FLOAT16,
            ema_decay=s.ema,
            augmentation=Augmentation(flips=(0.0, 0.0, 0.0)),
        )

    def preprocessing(self, target: Target) -> Preprocessing:
        mm = self.decided.spacing
        return Preprocessing(spacing=(mm, mm, mm), window=target.window, mean=target.mean, std=target.std)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over the first prediction and a random number of correction rounds; the crop is encoded once."""
        s = self.settings
        how = Sampling(
            clicks=s.clicks,
            none=s.prompt_dropout,
            none_elsewhere=s.dropout_elsewhere,
            single=s.single_click,
            central=s.central_click,
            box=s.box_share,
            mask=s.mask_share,
        )
        random = batch.generator
        image, label = random_views(batch.image, batch.label, self.config.patch, s.zoom, random, s.stretch, s.tilt)
        image = intensity_augmented(image, s.augment_intensity, random)
        bounds = bounds_of(batch.targets).to(image.device)
        seen = self.module.see(image, bounds)
        flips = draw_flips([s.flips or flips_of(t) for t in batch.targets], random)
        image, label = flipped(image, flips), flipped(label, flips)
        seen = None if seen is None else flipped_features(seen, flips)
        prompts = sample_prompts(label, random, how)
        encoding = self.module.encode(image, [anatomy_of(t) for t in batch.targets], bounds, seen)
        rounds = 1 + int(torch.randint(0, s.corrections + 1, (), generator=random))
        total = torch.zeros((), device=image.device)
        parts: dict[str, Tensor] = {}
        for index in range(rounds):
            logits, coarse = self.module.decode(encoding, prompts)
            value, parts = segmentation_loss(logits, label, s.dice_weight, rarity(label, prompts.absent()))
            if s.coarse_weight:
                pooled = torch.nn.functional.avg_pool3d(label, 2)
                value = value + s.coarse_weight * segmentation_loss(coarse, pooled, s.dice_weight)[0]
            total = total + value / rounds
            if index + 1 < rounds:
                prompts = correct(prompts, logits.detach(), label, random)
        return total, {name: value.detach() for name, value in parts.items()}

    def save(self, folder: Path) -> None:
        """`trained.safetensors` holds what was trained; `tags.json` the architecture, the plan and the frozen towers'
        digests."""
        save_file(trained_state(self.module), folder / "trained.safetensors")
        content = {
            "architecture": _plain(asdict(self.config)),
            "plan": self.decided.to_mapping(),
            "towers": self.digests(),
        }
        (folder / "tags.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. A spacing set by hand outweighs the checkpoint's plan.

        Raises:
            UserError: no whole checkpoint, another architecture, or other frozen towers than it was trained on.
        """
        try:
            content = json.loads((folder / "tags.json").read_text(encoding="utf-8"))
            state = load_file(folder / "trained.safetensors")
        except Exception as error:  # missing, truncated, not JSON, not safetensors
            raise UserError(f"{folder}: not a readable TAGS checkpoint ({error})") from error
        own, trained = _plain(asdict(self.config)), _part(content, "architecture", folder)
        for key in sorted(own.keys() | trained.keys()):
            there, here = trained.get(key), own.get(key)
            if there != here and key != "checkpointing":
                raise UserError(f"{folder}: was trained with {key} = {there}, this model has {key} = {here}")
        for tower, digest in _part(content, "towers", folder).items():
            if self.digests().get(tower) != digest:
                raise UserError(
                    f"{folder}: was trained on another frozen {tower.upper()} tower than the one that is loaded; "
                    f"check {tower}_weights"
                )
        try:
            if self.settings.spacing is None:
                self.decided = Plan(**_part(content, "plan", folder))
        except TypeError as error:
            raise UserError(f"{folder}: the TAGS checkpoint has no readable plan; train it again") from error
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
        """Resample and normalise; views are encoded when a prompt first needs them, and kept."""
        return TagsSession(self, volume, target)

    def autocast(self) -> AbstractContextManager[Any]:
        """On a GPU half precision as in training; on a CPU, where training has float32, bf16 if that pays."""
        wanted = self.settings.mixed_precision
        half = half_precision(self.device.type, wanted, FLOAT16)
        if wanted and self.device.type == "cpu" and cpu_has_fast_bf16():
            half = torch.bfloat16
        return nullcontext() if half is None else torch.autocast(self.device.type, dtype=half)


def _part(content: Any, name: str, folder: Path) -> dict[str, Any]:
    """One of the parts of a `tags.json`; raises UserError where it is not there."""
    part = content.get(name) if isinstance(content, dict) else None
    if not isinstance(part, dict):
        raise UserError(f"{folder}: the TAGS checkpoint has no readable {name}; train it again")
    return part


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
