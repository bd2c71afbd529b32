"""SAM-B, announced to the bench (torch-free)."""

from __future__ import annotations

from baselines.announcement import CHECK, TinySize, network_settings, network_space
from baselines.sam.announcement import SLICE_INFERENCE, SLICE_KNOBS, SLICE_LATER, SLICE_PROMPTS, SLICE_TRAINING
from benchmarks.contestants import Card, Method
from benchmarks.weights.segment_anything import sam_file

_CONFIG = network_settings("decoder", 1e-4, batch_size=4, least_quality=0.5, reach=1.0, **SLICE_TRAINING)

sam_b = Method(
    name="sam-b",
    summary="SAM ViT-B on axial slices, following the lesion from the clicked slice; needs the official file",
    factory="baselines.sam_b.segmenter:SamB",
    prompts=SLICE_PROMPTS,
    training="bench",
    version="3",
    needs_checkpoint=True,
    files=(sam_file("vit-b", "checkpoint", CHECK),),
    config=_CONFIG,
    inference_settings=SLICE_INFERENCE,
    later_settings=SLICE_LATER,
    search_space=network_space(_CONFIG, "decoder", **SLICE_KNOBS),
    card=Card(
        title="Segment Anything, ViT-B",
        paper="Kirillov et al., Segment Anything, ICCV 2023 (arXiv 2304.02643)",
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0",
        parameters="93.7 M",
        training_data={"kits21": "unseen", "msd-pancreas": "unseen", "lits17": "unseen", "msd-colon": "unseen"},
        notes="Released weights were trained on SA-1B: photographs, no CT. See docs/methods/sam-b.md.",
    ),
)

sam_b_tiny = TinySize(
    name="sam-b-tiny",
    system="SAM-B",
    paper="arXiv 2304.02643",
    page="sam-b",
    parameters="0.3 M",
    knobs=SLICE_KNOBS,
    version="4",
    zoo_steps=3000,
    config={"train": "all", "learning_rate": 1.5e-3, "batch_size": 8, "least_quality": 0.0, "reach": 0.5},
).of(sam_b)
