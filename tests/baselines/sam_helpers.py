"""Small volumes and stand-in networks for the tests of the SAM wrappers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.sam.slice_network import PIXEL_MEAN, PIXEL_STD
from benchmarks.contestants import Batch, Target
from benchmarks.data.volume import BoolArray, Volume

TARGET = Target("kidney-tumor", "kidney", "tumor", (2,), window=(-100.0, 300.0))


def affine(spacing: tuple[float, float, float], oblique: bool = False) -> NDArray[np.float64]:
    matrix = np.diag([*spacing, 1.0])
    if oblique:
        angle = np.deg2rad(12)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        matrix = turn @ matrix
    return matrix


def ellipsoid(shape: tuple[int, int, int], centre: tuple[float, ...], radii: tuple[float, ...]) -> BoolArray:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return np.asarray((((grid - np.array(centre)) / np.array(radii)) ** 2).sum(-1) <= 1)


def volume_of(mask: BoolArray, spacing: tuple[float, float, float], low: float, high: float, **kind: Any) -> Volume:
    """A volume that shows the mask itself: `high` inside, `low` outside."""
    return Volume(np.where(mask, high, low).astype(np.float32), affine(spacing, **kind))


def dice(a: BoolArray, b: BoolArray) -> float:
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def inputs_of(module: nn.Module) -> list[Tensor]:
    """What the module is called with from now on, call by call."""
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    return seen


class PerfectSlices(nn.Module):
    """Sees the mask in the preprocessed slice and gives it back as a decoder would: logits on the coarse grid."""

    def __init__(self, size: Any, coarse: int) -> None:
        super().__init__()
        self.size, self.coarse = size, coarse
        self.decoded: list[tuple[Any, Any, Any]] = []

    def image_encoder(self, image: Tensor) -> Tensor:
        """What is brighter than the window's middle. SAM's padding comes out below it (0 is the mean grey)."""
        grey = (image[:, 1:2] * PIXEL_STD[1] + PIXEL_MEAN[1]) / 255
        return F.adaptive_avg_pool2d((grey > 0.5).float(), self.coarse) - 0.5

    def decode(self, embedding: Tensor, points: Any, boxes: Any, masks: Any, multimask: bool) -> tuple[Tensor, Tensor]:
        self.decoded.append((points, boxes, masks))
        count = 3 if multimask else 1
        return embedding.expand(-1, count, -1, -1), torch.ones(len(embedding), count)


def batch_of(label: NDArray[Any], image: NDArray[Any], seed: int = 0) -> Batch:
    """Crops (B, X, Y, Z) as the bench's training loop hands them over."""
    return Batch(
        torch.from_numpy(image.astype(np.float32))[:, None],
        torch.from_numpy(label.astype(np.float32))[:, None],
        [TARGET] * len(label),
        torch.Generator().manual_seed(seed),
        0.0,
    )
