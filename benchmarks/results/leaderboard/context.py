"""What the numbers stand beside: what weights have seen, and what papers print."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmarks.results.leaderboard.lists import Units
from benchmarks.results.published import as_table, load_published


def contamination_of(units: Units) -> pd.DataFrame:
    """Method × dataset: had the released weights seen the data? From the model cards.

    "trained-on", "superset" (trained on a collection that holds the dataset), "unseen" or "unknown". Phantoms
    are generated here, so no released weights have seen them, whatever the dataset whose layout they copy.
    """
    lines = [
        (unit["method"], unit["dataset"], "unseen" if unit["synthetic"] else unit["contamination"]) for unit in units
    ]
    table = pd.DataFrame(lines, columns=["method", "dataset", "seen"]).drop_duplicates(["method", "dataset"])
    wide = table.pivot(index="method", columns="dataset", values="seen")
    return wide.reindex(index=pd.unique(table["method"]), columns=pd.unique(table["dataset"])).rename_axis(columns=None)


def published_of(units: Units) -> pd.DataFrame:
    """Numbers that papers print for the datasets shown, never to be mixed with measured ones; none for phantoms.

    Each row says "published" in `origin` and `title`, and carries value, protocol, citation and whether it was
    checked against its source ("verified") or written from memory ("recalled").
    """
    names = list(dict.fromkeys(unit["dataset"] for unit in units if not unit["synthetic"]))
    published = load_published()
    return as_table(tuple(result for name in names for result in published.of_dataset(name)))


def claims_of(units: Units) -> list[dict[str, Any]]:
    """What papers claim in words, for runs on real data; empty for phantoms."""
    if all(unit["synthetic"] for unit in units):
        return []
    published = load_published()
    return [
        {**claim.model_dump(), "standing": claim.standing, "citation": published.papers[claim.paper].citation}
        for claim in published.claims
    ]


NOT_BESIDE_PHANTOMS = (
    "published numbers are not shown beside phantoms: they were measured on patients, and none of them can be "
    "compared with a number on generated data"
)
