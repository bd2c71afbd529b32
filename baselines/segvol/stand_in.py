"""A file in the layout of `SegVol_v1.pth` with weights by a rule."""

from __future__ import annotations

from pathlib import Path

import torch

from baselines.segvol.network import SIZES, SegVol
from benchmarks.weights.stand_ins import by_rule

POSITION_IDS = "module.text_encoder.clip_text_model.text_model.embeddings.position_ids"


def write(path: Path, system: str) -> None:
    """The state dict as DataParallel names it, with the index that transformers stored then."""
    with torch.device("meta"):
        own = SegVol(SIZES["official"]).state_dict()
    state = by_rule({f"module.{key}": value for key, value in own.items()})
    state[POSITION_IDS] = torch.arange(77)[None]
    torch.save({"model": state, "optimizer": {}, "scheduler": {}, "epoch": 0}, path)
