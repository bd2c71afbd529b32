"""Records that several tests of the leaderboard look at."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tests.results.boards import study


@pytest.fixture(scope="package")
def large() -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Six methods on three datasets under three protocols, with 8 cases and a few failures."""
    return study(methods=6, cases=8)
