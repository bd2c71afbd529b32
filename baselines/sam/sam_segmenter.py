"""What the wrappers of SAM, SAM-Med2D and SAM-Med3D share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from baselines.checkpoints import load_official
from baselines.network_segmenter import NetworkSegmenter
from baselines.sam.initialisation import initialise
from baselines.sam.network import Sam, SamSize


class SamSegmenter(NetworkSegmenter):
    """A SAM in two or three dimensions; `train` is "all", or "decoder" (the image encoder stays as it is).

    Attributes:
        file_name, source: the official file, and in words where it is released.
        sizes: by name.
    """

    module: Sam
    file_name: ClassVar[str]
    source: ClassVar[str]
    sizes: ClassVar[Mapping[str, SamSize]]

    @property
    def choices(self) -> Mapping[str, tuple[str, ...]]:  # type: ignore[override]
        return {"size": tuple(self.sizes), "train": ("all", "decoder")}

    def read_official(self) -> Sam:
        path = self.official_file(self.system.lower(), self.file_name, self.source)
        with torch.device("meta"):
            network = Sam(self.sizes["official"])
        load_official(network, path, self.system)
        return network

    def untrained(self) -> Sam:
        network = Sam(self.sizes[self.config["size"]])
        initialise(network)
        return network

    def freeze(self) -> None:
        self.module.image_encoder.requires_grad_(self.config["train"] == "all")
