"""The third run on a GPU, as the page on GPUs shows it, is that of the cases in examples/gpu_study."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = [("automatic", 1), ("iterative-5", 1), ("iterative-5", 5)]  # protocol and round, in the page's order


def shown() -> dict[str, list[str]]:
    """Method → the cells of its line."""
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    section = text.split("### More variety, and a smaller network")[1].split("\n## ")[0]
    lines = [line.replace("**", "").split("|")[1:-1] for line in section.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): cells[1:] for cells in lines[2:]}


@pytest.mark.parametrize("column", range(len(COLUMNS)))
def test_means_are_those_of_the_cases(column: int) -> None:
    protocol, number = COLUMNS[column]
    rows = pd.read_csv(ROOT / "examples" / "gpu_study" / "variety.csv")
    rows = rows[(rows["protocol"] == protocol) & (rows["round"] == number)]
    assert set(rows.groupby("method").size()) == {24}
    table = shown()
    for method, cases in rows.groupby("method"):
        halves = cases.groupby("fold")["dice"].mean()
        expected = [cases["dice"].mean(), halves[0], halves[1]]
        found = [float(cell) for cell in re.findall(r"\d\.\d{3}", table[str(method)][column])]
        assert found == pytest.approx(expected, abs=6e-4), method


def test_the_difference_that_the_text_names_is_that_of_the_cases() -> None:
    rows = pd.read_csv(ROOT / "examples" / "gpu_study" / "variety.csv")
    dice = rows[rows["protocol"] == "automatic"].pivot_table(index="case", columns="method", values="dice")
    paired = dice["tags-tiny, intensities"] - dice["tags-tiny"]
    reach = stats.t.ppf(0.975, 23) * paired.std() / np.sqrt(24)
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert f"{paired.mean():.3f} [{paired.mean() - reach:+.3f}, {paired.mean() + reach:+.3f}]" in text
    assert paired.nlargest(2).sum() / paired.sum() == pytest.approx(2 / 3, abs=0.03)
