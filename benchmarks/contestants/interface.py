"""What a contestant implements.

    Method ──build──► Segmenter ──open(volume, target)──► Session ──segment(prompts)──► mask

Methods that learn are `Trainable` (the bench owns the loop) or `OwnTraining` (the method brings its own tool).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common.checkpoint import load_weights, save_weights
from benchmarks.common.errors import UserError
from benchmarks.data.preprocessing import Preprocessing
from benchmarks.data.target import Target
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.prompting.prompts import PromptKind, Prompts

if TYPE_CHECKING:
    import torch

    from benchmarks.data.dataset import Case


class Session(ABC):
    """A segmenter opened on one volume; `open` has computed whatever depends on the volume only."""

    @abstractmethod
    def segment(self, prompts: Prompts) -> BoolArray:
        """The mask on the volume's own grid, for all prompts given so far."""


class Segmenter(ABC):
    """A method ready to work: weights loaded, on a device.

    Attributes:
        prompts: the kinds it understands, as its `Method` announces them; `Method.build` sets it.
    """

    prompts: frozenset[PromptKind]

    @abstractmethod
    def open(self, volume: Volume, target: Target) -> Session:
        """Do once whatever depends on the volume only."""


@dataclass(frozen=True)
class Batch:
    """What the bench's training loop hands to a `Trainable`.

    Attributes:
        image: float32 (B, 1, X, Y, Z) on the device of the training, prepared as the method's `TrainingRecipe` says.
        label: float32 (B, 1, X, Y, Z) on the same device, 0 or 1.
        targets: B targets.
        generator: seeded source of randomness for sampling prompts; use no other. It lives on the CPU whatever the
            device, so that a step draws the same prompts everywhere: draw on the CPU, then move what was drawn.
        progress: share of the training budget that is spent, 0 to 1, for losses that change on the way.
    """

    image: torch.Tensor
    label: torch.Tensor
    targets: Sequence[Target]
    generator: torch.Generator
    progress: float


@dataclass(frozen=True)
class Augmentation:
    """How the bench changes a training crop at random; the same for image and label where it moves voxels.

    Attributes:
        flips: chance that each axis (x, y, z) is turned round; 0 keeps left and right, front and back, or head and
            foot apart.
        intensity_scale, intensity_shift: largest change by a factor 1 ± scale and by an offset ± shift, in units of
            the normalised intensity; 0 leaves intensities alone.
    """

    flips: tuple[float, float, float] = (0.5, 0.5, 0.5)
    intensity_scale: float = 0.1
    intensity_shift: float = 0.1


NO_AUGMENTATION = Augmentation(flips=(0.0, 0.0, 0.0), intensity_scale=0.0, intensity_shift=0.0)


@dataclass(frozen=True)
class TrainingRecipe:
    """How the bench trains a `Trainable`: its crops and its optimiser. How a scan is prepared is `Preprocessing`.

    Attributes:
        preprocessing: spacing and intensity of the crops; the same object as at inference.
        patch: voxels of a training crop (x, y, z), after preprocessing.
        fill: of what a crop shows beyond the scan, after preprocessing and unchanged by the augmentation, as the method
            fills it at inference; None for the scan's lowest value.
        batch_size: crops in a step on one worker.
        learning_rate, final_learning_rate: linear fall over the budget.
        warm_up: share of the budget over which the learning rate rises linearly first.
        weight_decay, gradient_clip: AdamW and the norm to which gradients are clipped.
        foreground: share of crops centred on a voxel of the target.
        deep: share of those that are centred deep inside a lesion, where a user clicks first; every lesion of a case
            is as likely as any other.
        mixed_precision: bf16 autocast where the device gains by it, fp16 with a scaled loss on a GPU without bf16.
        float16: whether the network's values stay within float16's range; if not, a GPU without bf16 has float32.
        accumulate: batches whose gradients are added up for one step.
        ema_decay: of an exponential moving average of the weights, which is then validated and kept instead of them;
            0 for none. Early in training the decay at step t is (1 + t) / (10 + t) where that is less.
        augmentation: what is changed in a crop at random.
        compile: backend of `torch.compile` for the forward pass of the module in training, such as "inductor"; "" for
            none. Its first steps take much of a short budget.
    """

    preprocessing: Preprocessing
    patch: tuple[int, int, int]
    batch_size: int = 2
    learning_rate: float = 4e-4
    final_learning_rate: float = 4e-6
    warm_up: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    foreground: float = 0.5
    deep: float = 0.0
    mixed_precision: bool = True
    float16: bool = True
    accumulate: int = 1
    ema_decay: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    compile: str = ""
    fill: float | None = None

    def __post_init__(self) -> None:
        """A clip of 0 would take every gradient away: no weight moves, and the training ends as if all were well."""
        if not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip is a norm above 0, not {self.gradient_clip}")


class Trainable(Segmenter):
    """A segmenter that the bench can train: it owns the network, the bench owns loop, data, budget, checkpoints.

    `Method.build` moves `module` to the device once the factory is done; nobody else has to.

    Attributes:
        module: everything that is saved, loaded and moved to the device.
        trained_here: whether the bench changes the weights, or has; its training says so before the first step.
    """

    module: torch.nn.Module
    trained_here: bool = False

    def plan(self, parts: Sequence[tuple[Target, Sequence[Case]]]) -> None:
        """Decide what follows from the training cases, such as the spacing; called once, before `recipe`.

        `parts` are the targets with their training cases: one, or several that are learned in turn.
        The decision has to be part of the checkpoint. By default there is none to make.
        """

    @abstractmethod
    def recipe(self, target: Target) -> TrainingRecipe:
        """What crops this method wants, and how its parameters are to be changed."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[torch.Tensor, Mapping[str, float | torch.Tensor]]:
        """The scalar to minimise, and named parts of it for the log.

        Give the parts as detached tensors: they are read only where the log needs them, and a step need not wait.
        """

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimiser may change; by default those that require a gradient."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def checkpoint_facts(self) -> dict[str, Any]:
        """What a checkpoint must share with the segmenter that reads it, JSON-like, such as the network's size."""
        return {}

    def save(self, folder: Path) -> None:
        """Write a checkpoint into an existing empty folder: by default the whole module (safetensors) and the facts."""
        save_weights(self.module, folder, self.checkpoint_facts())

    def load(self, folder: Path) -> None:
        """Read what `save` wrote into `module`, on whatever device it is. Raises UserError if it does not fit."""
        load_weights(self.module, folder, self.checkpoint_facts(), type(self).__name__)


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

    resumes = False
    """Whether `fit` goes on from what it left when it was cut off, and takes away itself what it cannot use."""

    @abstractmethod
    def fit(self, cases: Sequence[Case], target: Target, budget: Budget, folder: Path, seed: int) -> dict[str, Any]:
        """Train on the cases, leave a checkpoint in the existing folder, return figures for the log.

        The folder is empty; where the method `resumes`, it holds what the same training left when it was cut off.
        """

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what `fit` left. Raises UserError if it does not fit."""

    def without_training(self) -> str:
        """Make it usable with nothing fitted, for one scan by hand; what was assumed, in a line.

        Raises:
            UserError: there is nothing sensible to assume (the default).
        """
        raise UserError("it has to be trained first")
