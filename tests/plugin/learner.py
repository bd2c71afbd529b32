"""A method whose training can be followed by hand: a linear regression from a crop to its share of foreground.

loss = mean over crops of (w · x + b - t)², with x the voxels of the crop and t the share of its label that is 1;
its gradient is 2 / B Σ (w · x + b - t) x.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import Batch, Session, Target, Trainable, TrainingRecipe
from benchmarks.data.preprocessing import Preprocessing, prepare
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.prompting.prompts import PromptKind, Prompts

PATCH = (8, 8, 4)


class Learner(Trainable):
    """257 parameters in float64.

    Settings: those of the recipe; `dropout` of the voxels; and faults for tests of those who run a training, each of
    which happens once, until the file `marker` exists: `die_in_loss` and `hang_in_loss` count calls of `loss`; every
    one of these takes `pause` seconds more.
    """

    prompts = frozenset({PromptKind.NONE, PromptKind.CLICK})

    def __init__(self, config: dict[str, Any], device: str) -> None:
        self.config, self.device, self.calls = config, device, 0
        self.module = torch.nn.Linear(PATCH[0] * PATCH[1] * PATCH[2], 1, dtype=torch.float64, device=device)

    def recipe(self, target: Target) -> TrainingRecipe:
        names = ("batch_size", "learning_rate", "final_learning_rate", "warm_up", "weight_decay", "gradient_clip",
                 "accumulate", "ema_decay", "compile")  # fmt: skip
        chosen = {name: self.config[name] for name in names}
        return TrainingRecipe(Preprocessing(None, (-200.0, 300.0), 0.0, 100.0), PATCH, **chosen)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.calls += 1
        self._fail_once()
        time.sleep(self.config["pause"])
        voxels = torch.nn.functional.dropout(batch.image.double().flatten(1), self.config["dropout"])
        share = batch.label.double().flatten(1).mean(1)
        loss = (self.module(voxels)[:, 0] - share).square().mean()
        return loss, {"square": loss.detach()}

    def _fail_once(self) -> None:
        if not self.config["marker"] or Path(self.config["marker"]).exists():
            return
        if self.calls == self.config["die_in_loss"]:
            Path(self.config["marker"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.calls == self.config["hang_in_loss"]:
            Path(self.config["marker"]).touch()
            time.sleep(600)

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        save_file(self.module.state_dict(), folder / "weights.safetensors")

    def load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self.module.load_state_dict(load_file(folder / "weights.safetensors"))

    def open(self, volume: Volume, target: Target) -> Session:
        return LearnerSession(self, volume, target)


class LearnerSession(Session):
    """Everything that is brighter than the network's offset."""

    def __init__(self, segmenter: Learner, volume: Volume, target: Target) -> None:
        self.segmenter, self.prepared = segmenter, prepare(volume, segmenter.recipe(target).preprocessing)

    def segment(self, prompts: Prompts) -> BoolArray:
        bright = self.prepared.array > float(self.segmenter.module.bias)
        return self.prepared.to_native_mask(bright.astype("float32"))


def build(config: dict[str, Any], device: str) -> Learner:
    return Learner(config, device)
