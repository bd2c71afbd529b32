"""Region growing, announced to the bench (torch-free)."""

from __future__ import annotations

from benchmarks.contestants import Card, Method, PromptKind

region_growing = Method(
    name="region-growing",
    summary="floor: confidence-connected region growing from the click, bounded in mm; no training",
    factory="baselines.region_growing.segmenter:build",
    prompts=frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK}),
    training="none",
    config={
        "smoothing_mm": 1.0,
        "multiplier": 2.5,
        "iterations": 5,
        "least_spread_hu": 4.0,
        "seed_radius_mm": 3.0,
        "reach_mm": 40.0,
    },
    card=Card(
        title="Region growing from the click",
        code_licence="Apache-2.0 (SimpleITK: Apache-2.0)",
        weights_licence="none",
        parameters="0",
        training_data={"*": "unseen"},
        notes="Reference floor; its settings were fixed beforehand. See docs/methods/floors.md.",
    ),
    floor=True,
)
