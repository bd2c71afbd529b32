"""What README shows of the default run: the table in it, docs/first_table.json, and the two pictures.

    make run && make first-table

The numbers are those of the records in tags-bench-out. tests/test_first_table.py holds README to the JSON file, and the
JSON file to an evaluation of its own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

import benchmarks
from benchmarks.data.catalogue import load_dataset
from benchmarks.data.dataset import target_mask
from benchmarks.data.phantom import folder_name
from benchmarks.data.volume import read_label
from benchmarks.execution.outcomes import Results
from benchmarks.results.tables import leaderboard_page, render

HERE = Path(__file__).resolve().parent
TABLE, README, IMAGES = HERE / "first_table.json", HERE.parent / "README.md", HERE / "images"
OUT = HERE.parent / "tags-bench-out"
BEGIN, END = "<!-- first table -->", "<!-- end of first table -->"
CHECKED, CHECKED_CASES = ("sam-med3d-tiny", "kits21", "centre-click"), 3
OUTLINES = {"tags-tiny": "#ff5252", "sam-med3d-tiny": "#ffd740", "ball": "#40c4ff"}
KEPT = ["track", "protocol", "method", "dice", "low", "high", "patients"]


def main() -> None:
    """Write all of it from the records of the last run."""
    result = benchmarks.load_results("phantom", out=OUT)
    page = leaderboard_page(result.leaderboard, result.overall, overall_only=True)
    README.write_text(with_table(README.read_text("utf-8"), render(page, "markdown")), "utf-8")
    (IMAGES / "leaderboard.svg").write_text(render(page, "svg", 110), "utf-8")
    content = {"suite": result.suite, "rows": table_rows(result.overall), "cases": checked_cases(result.rows)}
    TABLE.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    draw_cases(result, IMAGES / "cases.png")


def with_table(readme: str, markdown: str) -> str:
    """README with the tables of a page between its two marks, without the notes under them."""
    tables = "\n\n".join(block for block in markdown.split("\n\n") if block.startswith(("**", "|")))
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{tables}\n\n{END}", readme, flags=re.DOTALL)


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


def draw_cases(result: Results, picture: Path) -> None:
    """A slice of one case of each data set: the label filled, masks after one click as outlines."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    suite = benchmarks.load_suite(result.suite)
    figure, panels = plt.subplots(1, len(suite.datasets), figsize=(4 * len(suite.datasets), 4.3))
    for axes, entry in zip(panels, suite.datasets, strict=True):
        dataset = load_dataset(entry.name, OUT / "data" / "phantom" / folder_name(entry.name, suite.seed, entry.cases))
        target, case = dataset.targets[0], dataset.cases[typical_case(result.rows, entry.name)]
        volume, values = case.load()
        label = target_mask(values, target)
        z = int(label.sum((0, 1)).argmax())
        low, high = target.window
        shown = np.clip((volume.array[..., z] - low) / (high - low), 0, 1)
        axes.imshow(shown.T, cmap="gray", origin="lower", aspect=volume.spacing[1] / volume.spacing[0])
        axes.contourf(label[..., z].T, levels=[0.5, 1.5], colors=["#69f0ae"], alpha=0.45)
        for method, colour in OUTLINES.items():
            masks = OUT / "predictions" / result.suite / entry.name
            (file,) = masks.glob(f"{method}-{'?' * 16}/{case.case_id}/{target.name}.centre-click.1.nii.gz")
            mask = read_label(file, like=volume)[..., z] > 0
            if mask.any():
                axes.contour(mask.T, levels=[0.5], colors=[colour], linewidths=1.4)
        axes.set_title(f"{entry.name} (phantom)", fontsize=10)
        axes.axis("off")
    handles = [plt.Line2D([], [], color=colour, label=name) for name, colour in OUTLINES.items()]
    handles.append(plt.Rectangle((0, 0), 1, 1, color="#69f0ae", alpha=0.6, label="label"))
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.09, wspace=0.03)
    figure.savefig(picture, dpi=80)


def typical_case(rows: pd.DataFrame, dataset: str) -> str:
    """The case whose Dice is the median of the first outlined method after one click."""
    name = next(iter(OUTLINES))
    mine = rows[(rows["method"] == name) & (rows["dataset"] == dataset) & (rows["protocol"] == "centre-click")]
    ordered = mine.sort_values(["dice", "case"])
    return str(ordered["case"].iloc[len(ordered) // 2])


if __name__ == "__main__":
    main()
