"""Whether every row that a finished run must have is there, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.results.records import FAILED
from benchmarks.results.statistics.rows import KEYS


def expected_rows(
    protocols: Mapping[str, Mapping[str, int]],
    cases: Mapping[str, Sequence[str]],
    targets: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """The rows that a finished run must have: methods × cases × targets × steps.

    Args:
        protocols: method → protocol name → number of steps, only those that the method can follow.
        cases: dataset → case ids.
        targets: dataset → target names.
    """
    rows = [
        (method, dataset, case, target, protocol, step)
        for method, steps in protocols.items()
        for dataset in cases
        for case in cases[dataset]
        for target in targets[dataset]
        for protocol, last in steps.items()
        for step in range(1, last + 1)
    ]
    return pd.DataFrame(rows, columns=KEYS)


def assert_complete(records: pd.DataFrame, expected: pd.DataFrame) -> pd.DataFrame:
    """Check that the records hold every expected row once and no other, and give back the failed ones.

    Args:
        expected: columns `KEYS`, as made by `expected_rows`.

    Raises:
        UserError: rows that are missing, come twice or were not expected; the first ones are named.
    """
    have = pd.MultiIndex.from_frame(records[KEYS]) if len(records) else pd.MultiIndex.from_frame(expected.iloc[:0])
    due = pd.MultiIndex.from_frame(expected[KEYS])
    for fault, rows in (
        ("are missing", due[~due.isin(have)]),
        ("come twice", have[have.duplicated()].unique()),
        ("were not expected", have[~have.isin(due)].unique()),
    ):
        if len(rows):
            named = "; ".join(" / ".join(map(str, row)) for row in rows[:3]) + (" …" if len(rows) > 3 else "")
            raise UserError(f"records: {len(rows)} rows {fault} ({' / '.join(KEYS)}): {named}")
    return records[records["status"] == FAILED] if len(records) else records
