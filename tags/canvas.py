"""Overlapping crops become one volume."""

from __future__ import annotations

import numpy as np

from benchmarks.data.preprocessing import paste
from benchmarks.data.volume import FloatArray


class Canvas:
    """Weighted mean of overlapping crops."""

    def __init__(self, shape: tuple[int, int, int], importance: FloatArray) -> None:
        self.shape, self.importance = shape, importance
        self.parts: list[tuple[tuple[int, int, int], FloatArray]] = []
        self.total: FloatArray | None = None
        self.weight: FloatArray | None = None

    def add(self, probability: FloatArray, origin: tuple[int, int, int]) -> None:
        """The first crop is kept as it is; the canvas is allocated when a second one comes."""
        if self.total is None and not self.parts:
            self.parts.append((origin, probability))
            return
        if self.total is None or self.weight is None:
            self.total, self.weight = np.zeros(self.shape, np.float32), np.zeros(self.shape, np.float32)
            self._blend(self.parts[0][1], self.parts[0][0])
        self._blend(probability, origin)

    def _blend(self, probability: FloatArray, origin: tuple[int, int, int]) -> None:
        inside = tuple(
            slice(max(o, 0), max(0, min(o + n, s)))
            for o, n, s in zip(origin, probability.shape, self.shape, strict=True)
        )
        patch = tuple(slice(i.start - o, max(i.start, i.stop) - o) for i, o in zip(inside, origin, strict=True))
        if self.total is None or self.weight is None or any(i.stop <= i.start for i in inside):
            return
        self.total[inside] += (probability * self.importance)[patch]
        self.weight[inside] += self.importance[patch]

    def mean(self) -> FloatArray:
        if self.total is not None and self.weight is not None:
            np.divide(self.total, self.weight, out=self.total, where=self.weight > 0)
            return self.total
        canvas = np.zeros(self.shape, np.float32)
        for origin, probability in self.parts:
            paste(canvas, probability, origin)
        return canvas
