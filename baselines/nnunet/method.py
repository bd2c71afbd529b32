"""nnU-Net v2, announced to the bench (torch-free)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.contestants import Card, Method, PromptKind, ZooTraining

CONFIG: dict[str, Any] = {
    "plans": "default",  # nnU-Net's own; "resenc-m", "resenc-l", "resenc-xl": its residual presets; "small": for a CPU
    "configuration": "3d_fullres",  # or "3d_lowres", or "3d_cascade_fullres", which is both; with 2 folds or more
    "folds": 1,  # networks: 1 learns from all training cases; more are nnU-Net's cross-validation, as an ensemble
    "mirroring": "auto",  # test-time mirroring; "auto": not with small plans
    "tile_step_size": 0.5,
    "keep_workdir": False,  # keep the raw and the preprocessed copies of the training cases
}
INFERENCE = ("mirroring", "tile_step_size", "keep_workdir")  # the last keeps files and changes nothing

CARD = Card(
    title="nnU-Net v2",
    paper="Isensee et al., Nature Methods 18, 203-211 (2021), doi:10.1038/s41592-020-01008-z",
    code_licence="Apache-2.0 (package nnunetv2)",
    weights_licence="none: trained here from scratch",
    parameters="about 31 M with default plans, about 102 M with resenc-l; the fit reports the true number",
    training_data={"*": "unseen"},
    notes=(
        "Planned, trained and predicted by the nnunetv2 package: its default planner unless `plans` names another, "
        "3d_fullres, one network on all training cases, test-time mirroring, no post-processing; the suite's budget "
        "takes the place of 1000 epochs. What a training was (version, planner, patch, batch, folds, epochs, "
        "augmentation) is in its figures. See docs/methods/nnunet.md."
    ),
)

nnunet = Method(
    name="nnunet",
    summary="nnU-Net v2 (package nnunetv2), trained on the tumour label alone; automatic",
    factory="baselines.nnunet.segmenter:build_tumour_only",
    prompts=frozenset({PromptKind.NONE}),
    training="own",
    config=CONFIG,
    inference_settings=INFERENCE,
    card=CARD,
)

nnunet_organ = replace(
    nnunet,
    name="nnunet-organ",
    summary="nnU-Net v2 (package nnunetv2), trained on organ and tumour labels; automatic",
    factory="baselines.nnunet.segmenter:build_with_organ",
)

SMALL = {**CONFIG, "plans": "small"}
SMALL_CARD = replace(
    CARD,
    title="nnU-Net v2, small plans",
    weights_licence="Apache-2.0: those of the zoo come with this project",
    parameters="0.16 M",
    notes="Plans shrunk for a CPU, for phantoms and tests: says nothing about nnU-Net. See docs/methods/nnunet.md.",
)

nnunet_small = replace(
    nnunet,
    name="nnunet-small",
    summary="nnU-Net v2 with plans shrunk for a CPU, trained on the tumour label alone; automatic",
    config=SMALL,
    card=SMALL_CARD,
    zoo=ZooTraining("baselines", 1200, joint=False),
)

nnunet_organ_small = replace(
    nnunet_organ,
    name="nnunet-organ-small",
    summary="nnU-Net v2 with plans shrunk for a CPU, trained on organ and tumour labels; automatic",
    config=SMALL,
    card=SMALL_CARD,
    zoo=ZooTraining("baselines", 1200, joint=False),
)
