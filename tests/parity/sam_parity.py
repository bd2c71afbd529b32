"""What the parity tests of SAM-B, SAM-Med2D and SAM-Med3D share: the official file, and all recorded tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from baselines.sam.encoder import resize
from baselines.sam.network import Sam
from tests.parity.rule import Golden, unchecked

ZEROS = "zeros"


def write_official(content: Mapping[str, Any], folder: Path, name: str) -> Path:
    path = folder / name
    torch.save(dict(content), path)
    return path


def check_all(golden: Golden, network: Sam, mask_prompts: Mapping[str, str]) -> None:
    """Compare every recorded tensor and case.

    Args:
        mask_prompts: case → the case whose single-mask logits are its mask prompt, or `ZEROS`. A set that brings
            masks of its own (`prompt/<case>.mask`) is followed instead.
    """
    checked: set[str] = set()

    def check(name: str, ours: torch.Tensor) -> None:
        golden.check(name, ours)
        checked.add(name)

    with torch.inference_mode():
        embedding = network.image_encoder(golden.image())
        check("embedding", embedding)
        position = network.prompt_encoder.dense_position()
        check("dense_pe", position)
        logits: dict[str, torch.Tensor] = {}
        for case in golden.cases():
            points, labels = golden.prompt(f"{case}.points"), golden.prompt(f"{case}.labels")
            given = (points, labels) if points is not None and labels is not None else None
            mask = golden.prompt(f"{case}.mask")
            if mask is None and case in mask_prompts:
                source = mask_prompts[case]
                blank = torch.zeros(1, 1, *network.prompt_encoder.mask_size)
                mask = blank if source == ZEROS else logits[source]
            sparse, dense = network.prompt_encoder(given, golden.prompt(f"{case}.box"), mask)
            check(f"{case}.sparse", sparse)
            check(f"{case}.dense", dense)
            for kind, multimask in (("single", False), ("multi", True)):
                low, quality = network.mask_decoder(embedding, position, sparse, dense, multimask)
                check(f"{case}.{kind}.low_res_logits", low)
                check(f"{case}.{kind}.iou", quality)
                if f"{case}.{kind}.upsampled" in golden.tensors(case):
                    check(f"{case}.{kind}.upsampled", resize(low, network.prompt_encoder.image))
                if kind == "single":
                    logits[case] = low
    assert list(unchecked(golden, checked)) == []
