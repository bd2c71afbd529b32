"""What a sweep varies of TAGS, by size. Importing this loads no torch."""

from __future__ import annotations

from typing import Any

from tags.config import defaults

RANGE_OF_RATES = 8.0  # of the learning rate, up and down from the size's own


def search_space(size: str) -> dict[str, list[Any]]:
    """The knobs of "tiny", "vit-b", "vit-l" or "vit-h": optimisation, adapters, guidance, fusion, prompts, loss.

    Ranges that grow with the network follow its own setting: the learning rate of ViT-B is a 25th of the tiny one's.
    """
    own = defaults(size)
    rate, dim, heads = own["learning_rate"], own["dim"], own["fusion_heads"]
    adapters, fused = {"adapters": [True]}, {"fusion": ["gated", "concat"]}
    # Not [1.0, 1.0]: where every crop is as wide as what is cut, turned ones see much of its edge, which goes on beyond
    zooms = [own["zoom"], *(zoom for zoom in ([0.6, 1.3], [0.85, 1.25]) if zoom != own["zoom"])]
    return {
        "learning_rate": ["loguniform", rate / RANGE_OF_RATES, rate * RANGE_OF_RATES],
        "warm_up": ["uniform", 0.0, 0.2],
        "weight_decay": ["choice", [0.0, 1e-4, 1e-3, 1e-2]],
        "batch_size": ["choice", [1, 2, 4] if size == "tiny" else [1, 2]],
        "ema": ["choice", [0.0, 0.99, 0.999]],
        "dice_weight": ["uniform", 0.2, 1.0],
        "adapters": ["choice", [True, False]],
        "adapter_ratio": ["choice", [0.125, 0.25, 0.5], adapters],
        "adapter_kernel": ["choice", [3, 5], adapters],
        "adapter_every": ["choice", [1, 2], adapters],
        **({"freeze_backbone": ["choice", [True, False]]} if size in ("tiny", "vit-b") else {}),  # memory of the others
        "semantic": ["choice", [True, False]],
        "semantic_gate": ["choice", ["film", "attention"], {"semantic": [True]}],
        "anatomy": ["choice", [True, False]],
        "context": ["choice", sorted({0, 4, 8, own["context"]}), {"anatomy": [True]}],
        "fusion": ["choice", ["gated", "concat", "none"]],
        "fusion_layers": ["randint", 1, 4, fused],
        "fusion_heads": ["choice", sorted({heads // 2, heads}), fused],
        "fusion_hidden": ["choice", [2 * dim, 4 * dim], fused],
        "queries": ["choice", sorted({own["queries"] // 2, own["queries"], 2 * own["queries"]}), fused],
        "foreground": ["uniform", 0.3, 0.95],
        "prompt_dropout": ["uniform", 0.0, 0.5],
        "dropout_elsewhere": ["uniform", 0.0, 1.0],
        "single_click": ["uniform", 0.1, 0.9],
        "central_click": ["uniform", 0.4, 1.0],
        "box_share": ["uniform", 0.0, 0.5],
        "mask_share": ["uniform", 0.0, 0.4],
        "corrections": ["randint", 0, 4],
        "augment_intensity": ["choice", [0.0, 0.3]],
        "zoom": ["choice", zooms],
    }
