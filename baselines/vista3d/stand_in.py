"""A file in the layout of the bundle's `model.pt` with weights by a rule."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks.nets import vista3d132

from benchmarks.weights.stand_ins import by_rule


def write(path: Path, system: str) -> None:
    """The state dict of MONAI's network, as the bundle keeps it."""
    torch.save(by_rule(vista3d132(in_channels=1).state_dict()), path)
