"""Labels of a simple shape."""

from __future__ import annotations

import torch
from torch import Tensor


def ball(radius: float = 6, centre: tuple[int, int, int] = (16, 16, 16), side: int = 32) -> Tensor:
    """(1, 1, side, side, side): 1 within the radius of the centre, 0 elsewhere; voxels."""
    x, y, z = torch.meshgrid(*(torch.arange(side) - c for c in centre), indexing="ij")
    return (x**2 + y**2 + z**2 <= radius**2).float()[None, None]
