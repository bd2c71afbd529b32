"""3DSAM-adapter, announced to the bench (torch-free)."""

from __future__ import annotations

from benchmarks.common.weight_file import WeightFile
from benchmarks.contestants import Card, Method
from benchmarks.prompting.prompts import PromptKind

_PROMPTS = frozenset({PromptKind.CLICK})
_CONFIG = {
    "checkpoint": None,
    "size": "official",
    "spacing": 1.0,
    "orientation": "file",
    "precision": "auto",
    "train": "adapters",
    "tumour_points": 10,
    "stray_points": 20,
    "learning_rate": 4e-4,
    "seed": 0,
}
_SEARCH_SPACE = {"learning_rate": ["loguniform", 1e-5, 1e-2]}

_FOLDERS = {"kits21": "kits", "msd-pancreas": "pancreas", "lits17": "lits", "msd-colon": "colon"}
_FILES = tuple(
    WeightFile(
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
        check="baselines.checkpoints:official_file_problem",
    )
    for dataset, folder in _FOLDERS.items()
)

sam3d_adapter = Method(
    name="3dsam-adapter",
    summary="3DSAM-adapter on a crop around positive clicks; needs the official file of the dataset",
    factory="baselines.sam3d_adapter.segmenter:Sam3dAdapterSegmenter",
    prompts=_PROMPTS,
    training="bench",
    needs_checkpoint=True,
    files=_FILES,
    config=_CONFIG,
    search_space=_SEARCH_SPACE,
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

sam3d_adapter_tiny = Method(
    name="3dsam-adapter-tiny",
    summary="the classes of 3DSAM-adapter at a small size, trained from scratch by the bench",
    factory="baselines.sam3d_adapter.segmenter:Sam3dAdapterSegmenter",
    prompts=_PROMPTS,
    training="bench",
    version="2",
    config={
        **_CONFIG, "size": "tiny", "spacing": 2.25, "orientation": "ras", "train": "all", "tumour_points": 1,
        "stray_points": 0, "learning_rate": 2e-3,
    },
    search_space=_SEARCH_SPACE,
    card=Card(
        title="3DSAM-adapter, tiny",
        paper="the architecture of arXiv 2306.13465 at a small size",
        code_licence="Apache-2.0",
        weights_licence="none released; trained by the bench on the suite's training split",
        parameters="0.3 M",
        training_data={"*": "unseen"},
        notes=(
            "For the embedded suite and for tests. Says nothing about 3DSAM-adapter. "
            "See docs/methods/3dsam-adapter.md."
        ),
    ),
)  # fmt: skip
