"""`score`: two folders of masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from benchmarks.commands.declare import OUTPUT, command, new_group
from benchmarks.commands.options import PrintOptions
from benchmarks.commands.printing import print_mapping, print_rows
from benchmarks.common.errors import UserError

if TYPE_CHECKING:
    from benchmarks.execution.outcomes import ScoreResult

app = new_group()


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored: values of the masks, and which of a unit's."""

    label: Annotated[
        int | None, Option("--label", metavar="N", help="The value to score; without it, all above 0.")
    ] = None
    prediction_label: Annotated[
        int | None, Option("--prediction-label", metavar="N", help="The value in the masks, if it is another one.")
    ] = None
    tolerance: Annotated[
        list[float] | None,
        Option("--tolerance", metavar="MM", min=0, help="Of the surface Dice; repeatable. Default 1 2 5."),
    ] = None
    protocol: Annotated[
        str | None,
        Option("--protocol", metavar="NAME", help="If PRED_DIR holds the masks that a run kept of a unit."),
    ] = None


@command(app, panel="Results")
def score(
    *,
    predictions: Annotated[Path, Argument(metavar="PRED_DIR", help="Folder of predicted masks (NIfTI).")],
    labels: Annotated[Path, Argument(metavar="LABEL_DIR", help="Folder of label maps; files pair by name.")],
    options: ScoreOptions,
    as_csv: Annotated[bool, Option("--csv", help="Print a row per case as CSV.", rich_help_panel=OUTPUT)] = False,
    printing: PrintOptions,
) -> None:
    """Score a folder of masks against labels. No run is needed.

    Dice, IoU, surface Dice, HD95 and lesion-wise numbers, a row per case and the means.

    Examples:

    * `tags-bench score predictions/ labelsTs/` — every voxel above 0
    * `tags-bench score predictions/ labelsTs/ --label 2 --tolerance 1 --tolerance 3 --json`
    * `tags-bench score tags-bench-out/predictions/SUITE/DATASET/METHOD-DIGEST DATASET_DIR --label 2` — of a run
    """
    from benchmarks import api
    from benchmarks.metrics import TOLERANCES_MM
    from benchmarks.metrics.folders import to_csv, to_json

    if printing.as_json and as_csv:
        raise UserError("choose one of --json and --csv")
    result = api.score(
        predictions,
        labels,
        label=options.label,
        prediction_label=options.prediction_label,
        tolerances=options.tolerance or TOLERANCES_MM,
        protocol=options.protocol,
    )
    if printing.as_json:
        print(to_json(result.cases))
    elif as_csv:
        print(to_csv(result.cases), end="")
    else:
        _print_table(f"{predictions} against {labels}", result)


def _print_table(title: str, result: ScoreResult) -> None:
    from benchmarks.metrics import metrics_among

    reasons = {row["reason"] for row in result.cases if row["status"] == "ok"}
    of_all = reasons.pop() if len(reasons) == 1 else ""  # it stands below the table, and not in every row
    shown = ["case", *(metric.key for metric in metrics_among(result.cases[0], "score")), "status"]
    table = [
        {key: f"{row[key]:.3f}" if isinstance(row[key], float) else row[key] for key in shown}
        | {"": row["reason"] if row["reason"] != of_all else ""}
        for row in result.cases
    ]
    print_rows(title, table)
    if of_all:
        print(f"note: {of_all}")
    means = {key: f"{result.means[key]:.3f}" for key in shown if key in result.means}
    print_mapping("means, failed cases at their worst values", means)
