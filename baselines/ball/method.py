"""The ball, announced to the bench (torch-free)."""

from __future__ import annotations

from benchmarks.contestants import Card, Method, PromptKind

ball = Method(
    name="ball",
    summary="floor: a ball around the click, radius = median of the training lesions; an ellipsoid in a box",
    factory="baselines.ball.segmenter:build",
    prompts=frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK, PromptKind.BOX}),
    training="own",
    card=Card(
        title="Ball around the click",
        code_licence="Apache-2.0",
        weights_licence="none: one number measured on the training split",
        parameters="1",
        training_data={"*": "unseen"},
        notes="Reference floor that looks at no voxel of the image. See docs/methods/floors.md.",
    ),
    floor=True,
)
