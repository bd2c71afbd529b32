"""A file in the layout of 3DSAM-adapter's `last.pth.tar` with weights by a rule."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from baselines.sam3d_adapter.encoder import SIZES, shift_mask
from baselines.sam3d_adapter.network import Sam3dAdapter
from benchmarks.weights.stand_ins import by_rule


def write(path: Path, system: str) -> None:
    """Encoder with its stored shift masks, four prompt encoders, decoder; a key is hashed with the name of its part."""
    size = SIZES["official"]
    with torch.device("meta"):
        network = Sam3dAdapter(size)
    encoder = _part("encoder_dict", network.encoder.state_dict())
    mask = shift_mask(size.grid, size.window)
    encoder |= {f"blocks.{index}.attn_mask": mask for index in range(0, size.levels[-1], 2)}
    features = [_part(f"feature_dict.{index}", network.prompt_encoder.state_dict()) for index in range(4)]
    decoder = _part("decoder_dict", network.decoder.state_dict())
    content = {"encoder_dict": encoder, "feature_dict": features, "decoder_dict": decoder, "epoch": 0}
    torch.save(content, path)


def _part(name: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    drawn = by_rule({f"{name}.{key}": value for key, value in state.items()})
    return {key.removeprefix(f"{name}."): value for key, value in drawn.items()}
