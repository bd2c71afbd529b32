"""How often the 95 % intervals hold the true mean, at 3 to 60 patients: the table of docs/statistics.md."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.results.statistics import mean_interval
from tests.results.coverage import KINDS, Kind, coverage, percentile_bootstrap

PATIENTS = (3, 5, 8, 10, 20, 40, 60)
STUDIES = 4000


@pytest.mark.bench
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_coverage(kind: Kind) -> None:
    chance = np.random.default_rng(1)

    def ours(values: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
        interval = mean_interval(values, owner, kind.scale)
        return interval.low, interval.high

    def one_scale(values: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
        """A plain t interval on the means of the patients."""
        means = np.bincount(owner, values) / np.bincount(owner)
        reach = stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5
        return means.mean() - reach, means.mean() + reach

    lines = {
        "this interval": [coverage(kind, n, STUDIES, ours) for n in PATIENTS],
        "percentile bootstrap": [
            coverage(kind, n, STUDIES // 2, lambda v, o: percentile_bootstrap(v, o, chance)) for n in PATIENTS
        ],
        "t on patients' means": [coverage(kind, n, STUDIES, one_scale) for n in PATIENTS],
    }
    print()
    for name, shares in lines.items():
        print(f"| {kind.name} | {name} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |")
    if kind.name in ("Dice", "difference of Dice"):
        assert min(lines["this interval"]) > 0.9
    assert np.mean(lines["this interval"]) > np.mean(lines["percentile bootstrap"])
