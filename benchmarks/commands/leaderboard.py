"""`leaderboard`: results that are on disk or on an MLflow server."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from benchmarks.commands.declare import DATA, OUTPUT, TABLES, command, new_group
from benchmarks.commands.options import LAST_RUN, FinishedOptions, MarginOption, PrintOptions
from benchmarks.commands.printing import console, print_json, refuse_two
from benchmarks.common.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.execution.outcomes import Results
    from benchmarks.results.tables import Page

app = new_group()


@dataclass(frozen=True)
class SourceOptions:
    """Where the records are read."""

    run: FinishedOptions = LAST_RUN
    records: Annotated[
        Path | None,
        Option("--records", metavar="DIR", help="Read records from here, not --out.", rich_help_panel=DATA),
    ] = None
    tracking_uri: Annotated[
        str | None,
        Option("--tracking-uri", metavar="URI", help="Read from this MLflow server.", rich_help_panel=DATA),
    ] = None
    incomplete: Annotated[
        bool, Option("--incomplete", help="Show a run that is not finished.", rich_help_panel=DATA)
    ] = False


@dataclass(frozen=True)
class TableOptions:
    """Which tables are shown, and of what."""

    overall: Annotated[bool, Option("--overall", help="Only the tables over all datasets.", rich_help_panel=TABLES)] = (
        False
    )
    details: Annotated[
        bool,
        Option("--details", help="Also ranks, paired tests, subgroups, curves …", rich_help_panel=TABLES),
    ] = False
    table: Annotated[
        list[str] | None,
        Option(
            "--table",
            metavar="NAME",
            help="Only this table of --details, such as comparisons; repeatable.",
            rich_help_panel=TABLES,
        ),
    ] = None
    metric: Annotated[
        str, Option("--metric", metavar="NAME", help="What the details compare.", rich_help_panel=TABLES)
    ] = "dice"
    margin: MarginOption = None


@dataclass(frozen=True)
class FormatOptions:
    """How they are shown."""

    markdown: Annotated[bool, Option("--markdown", help="Print as Markdown.", rich_help_panel=OUTPUT)] = False
    latex: Annotated[bool, Option("--latex", help="Print as LaTeX (booktabs).", rich_help_panel=OUTPUT)] = False
    svg: Annotated[
        Path | None, Option("--svg", metavar="FILE", help="Write the table as a picture.", rich_help_panel=OUTPUT)
    ] = None
    figure: Annotated[
        Path | None,
        Option(
            "--figure",
            metavar="FILE",
            help="Draw robustness and click curves: PNG, SVG, PDF.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    figures: Annotated[
        Path | None,
        Option("--figures", metavar="DIR", help="Draw every figure into this folder, as SVG.", rich_help_panel=OUTPUT),
    ] = None


@command(app, panel="Results")
def leaderboard(source: SourceOptions, tables: TableOptions, form: FormatOptions, printing: PrintOptions) -> None:
    """Show the ranking of a run. Computes no prediction.

    Examples:

    * `tags-bench leaderboard --details` — with paired tests, ranking stability, subgroups
    * `tags-bench leaderboard --table comparisons --metric hd95_mm` — one table of these, and no other
    * `tags-bench leaderboard --records /data/shared/records --suite paper --json`
    * `tags-bench leaderboard --tracking-uri http://127.0.0.1:5000`
    * `tags-bench leaderboard --figures figures/` — curves, means with intervals, box plots, quality against cost
    """
    from benchmarks import api

    _refuse_what_would_be_left_out(tables, form, printing)
    if source.records is not None and source.tracking_uri is not None:
        raise UserError("choose one of --records and --tracking-uri")
    results = api.load_results(
        source.run.suite, out=source.run.out, records=source.records, tracking_uri=source.tracking_uri
    )
    if not source.incomplete:
        results.check_complete()
    if not results.rows.empty:
        results.check_metric(tables.metric)
    if printing.as_json:
        _print_json(results, tables)
    elif form.figures is not None:
        _attach(results, source, _draw_all(results, tables, form.figures))
    elif form.figure is not None:
        _attach(results, source, _draw(results, tables, form.figure))
    else:
        _attach(results, source, _print_page(_page(results, tables), form))


def _refuse_what_would_be_left_out(tables: TableOptions, form: FormatOptions, printing: PrintOptions) -> None:
    """A call gives one form, and a figure shows no table."""
    figures = {"--figure": form.figure is not None, "--figures": form.figures is not None}
    refuse_two(
        {
            "--json": printing.as_json,
            "--markdown": form.markdown,
            "--latex": form.latex,
            "--svg": form.svg is not None,
            **figures,
        }
    )
    if tables.overall and tables.table:
        raise UserError("choose one of --overall and --table; `--table overall` is the former beside other tables")
    shown = {"--overall": tables.overall, "--details": tables.details, "--table": bool(tables.table)}
    for name, wanted in shown.items():
        refuse_two({name: wanted, **figures})


def _details(results: Results, tables: TableOptions) -> Mapping[str, pd.DataFrame]:
    return results.details(tables.metric, tables.margin, tables.table or ())


def _overall(results: Results, tables: TableOptions) -> pd.DataFrame:
    """The table over all datasets, which is one of Dice: a margin of another metric is not its own."""
    from benchmarks.results.leaderboard import overall_of

    if tables.margin is None or tables.metric != "dice":
        return results.overall
    return overall_of(results.leaderboard, results.rows, tables.margin)


def _print_json(results: Results, tables: TableOptions) -> None:
    from benchmarks.results.leaderboard import as_json as plain_rows

    board = plain_rows(_overall(results, tables) if tables.overall else results.leaderboard)
    if not tables.details and not tables.table:
        print_json(board)
        return
    shown = {} if tables.table else {"overall" if tables.overall else "leaderboard": board}
    print_json({**shown, **{name: plain_rows(one) for name, one in _details(results, tables).items()}})


def _page(results: Results, tables: TableOptions) -> Page:
    """What is shown, whatever the form."""
    from benchmarks.results.tables import Page, details_page, leaderboard_page

    page = Page()
    if not tables.table:
        page = leaderboard_page(results.leaderboard, _overall(results, tables), results.notes, tables.overall)
    if tables.details or tables.table:
        only = tuple(tables.table or ())
        page += details_page(results.rows, list(results.units), tables.metric, tables.margin, only)
    return page


def _attach(results: Results, source: SourceOptions, files: Mapping[str, Path]) -> None:
    """Files of a run in --out are artifacts of its MLflow run as well."""
    if not files or source.records is not None or source.tracking_uri is not None:
        return
    from benchmarks.common.paths import user_path
    from benchmarks.results.mlflow import attach

    if place := attach(user_path(source.run.out), results.units, files):
        print(place, file=sys.stderr)


def _print_page(page: Page, form: FormatOptions) -> dict[str, Path]:
    from benchmarks.common.output import output_file
    from benchmarks.results.tables import print_page, render

    if form.svg is not None:
        with output_file(form.svg) as partial:
            partial.write_text(render(page, "svg"), encoding="utf-8")
        return {"leaderboard.svg": form.svg}
    if form.markdown or form.latex:
        print(render(page, "markdown" if form.markdown else "latex"))
    else:
        print_page(page, console(stderr=False))
    return {}


def _draw(results: Results, tables: TableOptions, path: Path) -> dict[str, Path]:
    from benchmarks.results.figures import curves_figure
    from benchmarks.results.tables import SYNTHETIC_BANNER

    curves = results.details(tables.metric, tables.margin, ("robustness", "rounds"))
    print(curves_figure(curves, path, tables.metric, SYNTHETIC_BANNER if results.synthetic else ""))
    return {f"figures/curves{path.suffix}": path}


def _draw_all(results: Results, tables: TableOptions, folder: Path) -> dict[str, Path]:
    from benchmarks.results.figures import all_figures
    from benchmarks.results.tables import SYNTHETIC_BANNER

    curves = results.details(tables.metric, tables.margin, ("robustness", "rounds"))
    note = SYNTHETIC_BANNER if results.synthetic else ""
    paths = all_figures(results.rows, results.leaderboard, curves, folder, tables.metric, note)
    for path in paths:
        print(path)
    return {f"figures/{path.name}": path for path in paths}
