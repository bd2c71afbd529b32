"""SegVol, announced to the bench (torch-free)."""

from __future__ import annotations

from baselines.announcement import TRAINING, TinySize, network_settings, network_space, official_file
from benchmarks.contestants import Card, Method, PromptKind

_PROMPTS = frozenset({PromptKind.TEXT, PromptKind.CLICK, PromptKind.NEGATIVE_CLICK, PromptKind.BOX})
_PROMPTING = {"training_clicks": 3, "negative_click": 0.5, "box_jitter": 1, "zoomed_out": 0.5}
_CONFIG = network_settings(
    "decoder", 1e-4, zoom_in=True, zoom_to_clicks=False, orientation="file", window=None,
    training_batch=4, foreground=0.9, **_PROMPTING,
)  # fmt: skip
_KNOBS = {
    "training_clicks": ["randint", 1, 7],
    "negative_click": ["uniform", 0.0, 0.9],
    "box_jitter": ["randint", 0, 5],
    "zoomed_out": ["uniform", 0.2, 0.8],
}

# Size and SHA-256: Git LFS pointer in commit f015217 of huggingface.co/BAAI/SegVol. Later versions of that
# repository hold the weights in another layout (pytorch_model.bin), so the address names the version.
_FILE = official_file(
    name="SegVol_v1.pth",
    page="https://huggingface.co/BAAI/SegVol/tree/f7b86a9d7abb4c8a0d5069ce7af81357b7ab1acc",
    licence="MIT",
    url="https://huggingface.co/BAAI/SegVol/resolve/f7b86a9d7abb4c8a0d5069ce7af81357b7ab1acc/SegVol_v1.pth",
    bytes=1_660_308_695,
    note="SegVol: MIT is the licence of its repository, which links the file. The page of the file names none of its "
    "own, so MIT is taken to hold for the weights as well.",
    checksum="sha256:b751dc95f1a0c0c6086c1e6fa7f8a17bbb87635e5226e15f5d156fbd364dbb85",
    system="SegVol",
    stand_in="baselines.segvol.stand_in:write",
)

segvol = Method(
    name="segvol",
    summary="SegVol with text, clicks and box, zoom-out then zoom-in; needs the official file",
    factory="baselines.segvol.segmenter:SegVolSegmenter",
    prompts=_PROMPTS,
    training="bench",
    version="3",
    needs_checkpoint=True,
    files=(_FILE,),
    config=_CONFIG,
    inference_settings=("precision", "zoom_in", "zoom_to_clicks", "orientation"),
    later_settings=(*TRAINING, *_PROMPTING),
    search_space=network_space(_CONFIG, "decoder", **_KNOBS),
    card=Card(
        title="SegVol",
        paper="Du et al., SegVol, arXiv 2311.13385 (NeurIPS 2024)",
        code_licence="MIT",
        weights_licence="MIT",
        parameters="180.9 M (63.6 M of them the frozen text tower and its projection)",
        training_data={"kits21": "superset", "lits17": "superset", "msd-pancreas": "superset", "msd-colon": "superset"},
        notes=(
            "The paper trains on 25 public CT sets, KiTS, LiTS and MSD among them, with its own split of their "
            "labelled cases; which cases is not stated in a form that can be checked here. Its demonstration of the "
            "point mode draws 4 positive and 3 negative clicks from the label; here clicks are those of the protocol. "
            "See docs/methods/segvol.md."
        ),
    ),
)

segvol_tiny = TinySize(
    name="segvol-tiny",
    system="SegVol",
    paper="arXiv 2311.13385",
    page="segvol",
    parameters="1.0 M, of which 0.8 M frozen random text features",
    knobs=_KNOBS,
    zoo_steps=10000,
    config={
        "training_batch": 2,
        "orientation": "ras",
        "train": "all",
        "learning_rate": 2e-3,
        "ema": 0.99,
        "zoomed_out": 0.4,
        "window": [-100.0, 250.0],
        "zoom_to_clicks": True,
    },
).of(segvol)
