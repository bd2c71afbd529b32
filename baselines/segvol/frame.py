"""From a volume to the array that SegVol sees, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.boxes import bounding_box
from benchmarks.data.preprocessing import Shape
from benchmarks.data.volume import FloatArray, Volume

PERCENTILES = (0.05, 99.95)  # of the foreground


Window = tuple[float, float]  # HU


def normalised(array: FloatArray, window: Window | None = None) -> FloatArray:
    """Clip to a window of HU, or to percentiles of the foreground (voxels above the mean), then bring to [0, 1].

    Upstream takes percentiles. It also standardises in between, which the last step undoes.
    """
    if window is not None:
        low, high = window
        return ((np.clip(array, low, high) - low) / (high - low)).astype(np.float32)
    foreground = array[array > array.mean()]
    if foreground.size == 0:  # a constant volume
        return np.zeros_like(array, dtype=np.float32)
    low, high = np.percentile(foreground, PERCENTILES)
    clipped = np.clip(array, low, high, dtype=np.float32)
    least = clipped.min()
    return (clipped - least) / max(float(clipped.max() - least), 1e-8)


@dataclass(frozen=True)
class Frame:
    """From the volume (x, y, z) to the network's cropped array (d, h, w), and back.

    Attributes:
        shape: of the volume.
        flips: the volume's axes that run against RAS in the network's array.
        low, size: the crop, in (d, h, w) of the turned volume; `low` is negative where padding was kept.
    """

    shape: Shape
    flips: tuple[int, ...]
    low: tuple[int, int, int]
    size: Shape

    def place(self, position: tuple[int, int, int]) -> tuple[int, int, int]:
        """A voxel of the volume in the crop; one outside it goes to the nearest voxel of the crop."""
        turned = [
            extent - 1 - at if axis in self.flips else at
            for axis, (at, extent) in enumerate(zip(position, self.shape, strict=True))
        ]
        d, h, w = (
            min(max(at - low, 0), size - 1) for at, low, size in zip(turned[::-1], self.low, self.size, strict=True)
        )
        return d, h, w

    def restore(self, values: NDArray[Any], outside: float) -> NDArray[Any]:
        """Values of the crop on the volume's grid."""
        turned = np.full(self.shape[::-1], outside, values.dtype)
        there, here = [], []
        for low, size, extent in zip(self.low, self.size, turned.shape, strict=True):
            there.append(slice(max(low, 0), min(low + size, extent)))
            here.append(slice(max(-low, 0), min(low + size, extent) - low))
        turned[tuple(there)] = values[tuple(here)]
        return np.ascontiguousarray(np.flip(turned.transpose(2, 1, 0), self.flips))


def prepared(
    volume: Volume, flips: tuple[int, ...], least: Shape, window: Window | None = None
) -> tuple[FloatArray, Frame]:
    """The network's array and the way back: normalised, turned, padded to `least`, cut to its non-zero box."""
    values = np.flip(normalised(volume.array, window), flips).transpose(2, 1, 0)
    short = [max(0, length - extent) for length, extent in zip(least, values.shape, strict=True)]
    padded = np.pad(values, [(n // 2, n - n // 2) for n in short])
    box = bounding_box(padded)
    low, high = box if box is not None else ((0, 0, 0), padded.shape)
    part = padded[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    d, h, w = (a - n // 2 for a, n in zip(low, short, strict=True))
    return np.ascontiguousarray(part), Frame(
        volume.shape, flips, (d, h, w), (part.shape[0], part.shape[1], part.shape[2])
    )
