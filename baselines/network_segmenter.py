"""What the wrappers of published networks share: settings, the official file or fresh weights, precision, checkpoints.

A wrapper says which network it is (`read_official`, `untrained`), what of it stays frozen (`freeze`), and then only how
a volume goes into it and comes out again.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from baselines.checkpoints import required_file
from benchmarks.common.errors import UserError, nearest_name
from benchmarks.contestants import Preprocessing, Trainable, TrainingRecipe, load_weights, save_weights
from benchmarks.contestants.precision import autocast_for
from benchmarks.data.preprocessing import Shape

PRECISIONS = ("auto", "float32", "bfloat16")
RANGES = {
    "training_batch": (1, 1e4),
    "warm_up": (0, 1),
    "weight_decay": (0, 1e4),
    "foreground": (0, 1),
    "dice_share": (0, 1),
    "ema": (0, 0.9999),
}


class NetworkSegmenter(Trainable):
    """A published network at its official size with its official file, or at a small size trained by the bench.

    Settings (keys of `config`) that every one of them has:
        checkpoint: path of the official file ("official"), or None. Other sizes take a folder written by `save`, from
            Python alone: a suite names files only.
        size: "official", or a smaller one of the same classes.
        precision: of the image encoder: "float32", "bfloat16", or "auto": on a GPU bfloat16, or float16
            where it has no bfloat16 of its own.
        train: what the bench's training may change.
        learning_rate: of the bench's training; it falls linearly to a hundredth.
        warm_up, weight_decay, foreground: see `TrainingRecipe`.
        training_batch: crops in a step of it.
        dice_share: Dice's share in its loss, the rest is cross-entropy.
        ema: decay of the moving average of the weights that is kept in the end; 0 for none.
        seed: of fresh weights.

    Attributes:
        system: name for messages.
        choices: settings that allow certain words only.
        identity: settings that a checkpoint of ours must share with the segmenter that reads it.
        trained_here: whether the weights are the bench's own rather than the official file's, or fresh ones.

    Raises:
        UserError: an unknown word, no official file for the official size, or a file that does not fit.
    """

    system: ClassVar[str]
    choices: ClassVar[Mapping[str, tuple[str, ...]]]
    identity: ClassVar[tuple[str, ...]] = ("size",)

    def __init__(self, config: Mapping[str, Any], device: str) -> None:
        self.config = dict(config)
        for key, known in {**self.choices, "precision": PRECISIONS}.items():
            if config[key] not in known:
                hint = nearest_name(str(config[key]), known)
                raise UserError(f"{self.system} has no {key} '{config[key]}'; {hint}")
        for key, (low, high) in RANGES.items():
            if not low <= config[key] <= high:
                raise UserError(f"{self.system}: {key} lies between {low:g} and {high:g}, not at {config[key]}")
        self.device = torch.device(device)
        self.trained_here = False
        if config["size"] == "official":
            self.module = self.read_official()
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(config["seed"]))
                self.module = self.untrained()
            if config["checkpoint"] is not None:
                self.load(Path(config["checkpoint"]))
        self.freeze()
        self.module.eval()

    @abstractmethod
    def read_official(self) -> torch.nn.Module:
        """The network with the weights of the official file, on the CPU."""

    @abstractmethod
    def untrained(self) -> torch.nn.Module:
        """The network at the size of the settings with fresh weights."""

    @abstractmethod
    def freeze(self) -> None:
        """Take the gradient from the parameters that the setting `train` leaves alone."""

    def official_file(self, method: str, file_name: str, source: str) -> Path:
        """The official file's path; raises UserError that says which file, and where it is released."""
        return required_file(self.config["checkpoint"], method, file_name, source)

    def half_precision(self) -> torch.autocast:
        """For the image encoder: bfloat16 where the settings ask for it; by default what the training has."""
        return autocast_for(self.device.type, self.config["precision"])

    def training_recipe(self, preprocessing: Preprocessing, patch: Shape, **rest: Any) -> TrainingRecipe:
        """The recipe of the settings; `rest` are further fields."""
        chosen: dict[str, Any] = {
            key: float(self.config[key]) for key in ("learning_rate", "warm_up", "weight_decay", "foreground")
        }
        return TrainingRecipe(
            preprocessing,
            patch,
            batch_size=int(self.config["training_batch"]),
            final_learning_rate=chosen["learning_rate"] / 100,
            ema_decay=float(self.config["ema"]),
            **chosen,
            **rest,
        )

    def save(self, folder: Path) -> None:
        """As every `Trainable`; weights that nobody has changed say so, since they want scans as without a training."""
        untouched = {} if self.trained_here else {"trained_here": False}
        save_weights(self.module, folder, self.checkpoint_facts() | untouched)

    def load(self, folder: Path) -> None:
        facts = load_weights(self.module, folder, self.checkpoint_facts(), self.system)
        self.trained_here = bool(facts.get("trained_here", True))

    def checkpoint_facts(self) -> dict[str, Any]:
        return {"system": self.system} | {key: self.config[key] for key in self.identity}
