"""The CLIP-driven Universal Model, announced to the bench (torch-free)."""

from __future__ import annotations

from dataclasses import replace

from baselines.announcement import TRAINING, TinySize, network_settings, network_space, official_file
from benchmarks.contestants import Card, Method, PromptKind, Seen, WeightFile

_PROMPTS = frozenset({PromptKind.NONE, PromptKind.TEXT})
_CONFIG = network_settings(
    "all", 1e-4, weight_decay=1e-5, foreground=0.67, backbone="swinunetr", postprocess="official", spacing=1.5
)
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
    return official_file(
        name=name,
        page="https://huggingface.co/ljwztc/CLIP-Driven-Universal-Model",
        licence=_LICENCE,
        url=f"https://huggingface.co/ljwztc/CLIP-Driven-Universal-Model/resolve/main/{name}",
        checksum=checksum,
        note=_NOTE,
        stand_in="baselines.universal.stand_in:write",
        system=system,
        restricted=True,
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
    reads_words=True,
    training="bench",
    version="3",
    needs_checkpoint=True,
    files=(_SWIN_FILE,),
    config=_CONFIG,
    inference_settings=("precision", "postprocess"),
    later_settings=tuple(TRAINING),
    search_space=network_space(_CONFIG, "heads"),
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

universal_unet = replace(
    universal_swin,
    name="universal-unet",
    summary="CLIP-driven Universal Model with a U-Net, automatic; needs the official file",
    files=(_UNET_FILE,),
    config={**_CONFIG, "backbone": "unet"},
    card=replace(universal_swin.card, title="CLIP-driven Universal Model (U-Net)", parameters="19.4 M"),
)

universal_tiny = TinySize(
    name="universal-tiny",
    system="the Universal Model",
    paper="arXiv 2301.00785",
    page="universal",
    parameters="0.3 M",
    version="4",
    zoo_steps=4000,
    config={
        "postprocess": "none",
        "spacing": 3.5,
        "learning_rate": 5e-3,
        "foreground": 0.5,
        "dice_share": 0.8,
        "ema": 0.99,
    },
    what="the Universal Model's U-Net and heads",
    note="random class embeddings in place of CLIP's",
).of(universal_unet)
