"""SAM-Med2D, announced to the bench (torch-free)."""

from __future__ import annotations

from baselines.announcement import TinySize, network_settings, network_space, official_file
from baselines.sam.announcement import SLICE_INFERENCE, SLICE_KNOBS, SLICE_LATER, SLICE_PROMPTS, SLICE_TRAINING
from benchmarks.contestants import Card, Method

_CONFIG = network_settings("decoder", 1e-4, batch_size=8, least_quality=0.5, reach=1.0, **SLICE_TRAINING)

_FILE = official_file(
    name="sam-med2d_b.pth",
    page="https://drive.google.com/file/d/1ARiB5RkSsWmAB_8mqWnwDF8ZKTtFwsjl/view",  # linked in the authors' README
    licence="Apache-2.0",
    note=(
        "SAM-Med2D: the authors release it on Google Drive (and Baidu) only, which asks for a click; the page is "
        "linked in github.com/OpenGVLab/SAM-Med2D. A contributor's copy is at huggingface.co/schengal1/SAM-Med2D_model "
        "(2.56 GB); whether it is the same file was not checked here."
    ),
    system="SAM-Med2D",
    stand_in="baselines.sam_med2d.stand_in:write",
)

sam_med2d = Method(
    name="sam-med2d",
    summary="SAM-Med2D on axial slices, following the lesion from the clicked slice; needs the official file",
    factory="baselines.sam_med2d.segmenter:SamMed2D",
    prompts=SLICE_PROMPTS,
    training="bench",
    version="3",
    needs_checkpoint=True,
    files=(_FILE,),
    config=_CONFIG,
    inference_settings=SLICE_INFERENCE,
    later_settings=SLICE_LATER,
    search_space=network_space(_CONFIG, "decoder", **SLICE_KNOBS),
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
            "Here: axial slices only, windowed by the target; upstream: all three axes, by the range of the volume. "
            "See docs/methods/sam-med2d.md."
        ),
    ),
)

sam_med2d_tiny = TinySize(
    name="sam-med2d-tiny",
    system="SAM-Med2D",
    paper="arXiv 2308.16184",
    page="sam-med2d",
    parameters="0.5 M",
    knobs=SLICE_KNOBS,
    version="4",
    zoo_steps=3000,
    config={"train": "all", "learning_rate": 1.5e-3, "least_quality": 0.0, "reach": 0.5},
).of(sam_med2d)
