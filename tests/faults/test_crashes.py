"""`pytest tests/faults -m faults -s`: a table of what became of a run that was disturbed; all counts must be zero.

TAGS_BENCH_FAULTS is the number of random moments for each kind of process, TAGS_BENCH_FAULTS_BESIDE how many runs go
on at a time.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.crashes import (
    FULL_DISKS,
    ROLES,
    SERVER_MOMENTS,
    Campaign,
    can_mount,
    full_disk,
    table,
    without_server,
)

TIMES = int(os.environ.get("TAGS_BENCH_FAULTS", "5"))
BESIDE = int(os.environ.get("TAGS_BENCH_FAULTS_BESIDE", "1"))


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
