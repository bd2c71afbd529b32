"""What README shows of the default run: the table in it, and docs/first_table.json (pictures: pictures.py).

    make run && make first-table

The numbers are those of the records in tags-bench-out. tests/test_first_table.py holds README to the JSON file, and the
JSON file to an evaluation of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from marks import with_block

import benchmarks
from benchmarks.results.tables import leaderboard_page, render

HERE = Path(__file__).resolve().parent
TABLE, README = HERE / "first_table.json", HERE.parent / "README.md"
OUT = HERE.parent / "tags-bench-out"
BEGIN, END = "<!-- first table -->", "<!-- end of first table -->"
CHECKED, CHECKED_CASES = ("sam-med3d-tiny", "kits21", "centre-click"), 3
UNTRAINED = "(untrained)"
KEPT = ["track", "protocol", "method", "dice", "low", "high", "patients"]


def main() -> None:
    """Write all of it from the records of the last run."""
    result = benchmarks.load_results("phantom", out=OUT)
    page = leaderboard_page(result.leaderboard, result.overall, overall_only=True)
    README.write_text(with_table(README.read_text("utf-8"), render(page, "markdown")), "utf-8")
    content = {"suite": result.suite, "rows": table_rows(result.overall), "cases": checked_cases(result.rows)}
    TABLE.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def with_table(readme: str, markdown: str) -> str:
    """README with the tables of a page between its two marks, without the notes under them."""
    blocks = [block for block in markdown.split("\n\n") if block.startswith(("**", "|"))]
    tables = "\n\n".join(untrained_in_a_line(block) if block.startswith("|") else block for block in blocks)
    return with_block(readme, BEGIN, END, tables)


def untrained_in_a_line(table: str) -> str:
    """The table with the rows of untrained weights, which have a number for one dataset alone, as a line below it."""
    lines = table.splitlines()
    kept = [line for line in lines if UNTRAINED not in line]
    headings = cells_of(lines[0])
    told = []
    for name, *cells in (cells_of(line) for line in lines if UNTRAINED in line):
        ((dataset, dice),) = [
            (heading, cell) for heading, cell in zip(headings[1:], cells, strict=True) if cell[:1].isdigit()
        ]
        told.append((dataset, f"{name.removesuffix(UNTRAINED).strip()} {dice}"))
    for dataset in dict.fromkeys(dataset for dataset, _ in told):
        kept += ["", f"With untrained weights on {dataset}: {', '.join(text for one, text in told if one == dataset)}."]
    return "\n".join(kept)


def cells_of(line: str) -> list[str]:
    """Of a row in Markdown."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table_rows(overall: pd.DataFrame) -> list[dict[str, Any]]:
    """The table over all data sets as plain values; what a method has no number of is left out."""
    columns = [*KEPT, *(str(column) for column in overall if str(column).startswith("dice/"))]
    rows = overall[columns].to_dict("records")
    return [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items() if pd.notna(value)}
        for row in rows
    ]


def checked_cases(rows: pd.DataFrame) -> dict[str, Any]:
    """The first cases of one cell one by one, for the test that evaluates them again."""
    method, dataset, protocol = CHECKED
    mine = rows[(rows["method"] == method) & (rows["dataset"] == dataset) & (rows["protocol"] == protocol)]
    first = mine.sort_values("case").head(CHECKED_CASES)
    dice = {str(case): round(float(value), 4) for case, value in zip(first["case"], first["dice"], strict=True)}
    return {"method": method, "dataset": dataset, "protocol": protocol, "dice": dice}


if __name__ == "__main__":
    main()
