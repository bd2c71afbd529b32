"""The contestant's interface, and the registry that finds contestants by entry point.

A method is announced by a `Method` (a light description, importable without torch) under the entry-point group
`tags_bench.methods`. Its `factory` is imported only when the method is really used.

    Method ──load──► Segmenter ──open(volume, target)──► Session ──segment(prompts)──► mask

Methods that learn are `Trainable` (the bench owns the loop) or `OwnTraining` (the method brings its own tool).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.weight_file import WeightFile
from benchmarks.data.target import Target
from benchmarks.data.volume import BoolArray, FloatArray, Volume
from benchmarks.prompting.prompts import PromptKind, Prompts

if TYPE_CHECKING:
    import torch

    from benchmarks.data.dataset import Case
    from benchmarks.data.preprocessing import Recipe

ENTRY_POINT_GROUP = "tags_bench.methods"

Seen = Literal["trained-on", "superset", "unseen", "unknown"]


class Session(ABC):
    """A segmenter opened on one volume; `open` has computed whatever depends on the volume only."""

    @abstractmethod
    def segment(self, prompts: Prompts) -> BoolArray:
        """The mask on the volume's own grid, for all prompts given so far."""

    def probabilities(self, prompts: Prompts) -> FloatArray:
        """Foreground probabilities on the volume's own grid; not every method has them."""
        raise NotImplementedError(f"{type(self).__name__} gives masks only")


class Segmenter(ABC):
    """A method ready to work: weights loaded, on a device."""

    prompts: frozenset[PromptKind]

    @abstractmethod
    def open(self, volume: Volume, target: Target) -> Session:
        """Do once whatever depends on the volume only."""


@dataclass(frozen=True)
class Batch:
    """What the bench's training loop hands to a `Trainable`.

    Attributes:
        image: float32 (B, 1, X, Y, Z), preprocessed by the method's own recipe.
        label: float32 (B, 1, X, Y, Z), 0 or 1.
        targets: B targets.
        generator: seeded source of randomness for sampling prompts; use no other.
        progress: share of the training budget that is spent, 0 to 1.
    """

    image: torch.Tensor
    label: torch.Tensor
    targets: Sequence[Target]
    generator: torch.Generator
    progress: float


@dataclass(frozen=True)
class TrainingRecipe:
    """How the bench feeds a `Trainable`.

    Attributes:
        preprocessing: orientation, spacing and intensity; the same object as at inference.
        patch: voxels of a training crop (x, y, z), after preprocessing.
        batch_size: crops in a step on one worker.
        learning_rate, final_learning_rate: linear fall over the budget.
        warm_up: share of the budget over which the learning rate rises linearly first.
        weight_decay, gradient_clip: AdamW and the norm to which gradients are clipped.
        foreground: share of crops centred on a voxel of the target.
        mixed_precision: bf16 autocast where the device gains by it, fp16 with a scaled loss on a GPU without bf16.
        accumulate: batches whose gradients are added up for one step.
        ema_decay: of an exponential moving average of the weights, which is then validated and kept instead of them;
            0 for none. Early in training the decay at step t is (1 + t) / (10 + t) where that is less.
    """

    preprocessing: Recipe
    patch: tuple[int, int, int]
    batch_size: int = 2
    learning_rate: float = 4e-4
    final_learning_rate: float = 4e-6
    warm_up: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    foreground: float = 0.5
    mixed_precision: bool = True
    accumulate: int = 1
    ema_decay: float = 0.0


class Trainable(Segmenter):
    """A segmenter that the bench can train: it owns the network, the bench owns loop, data, budget, checkpoints."""

    module: torch.nn.Module

    @abstractmethod
    def recipe(self, target: Target) -> TrainingRecipe:
        """What crops this method wants."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """The scalar to minimise, and named parts of it for the log.

        Give the parts as detached tensors: they are read only where the log needs them, and a step need not wait.
        """

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimiser may change; by default those that require a gradient."""
        return [p for p in self.module.parameters() if p.requires_grad]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write a checkpoint (safetensors and JSON) into an existing empty folder."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises UserError if it does not fit."""


@dataclass(frozen=True)
class Budget:
    """What a method may spend on training, the same for every method of a suite.

    Attributes:
        minutes: wall-clock minutes of the training itself (no start-up, no preprocessing).
        steps: optimiser steps; whichever limit is met first ends the training.
        cpus, gpus: what one training worker may use.
    """

    minutes: float | None = None
    steps: int | None = None
    cpus: int = 1
    gpus: float = 0.0


class OwnTraining(Segmenter):
    """A segmenter that trains by its own tool, or that only measures something on the training cases."""

    @abstractmethod
    def fit(self, cases: Sequence[Case], target: Target, budget: Budget, folder: Path, seed: int) -> dict[str, Any]:
        """Train on the cases, leave a checkpoint in the existing empty folder, return figures for the log."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `fit` left. Raises UserError if it does not fit."""


@dataclass(frozen=True)
class Card:
    """What a reader must know before believing a row: origin, licences, size, training data.

    Attributes:
        training_data: dataset name → whether the released weights have seen it; "*" stands for any other name, and
            names without an entry are "unknown".
    """

    title: str
    paper: str = ""
    code_licence: str = ""
    weights_licence: str = ""
    parameters: str = ""
    training_data: Mapping[str, Seen] = field(default_factory=dict)
    notes: str = ""


@dataclass(frozen=True)
class Method:
    """A named contestant: code + configuration.

    Attributes:
        name: the word on the command line, such as "tags-tiny".
        summary: one line for `tags-bench methods`.
        factory: "module:callable"; called as `callable(config, device)` and returns a `Segmenter`.
        prompts: the prompt kinds it understands.
        training: "none", "bench" (the factory gives a `Trainable`) or "own" (an `OwnTraining`).
        config: default configuration, JSON-like; a suite may override single keys.
        search_space: knob → Tune domain in plain form: ["uniform", low, high], ["loguniform", low, high],
            ["randint", low, high] or ["choice", [one, other]].
        ablations: part → the settings that switch it off, for `tags-bench ablate`.
        floor: a reference floor, not a contestant.
        needs_checkpoint: works only with the official file named by `checkpoint` in its configuration; where that is
            empty, a run takes the file of the weights folder.
        files: the official files that it uses, for `tags-bench weights` and for a run.
        version: raised when the method's results would change; part of every record's identity.
    """

    name: str
    summary: str
    factory: str
    prompts: frozenset[PromptKind]
    training: Literal["none", "bench", "own"] = "none"
    config: Mapping[str, Any] = field(default_factory=dict)
    search_space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    ablations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    card: Card = field(default_factory=lambda: Card(title=""))
    floor: bool = False
    needs_checkpoint: bool = False
    files: tuple[WeightFile, ...] = ()
    version: str = "1"

    def build(self, config: Mapping[str, Any] | None = None, device: str = "cpu") -> Segmenter:
        """Import the factory and make the segmenter; keys of `config` override the defaults.

        Raises:
            UserError: a key that the method does not have.
        """
        module_name, _, attribute = self.factory.partition(":")
        factory = getattr(importlib.import_module(module_name), attribute)
        segmenter: Segmenter = factory(self.configured(config), device)
        return segmenter

    @property
    def file_settings(self) -> tuple[str, ...]:
        """The settings that may name a weights file."""
        return tuple(dict.fromkeys(("checkpoint", *(file.setting for file in self.files))))

    def configured(self, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The default configuration with `config` laid over it."""
        for key in config or {}:
            if key not in self.config:
                raise UserError(f"method '{self.name}' has no setting '{key}'; {nearest_name(key, self.config)}")
        return {**self.config, **(config or {})}


def methods() -> dict[str, Method]:
    """All installed methods by name, in the order floors last."""
    found: dict[str, Method] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        method = entry.load()
        if not isinstance(method, Method):
            raise TypeError(f"entry point {entry.name} = {entry.value} does not give a Method")
        if method.name != entry.name:
            raise ValueError(f"entry point {entry.name} gives a method named {method.name}")
        found[method.name] = method
    return dict(sorted(found.items(), key=lambda item: (item[1].floor, item[0])))


def method(name: str) -> Method:
    """The method of that name. Raises UserError with the nearest name."""
    known = methods()
    if name not in known:
        raise UserError(f"unknown method '{name}'; {nearest_name(name, known)}")
    return known[name]
