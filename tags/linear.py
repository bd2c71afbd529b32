"""Linear layers on a CPU without gradients, by oneDNN: the float32 product with a GELU behind it in one pass.

On AVX-512 CPUs of AMD, torch's own float32 product leaves a tenth of the speed unused, and a GELU reads and writes the
widest tensor of a block once more. The operator is the one that `torch.compile` puts in the place of such layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contestants.convolutions import plain_on_cpu

WIDE = 256  # inputs from which it pays; narrower layers stay with torch's own product, bit for bit


def linear(layer: nn.Linear, x: Tensor, gelu: bool = False) -> Tensor:
    """`layer(x)`, or `gelu(layer(x))`."""
    if _by_onednn(layer, x):
        # Arguments: what follows the product, its scalars, and which GELU ("none" is the exact one).
        attached: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, *attached)
        return result
    out = layer(x)
    return F.gelu(out) if gelu else out


def _by_onednn(layer: nn.Linear, x: Tensor) -> bool:
    return (
        layer.in_features >= WIDE
        and plain_on_cpu(x, layer.weight)
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
