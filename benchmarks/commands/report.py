"""`report`: a run as one page that opens offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from benchmarks.commands.declare import DATA, OUTPUT, TABLES, command, new_group
from benchmarks.commands.options import LAST_RUN, FinishedOptions, MarginOption, PrintOptions
from benchmarks.commands.printing import print_json

if TYPE_CHECKING:
    from benchmarks.execution.outcomes import ReportChoice

app = new_group()


@dataclass(frozen=True)
class ReportOptions:
    """What the page shows."""

    no_scans: Annotated[
        bool, Option("--no-scans", help="Outlines and prompts alone, no voxel of a scan.", rich_help_panel=OUTPUT)
    ] = False
    no_cases: Annotated[
        bool, Option("--no-cases", help="Tables and charts alone, no case viewer.", rich_help_panel=OUTPUT)
    ] = False
    incomplete: Annotated[
        bool, Option("--incomplete", help="Show a run that is not finished.", rich_help_panel=DATA)
    ] = False
    metric: Annotated[
        str, Option("--metric", metavar="NAME", help="What the tests and subgroups compare.", rich_help_panel=TABLES)
    ] = "dice"
    margin: MarginOption = None

    def choice(self) -> ReportChoice:
        from benchmarks.execution.outcomes import ReportChoice

        return ReportChoice(self.metric, self.margin, self.incomplete, not self.no_scans, not self.no_cases)


@command(app, panel="Results")
def report(
    *,
    file: Annotated[Path, Argument(metavar="[FILE]", help="The .html file to write.")] = Path("report.html"),
    run: FinishedOptions = LAST_RUN,
    shown: ReportOptions,
    printing: PrintOptions,
) -> None:
    """Write the results of a run as one page: the answer, leaderboards, charts, every case. Opens offline.

    Examples:

    * `tags-bench report` — of the default suite, into report.html
    * `tags-bench report paper.html --suite paper --no-scans` — to be passed on: no patient's scan inside
    """
    from benchmarks import api
    from benchmarks.commands.terminal import Terminal
    from benchmarks.common.errors import UserError

    if run.out.suffix.lower() == ".html":
        raise UserError(f"--out is the output folder of the run; the page is an argument: tags-bench report {run.out}")
    result = api.report(
        api.load_results(run.suite, out=run.out),
        file,
        out=run.out,
        choice=shown.choice(),
        progress=Terminal(),
    )
    if printing.as_json:
        print_json(
            {"path": str(result.path), "megabytes": result.megabytes, "pictures": result.pictures,
             "scans": result.scans, "without_picture": result.without_picture,
             "mlflow": result.mlflow}
        )  # fmt: skip
    else:
        print(result)
