"""Files in the layout of nnInteractive 1.0 with weights by a rule; they carry no knowledge.

Names and numbers are those of the release: nnU-Net's ResEnc L, patches of 192³, no resampling, the scan and seven
channels of interactions in, background and object out: 102 million parameters, as published.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from baselines.nnunet_stand_in import Size, checkpoint, described, network_by_rule, plans

TRAINER = "nnInteractiveTrainer_stub"
CONFIGURATION = "3d_fullres_ps192_bs24"
SIZE = Size((192, 192, 192), (1.25, 1.0, 1.0), residual=True)
INPUTS, OUTPUTS = 1 + 7, 2


def write_checkpoint(path: Path, system: str) -> None:
    """fold_0/checkpoint_final.pth."""
    torch.save(checkpoint(network_by_rule(SIZE, INPUTS, OUTPUTS), TRAINER, CONFIGURATION), path)


def write_plans(path: Path, system: str) -> None:
    """plans.json."""
    name = "nnUNetResEncUNetLPlans_noResampling"
    _write(path, plans("Dataset225_nnInteractiveV2", name, CONFIGURATION, SIZE, "ZScoreNormalization"))


def write_dataset(path: Path, system: str) -> None:
    """dataset.json."""
    _write(path, described(["object"], "image"))


def write_session(path: Path, system: str) -> None:
    """inference_session_class.json: the settings that the package reads from it."""
    _write(path, {"point_radius": 4, "interaction_decay": 0.9})


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
