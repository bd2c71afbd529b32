"""Files in the layouts of the Universal Model's two with weights by a rule."""

from __future__ import annotations

from pathlib import Path

import torch

from baselines.universal.network import SIZES, SYSTEMS, Backbone, UniversalModel
from benchmarks.weights.stand_ins import by_rule


def write(path: Path, system: str) -> None:
    """The state dict under `net`; the keys of the Swin UNETR stand there without `backbone.`."""
    backbone: Backbone = "swinunetr" if system == SYSTEMS["swinunetr"] else "unet"
    own = UniversalModel(backbone, SIZES["official"]).state_dict()
    drop = "backbone." if backbone == "swinunetr" else ""
    state = by_rule({f"module.{key.removeprefix(drop)}": value for key, value in own.items()})
    torch.save({"net": state, "optimizer": {}, "scheduler": {}, "epoch": 0}, path)
