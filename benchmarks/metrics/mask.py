"""One prediction against one reference mask: every metric of a record from one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from benchmarks.metrics.comparison import Comparison
from benchmarks.metrics.crop import BoolArray, crop
from benchmarks.metrics.lesions import (
    DEFAULT_RULE,
    Lesions,
    MatchingRule,
    count_by_size,
    lesions_of,
    match,
    size_bin_names,
)
from benchmarks.metrics.overlap import Counts, intersection_count
from benchmarks.metrics.policy import DEFAULT_POLICY, Empty, EmptyPolicy, MetricValue
from benchmarks.metrics.registry import metrics_of
from benchmarks.metrics.surface import ReferenceSurface

METRICS_VERSION = "2"  # raised whenever a number would change
TOLERANCES_MM = (1.0, 2.0, 5.0)


class Reference:
    """A ground-truth mask with whatever of the metrics depends on it alone, computed once and reused every
    round.

    Args:
        label_mask: bool (x, y, z); only its bounding box is kept.
        spacing: mm, in the order of the axes.
        tolerances: mm, for the normalised surface Dice.
        policy: what counts when a mask is empty.
        rule: when a predicted lesion counts as a true one.

    Raises:
        ValueError: not a 3D bool array, or spacing or tolerances that are not positive and finite.
    """

    def __init__(
        self,
        label_mask: BoolArray,
        spacing: Sequence[float],
        tolerances: Sequence[float] = TOLERANCES_MM,
        policy: EmptyPolicy = DEFAULT_POLICY,
        rule: MatchingRule = DEFAULT_RULE,
    ) -> None:
        _check_mask(label_mask, "reference")
        if len(spacing) != 3 or not all(math.isfinite(step) and step > 0 for step in spacing):
            raise ValueError(f"spacing must be three positive millimetres, not {tuple(spacing)}")
        if not all(math.isfinite(tolerance) and tolerance >= 0 for tolerance in tolerances):
            raise ValueError(f"tolerances must be millimetres, not {tuple(tolerances)}")
        self.shape: tuple[int, int, int] = label_mask.shape  # type: ignore[assignment]
        self.spacing = (float(spacing[0]), float(spacing[1]), float(spacing[2]))
        self.tolerances = tuple(float(tolerance) for tolerance in tolerances)
        self.metrics = metrics_of(self.tolerances)
        self.policy = policy
        self.rule = rule
        self.part = crop(label_mask)
        self.voxels = 0 if self.part is None else int(np.count_nonzero(self.part.mask))

    @property
    def voxel_mm3(self) -> float:
        return math.prod(self.spacing)

    @property
    def diagonal_mm(self) -> float:
        """Diagonal of the image: no two points of it lie farther apart. The worst value of a distance."""
        return math.hypot(*(size * step for size, step in zip(self.shape, self.spacing, strict=True)))

    @cached_property
    def surface(self) -> ReferenceSurface:
        """Surfels and the distances near them. Only for a mask that is not empty."""
        assert self.part is not None
        return ReferenceSurface(self.part, self.spacing)

    @cached_property
    def lesions(self) -> Lesions:
        """Connected components. Only for a mask that is not empty."""
        assert self.part is not None
        return lesions_of(self.part)

    @property
    def metric_keys(self) -> tuple[str, ...]:
        """The quality metrics of a row, in order."""
        return tuple(metric.key for metric in self.metrics)


def evaluate_mask(prediction: BoolArray, reference: Reference) -> dict[str, MetricValue]:
    """All metrics of a prediction (bool, the reference's shape): flat, with stable keys in stable order.

    The keys are described in docs/metrics.md. Nothing is NaN unless the reference's policy says "skip".

    Raises:
        ValueError: not bool, or another shape than the reference.
    """
    _check_mask(prediction, "prediction")
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, the reference {reference.shape}")
    part = crop(prediction)
    voxels = 0 if part is None else int(np.count_nonzero(part.mask))
    counts = Counts(reference.voxels, voxels, intersection_count(reference.part, part))
    lesions = None if part is None else lesions_of(part)
    if part is None or lesions is None or reference.part is None:
        values = _values_when_empty(counts, reference)
        pairs: list[tuple[int, int]] = []
    else:
        pairs = match(reference.lesions, lesions, reference.rule)
        surfaces = reference.surface.pair(part)
        numbers = (reference.lesions.count, lesions.count, len(pairs))
        both = Comparison(reference.part, part, reference.spacing, counts, surfaces, *numbers)
        values = {metric.key: metric.function(both) for metric in reference.metrics}
    return values | _facts(reference, counts, lesions, pairs, _emptiness(counts))


def failed_values(reference: Reference) -> dict[str, MetricValue]:
    """The row of a case without a prediction: every metric at its worst, under any policy; no lesion found.

    The keys are those of `evaluate_mask`. `empty` is "none", since a failure is no empty mask: no policy
    softens it.
    """
    row: dict[str, MetricValue] = {
        metric.key: metric.worst_value(reference.diagonal_mm) for metric in reference.metrics
    }
    return row | _facts(reference, Counts(reference.voxels, 0, 0), None, [], "none")


def _values_when_empty(counts: Counts, reference: Reference) -> dict[str, MetricValue]:
    empty = _emptiness(counts)
    return {key: reference.policy.value(key, empty, reference.diagonal_mm) for key in reference.metric_keys}


def _emptiness(counts: Counts) -> Empty:
    if counts.reference and counts.prediction:
        return "none"
    if counts.reference:
        return "prediction"
    return "reference" if counts.prediction else "both"


def _facts(
    reference: Reference, counts: Counts, prediction: Lesions | None, pairs: list[tuple[int, int]], empty: Empty
) -> dict[str, MetricValue]:
    """What is counted, and the rules that the metrics followed."""
    truth = None if reference.part is None else reference.lesions
    there, found = _by_size(truth, [mine for mine, _ in pairs], reference.voxel_mm3)
    predicted, matched = _by_size(prediction, [theirs for _, theirs in pairs], reference.voxel_mm3)
    facts: dict[str, MetricValue] = {
        "voxels_reference": counts.reference,
        "voxels_prediction": counts.prediction,
        "voxels_intersection": counts.intersection,
        "volume_mm3_reference": counts.reference * reference.voxel_mm3,
        "volume_mm3_prediction": counts.prediction * reference.voxel_mm3,
        "lesions_reference": sum(there),
        "lesions_predicted": sum(predicted),
        "lesions_found": len(pairs),
    }
    by_size = {"reference": there, "found": found, "predicted": predicted, "matched": matched}
    for what, numbers in by_size.items():
        facts |= {f"lesions_{what}@{name}": number for name, number in zip(size_bin_names(), numbers, strict=True)}
    return facts | {
        "empty": empty,
        "diagonal_mm": reference.diagonal_mm,
        "policy": reference.policy.policy_id,
        "lesion_rule": reference.rule.name,
        "metrics_version": METRICS_VERSION,
    }


def _by_size(lesions: Lesions | None, chosen: list[int], voxel_mm3: float) -> tuple[list[int], list[int]]:
    """Lesions of each size class, and the chosen ones among them."""
    diameters = np.zeros(0) if lesions is None else lesions.diameters_mm(voxel_mm3)
    return count_by_size(diameters), count_by_size(diameters[chosen])


def _check_mask(mask: BoolArray, name: str) -> None:
    if mask.ndim != 3 or mask.dtype != np.bool_:
        raise ValueError(f"the {name} must be a 3D bool array, not {mask.ndim}D {mask.dtype}")
    if isinstance(mask, np.ma.MaskedArray):  # what is masked counts as nothing, and would score 0 without a word
        raise ValueError(f"the {name} must be a plain array, not a masked one")
