"""`compare`: two runs, or two methods of one, on the same cases."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from benchmarks.commands.declare import OUTPUT, TABLES, command, new_group
from benchmarks.commands.options import LAST_RUN, FinishedOptions, MarginOption, PrintOptions
from benchmarks.commands.printing import console, print_json, refuse_two

app = new_group()


@command(app, panel="Results")
def compare(
    *,
    a: Annotated[str, Argument(metavar="A", help="An output folder, a suite in --out, or a method of its run.")],
    b: Annotated[str, Argument(metavar="B", help="Another one of the same kind.")],
    run: FinishedOptions = LAST_RUN,
    metric: Annotated[
        str, Option("--metric", metavar="NAME", help="What is compared.", rich_help_panel=TABLES)
    ] = "dice",
    margin: MarginOption = None,
    markdown: Annotated[bool, Option("--markdown", help="Print as Markdown.", rich_help_panel=OUTPUT)] = False,
    printing: PrintOptions,
) -> None:
    """Compare two runs or methods, paired by case. Computes no prediction.

    Runs are compared method by method. Nothing is compared that was made on other cases or prompts, or counted by
    other rules: what is left out is named with its reason.

    Examples:

    * `tags-bench compare tags-tiny nnunet-small` — two methods of the run in --out
    * `tags-bench compare before-out after-out --metric hd95_mm` — two output folders
    """
    from benchmarks import api
    from benchmarks.results.leaderboard import as_json as plain_rows
    from benchmarks.results.tables import pairs_page, print_page, render

    refuse_two({"--json": printing.as_json, "--markdown": markdown})
    pairs = api.compare(a, b, suite=run.suite, out=run.out, metric=metric, margin=margin)
    if printing.as_json:
        print_json({"a": a, "b": b, "metric": metric, "pairs": plain_rows(pairs.table), "notes": list(pairs.notes)})
        return
    page = pairs_page(pairs, (a, b), metric, pairs.synthetic)
    if markdown:
        print(render(page, "markdown"))
    else:
        print_page(page, console(stderr=False))
