"""`pytest tests/faults -m faults -s`: a table of what became of a run that was disturbed; all counts must be zero.

TAGS_BENCH_FAULTS is the number of random moments for each kind of process, TAGS_BENCH_FAULTS_BESIDE how many runs go
on at a time.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from tests.faults.crashes import (
    FULL_DISKS,
    IDENTITY,
    MAY_DIFFER,
    ROLES,
    SERVER_MOMENTS,
    Campaign,
    Finished,
    can_mount,
    changed,
    comparable,
    compared,
    full_disk,
    table,
    without_server,
)

TIMES = int(os.environ.get("TAGS_BENCH_FAULTS", "5"))
BESIDE = int(os.environ.get("TAGS_BENCH_FAULTS_BESIDE", "1"))


def rows_of(**columns: list[object]) -> pd.DataFrame:
    plain = {name: ["x"] * 3 for name in IDENTITY} | {name: [0.0] * 3 for name in MAY_DIFFER}
    return pd.DataFrame(plain | {"case": ["a", "b", "c"], "dice": [0.1, 0.2, float("nan")]} | columns)


def test_the_counts_see_what_they_count() -> None:
    rows = rows_of()
    reference = comparable(rows)
    assert compared(reference, reference) == (0, 0, 0)
    assert compared(comparable(rows_of(seconds_open=[9.0, 9.0, 9.0])), reference) == (0, 0, 0)
    assert compared(comparable(rows[1:]), reference) == (1, 0, 0)
    assert compared(comparable(pd.concat([rows, rows[:2]])), reference) == (0, 2, 0)
    assert compared(comparable(rows_of(dice=[0.1, 0.3, 0.0])), reference) == (0, 0, 2)
    assert compared(comparable(rows_of(case=["a", "b", "new"])), reference) == (1, 0, 1)


def test_what_is_computed_again_shows_in_its_seconds_or_its_files() -> None:
    before = Finished(rows_of()[:2], {"mask": 5})
    assert changed(before, Finished(rows_of(), {"mask": 5, "another": 6})) == 0
    assert changed(before, Finished(rows_of(seconds_open=[9.0, 0.0, 0.0]), {"mask": 5})) == 1
    assert changed(before, Finished(rows_of()[1:], {"mask": 5})) == 1
    assert changed(before, Finished(rows_of(), {"mask": 7})) == 1
    assert changed(Finished(pd.DataFrame(), {"checkpoint": 1}), Finished(rows_of(), {})) == 1


@pytest.mark.faults
@pytest.mark.timeout(4 * 3600)
def test_a_disturbed_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "campaign")
    work = [(campaign.kill, (role, number)) for number in range(TIMES) for role in ("driver", *ROLES)]
    work += [(without_server, (campaign, moment)) for moment in SERVER_MOMENTS]
    mountable = can_mount(tmp_path / "mount")
    work += [(full_disk, (campaign, place)) for place in FULL_DISKS if mountable]
    with ThreadPoolExecutor(BESIDE) as beside:
        verdicts = [one.result() for one in [beside.submit(act, *words) for act, words in work]]
    print(f"\n{table(verdicts)}")
    if not mountable:
        print("no full disks: a tmpfs cannot be mounted here")
    bad = [one for one in verdicts if not one.well]
    assert not bad, "\n".join(f"{one.kind} ({one.where}): {one}" for one in bad)
