"""Fresh weights that learn within a few hundred steps, for the small sizes; official sizes take theirs from a file.

PyTorch's own initialisation is kept but for two things, which otherwise emerge only over thousands of steps.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from baselines.sam.decoder import CrossAttention, MaskDecoder

PLACE_GAIN = 1.5  # of the projections; larger means that tokens see a smaller neighbourhood
FIRST_LOGIT = -3.0  # a mask starts at about 5 % everywhere
UPSCALED_BIAS = 0.5  # keeps the upscaled features above zero on average, so that a weight can act as a bias


def initialise(network: nn.Module) -> None:
    """Change the weights of a SAM's decoder in place."""
    for name, module in network.named_modules():
        if isinstance(module, CrossAttention) and "self_attn" not in name:
            attend_by_place(module)
        if isinstance(module, MaskDecoder):
            start_empty(module)


def attend_by_place(attention: CrossAttention) -> None:
    """Equal orthogonal projections of queries and keys.

    The product of two places' Fourier features falls with their distance, and such projections keep it so: clicks and
    cells at the same place attend to each other from the first step.
    """
    for projection in (attention.q_proj, attention.k_proj):
        nn.init.zeros_(projection.bias)
    nn.init.orthogonal_(attention.q_proj.weight, PLACE_GAIN)
    attention.k_proj.load_state_dict(attention.q_proj.state_dict())


def start_empty(decoder: MaskDecoder) -> None:
    """Masks that start nearly empty, as most voxels are background (the prior of Lin et al., arXiv 1708.02002)."""
    bias = decoder.output_upscaling.get_submodule("3").bias
    assert isinstance(bias, Tensor)
    nn.init.constant_(bias, UPSCALED_BIAS)
    weight = FIRST_LOGIT / (len(bias) * float(F.gelu(bias.detach())[0]))
    for network in decoder.output_hypernetworks_mlps:
        nn.init.constant_(network.get_submodule("layers.2").bias, weight)  # type: ignore[arg-type]
