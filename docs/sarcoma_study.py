"""The table on real tumours in docs/methods/tags.md, made of the cases in examples/sarcoma_study/study.csv.

    python docs/sarcoma_study.py DIR ...    # first takes what the study measured in these output folders
    python docs/sarcoma_study.py            # the table alone, from the cases that are there

Intervals and tests are over patients: two seeds of a patient are no two patients.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from marks import with_block
from measured import require_each_once, with_measured

import benchmarks
from benchmarks.results.leaderboard.comparisons import MARGIN, verdict
from benchmarks.results.leaderboard.lists import CONFIDENCE_SEED
from benchmarks.results.statistics import comparisons, mean_interval

HERE = Path(__file__).resolve().parent
PAGE = HERE / "methods" / "tags.md"
CASES = HERE.parent / "examples" / "sarcoma_study" / "study.csv"
BEGIN, END = "<!-- sarcoma study -->", "<!-- end of the sarcoma study -->"
COLUMNS = ["seed", "method", "protocol", "step", "fold", "case", "status", "dice"]
PARTS = ["seed", "method"]  # what is measured, and replaced, as one
OURS, UNMIRRORED = "tags-tiny", "tags-tiny-unmirrored"
LISTS = {  # what is given: protocol and round
    "nothing": ("automatic", 1),
    "one centre click": ("centre-click", 1),
    "three rounds": ("iterative-5", 3),
    "five rounds": ("iterative-5", 5),
    "box": ("box", 1),
    "the label with its border moved by 2 mm": ("mask-error-2mm", 1),
}
NAMES = {
    "nnunet-small": "nnU-Net, small plans",
    "nnunet-small-mirrored": "nnU-Net, small plans, in the mirror, too",
    "sam-med3d-tiny": "SAM-Med3D, tiny",
    "3dsam-adapter-tiny": "3DSAM-adapter, tiny",
    "region-growing": "region growing",
}


def main(folders: list[Path]) -> None:
    """Write the cases, if folders are given, and the table."""
    cases = pd.read_csv(CASES)
    if folders:
        cases = with_measured(cases, cases_of(folders), PARTS)
    page = with_block(PAGE.read_text("utf-8"), BEGIN, END, table_of(cases))
    if folders:
        cases.to_csv(CASES, index=False)
    PAGE.write_text(page, "utf-8")


def cases_of(folders: list[Path]) -> pd.DataFrame:
    """Every round of every case in the records of these runs."""
    rows = pd.concat([benchmarks.load_results("sarcoma", out=folder).rows for folder in folders])
    cases = rows[COLUMNS].sort_values(COLUMNS, ignore_index=True)
    return cases.assign(dice=cases["dice"].astype(float).round(5))


def table_of(cases: pd.DataFrame) -> str:
    """TAGS in every list, and below it the others, best first, with what they are behind."""
    head = ("given", "TAGS", "without the mirror", "the other", "difference", "verdict")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for given, (protocol, step) in LISTS.items():
        chosen = cases[(cases["protocol"] == protocol) & (cases["step"] == step)]
        _require_all(given, chosen, cases)
        lines += [f"| {' | '.join(cells)} |" for cells in _lines(given, _as_records(chosen))]
    return "\n".join(lines)


def _require_all(given: str, chosen: pd.DataFrame, cases: pd.DataFrame) -> None:
    """A list has every case of every seed once for each of its methods, or the table would compare what is not alike.

    Raises:
        ValueError: it has not.
    """
    wanted = {(seed, case) for seed in cases["seed"].unique() for case in cases["case"].unique()}
    for method in {OURS, *chosen["method"]}:
        require_each_once(f"{given}: {method}", chosen[chosen["method"] == method], ["seed", "case"], wanted)


def _as_records(cases: pd.DataFrame) -> pd.DataFrame:
    """Rows as the statistics take them; the seeds of a case are two cases of one patient."""
    seeded = cases["case"] + ", seed " + cases["seed"].astype(str)
    return cases.assign(patient=cases["case"], case=seeded, dataset="soft-tissue-sarcoma", target="sarcoma")


def _lines(given: str, rows: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    unmirrored, rows = rows[rows["method"] == UNMIRRORED], rows[rows["method"] != UNMIRRORED]
    plain = f"{unmirrored['dice'].mean():.3f}" if len(unmirrored) else ""
    ours = f"**{_mean(rows, OURS)}**"
    means = rows.groupby("method")["dice"].mean().drop(OURS).sort_values(ascending=False)
    if means.empty:
        yield given, ours, plain, "", "", ""
        return
    pairs = comparisons(rows, "dice", CONFIDENCE_SEED, MARGIN).to_dict("records")
    for place, other in enumerate(means.index):
        name = "the ellipsoid in it" if (given, other) == ("box", "ball") else NAMES.get(other, other)
        first = (given, ours, plain) if place == 0 else ("", "", "")
        difference, words = _difference(pairs, other)
        yield (*first, f"{name} {_mean(rows, other)}", difference, words.replace(OURS, "TAGS").replace(other, name))


def _mean(rows: pd.DataFrame, method: str) -> str:
    mine = rows[rows["method"] == method]
    found = mean_interval(mine["dice"], mine["patient"], "share")
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _difference(pairs: list[dict[Any, Any]], other: str) -> tuple[str, str]:
    """TAGS less the other, and the verdict of the list, whose pairs are all corrected for."""
    (pair,) = (one for one in pairs if {one["a"], one["b"]} == {OURS, other})
    mean, low, high = _turned(pair) if pair["a"] == other else (pair["difference"], pair["low"], pair["high"])
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", verdict(pair, len(pairs))


def _turned(pair: dict[Any, Any]) -> tuple[float, float, float]:
    return -pair["difference"], -pair["high"], -pair["low"]


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
