"""From a method's settings to a network with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from baselines.checkpoints import load_official, load_weights, required_file
from baselines.sam.network import Sam, SamSize
from benchmarks.errors import UserError, nearest_name

TRAINED_PARTS = ("all", "decoder")
PRECISIONS = ("auto", "float32", "bfloat16")


def build_network(
    sizes: Mapping[str, SamSize], config: Mapping[str, Any], system: str, file_name: str, source: str
) -> Sam:
    """The network on the CPU, in evaluation mode.

    Raises:
        UserError: an unknown size, no official file for the official size, or a file that does not fit.
    """
    size = config["size"]
    for key, known in (("size", tuple(sizes)), ("train", TRAINED_PARTS), ("precision", PRECISIONS)):
        if config[key] not in known:
            hint = nearest_name(str(config[key]), known)
            raise UserError(f"{system} has no {key} '{config[key]}'; {hint}")
    if size == "official":
        path = required_file(config["checkpoint"], system.lower(), file_name, source)
        with torch.device("meta"):
            network = Sam(sizes[size])
        load_official(network, path, system)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(config["seed"]))
            network = Sam(sizes[size])
        if config["checkpoint"] is not None:
            load_weights(network, Path(config["checkpoint"]), {"system": system, "size": size}, system)
    network.image_encoder.requires_grad_(config["train"] == "all")
    return network.eval()


def half_precision(precision: str, device: torch.device) -> bool:
    """Whether the image encoder runs in bfloat16."""
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
