"""Cases of an example that are measured again, a part at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd


def with_measured(cases: pd.DataFrame, new: pd.DataFrame, parts: Sequence[str]) -> pd.DataFrame:
    """The cases with those measured again in the place of what they had; rows in the order of the columns.

    Args:
        cases: all cases so far.
        new: cases of the same columns.
        parts: columns; what agrees in all of them is replaced as a whole, and the rest stays as it was.
    """
    keys = list(parts)
    measured = pd.MultiIndex.from_frame(new[keys])
    kept = cases[~pd.MultiIndex.from_frame(cases[keys]).isin(measured)]
    return pd.concat([kept, new])[list(cases.columns)].sort_values(list(cases.columns), ignore_index=True)


def require_each_once(name: str, rows: pd.DataFrame, keys: Sequence[str], wanted: Collection[tuple[Any, ...]]) -> None:
    """The rows are those that are wanted, each once, or a table of them would compare what is not alike.

    Args:
        wanted: values of the keys.

    Raises:
        ValueError: they are not.
    """
    if sorted(rows[list(keys)].itertuples(index=False, name=None)) != sorted(wanted):
        words = " and ".join(f"{key}s" for key in keys)
        raise ValueError(f"{name} has {len(rows)} rows, not each of {len(wanted)} {words} once")
