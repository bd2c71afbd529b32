"""SAM-Med3D, announced to the bench (torch-free)."""

from __future__ import annotations

from benchmarks.common.weight_file import WeightFile
from benchmarks.contestants import Card, Method
from benchmarks.prompting.prompts import PromptKind

_PROMPTS = frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK})
_CONFIG = {
    "checkpoint": None,
    "size": "official",
    "precision": "auto",
    "spacing": 1.5,
    "clamp": True,
    "train": "decoder",
    "learning_rate": 8e-5,
    "seed": 0,
}
_SEARCH_SPACE = {"learning_rate": ["loguniform", 1e-5, 1e-3]}

# SHA-256: the file's page on Hugging Face (version of September 2024); size: public records that give both.
_FILE = WeightFile(
    name="sam_med3d_turbo.pth",
    page="https://huggingface.co/blueyo0/SAM-Med3D/blob/main/sam_med3d_turbo.pth",
    licence="Apache-2.0",
    url="https://huggingface.co/blueyo0/SAM-Med3D/resolve/main/sam_med3d_turbo.pth",
    bytes=402_163_626,
    checksum="sha256:899a46d04d3b70f723282ceb489149373558bf0aaba389a346f5ab57da5cdd3c",
    system="SAM-Med3D",
    check="baselines.checkpoints:official_file_problem",
)

sam_med3d = Method(
    name="sam-med3d",
    summary="SAM-Med3D (turbo) on a crop around the click; needs the official file",
    factory="baselines.sam_med3d.segmenter:SamMed3D",
    prompts=_PROMPTS,
    training="bench",
    version="2",
    needs_checkpoint=True,
    files=(_FILE,),
    config=_CONFIG,
    search_space=_SEARCH_SPACE,
    card=Card(
        title="SAM-Med3D (turbo)",
        paper="Wang et al., SAM-Med3D, arXiv 2310.15161",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        parameters="100.5 M",
        training_data={"kits21": "superset", "lits17": "superset", "msd-pancreas": "superset", "msd-colon": "superset"},
        notes=(
            "The authors' list of the 44 public sets behind the turbo weights names KiTS, KiTS2021, LiTS, MSD "
            "Pancreas, MSD Colon and MSD Liver, split in a way of their own; the training cases are not stated. "
            "See docs/methods/sam-med3d.md."
        ),
    ),
)

sam_med3d_tiny = Method(
    name="sam-med3d-tiny",
    summary="the classes of SAM-Med3D at a small size, trained from scratch by the bench",
    factory="baselines.sam_med3d.segmenter:SamMed3D",
    prompts=_PROMPTS,
    training="bench",
    version="2",
    config={**_CONFIG, "size": "tiny", "spacing": 2.25, "train": "all", "learning_rate": 2e-3},
    search_space=_SEARCH_SPACE,
    card=Card(
        title="SAM-Med3D, tiny",
        paper="the architecture of arXiv 2310.15161 at a small size",
        code_licence="Apache-2.0",
        weights_licence="none released; trained by the bench on the suite's training split",
        parameters="0.3 M",
        training_data={"*": "unseen"},
        notes="For the embedded suite and for tests. Says nothing about SAM-Med3D. See docs/methods/sam-med3d.md.",
    ),
)
