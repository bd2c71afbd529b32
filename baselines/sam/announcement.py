"""What the announcements of the two systems that drive a volume slice by slice share (torch-free)."""

from __future__ import annotations

from baselines.announcement import TRAINING
from benchmarks.contestants import PromptKind

SLICE_PROMPTS = frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK, PromptKind.BOX})
SLICE_INFERENCE = ("precision", "batch_size", "least_quality", "reach")
SLICE_TRAINING = {"box_jitter": 2, "corrections": 1}
SLICE_KNOBS = {"box_jitter": ["randint", 0, 6], "corrections": ["randint", 0, 4], "reach": ["uniform", 0.5, 2.0]}
SLICE_LATER = (*TRAINING, *SLICE_TRAINING)
