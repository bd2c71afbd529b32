"""Metrics of a mask against its reference: overlap, surface, lesion-wise, and click curves. NumPy and SciPy
only.

    reference = Reference(label_mask, spacing)          # once per case or lesion
    row = evaluate_mask(prediction, reference)          # once per prediction or click round
    row = failed_values(reference)                      # a case that failed: worst values, never left out
"""

from __future__ import annotations

from benchmarks.metrics.clicks import ClickCurve, curve_metrics, summarise_curves
from benchmarks.metrics.lesions import DEFAULT_RULE, RULES, MatchingRule, scores_by_size
from benchmarks.metrics.mask import METRICS_VERSION, TOLERANCES_MM, Reference, evaluate_mask, failed_values
from benchmarks.metrics.policy import (
    DEFAULT_POLICY,
    POLICIES,
    EmptyPolicy,
    MetricValue,
    mean_under_policies,
    under_policy,
)
from benchmarks.metrics.registry import (
    Metric,
    higher_is_better,
    is_metric,
    metric_names,
    metric_of,
    metrics_among,
    metrics_of,
    register,
)

__all__ = [
    "DEFAULT_POLICY",
    "DEFAULT_RULE",
    "METRICS_VERSION",
    "POLICIES",
    "RULES",
    "TOLERANCES_MM",
    "ClickCurve",
    "EmptyPolicy",
    "MatchingRule",
    "Metric",
    "MetricValue",
    "Reference",
    "curve_metrics",
    "evaluate_mask",
    "failed_values",
    "higher_is_better",
    "is_metric",
    "mean_under_policies",
    "metric_names",
    "metric_of",
    "metrics_among",
    "metrics_of",
    "register",
    "scores_by_size",
    "summarise_curves",
    "under_policy",
]
