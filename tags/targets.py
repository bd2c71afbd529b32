"""What the model needs of a target: its words, and the ends of its window."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.contestants import Target
from tags.anatomy import Anatomy


def anatomy_of(target: Target) -> Anatomy:
    """Organ and lesion in words."""
    return target.organ, target.lesion


def bounds_of(targets: Iterable[Target]) -> Tensor:
    """(B, 2): the normalised values of the ends of each target's window."""
    return torch.tensor([[(end - t.mean) / t.std for end in t.window] for t in targets], dtype=torch.float32)
