"""What the model needs of a target: its words, and the ends of its window."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from benchmarks.contestants import Target
from tags.anatomy import ORGAN_DESCRIPTIONS, Anatomy

ONE_SIDED = frozenset(
    ("liver", "pancreas", "colon", "stomach", "spleen", "heart", "aorta", "gallbladder", "duodenum", "esophagus")
)  # organs that lie on one side of the body or run across it, so that a mirrored body is no body


def anatomy_of(target: Target) -> Anatomy:
    """Organ and lesion in words."""
    return target.organ, target.lesion


def anatomy_of_text(text: str, target: Target) -> Anatomy:
    """Organ and lesion of a text prompt: those of the target if it says no more, else by the organs that are known."""
    said = " ".join(text.lower().split())
    if said == target.text.lower():
        return anatomy_of(target)
    organ = next((name for name in ORGAN_DESCRIPTIONS if said == name or said.startswith(f"{name} ")), "")
    return organ, said.removeprefix(organ).strip()


def bounds_of(targets: Iterable[Target]) -> Tensor:
    """(B, 2): the normalised values of the ends of each target's window."""
    return torch.tensor([[(end - t.mean) / t.std for end in t.window] for t in targets], dtype=torch.float32)


def flips_of(target: Target) -> tuple[float, float, float]:
    """Chance that each axis of a crop may be turned round: left and right of a paired organ, never up and down."""
    return (0.0 if target.organ.lower() in ONE_SIDED else 0.5, 0.0, 0.0)
