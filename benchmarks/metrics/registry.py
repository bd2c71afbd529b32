"""The metrics: each is one object, and whatever speaks of metrics asks here.

Rows of records, failed rows, empty-mask policies, tables, MLflow and docs/metrics.md all follow from this list. A new
metric is one more `register(Metric(...))` below and a rise of `METRICS_VERSION`; no other file changes.

    for metric in metrics_of(tolerances_mm): row[metric.key] = metric.function(comparison)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from benchmarks.metrics.comparison import Comparison
from benchmarks.metrics.lesions import f1
from benchmarks.metrics.overlap import RVE_WORST

Place = Literal["leaderboard", "details", "mlflow", "score"]
"""Where a metric is shown: the main table, the table `metrics` of the details, MLflow, the table of `score`."""

EVERYWHERE: frozenset[Place] = frozenset(get_args(Place))
BESIDE: frozenset[Place] = frozenset({"details", "mlflow"})

DIAGONAL = "the image diagonal"
"""The worst value of a distance: no two points of the image lie farther apart."""


@dataclass(frozen=True)
class Metric:
    """A quality of a mask.

    Attributes:
        key: its column in a row.
        title: its name in text; `short` the one in a heading, if that is another.
        unit: "mm", or nothing for a share.
        higher_is_better: then it lies between `worst` and `perfect`, 0 and 1.
        function: the value for two masks, neither of which is empty.
        definition: for docs/metrics.md; P is the prediction, R the reference.
        worst: the value of a failed case; of a distance the diagonal of its image.
        perfect: the value of a mask without fault.
        missed: the value where P is empty and R is not, if that is neither the worst nor left open.
        shown: see `Place`.
        digits: decimals in a table.
    """

    key: str
    title: str
    unit: str
    higher_is_better: bool
    function: Callable[[Comparison], float]
    definition: str
    worst: float | Literal["the image diagonal"]
    perfect: float
    missed: float | None = None
    shown: frozenset[Place] = EVERYWHERE
    short: str = ""
    digits: int = 3

    @property
    def name(self) -> str:
        """The title with its unit, such as "HD95 (mm)"."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def heading(self) -> str:
        """For the head of a narrow column, such as "HD95 mm"."""
        return f"{self.short or self.title} {self.unit}".strip()

    def worst_value(self, diagonal_mm: float) -> float:
        """The worst value in an image of that diagonal."""
        return diagonal_mm if isinstance(self.worst, str) else float(self.worst)


@dataclass(frozen=True)
class PerTolerance:
    """A metric that a suite has once for each of its tolerances; `key` is the part before the "@"."""

    key: str
    make: Callable[[float], Metric]


_REGISTERED: dict[str, Metric | PerTolerance] = {}


def register(metric: Metric | PerTolerance) -> None:
    """Add a metric at the end of the list.

    Raises:
        ValueError: its key is taken, or holds an "@", which parts a key from a tolerance or a click.
    """
    if metric.key in _REGISTERED or "@" in metric.key:
        raise ValueError(f"metric '{metric.key}': the key is taken or holds an '@'")
    _REGISTERED[metric.key] = metric


def metrics_of(tolerances_mm: Sequence[float]) -> tuple[Metric, ...]:
    """All metrics of a suite with these tolerances, in order."""
    found: list[Metric] = []
    for entry in _REGISTERED.values():
        found += [entry] if isinstance(entry, Metric) else [entry.make(tolerance) for tolerance in tolerances_mm]
    return tuple(found)


def metric_of(key: str) -> Metric:
    """The metric of a column: "dice", "nsd@2mm", or "dice@3" (Dice after three clicks).

    Raises:
        KeyError: no metric.
    """
    base, _, rest = key.partition("@")
    entry = _REGISTERED[base]
    if isinstance(entry, PerTolerance):
        tolerance = re.fullmatch(r"(.+)mm", rest)
        return replace(entry.make(float(tolerance[1]) if tolerance else math.nan), key=key)
    return replace(entry, key=key, title=f"{entry.title}@{rest}") if rest else entry


def is_metric(key: str) -> bool:
    """Whether a key of a row is a quality metric (and not a count, a volume or a name)."""
    return key.split("@", 1)[0] in _REGISTERED


def metric_names() -> list[str]:
    """What can be asked for, to offer the nearest name; without tolerances."""
    return list(_REGISTERED)


def metrics_among(columns: Iterable[object], place: Place | None = None) -> list[Metric]:
    """The metrics that a table has, in its order; only those that are shown at `place`, if one is given."""
    found = [metric_of(str(column)) for column in columns if is_metric(str(column))]
    return [metric for metric in found if place is None or place in metric.shown]


def higher_is_better(key: str) -> bool:
    """The direction of a metric, such as "dice" or "nsd@2mm". Raises KeyError for anything else."""
    return metric_of(key).higher_is_better


def markdown_table() -> str:
    """The list as a Markdown table, as docs/metrics.md shows it."""
    lines = ["| key | in tables | definition | range | better | worst |", "| --- | --- | --- | --- | --- | --- |"]
    for entry in _REGISTERED.values():
        metric = entry if isinstance(entry, Metric) else entry.make(2.0)
        key = f"`{metric.key}`" if isinstance(entry, Metric) else f"`{entry.key}@1mm`, `{entry.key}@2mm`, …"
        ends = sorted((metric.perfect, metric.worst), key=lambda end: (isinstance(end, str), end))
        span = " to ".join(end if isinstance(end, str) else f"{end:g}" for end in ends)
        worst = metric.worst if isinstance(metric.worst, str) else f"{metric.worst:g}"
        better = "higher" if metric.higher_is_better else "lower"
        definition = metric.definition.replace("|", r"\|")
        lines.append(f"| {key} | {metric.heading} | {definition} | {span} | {better} | {worst} |")
    return "\n".join(lines)


# -- the list --


def _score(key: str, title: str, function: Callable[[Comparison], float], definition: str, **more: object) -> Metric:
    """A share between 0 (worst) and 1."""
    return Metric(key, title, "", True, function, definition, 0.0, 1.0, **more)  # type: ignore[arg-type]


def _distance(key: str, title: str, function: Callable[[Comparison], float], definition: str, **more: object) -> Metric:
    """Millimetres, 0 at best and the diagonal of the image at worst."""
    return Metric(key, title, "mm", False, function, definition, DIAGONAL, 0.0, digits=1, **more)  # type: ignore[arg-type]


def _surface_dice(tolerance_mm: float) -> Metric:
    return _score(
        f"nsd@{tolerance_mm:g}mm",
        f"NSD {tolerance_mm:g}mm",
        lambda pair: pair.surfaces.nsd(tolerance_mm),
        "share of the area of both surfaces that lies within the tolerance of the other surface",
    )


for _metric in (
    _score("dice", "Dice", lambda pair: pair.counts.dice, "2·|P∩R| / (|P| + |R|)"),
    _score("iou", "IoU", lambda pair: pair.counts.iou, "|P∩R| / |P∪R|", shown=EVERYWHERE - {"leaderboard"}),
    PerTolerance("nsd", _surface_dice),
    _distance(
        "hd_mm",
        "HD",
        lambda pair: pair.surfaces.hausdorff(),
        "largest distance from either surface to the other",
        shown=BESIDE,
    ),
    _distance(
        "hd95_mm",
        "HD95",
        lambda pair: pair.surfaces.hausdorff_percentile(95),
        "the larger of two distances: for each surface, the one within which 95 % of its area lies",
    ),
    _distance(
        "msd_mm",
        "MSD",
        lambda pair: pair.surfaces.mean_distance(),
        "mean distance over the area of both surfaces together",
        shown=BESIDE,
    ),
    Metric(
        key="rve",
        title="RVE",
        unit="",
        higher_is_better=False,
        function=lambda pair: pair.counts.relative_volume_error,
        definition=f"relative volume error: | |P| − |R| | / |R|, cut off at {RVE_WORST:g}",
        worst=RVE_WORST,
        perfect=0.0,
        missed=1.0,  # the whole volume is missed, which is defined
        shown=BESIDE,
        digits=2,
    ),
    _score(
        "lesion_sensitivity",
        "lesion sensitivity",
        lambda pair: pair.lesions_found / pair.lesions_reference,
        "found lesions / lesions of R",
        shown=BESIDE,
        short="sens.",
        digits=2,
    ),
    _score(
        "lesion_precision",
        "lesion precision",
        lambda pair: pair.lesions_found / pair.lesions_predicted,
        "found lesions / lesions of P",
        shown=BESIDE,
        short="prec.",
        digits=2,
    ),
    _score(
        "lesion_f1",
        "lesion F1",
        lambda pair: f1(pair.lesions_found, pair.lesions_reference, pair.lesions_predicted),
        "2·found / (lesions of R + lesions of P)",
        short="F1",
        digits=2,
    ),
):
    register(_metric)
