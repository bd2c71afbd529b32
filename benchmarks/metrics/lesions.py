"""Lesion-wise figures: which lesions were found, under a matching rule that has a name.

A lesion is a connected component (26 neighbours). Predicted and true lesions are paired one to one, so that
a prediction that floods ten lesions has found one, and ten specks inside a lesion are one hit and nine
false alarms.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
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
SIDES = ((0, 1), (1, 0))  # neighbouring lines along z, (Δx, Δy)
DIAGONALS = ((1, -1), (1, 1))
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
        voxels: int64 (count,), size of each.
        part: the crop that `labels` lies on.
        run_labels, run_lengths: of each run of voxels along z, in scan order: 1 … count, and its voxels.
    """

    voxels: NDArray[np.int64]
    part: Crop
    run_labels: NDArray[np.int32]
    run_lengths: NDArray[np.int64]

    @property
    def count(self) -> int:
        return len(self.voxels)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """int32 map on the crop, 0 outside, 1 … count."""
        labels = self.part.mask.astype(np.int32)
        if self.count > 1:
            labels[self.part.mask] = np.repeat(self.run_labels, self.run_lengths)
        return labels

    def diameters_mm(self, voxel_mm3: float) -> NDArray[np.float64]:
        """Diameter of the ball of the same volume, for each lesion."""
        return np.cbrt(6 / np.pi * self.voxels * voxel_mm3)


def lesions_of(part: Crop) -> Lesions:
    """The 26-connected components of a mask, numbered in scan order.

    Works on runs of voxels along z, some hundred times fewer than voxels.
    """
    runs = _runs(part.mask)
    lengths = runs.stop - runs.start
    if len(lengths) > MANY_RUNS:
        labels, _ = ndimage.label(part.mask, structure=np.ones((3, 3, 3), bool))
        spaced_at = runs.start - runs.start // (part.mask.shape[2] + 1)
        return _with_sizes(part, labels.ravel()[spaced_at], lengths)
    pairs = _touching(runs, part.mask.shape, SIDES)
    component = _components(len(lengths), pairs)
    if component.max() > 0:  # most tumours are one piece, and then the diagonals need not be looked at
        pairs = np.concatenate([pairs, _touching(runs, part.mask.shape, DIAGONALS)], axis=1)
        component = _components(len(lengths), pairs)
    return _with_sizes(part, component + 1, lengths)


def _with_sizes(part: Crop, run_labels: NDArray[np.int32], lengths: NDArray[np.int64]) -> Lesions:
    voxels = np.bincount(run_labels, weights=lengths)[1:].astype(np.int64)
    return Lesions(voxels, part, run_labels.astype(np.int32), lengths)


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


def _components(runs: int, pairs: NDArray[np.int64]) -> NDArray[np.int32]:
    """Which component each run belongs to, numbered from 0 in scan order."""
    graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(runs, runs))
    return np.asarray(connected_components(graph, directed=False)[1])


def _touching(runs: _Runs, shape: tuple[int, ...], neighbours: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    """Pairs (2, n) of runs in neighbouring lines that share a face, an edge or a corner."""
    width = shape[2] + 1
    y = runs.start // width % shape[1]
    pairs = []
    for dx, dy in neighbours:
        mine = np.flatnonzero((y + dy >= 0) & (y + dy < shape[1])) if dy else np.arange(len(y))
        offset = (dx * shape[1] + dy) * width
        first = np.searchsorted(runs.stop, runs.start[mine] + offset)  # stops at or after my start
        last = np.searchsorted(runs.start, runs.stop[mine] + offset, side="right")  # starts at or before my stop
        many = last - first
        theirs = np.arange(many.sum()) + np.repeat(first - np.cumsum(many) + many, many)
        pairs.append(np.stack([np.repeat(mine, many), theirs]))
    return np.concatenate(pairs, axis=1)


def match(reference: Lesions, prediction: Lesions, rule: MatchingRule = DEFAULT_RULE) -> list[tuple[int, int]]:
    """Pairs (reference lesion, predicted lesion), counted from 0, in the order in which they were made."""
    windows = overlap_windows(reference.part, prediction.part)
    if windows is None:
        return []
    mine, theirs, overlap = _overlaps(reference, prediction, *windows)
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
    reference: Lesions, prediction: Lesions, here: tuple[slice, ...], there: tuple[slice, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Reference lesion, predicted lesion (both from 0) and common voxels of every pair that overlaps."""
    common = reference.part.mask[here] & prediction.part.mask[there]
    if reference.count == 1 and prediction.count == 1:
        overlap = np.count_nonzero(common)
        one = np.zeros(int(overlap > 0), np.int64)
        return one, one, np.full(len(one), overlap, np.int64)
    keys = (reference.labels[here][common].astype(np.int64) - 1) * prediction.count
    keys += prediction.labels[there][common] - 1
    if reference.count * prediction.count <= MANY_RUNS:
        overlaps = np.bincount(keys)
        pairs = np.flatnonzero(overlaps)
        overlaps = overlaps[pairs]
    else:
        pairs, overlaps = np.unique(keys, return_counts=True)
    mine, theirs = np.divmod(pairs, prediction.count)
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
