"""Files in the layouts of `sam2.1_hiera_large.pt` and `MedSAM2_latest.pt` with weights by a rule, without knowledge.

The network is built by the package `sam2`: these are made where it is installed.
"""

from __future__ import annotations

from pathlib import Path

import torch

from baselines.sam2.method import medsam2, sam2
from baselines.sam2.weights import build_predictor
from benchmarks.contestants import Method
from benchmarks.weights.stand_ins import by_rule


def write_sam2(path: Path, system: str) -> None:
    """SAM 2.1, large."""
    _write(path, sam2)


def write_medsam2(path: Path, system: str) -> None:
    """SAM 2.1, tiny."""
    _write(path, medsam2)


def _write(path: Path, method: Method) -> None:
    """The state dict under `model`, as the authors keep it."""
    network = build_predictor(method.config["size"], method.config["image_size"], "cpu")
    torch.save({"model": by_rule(network.state_dict())}, path)
