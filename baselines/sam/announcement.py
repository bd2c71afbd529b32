"""What the announcements of the two systems that drive a volume slice by slice share (torch-free)."""

from __future__ import annotations

from benchmarks.contestants import PromptKind

SLICE_PROMPTS = frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK, PromptKind.BOX})
SLICE_INFERENCE = ("precision", "batch_size", "least_quality", "reach")
SLICE_SEARCH_SPACE = {"learning_rate": ["loguniform", 1e-5, 1e-3], "reach": ["uniform", 0.5, 2.0]}
