"""SAM-Med2D, announced to the bench (torch-free)."""

from __future__ import annotations

from benchmarks.common.weight_file import WeightFile
from benchmarks.contestants import Card, Method
from benchmarks.prompting.prompts import PromptKind

_PROMPTS = frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK, PromptKind.BOX})
_CONFIG = {
    "checkpoint": None,
    "size": "official",
    "precision": "auto",
    "batch_size": 8,
    "least_quality": 0.5,
    "reach": 1.0,
    "train": "decoder",
    "learning_rate": 1e-4,
    "seed": 0,
}
_SEARCH_SPACE = {"learning_rate": ["loguniform", 1e-5, 1e-3], "reach": ["uniform", 0.5, 2.0]}

_FILE = WeightFile(
    name="sam-med2d_b.pth",
    page="https://drive.google.com/file/d/1ARiB5RkSsWmAB_8mqWnwDF8ZKTtFwsjl/view",  # linked in the authors' README
    licence="Apache-2.0",
    note=(
        "SAM-Med2D: the authors release it on Google Drive (and Baidu) only, which asks for a click; the page is "
        "linked in github.com/OpenGVLab/SAM-Med2D. A contributor's copy is at huggingface.co/schengal1/SAM-Med2D_model "
        "(2.56 GB); whether it is the same file was not checked here."
    ),
    system="SAM-Med2D",
    check="baselines.checkpoints:official_file_problem",
)

sam_med2d = Method(
    name="sam-med2d",
    summary="SAM-Med2D on axial slices, following the lesion from the clicked slice; needs the official file",
    factory="baselines.sam_med2d.segmenter:SamMed2D",
    prompts=_PROMPTS,
    training="bench",
    version="2",
    needs_checkpoint=True,
    files=(_FILE,),
    config=_CONFIG,
    search_space=_SEARCH_SPACE,
    card=Card(
        title="SAM-Med2D",
        paper="Cheng et al., SAM-Med2D, arXiv 2308.16184",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        parameters="271.2 M",
        training_data={"kits21": "superset", "lits17": "superset", "msd-pancreas": "superset", "msd-colon": "superset"},
        notes=(
            "Released weights were trained on SA-Med2D-20M, whose public files come from KiTS, KiTS2021, MSD "
            "Pancreas, MSD Colon and MSD Liver (the scans of LiTS) among others; the training cases are not stated. "
            "See docs/methods/sam-med2d.md."
        ),
    ),
)

sam_med2d_tiny = Method(
    name="sam-med2d-tiny",
    summary="the classes of SAM-Med2D at a small size, trained from scratch by the bench",
    factory="baselines.sam_med2d.segmenter:SamMed2D",
    prompts=_PROMPTS,
    training="bench",
    version="2",
    config={**_CONFIG, "size": "tiny", "train": "all", "learning_rate": 1.5e-3, "least_quality": 0.0},
    search_space=_SEARCH_SPACE,
    card=Card(
        title="SAM-Med2D, tiny",
        paper="the architecture of arXiv 2308.16184 at a small size",
        code_licence="Apache-2.0",
        weights_licence="none released; trained by the bench on the suite's training split",
        parameters="0.5 M",
        training_data={"*": "unseen"},
        notes="For the embedded suite and for tests. Says nothing about SAM-Med2D. See docs/methods/sam-med2d.md.",
    ),
)
