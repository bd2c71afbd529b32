"""Lesion-wise figures: which lesions were found, under a matching rule that has a name.

A lesion is a connected component (26 neighbours). Predicted and true lesions are paired one to one, so that
a prediction that floods ten lesions has found one, and ten specks inside a lesion are one hit and nine
false alarms.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.metrics.crop import Crop, overlap_windows

SIZE_BINS_MM = (
    0.0,
    10.0,
    20.0,
    math.inf,
)  # edges, by equivalent diameter; a lesion on an edge joins the larger bin
MANY_RUNS = 1_000_000  # beyond this (noise) the graph of runs costs more memory than SciPy's labelling


@dataclass(frozen=True)
class MatchingRule:
    """When a predicted and a true lesion may be paired.

    Attributes:
        name: stored with the results.
        minimum_iou: the least IoU of the two; 0 means one common voxel.

    Pairs that qualify are made in falling order of common voxels (then IoU, then position), each lesion at
    most once.
    """

    name: str
    minimum_iou: float


ANY_OVERLAP = MatchingRule("one-to-one, any overlap", 0.0)
IOU_10 = MatchingRule("one-to-one, IoU >= 0.1", 0.1)
IOU_50 = MatchingRule("one-to-one, IoU >= 0.5", 0.5)
DEFAULT_RULE = IOU_10
RULES: dict[str, MatchingRule] = {"any": ANY_OVERLAP, "iou-0.1": IOU_10, "iou-0.5": IOU_50}


@dataclass(frozen=True)
class Lesions:
    """The connected components of a mask.

    Attributes:
        labels: Crop-shaped int32 map, 0 outside, 1 … count.
        voxels: int64 (count,), size of each.
        part: the crop that `labels` lies on.
    """

    labels: NDArray[np.int32]
    voxels: NDArray[np.int64]
    part: Crop

    @property
    def count(self) -> int:
        return len(self.voxels)

    def diameters_mm(self, voxel_mm3: float) -> NDArray[np.float64]:
        """Diameter of the ball of the same volume, for each lesion."""
        return np.cbrt(6 / np.pi * self.voxels * voxel_mm3)


def lesions_of(part: Crop) -> Lesions:
    """The 26-connected components of a mask, numbered in scan order.

    Works on runs of voxels along z, some hundred times fewer than voxels.
    """
    runs = _runs(part.mask)
    if len(runs.start) > MANY_RUNS:
        labels, count = ndimage.label(part.mask, structure=np.ones((3, 3, 3), bool))
        return Lesions(labels, np.bincount(labels.ravel(), minlength=count + 1)[1:], part)
    a, b = _touching(runs, part.mask.shape)
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(runs.start), len(runs.start)))
    count, component = connected_components(graph, directed=False)
    lengths = runs.stop - runs.start
    labels = part.mask.astype(np.int32)
    if count > 1:
        labels[part.mask] = np.repeat(component + 1, lengths)
    return Lesions(labels, np.bincount(component, weights=lengths, minlength=count).astype(np.int64), part)


class _Runs(NamedTuple):
    """Runs of True voxels along z, `stop` exclusive, in an array whose lines are one voxel longer than the mask's."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]


def _runs(mask: NDArray[np.bool_]) -> _Runs:
    spaced = np.pad(mask, ((0, 0), (0, 0), (0, 1))).ravel()
    changes = np.flatnonzero(spaced[1:] != spaced[:-1]) + 1
    if spaced[0]:
        changes = np.concatenate(([0], changes))
    return _Runs(changes[::2], changes[1::2])


def _touching(runs: _Runs, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of runs in neighbouring lines that share a face, an edge or a corner."""
    width = shape[2] + 1
    y = runs.start // width % shape[1]
    pairs = []
    for dx, dy in ((0, 1), (1, -1), (1, 0), (1, 1)):
        mine = np.flatnonzero((y + dy >= 0) & (y + dy < shape[1]))
        offset = (dx * shape[1] + dy) * width
        first = np.searchsorted(runs.stop, runs.start[mine] + offset)  # stops at or after my start
        last = np.searchsorted(runs.start, runs.stop[mine] + offset, side="right")  # starts at or before my stop
        many = last - first
        theirs = np.arange(many.sum()) + np.repeat(first - np.cumsum(many) + many, many)
        pairs.append((np.repeat(mine, many), theirs))
    return np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs])


def match(reference: Lesions, prediction: Lesions, rule: MatchingRule = DEFAULT_RULE) -> list[tuple[int, int]]:
    """Pairs (reference lesion, predicted lesion), counted from 0, in the order in which they were made."""
    windows = overlap_windows(reference.part, prediction.part)
    if windows is None:
        return []
    mine, theirs, overlap = _overlaps(reference.labels[windows[0]], prediction.labels[windows[1]], prediction.count)
    iou = overlap / (reference.voxels[mine] + prediction.voxels[theirs] - overlap)
    taken_mine: set[int] = set()
    taken_theirs: set[int] = set()
    pairs = []
    for i in np.lexsort((theirs, mine, -iou, -overlap)):
        a, b = int(mine[i]), int(theirs[i])
        if iou[i] >= rule.minimum_iou and a not in taken_mine and b not in taken_theirs:
            taken_mine.add(a)
            taken_theirs.add(b)
            pairs.append((a, b))
    return pairs


def _overlaps(
    reference: NDArray[np.int32], prediction: NDArray[np.int32], predicted: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Reference lesion, predicted lesion (both from 0) and common voxels of every pair that overlaps."""
    common = (reference > 0) & (prediction > 0)
    if reference.max(initial=0) <= 1 and predicted == 1:
        overlap = np.count_nonzero(common, axis=None)
        one = np.zeros(int(overlap > 0), np.int64)
        return one, one, np.full(len(one), overlap, np.int64)
    keys = (reference[common].astype(np.int64) - 1) * predicted + prediction[common] - 1
    pairs, overlaps = np.unique(keys, return_counts=True)
    mine, theirs = np.divmod(pairs, max(predicted, 1))
    return mine, theirs, overlaps


def size_bin_names(edges_mm: tuple[float, ...] = SIZE_BINS_MM) -> list[str]:
    """Names such as "0-10mm" and "20mm+", in rising order."""
    return [f"{low:g}mm+" if math.isinf(high) else f"{low:g}-{high:g}mm" for low, high in itertools.pairwise(edges_mm)]


def count_by_size(diameters_mm: NDArray[np.float64], edges_mm: tuple[float, ...] = SIZE_BINS_MM) -> list[int]:
    """How many lesions fall in each bin."""
    bins = np.searchsorted(edges_mm[1:-1], diameters_mm, side="right")
    return np.bincount(bins, minlength=len(edges_mm) - 1).tolist()


def f1(found: int, reference: int, predicted: int) -> float:
    """2·found / (reference + predicted): the harmonic mean of sensitivity and precision."""
    return 2 * found / (reference + predicted)
