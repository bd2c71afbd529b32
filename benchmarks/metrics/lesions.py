"""Lesion-wise figures: which lesions were found, under a matching rule that has a name.

A lesion is a connected component (26 neighbours). Predicted and true lesions are paired one to one, so that
a prediction that floods ten lesions has found one, and ten specks inside a lesion are one hit and nine
false alarms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from benchmarks.metrics.crop import BoolArray, Crop
from benchmarks.metrics.overlap import intersection_count

IndexArray = NDArray[np.signedinteger]

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
class Runs:
    """Runs of True voxels along z, in scan order.

    Attributes:
        start, stop: int32 or int64 (n,), ends (`stop` exclusive) in the flattened crop, whose lines are one voxel
            longer here than in the mask, so that no run goes on into the next line.
    """

    start: IndexArray
    stop: IndexArray

    @property
    def lengths(self) -> IndexArray:
        return self.stop - self.start


@dataclass(frozen=True)
class Lesions:
    """The connected components of a mask.

    Attributes:
        voxels: int64 (count,), size of each.
        part: the mask in its box.
        runs: its voxels, some hundred at a time.
        labels: int32, which lesion each run belongs to: 0 … count − 1.
    """

    voxels: NDArray[np.int64]
    part: Crop
    runs: Runs
    labels: NDArray[np.int32]

    @property
    def count(self) -> int:
        return len(self.voxels)

    def diameters_mm(self, voxel_mm3: float) -> NDArray[np.float64]:
        """Diameter of the ball of the same volume, for each lesion."""
        return np.cbrt(6 / np.pi * self.voxels * voxel_mm3)


def lesions_of(part: Crop) -> Lesions:
    """The 26-connected components of a mask, numbered in scan order."""
    runs = runs_of(part.mask)
    if len(runs.start) > MANY_RUNS:
        everywhere, _ = ndimage.label(part.mask, structure=np.ones((3, 3, 3), bool))
        labels = everywhere.ravel()[runs.start - runs.start // (part.mask.shape[2] + 1)] - 1
    else:
        labels = _connected(runs, part.mask.shape)
    return Lesions(np.bincount(labels, weights=runs.lengths).astype(np.int64), part, runs, labels)


def runs_of(mask: BoolArray) -> Runs:
    """The runs of a mask (3D)."""
    spaced = np.pad(mask, ((0, 0), (0, 0), (0, 1))).ravel()
    changes = np.flatnonzero(spaced[1:] != spaced[:-1]) + 1
    if spaced[0]:
        changes = np.concatenate(([0], changes))
    if spaced.size < 2**31:
        changes = changes.astype(np.int32)
    return Runs(changes[::2].copy(), changes[1::2].copy())


def _connected(runs: Runs, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Which component each run belongs to, numbered from 0 in scan order."""
    pairs = _touching(runs, shape, SIDES)
    labels = _components(len(runs.start), pairs)
    if labels.max() == 0:  # most tumours are one piece, and then the diagonals need not be looked at
        return labels
    pairs = np.concatenate([pairs, _touching(runs, shape, DIAGONALS)], axis=1)
    return _components(len(runs.start), pairs)


def _components(runs: int, pairs: NDArray[np.int64]) -> NDArray[np.int32]:
    graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(runs, runs))
    return np.asarray(connected_components(graph, directed=False)[1])


def _touching(runs: Runs, shape: tuple[int, ...], neighbours: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    """Pairs (2, n) of runs in neighbouring lines that share a face, an edge or a corner."""
    width = shape[2] + 1
    y = runs.start // width % shape[1]
    pairs = []
    for dx, dy in neighbours:
        mine = np.flatnonzero((y + dy >= 0) & (y + dy < shape[1]))
        offset = runs.start.dtype.type((dx * shape[1] + dy) * width)
        first = np.searchsorted(runs.stop, runs.start[mine] + offset)  # stops at or after my start
        last = np.searchsorted(runs.start, runs.stop[mine] + offset, side="right")  # starts at or before my stop
        pairs.append(_each_with_range(mine, first, last))
    return np.concatenate(pairs, axis=1)


def _each_with_range(mine: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs (2, n) of each of mine with first, first + 1, … last − 1."""
    many = last - first
    theirs = np.arange(many.sum()) + np.repeat(first - np.cumsum(many) + many, many)
    return np.stack([np.repeat(mine, many), theirs])


def match(reference: Lesions, prediction: Lesions, rule: MatchingRule = DEFAULT_RULE) -> list[tuple[int, int]]:
    """Pairs (reference lesion, predicted lesion), counted from 0, in the order in which they were made."""
    mine, theirs, overlap = _overlaps(reference, prediction)
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
    reference: Lesions, prediction: Lesions
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Reference lesion, predicted lesion and common voxels of every pair that overlaps, in rising order."""
    if reference.count == prediction.count == 1:
        overlap = intersection_count(reference.part, prediction.part)
        one = np.zeros(int(overlap > 0), np.int64)
        return one, one, np.full(len(one), overlap, np.int64)
    a, b = _in_one_frame(reference, prediction)
    first = np.searchsorted(b.stop, a.start, side="right")  # stops after my start
    last = np.searchsorted(b.start, a.stop)  # starts before my stop
    mine, theirs = _each_with_range(np.arange(len(first)), first, np.maximum(first, last))
    common = np.minimum(a.stop[mine], b.stop[theirs]) - np.maximum(a.start[mine], b.start[theirs])
    of_pair = coo_array(
        (common, (reference.labels[mine], prediction.labels[theirs])), shape=(reference.count, prediction.count)
    ).tocsr()  # adds up what several runs have in common
    of_pair.sort_indices()
    found = of_pair.tocoo()
    return found.row.astype(np.int64), found.col.astype(np.int64), found.data.astype(np.int64)


def _in_one_frame(*both: Lesions) -> list[Runs]:
    """The runs of masks of one volume as ends on the lines of one box, int64."""
    low = np.min([lesions.part.low for lesions in both], axis=0)
    high = np.max([lesions.part.high for lesions in both], axis=0)
    frames = []
    for lesions in both:
        width = lesions.part.mask.shape[2] + 1
        line, z = np.divmod(lesions.runs.start.astype(np.int64), width)
        x, y = np.divmod(line, lesions.part.mask.shape[1])
        dx, dy, dz = lesions.part.low - low
        start = ((x + dx) * (high[1] - low[1]) + y + dy) * (high[2] - low[2] + 1) + z + dz
        frames.append(Runs(start, start + lesions.runs.lengths))
    return frames


def size_bin_names(edges_mm: tuple[float, ...] = SIZE_BINS_MM) -> list[str]:
    """Names such as "0-10mm" and "20mm+", in rising order."""
    return [f"{low:g}mm+" if math.isinf(high) else f"{low:g}-{high:g}mm" for low, high in itertools.pairwise(edges_mm)]


def count_by_size(diameters_mm: NDArray[np.float64], edges_mm: tuple[float, ...] = SIZE_BINS_MM) -> list[int]:
    """How many lesions fall in each bin."""
    bins = np.searchsorted(edges_mm[1:-1], diameters_mm, side="right")
    return np.bincount(bins, minlength=len(edges_mm) - 1).tolist()


def scores_by_size(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, float | int | str]]:
    """Sensitivity, precision and F1 of each size class over all rows of a method, from the counts in the rows.

    A true lesion belongs to the class of its own size, and so does a predicted one: sensitivity asks how many
    true lesions of the size were found, precision how many predictions of the size were true. F1 is their
    harmonic mean. A share of nothing is NaN: there it does not exist. So is a sum to which some row has no count, with
    what follows from it: records of the first metrics version do not say which predictions there were by size.
    """
    rows = list(rows)
    table: list[dict[str, float | int | str]] = []
    for size in size_bin_names():
        there, found, predicted, matched = (
            _total(row.get(f"lesions_{what}@{size}", math.nan) for row in rows)
            for what in ("reference", "found", "predicted", "matched")
        )
        sensitivity = found / there if there else math.nan
        precision = matched / predicted if predicted else math.nan
        both = sensitivity + precision
        table.append(
            {
                "size": size,
                "lesions": there,
                "found": found,
                "predicted": predicted,
                "matched": matched,
                "sensitivity": sensitivity,
                "precision": precision,
                "f1": 2 * sensitivity * precision / both if both else both,
            }
        )
    return table


def _total(counts: Iterable[float]) -> int | float:
    """The sum of counts; NaN if one of them is not known."""
    total = sum(counts)
    return total if math.isnan(total) else int(total)


def f1(found: int, reference: int, predicted: int) -> float:
    """2·found / (reference + predicted): the harmonic mean of sensitivity and precision."""
    return 2 * found / (reference + predicted)
