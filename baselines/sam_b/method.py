"""SAM-B, announced to the bench (torch-free)."""

from __future__ import annotations

from benchmarks.prompts import PromptKind
from benchmarks.segmenter import Card, Method

_PROMPTS = frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK, PromptKind.BOX})
_CONFIG = {
    "checkpoint": None,
    "size": "official",
    "precision": "auto",
    "batch_size": 4,
    "least_quality": 0.5,
    "reach": 1.0,
    "train": "decoder",
    "learning_rate": 1e-4,
    "seed": 0,
}
_SEARCH_SPACE = {"learning_rate": ["loguniform", 1e-5, 1e-3], "reach": ["uniform", 0.5, 2.0]}

sam_b = Method(
    name="sam-b",
    summary="SAM ViT-B on axial slices, following the lesion from the clicked slice; needs the official file",
    factory="baselines.sam_b.segmenter:SamB",
    prompts=_PROMPTS,
    training="bench",
    needs_checkpoint=True,
    config=_CONFIG,
    search_space=_SEARCH_SPACE,
    card=Card(
        title="Segment Anything, ViT-B",
        paper="Kirillov et al., Segment Anything, ICCV 2023 (arXiv 2304.02643)",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        parameters="93.7 M",
        training_data={"kits21": "unseen", "msd-pancreas": "unseen", "lits17": "unseen", "msd-colon": "unseen"},
        notes="Released weights were trained on SA-1B: photographs, no CT. See docs/methods/sam-b.md.",
    ),
)

sam_b_tiny = Method(
    name="sam-b-tiny",
    summary="the classes of SAM-B at a small size, trained from scratch by the bench",
    factory="baselines.sam_b.segmenter:SamB",
    prompts=_PROMPTS,
    training="bench",
    config={**_CONFIG, "size": "tiny", "train": "all", "learning_rate": 1e-3, "batch_size": 8},
    search_space=_SEARCH_SPACE,
    card=Card(
        title="SAM-B, tiny",
        paper="the architecture of arXiv 2304.02643 at a small size",
        code_licence="Apache-2.0",
        weights_licence="none released; trained by the bench on the suite's training split",
        parameters="0.4 M",
        training_data={"*": "unseen"},
        notes="For the embedded suite and for tests. Says nothing about SAM-B. See docs/methods/sam-b.md.",
    ),
)
