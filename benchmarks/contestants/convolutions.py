"""Convolutions of single small volumes on a CPU.

torch hands a 3D convolution of one small volume (up to 20 480 values before the last axis) to a plain loop, and larger
ones or batches to oneDNN, which needs a quarter of the time for small ones, too. Networks with small patches spend
most of their time there. The numbers differ by rounding alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def by_onednn(module: nn.Module) -> None:
    """Let the 3D convolutions of a module take oneDNN where no gradient is asked for. Its state stays as it is."""
    if not torch.backends.mkldnn.is_available():
        return
    for layer in module.modules():
        if type(layer) is nn.Conv3d and _is_plain(layer):
            layer.forward = partial(_convolved, layer)  # type: ignore[method-assign]


def _is_plain(layer: nn.Conv3d) -> bool:
    return max(layer.kernel_size) > 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def plain_on_cpu(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer with this weight is about to compute in float32 on the CPU, without gradients or autocast."""
    return (
        not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def _convolved(layer: nn.Conv3d, x: Tensor) -> Tensor:
    if len(x) != 1 or x.ndim != 5 or not plain_on_cpu(x, layer.weight):
        return nn.Conv3d.forward(layer, x)
    shape: tuple[Any, ...] = (layer.padding, layer.stride, layer.dilation, layer.groups)
    result: Tensor = torch.mkldnn_convolution(x, layer.weight, layer.bias, *shape)
    return result
