"""My method, announced. Importing this loads no torch."""

from benchmarks.contestants import Card, Method, PromptKind

my_method = Method(
    name="my-method",
    summary="an example: three convolutions that see the scan and the clicks",
    factory="my_method.segmenter:MySegmenter",
    prompts=frozenset({PromptKind.NONE, PromptKind.CLICK}),
    training="bench",
    config={"width": 8, "spacing": 3.0, "learning_rate": 3e-2, "threshold": 0.5},
    inference_settings=("threshold",),
    search_space={"learning_rate": ["loguniform", 1e-3, 1e-1]},
    card=Card("My method", code_licence="Apache-2.0", weights_licence="none", training_data={"*": "unseen"}),
)
