"""The CLIP-driven Universal Model, announced to the bench (torch-free)."""

from __future__ import annotations

from benchmarks.common.weight_file import WeightFile
from benchmarks.contestants import Card, Method, Seen
from benchmarks.prompting.prompts import PromptKind

_PROMPTS = frozenset({PromptKind.NONE})
_CONFIG = {
    "checkpoint": None,
    "size": "official",
    "backbone": "swinunetr",
    "postprocess": "official",
    "spacing": 1.5,
    "precision": "auto",
    "train": "all",
    "learning_rate": 1e-4,
    "seed": 0,
}
_SEARCH_SPACE = {"learning_rate": ["loguniform", 1e-5, 1e-2]}
_PAPER = "Liu et al., CLIP-Driven Universal Model, arXiv 2301.00785 (ICCV 2023)"
_LICENCE = "CC BY-NC-ND 4.0"
_SEEN: dict[str, Seen] = {
    "kits21": "trained-on", "lits17": "trained-on", "msd-pancreas": "trained-on", "msd-colon": "trained-on",
}  # fmt: skip
_NOTES = (
    "Trained on the public training cases of KiTS, LiTS and MSD (liver, pancreas, colon and others), so no result on "
    "them is zero-shot. Automatic: no prompt is used, the target names one of 32 classes. Our code is written from the "
    "paper and from tensor shapes; the weights' licence forbids commercial use. See docs/methods/universal.md."
)

_NOTE = "Universal Model: the word embeddings (txt_encoding.pth) are inside the file; nothing else is needed."


def _file(name: str, system: str, checksum: str = "") -> WeightFile:
    return WeightFile(
        name=name,
        page="https://huggingface.co/ljwztc/CLIP-Driven-Universal-Model",
        licence=_LICENCE,
        url=f"https://huggingface.co/ljwztc/CLIP-Driven-Universal-Model/resolve/main/{name}",
        checksum=checksum,
        note=_NOTE,
        system=system,
        check="baselines.checkpoints:official_file_problem",
    )


# MD5: the one that kaiko-ai/eva checks when it downloads this address; nothing is published for the U-Net.
_SWIN_FILE = _file(
    "clip_driven_universal_swin_unetr.pth", "Universal Model (Swin UNETR)", "md5:1ad7a68e904cee85141b05c6bf646ace"
)
_UNET_FILE = _file("clip_driven_universal_unet.pth", "Universal Model (U-Net)")

universal_swin = Method(
    name="universal-swinunetr",
    summary="CLIP-driven Universal Model with Swin UNETR, automatic; needs the official file",
    factory="baselines.universal.segmenter:UniversalSegmenter",
    prompts=_PROMPTS,
    training="bench",
    version="2",
    needs_checkpoint=True,
    files=(_SWIN_FILE,),
    config=_CONFIG,
    search_space=_SEARCH_SPACE,
    card=Card(
        title="CLIP-driven Universal Model (Swin UNETR)",
        paper=_PAPER,
        code_licence=_LICENCE,
        weights_licence=_LICENCE,
        parameters="62.6 M",
        training_data=_SEEN,
        notes=_NOTES,
    ),
)

universal_unet = Method(
    name="universal-unet",
    summary="CLIP-driven Universal Model with a U-Net, automatic; needs the official file",
    factory="baselines.universal.segmenter:UniversalSegmenter",
    prompts=_PROMPTS,
    training="bench",
    version="2",
    needs_checkpoint=True,
    files=(_UNET_FILE,),
    config={**_CONFIG, "backbone": "unet"},
    search_space=_SEARCH_SPACE,
    card=Card(
        title="CLIP-driven Universal Model (U-Net)",
        paper=_PAPER,
        code_licence=_LICENCE,
        weights_licence=_LICENCE,
        parameters="19.4 M",
        training_data=_SEEN,
        notes=_NOTES,
    ),
)

universal_tiny = Method(
    name="universal-tiny",
    summary="the Universal Model's U-Net and heads at a small size, trained from scratch by the bench",
    factory="baselines.universal.segmenter:UniversalSegmenter",
    prompts=_PROMPTS,
    training="bench",
    version="2",
    config={
        **_CONFIG, "size": "tiny", "backbone": "unet", "postprocess": "none", "spacing": 4.0, "learning_rate": 2e-3,
    },
    search_space=_SEARCH_SPACE,
    card=Card(
        title="Universal Model, tiny",
        paper="the architecture of arXiv 2301.00785 at a small size",
        code_licence="Apache-2.0",
        weights_licence="none released; trained by the bench on the suite's training split",
        parameters="0.3 M",
        training_data={"*": "unseen"},
        notes=(
            "For the embedded suite and for tests; random class embeddings in place of CLIP's. Says nothing about the "
            "Universal Model. See docs/methods/universal.md."
        ),
    ),
)  # fmt: skip
