"""The ablation on real CT in docs/methods/tags.md, made of the cases in examples/sarcoma_study/ablation.csv.

python docs/sarcoma_parts.py DIR    # first takes what the ablation measured in this output folder
python docs/sarcoma_parts.py        # the table alone, from the cases that are there
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from marks import with_block
from measured import require_each_once, with_measured

import benchmarks
from benchmarks.contestants import method as find_method
from benchmarks.execution.ablation import Variant, ablation_table
from benchmarks.results.records import OK

HERE = Path(__file__).resolve().parent
PAGE = HERE / "methods" / "tags.md"
CASES = HERE.parent / "examples" / "sarcoma_study" / "ablation.csv"
BEGIN, END = "<!-- sarcoma parts -->", "<!-- end of the sarcoma parts -->"
SUITE = "ablation-tags-tiny-sarcoma-parts"
COLUMNS = ["variant", "training", "protocol", "fold", "case", "dice"]
PARTS = ["variant", "training", "fold"]  # what is measured, and replaced, as one
WHOLE, FLOORS = "tags-tiny", {"ball": "ball", "region-growing": "region growing"}
PROTOCOLS = {"centre-click": "one centre click", "automatic": "no prompt"}


def main(folders: list[Path]) -> None:
    """Write the cases, if a folder is given, and the table."""
    cases = pd.read_csv(CASES)
    if folders:
        cases = with_measured(cases, cases_of(folders[0]), PARTS)
    page = with_block(PAGE.read_text("utf-8"), BEGIN, END, table_of(cases))
    if folders:
        cases.to_csv(CASES, index=False)
    PAGE.write_text(page, "utf-8")


def cases_of(folder: Path) -> pd.DataFrame:
    """Every case under every variant, in every training.

    Raises:
        ValueError: a case failed, which the table would not say.
    """
    rows = benchmarks.load_results(SUITE, out=folder).rows
    if set(rows["status"]) != {OK}:
        raise ValueError("cases failed")
    titles = rows["method"].str.extract(r"^(?P<variant>.*?)(?: \(repeat (?P<training>\d+)\))?$")
    titles["training"] = titles["training"].fillna("1").astype(int)
    cases = pd.concat([rows, titles], axis=1)[COLUMNS].sort_values(COLUMNS, ignore_index=True)
    return cases.assign(dice=cases["dice"].astype(float).round(5))


def table_of(cases: pd.DataFrame) -> str:
    """A line for each variant: the whole, without each part in the order of its announcement, the floors."""
    parts = [f"without {part}" for part in find_method(WHOLE).ablations]
    names = [WHOLE, *parts, *FLOORS]
    if set(names) != set(cases["variant"]):
        raise ValueError(f"the cases are of {sorted(set(cases['variant']))}")
    _require_all(cases)
    rows = _as_records(cases)
    trainings = rows.groupby("variant")["method"].unique()
    variants = [Variant(name, "floor" if name in FLOORS else "without", tuple(trainings[name])) for name in names]
    table = ablation_table(rows, variants).to_dict("records")
    head = ("variant", *(word for title in PROTOCOLS.values() for word in (title, "difference", "p")))
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name in names:
        cells = [f"{FLOORS[name]} (floor)" if name in FLOORS else name]
        for protocol in PROTOCOLS:
            cells += _cells([line for line in table if (line["variant"], line["protocol"]) == (name, protocol)])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _require_all(cases: pd.DataFrame) -> None:
    """Every training has every case once under each protocol, or the table would compare what is not alike.

    Raises:
        ValueError: it has not.
    """
    wanted = {(case,) for case in cases["case"].unique()}
    for key, mine in cases.groupby(["variant", "training", "protocol"]):
        require_each_once(str(key), mine, ["case"], wanted)


def _as_records(cases: pd.DataFrame) -> pd.DataFrame:
    """Rows as the statistics take them, each variant's training a method."""
    method = cases["variant"] + ", training " + cases["training"].astype(str)
    rows = cases.assign(method=method, unit=method, patient=cases["case"], suite=SUITE, status=OK)
    return rows.assign(dataset="soft-tissue-sarcoma", target="sarcoma", track="", step=1)


def _cells(lines: list[dict[Any, Any]]) -> tuple[str, str, str]:
    """Mean, difference and p of one variant; empty where it does not follow the protocol."""
    if not lines:
        return "", "", ""
    (line,) = lines
    mean = f"{line['mean']:.3f} [{line['low']:.3f}, {line['high']:.3f}]"
    if pd.isna(line["difference"]):
        return mean, "", ""
    ends = f"[{line['difference_low']:+.3f}, {line['difference_high']:+.3f}]"
    return mean, f"{line['difference']:+.3f} {ends}", f"{line['p']:.3f}"


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
