"""Where this machine keeps what does not belong to one output folder."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.common.paths import user_path

HOME_VARIABLE = "TAGS_BENCH_DATA"


def data_home() -> Path:
    """Where this machine's list of datasets and what is fetched lie: `TAGS_BENCH_DATA` or `~/.tags-bench`."""
    return user_path(os.environ.get(HOME_VARIABLE) or "~/.tags-bench").absolute()
