"""The TAGS methods by name. Importing this loads no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.contestants import Card, Method, PromptKind, Seen, ZooTraining
from tags.config import check, defaults
from tags.official import files_of
from tags.search_space import search_space

PROMPTS = frozenset(PromptKind)
INFERENCE_SETTINGS = (
    "threshold",
    "search_view",
    "overlap",
    "part_share",
    "box_prior",
    "widest",
    "mirror",
    "cached_views",
)
ABLATIONS: dict[str, dict[str, Any]] = {
    "adapters": {"adapters": False},
    "semantic guidance": {"semantic": False},
    "anatomy prompts": {"anatomy": False},
    "multi-prompt fusion": {"fusion": "none"},
    "the fusion's gates": {"fusion": "concat"},
    "the prompt pyramid": {"pyramid": False},
    "wider views": {"widest": 1.0},
    "the moving average": {"ema": 0.0},
}
PAPER = "Li, Peng, Zhang, Durak, Bagci: 3D Tumor-Adaptive Guidance for SAM. arXiv 2505.17096"
NOTES = (
    "An independent implementation of the published abstract; nothing of the authors' own repository was used. "
    "What the authors state and what is this project's decision is listed in docs/methods/tags.md."
)


def _method(
    size: str, summary: str, parameters: str, weights_licence: str, training_data: dict[str, Seen], notes: str
) -> Method:
    config = defaults(size)
    return Method(
        name=f"tags-{size}",
        summary=summary,
        factory="tags.segmenter:TagsSegmenter",
        prompts=PROMPTS,
        reads_words=True,
        training="bench",
        config=config,
        inference_settings=INFERENCE_SETTINGS,
        later_settings=("augment_intensity",),
        files=files_of(size, str(config["clip"]), str(config["clip_weights"])),
        search_space=search_space(size),
        ablations=ABLATIONS,
        check=check,
        version="7",
        trained_as="5",  # since then: what is done with a given mask, a nearer view and a very wide one
        card=Card(
            title=f"TAGS ({size})",
            paper=PAPER,
            code_licence="Apache-2.0",
            weights_licence=weights_licence,
            parameters=parameters,
            training_data=training_data,
            notes=f"{NOTES} {notes}",
        ),
    )


TOWERS = "SAM: Apache-2.0; CLIP: MIT"
MADE_HERE: dict[str, Seen] = {"*": "unseen"}
PHOTOGRAPHS: dict[str, Seen] = dict.fromkeys(("kits21", "msd-pancreas", "lits17", "msd-colon"), "unseen")

tags_tiny = _method(
    "tiny",
    "TAGS at a size for tests and CPUs; small towers of its own, no pre-trained weights",
    "1.2 M, of which 0.4 M trained",
    "none used",
    MADE_HERE,
    "The small SAM-like backbone is trained from scratch and the CLIP towers are random and frozen: "
    "this size shows that the parts work together, not what pre-training brings.",
)
tags_tiny = replace(tags_tiny, zoo=ZooTraining("tags", 2500, joint=False))
tags_vit_b = _method(
    "vit-b", "TAGS on SAM ViT-B and CLIP ViT-B/16", "262 M, of which 24 M trained", TOWERS, PHOTOGRAPHS, ""
)
tags_vit_l = _method(
    "vit-l", "TAGS on SAM ViT-L and CLIP ViT-L/14", "766 M, of which 31 M trained", TOWERS, PHOTOGRAPHS, ""
)
tags_vit_h = _method(
    "vit-h", "TAGS on SAM ViT-H and CLIP ViT-L/14", "1109 M, of which 45 M trained", TOWERS, PHOTOGRAPHS, ""
)
