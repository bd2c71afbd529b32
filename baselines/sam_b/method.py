"""SAM-B, announced to the bench (torch-free)."""

from __future__ import annotations

from benchmarks.common.weight_file import WeightFile
from benchmarks.contestants import Card, Method
from benchmarks.prompting.prompts import PromptKind

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

# Size and SHA-256: Git LFS pointer in huggingface.co/mashb1t/misc (commit 78e1813); the same SHA-256 stands in
# micro-sam's `util.py` (github.com/computational-cell-analytics/micro-sam).
_FILE = WeightFile(
    name="sam_vit_b_01ec64.pth",
    page="https://github.com/facebookresearch/segment-anything#model-checkpoints",
    licence="Apache-2.0",
    url="https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
    bytes=375_042_383,
    checksum="sha256:ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    system="SAM-B",
    check="baselines.checkpoints:official_file_problem",
)

sam_b = Method(
    name="sam-b",
    summary="SAM ViT-B on axial slices, following the lesion from the clicked slice; needs the official file",
    factory="baselines.sam_b.segmenter:SamB",
    prompts=_PROMPTS,
    training="bench",
    version="2",
    needs_checkpoint=True,
    files=(_FILE,),
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
    version="2",
    config={
        **_CONFIG,
        "size": "tiny",
        "train": "all",
        "learning_rate": 1.5e-3,
        "batch_size": 8,
        "least_quality": 0.0,
    },
    search_space=_SEARCH_SPACE,
    card=Card(
        title="SAM-B, tiny",
        paper="the architecture of arXiv 2304.02643 at a small size",
        code_licence="Apache-2.0",
        weights_licence="none released; trained by the bench on the suite's training split",
        parameters="0.3 M",
        training_data={"*": "unseen"},
        notes="For the embedded suite and for tests. Says nothing about SAM-B. See docs/methods/sam-b.md.",
    ),
)
