"""The study in which words decide, as the document on TAGS shows it, is that of the cases in examples/words_study."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = {
    "trained towers": "trained towers",
    "random towers": "random towers",
    "trained towers, without semantic guidance": "without semantic guidance",
    "trained towers, without anatomy prompts": "without anatomy prompts",
    "without anatomy prompts and semantic guidance": "without either",
}
SARCOMA = "soft-tissue-sarcoma"
TARGETS = ["kits21", "kidney-cyst", "msd-pancreas", "lits17"]  # in the order of the columns


def shown(protocol: str) -> dict[str, list[str]]:
    """Variant → the cells of its line after the first training."""
    text = (ROOT / "docs" / "methods" / "tags.md").read_text(encoding="utf-8")
    section = text.split("### Where words decide")[1].split("\n## ")[0]
    tables = section.split("| one centre click |")
    lines = [line.replace("**", "").split("|")[1:-1] for line in tables[protocol == "centre-click"].splitlines()]
    return {NAMES[cells[0].strip()]: cells[2:] for cells in lines if cells and cells[0].strip() in NAMES}


@pytest.mark.parametrize("protocol", ["automatic", "centre-click"])
def test_means_are_those_of_the_cases(protocol: str) -> None:
    """The mean over four targets of the mean over cases; a case that has nothing to click on is in no mean."""
    rows = pd.read_csv(ROOT / "examples" / "words_study" / "words.csv")
    rows = rows[(rows["protocol"] == protocol) & rows["dataset"].isin(TARGETS)]
    means = rows.groupby(["method", "dataset"])["dice"].mean().unstack()[TARGETS]
    table = shown(protocol)
    assert set(table) == set(means.index) == set(NAMES.values())
    for variant, cells in table.items():
        assert float(cells[0].split()[0]) == pytest.approx(means.loc[variant].mean(), abs=6e-4), variant
        if protocol == "automatic":
            for cell, mean in zip(cells[1:5], means.loc[variant], strict=True):
                digits = len(cell.strip().split(".")[1])
                assert float(cell) == pytest.approx(mean, abs=0.6 * 10**-digits), variant


def test_means_of_the_sarcomas_are_those_of_the_cases() -> None:
    """They stand in a sentence below the tables, in the order of the rows."""
    rows = pd.read_csv(ROOT / "examples" / "words_study" / "words.csv")
    rows = rows[rows["dataset"] == SARCOMA]
    assert set(rows.groupby(["method", "protocol"]).size()) == {5}
    text = (ROOT / "docs" / "methods" / "tags.md").read_text(encoding="utf-8")
    sentence = text.split("The sarcomas are in none of these means.")[1].split("five cases decide")[0]
    told = [float(number) for number in re.findall(r"0\.\d+", sentence)]
    means = rows.groupby(["protocol", "method"])["dice"].mean()
    expected = [means[protocol, name] for protocol in ("automatic", "centre-click") for name in NAMES.values()]
    assert told == pytest.approx(expected, abs=6e-4)
