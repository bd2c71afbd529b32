"""The table on real tumours in the document on TAGS is made of the cases that lie beside the study."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.common.errors import UserError
from tests.documents.scripts import script

page = script("sarcoma_study")
PATIENTS = [f"sts_{number:03d}" for number in range(1, 25)]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def made(seeds: tuple[int, ...]) -> pd.DataFrame:
    """TAGS 0.1 above region growing in every patient, and above the ball by luck."""
    random = np.random.default_rng(5)
    rows = []
    for seed in seeds:
        for case in PATIENTS:
            dice = {"region-growing": random.uniform(0.3, 0.8), "ball": random.uniform(0.2, 0.9)}
            dice["tags-tiny"] = dice["region-growing"] + 0.1 + random.normal(0, 0.01)
            for method, value in dice.items():
                rows.append((seed, method, "centre-click", 1, 0, case, "ok", value))
            rows.append((seed, "tags-tiny", "mask-error-2mm", 1, 0, case, "ok", 0.9 + random.normal(0, 0.01)))
    return pd.DataFrame(rows, columns=page.COLUMNS)


@pytest.fixture(autouse=True)
def two_lists(monkeypatch):
    chosen = ("one centre click", "the label with its border moved by 2 mm")
    monkeypatch.setattr(page, "LISTS", {key: page.LISTS[key] for key in chosen})


@pytest.mark.parametrize("seeds", [(2026,), (2026, 2027)])
def test_intervals_are_over_patients_whatever_the_number_of_seeds(seeds) -> None:
    rows = made(seeds)
    first, second, mask = cells(page.table_of(rows))
    assert first[0] == "one centre click"
    assert second[:2] == ["", ""]
    assert mask[2:] == ["", "", ""]
    others = {line[2].split(" 0.")[0]: line for line in (first, second)}
    assert set(others) == {"region growing", "ball"}
    wide = rows[rows["protocol"] == "centre-click"].pivot_table(index="case", columns="method", values="dice")
    for name, method in (("region growing", "region-growing"), ("ball", "ball")):
        paired = wide["tags-tiny"] - wide[method]
        reach = stats.t.ppf(0.975, 23) * paired.std() / np.sqrt(24)
        found = [float(number) for number in re.findall(r"[+-]\d\.\d{3}", others[name][3])]
        assert found == pytest.approx([paired.mean(), paired.mean() - reach, paired.mean() + reach], abs=6e-4)
    assert others["region growing"][4] == "TAGS is better"
    assert float(first[1].strip("*").split()[0]) == pytest.approx(wide["tags-tiny"].mean(), abs=6e-4)


def test_a_case_that_a_method_lacks_is_said() -> None:
    rows = made((2026,))
    with pytest.raises(UserError, match="ball has no row for"):
        page.table_of(rows[(rows["method"] != "ball") | (rows["case"] != "sts_007")])
