"""3DSAM-adapter, announced to the bench (torch-free)."""

from __future__ import annotations

from baselines.announcement import TRAINING, TinySize, network_settings, network_space, official_file
from benchmarks.contestants import Card, Method, PromptKind

_PROMPTS = frozenset({PromptKind.CLICK})
_CONFIG = network_settings(
    "adapters", 4e-4, spacing=1.0, orientation="file", tumour_points=10, stray_points=20,
    training_batch=1, weight_decay=0.0, foreground=0.67,
)  # fmt: skip
_KNOBS = {"tumour_points": ["randint", 1, 21], "stray_points": ["randint", 0, 41]}

_FOLDERS = {"kits21": "kits", "msd-pancreas": "pancreas", "lits17": "lits", "msd-colon": "colon"}
_FILES = tuple(
    official_file(
        name=f"3dsam-adapter_{dataset}.pth.tar",
        page="https://github.com/med-air/3DSAM-adapter",
        licence="none given",
        upstream=f"last.pth.tar (or best.pth.tar) of the folder {folder}",
        note=(
            "3DSAM-adapter: a OneDrive folder linked in the README, which asks for a click; one file per dataset. "
            "Without a licence all rights are reserved."
        ),
        datasets=(dataset,),
        system="3DSAM-adapter",
        restricted=True,
        stand_in="baselines.sam3d_adapter.stand_in:write",
    )
    for dataset, folder in _FOLDERS.items()
)

sam3d_adapter = Method(
    name="3dsam-adapter",
    summary="3DSAM-adapter on a crop around positive clicks; needs the official file of the dataset",
    factory="baselines.sam3d_adapter.segmenter:Sam3dAdapterSegmenter",
    prompts=_PROMPTS,
    training="bench",
    version="3",
    needs_checkpoint=True,
    files=_FILES,
    config=_CONFIG,
    inference_settings=("precision", "orientation"),
    later_settings=tuple(TRAINING),
    search_space=network_space(_CONFIG, "adapters", **_KNOBS),
    card=Card(
        title="3DSAM-adapter",
        paper="Gong et al., 3DSAM-adapter, arXiv 2306.13465 (Medical Image Analysis 2024)",
        code_licence="none given: all rights reserved",
        weights_licence="none given: all rights reserved",
        parameters="114.3 M in use (encoder 104.1, prompt encoder 3.2, decoder 7.1), 25.5 M of them trained",
        training_data={
            "kits21": "trained-on", "msd-pancreas": "trained-on", "lits17": "trained-on", "msd-colon": "trained-on",
        },
        notes=(
            "One file per dataset, trained on fold 0 of the authors' split of that dataset: only its test cases are "
            "unseen. Our code is written from the paper and from tensor shapes. See docs/methods/3dsam-adapter.md."
        ),
    ),
)  # fmt: skip

sam3d_adapter_tiny = TinySize(
    name="3dsam-adapter-tiny",
    system="3DSAM-adapter",
    paper="arXiv 2306.13465",
    page="3dsam-adapter",
    parameters="0.3 M",
    knobs={"tumour_points": ["randint", 1, 6], "stray_points": ["randint", 0, 6]},
    version="4",
    zoo_steps=2400,
    config={
        "training_batch": 2,
        "foreground": 1.0,
        "spacing": 2.25,
        "orientation": "ras",
        "train": "all",
        "tumour_points": 1,
        "stray_points": 0,
        "learning_rate": 2e-3,
    },
).of(sam3d_adapter)
