"""nnInteractive, announced to the bench (torch-free)."""

from __future__ import annotations

from baselines.announcement import CHECK
from benchmarks.contestants import Card, Environment, Method, PromptKind, WeightFile

LICENCE = "CC BY-NC-SA 4.0"
_PAGE = "https://huggingface.co/MIC-DKFZ/nnInteractive"
_FOLDER = f"{_PAGE}/resolve/main/nnInteractive_v1.0"
_CHECK = "baselines.nninteractive.model:json_problem"


def _part(name: str, setting: str, system: str = "nnInteractive", check: str = _CHECK) -> WeightFile:
    """A file of the released folder, under a name of its own; no checksum is published beside them."""
    return WeightFile(
        name=f"nninteractive-1.0-{name.rpartition('/')[2]}",
        page=_PAGE,
        licence=LICENCE,
        url=f"{_FOLDER}/{name}",
        upstream=f"nnInteractive_v1.0/{name}",
        restricted=True,
        setting=setting,
        system=system,
        check=check,
        stand_in=f"baselines.nninteractive.stand_in:write_{setting}",
    )


FILES = (
    _part("fold_0/checkpoint_final.pth", "checkpoint", "nnU-Net", CHECK),  # its format; the plans say the rest
    _part("plans.json", "plans"),
    _part("dataset.json", "dataset"),
    _part("inference_session_class.json", "session"),
)

nninteractive = Method(
    name="nninteractive",
    summary="nnInteractive (package nninteractive): clicks, box and mask in 3D; needs the official files",
    factory="baselines.nninteractive.segmenter:NnInteractive",
    prompts=frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK, PromptKind.BOX, PromptKind.MASK}),
    needs_checkpoint=True,
    files=FILES,
    environment=Environment(pip=("nninteractive>=2.6,<3",)),
    config={"checkpoint": None, **{file.setting: file.name for file in FILES[1:]}, "autozoom": True},
    card=Card(
        title="nnInteractive 1.0",
        paper="Isensee, Rokuss, Krämer et al., nnInteractive: Redefining 3D Promptable Segmentation, arXiv 2503.08373",
        code_licence="Apache-2.0 (package nninteractive)",
        weights_licence=f"{LICENCE}: no commercial use",
        parameters="102 M",
        training_data={"kits21": "superset", "lits17": "superset", "msd-pancreas": "superset", "msd-colon": "superset"},
        notes=(
            "Trained on more than 120 public sets; which cases is not stated in a form that can be checked here, so "
            "every public set counts as superset. See docs/methods/nninteractive.md."
        ),
    ),
)
