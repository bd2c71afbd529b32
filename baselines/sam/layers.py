"""Small layers in two or three dimensions, under the names of the official state dicts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def convolution(axes: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if axes == 2 else nn.Conv3d


def transposed_convolution(axes: int) -> type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]:
    return nn.ConvTranspose2d if axes == 2 else nn.ConvTranspose3d


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, *grid)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Feedforward(nn.Module):
    """Two linear layers; GELU in the image encoder, ReLU in the decoder."""

    def __init__(self, dim: int, hidden: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))


class Perceptron(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)])

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.layers
        return third(F.relu(second(F.relu(first(x)))))
