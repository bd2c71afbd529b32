"""A metric against the size of the operator's error."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.results.statistics.intervals import Values, summary
from benchmarks.results.statistics.rows import higher_is_better


def robustness_curve(
    records: pd.DataFrame, metric: str, levels: Mapping[str, float], loss: float = 0.05
) -> pd.DataFrame:
    """A metric against the size of the operator's error, and how much error each method tolerates.

    Args:
        levels: protocol name → size of the error, such as mm; the protocols of one ladder (see
            `benchmarks.prompting.protocol.noise_ladder`).
        loss: how much worse than at the smallest error the mean may become.

    Returns:
        The rows of `summary` at the last step of each protocol, with `level` and `tolerated`: the level at
        which the loss is first exceeded, by linear interpolation; infinite if it never is.
    """
    rows = records[records["protocol"].isin(list(levels))]
    absent = [name for name in levels if name not in set(rows["protocol"])]
    if absent:
        raise UserError(f"records: no rows of protocol '{absent[0]}'; {nearest_name(absent[0], records['protocol'])}")
    last = rows[rows["step"] == rows.groupby("protocol")["step"].transform("max")]
    table = summary(last, metric)
    table = table.assign(level=table["protocol"].map(dict(levels)).astype(np.float64))
    table = table.sort_values(["method", "dataset", "target", "level"], ignore_index=True)
    sign = 1.0 if higher_is_better(metric) else -1.0
    for _, curve in table.groupby(["method", "dataset", "target"]):
        worse = sign * (curve["mean"].iloc[0] - curve["mean"].to_numpy())
        table.loc[curve.index, "tolerated"] = _first_crossing(curve["level"].to_numpy(), worse, loss)
    return table


def _first_crossing(levels: Values, worse: Values, loss: float) -> float:
    beyond = np.flatnonzero(worse > loss)
    if beyond.size == 0:
        return math.inf
    i = int(beyond[0])
    share = (loss - worse[i - 1]) / (worse[i] - worse[i - 1])
    return float(levels[i - 1] + share * (levels[i] - levels[i - 1]))
