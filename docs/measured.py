"""Cases of an example that are measured again, a part at a time."""

from __future__ import annotations

from collections.abc import Sequence

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
