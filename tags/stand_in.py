"""CLIP files in open_clip's layout with weights by a rule, for rehearsals."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.weights.stand_ins import by_rule
from tags.semantic import build_clip


def write_clip(path: Path, system: str) -> None:
    """The state dict of the CLIP of that open_clip name, in safetensors."""
    with torch.device("meta"):
        state = build_clip(system).state_dict()
    save_file({key: value.contiguous() for key, value in by_rule(state).items()}, path)
