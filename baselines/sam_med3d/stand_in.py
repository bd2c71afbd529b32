"""A file in the layout of `sam_med3d_turbo.pth` with weights by a rule."""

from __future__ import annotations

from pathlib import Path

import torch

from baselines.sam.network import Sam
from baselines.sam_med3d.segmenter import SIZES
from benchmarks.weights.stand_ins import by_rule


def write(path: Path, system: str) -> None:
    """The state dict beside what a training leaves."""
    with torch.device("meta"):
        state = Sam(SIZES["official"]).state_dict()
    torch.save({"model_state_dict": by_rule(state), "epoch": 0, "losses": [], "dices": []}, path)
