"""The ablation on real CT that the document on TAGS shows is that of the cases in examples/sarcoma_study."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.documents.scripts import script

ROOT = Path(__file__).resolve().parents[2]
NUMBER = r"[+-]?\d\.\d{3}"
PROTOCOLS = {"centre-click": 1, "automatic": 4}  # and the column of the table


def shown() -> dict[str, list[str]]:
    """Variant → the cells of its line."""
    text = (ROOT / "docs" / "methods" / "tags.md").read_text(encoding="utf-8")
    section = text.split("### What each part is worth on real CT")[1].split("\n### ")[0]
    lines = [line.replace("**", "").split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
    return {
        cells[0].strip().removesuffix(" (floor)").replace("region growing", "region-growing"): cells
        for cells in lines[2:]
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_means_and_differences_are_those_of_the_cases(protocol: str) -> None:
    rows = pd.read_csv(ROOT / "examples" / "sarcoma_study" / "ablation.csv")
    dice = rows[rows["protocol"] == protocol].pivot_table(index="case", columns="variant", values="dice")
    assert len(dice) == 24
    place, table = PROTOCOLS[protocol], shown()
    assert set(dice.columns) <= set(table)
    for variant in dice:
        mean, *_ = re.findall(NUMBER, table[variant][place])
        assert float(mean) == pytest.approx(dice[variant].mean(), abs=6e-4), variant
        if variant == "tags-tiny":
            continue
        paired = dice[variant] - dice["tags-tiny"]
        reach = stats.t.ppf(0.975, 23) * paired.std() / np.sqrt(24)
        expected = [paired.mean(), paired.mean() - reach, paired.mean() + reach]
        found = [float(number) for number in re.findall(NUMBER, table[variant][place + 1])]
        assert found == pytest.approx(expected, abs=1.1e-3), variant


def test_the_page_shows_what_the_cases_say() -> None:
    page = script("sarcoma_parts")
    shown = page.PAGE.read_text("utf-8").partition(page.BEGIN)[2].partition(page.END)[0].strip()
    assert shown == page.table_of(pd.read_csv(page.CASES))


def test_a_fold_of_a_training_that_is_measured_again_is_replaced_alone() -> None:
    page = script("sarcoma_parts")
    cases = pd.read_csv(page.CASES)
    mine = (cases["variant"] == "tags-tiny") & (cases["training"] == 2) & (cases["fold"] == 3)
    changed = page.with_measured(cases, cases[mine].assign(dice=0.5), page.PARTS)
    pd.testing.assert_frame_equal(changed[["variant", "case"]], cases[["variant", "case"]])
    assert set(np.flatnonzero(changed["dice"] != cases["dice"])) <= set(np.flatnonzero(mine))
    assert set(changed["dice"][mine]) == {0.5}


def test_a_case_that_is_missing_is_no_table() -> None:
    page = script("sarcoma_parts")
    with pytest.raises(ValueError, match="23 rows, not each of 24 cases once"):
        page.table_of(pd.read_csv(page.CASES).drop(index=0))
