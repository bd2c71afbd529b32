"""Which rows count, and for how much: cases without the target, failures, gaps, directions.

Records are long tables with the columns method, dataset, case, patient, target, protocol, step, status, and one column
for each metric.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks import metrics
from benchmarks.common.errors import UserError, nearest_name
from benchmarks.results.comparability import DIFFERS
from benchmarks.results.records import FAILED, NO_TARGET

KEYS = ["method", "dataset", "case", "target", "protocol", "step"]

UNIT = ["dataset", "case", "target"]

SETTING = ["dataset", "target", "protocol", "step"]

OTHER_DIRECTIONS = {
    "auc": True,
    "noc": False,
    "failed": False,
    "failures": False,
    "seconds": False,
    "peak_memory": False,
}
"""Whether more is better, for columns of records that are no metric of a mask; by the beginning of the name."""


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better; the metrics of which this holds lie between 0 and 1.

    Raises:
        UserError: a column whose direction is not known, for a guess could turn a ranking upside down.
    """
    if metrics.is_metric(metric):
        return metrics.higher_is_better(metric)
    for beginning, direction in OTHER_DIRECTIONS.items():
        if metric.startswith(beginning):
            return direction
    known = [*metrics.metric_names(), *OTHER_DIRECTIONS]
    raise UserError(f"whether more or less of '{metric}' is better is not known; {nearest_name(metric, known)}")


def with_target(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of cases in which there was something to ask: all but those with status "no-target".

    Raises:
        UserError: a case that counts for one method and not for another, so that their means are not comparable.
    """
    if records.empty or not (records["status"] == NO_TARGET).any():
        return records
    absent = records["status"] == NO_TARGET
    together = [key for key in (*UNIT, "protocol", DIFFERS) if key in records]
    shares = absent.groupby([records[key] for key in together]).transform("mean")
    torn = records[(shares > 0) & (shares < 1)]
    if len(torn):
        row = torn.iloc[0]
        place = " / ".join(str(row[key]) for key in (*UNIT, "protocol"))
        counted = ", ".join(sorted(set(torn[(torn["status"] != NO_TARGET)]["method"].astype(str)))[:3])
        raise UserError(
            f"records: {place} has no target for some methods but counts for {counted}; run the suite again"
        )
    return records[~absent]


def with_failures_as_worst(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The records with every failed row at the worst value of the metric; those of `with_target` only.

    The worst is that of the metric (0 for Dice). For a distance or a time it is the largest finite value in the same
    dataset, those that failed rows hold (the image diagonal) included.

    Raises:
        UserError: no such metric; a row that did not fail has no finite value; or every row of a dataset
            failed and none tells a finite worst value.
    """
    if metric not in records.columns:
        raise UserError(f"the records have no metric '{metric}'")
    filled = with_target(records).copy()
    filled[metric] = filled[metric].astype(np.float64)
    failed = filled["status"] == FAILED
    _refuse_gaps(filled[~failed], metric, "did not fail and has no finite value")
    larger_wins = higher_is_better(metric)
    worst = metrics.metric_of(metric).worst if metrics.is_metric(metric) else 0.0 if larger_wins else None
    if isinstance(worst, (int, float)):
        filled.loc[failed, metric] = worst
        return filled
    finite = filled[metric].where(np.isfinite(filled[metric]))
    filled.loc[failed, metric] = finite.groupby(filled["dataset"]).transform("max")[failed]
    _refuse_gaps(filled, metric, "failed, and its dataset has no finite value to count as the worst")
    return filled


def without_success(records: pd.DataFrame, metric: str) -> set[str]:
    """The methods of which every row is at the worst: all failed, or nothing found at all. They have no rank."""
    worst = (records["status"] == FAILED) | _at_worst(records, metric)
    shares = worst.groupby(records["method"]).all()
    return {str(method) for method in shares.index[shares]}


def _at_worst(records: pd.DataFrame, metric: str) -> pd.Series:
    """Whether each row has the worst value there is: of a distance the diagonal of its image; seconds have none."""
    if higher_is_better(metric):
        return records[metric] == 0
    if not metrics.is_metric(metric) or "diagonal_mm" not in records:
        return pd.Series(False, records.index)
    return records[metric] >= records["diagonal_mm"].map(metrics.metric_of(metric).worst_value)


def _refuse_gaps(records: pd.DataFrame, metric: str, what: str) -> None:
    gaps = records[~np.isfinite(records[metric])]
    if len(gaps):
        row = " / ".join(str(gaps.iloc[0][key]) for key in KEYS)
        raise UserError(f"records: {metric} of {row} {what} ({len(gaps)} such rows)")


def case_table(records: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, pd.Series]:
    """Cases × methods for one protocol and step, and the patient of each case; failures at the worst value.

    Raises:
        UserError: more than one protocol or step, or a case that some method lacks.
    """
    for column in ("protocol", "step"):
        if records[column].nunique() != 1:
            raise UserError(f"a comparison needs one {column}, these records have {records[column].nunique()}")
    filled = with_failures_as_worst(records, metric)
    repeated = filled[filled.duplicated(["method", *UNIT])]
    if len(repeated):
        raise UserError(f"records: {' / '.join(str(repeated.iloc[0][key]) for key in KEYS)} comes twice")
    table = filled.pivot(index=UNIT, columns="method", values=metric)
    lacking = np.argwhere(table.isna().to_numpy())
    if len(lacking):
        unit, method = table.index[lacking[0][0]], table.columns[lacking[0][1]]
        raise UserError(f"records: {method} has no row for {' / '.join(map(str, unit))}")
    patients = filled.drop_duplicates(UNIT).set_index(UNIT)["patient"].astype(str).reindex(table.index)
    return table, table.index.get_level_values("dataset").astype(str) + "/" + patients
