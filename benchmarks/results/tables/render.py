"""Sheets in a terminal, as Markdown, as LaTeX and as a picture."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.results.leaderboard import details
from benchmarks.results.leaderboard.context import NOT_BESIDE_PHANTOMS
from benchmarks.results.published import LABEL
from benchmarks.results.tables.ablation import ablation_sheet
from benchmarks.results.tables.board import board_sheets, legend, overall_sheets
from benchmarks.results.tables.details import detail_sheets
from benchmarks.results.tables.sheet import SYNTHETIC_BANNER, Sheet

NO_EMPTY_MASK = "empty masks: there was none, neither in a label nor predicted, so every policy gives these ranks"

COMPARISON_LEGEND = (
    "d: Cohen's d, r: rank-biserial correlation, both on patients; p flip: sign-flip permutation test of the mean "
    "difference (it decides the verdict); p same: two one-sided tests of equivalence within the margin, uncorrected."
)


RANKING_LEGEND = (
    "by case ranks: ties share the mean of their places; in brackets with ties at the better place (as challengeR), where "
    "that differs. by tests: number of methods beaten significantly; – where so few patients that no test can win."
)


def show_leaderboard(
    board: pd.DataFrame, console: Console, notes: Sequence[str] = (), overall_only: bool = False
) -> None:
    """Print one table per dataset and track; methods that were given different things are never in one list.

    Where a track has more than one dataset, a table over all of them comes first; `overall_only` prints no other.
    """
    if board.empty:
        console.print("no records yet")
        return
    if board["synthetic"].any():
        console.print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")
    overall = overall_sheets(board)
    for sheet in overall if overall_only and overall else (*overall, *board_sheets(board)):
        _print_sheet(sheet, console)
    for note in (*legend(board), *notes):
        console.print(Text(note, style="dim"))


def show_details(
    rows: pd.DataFrame,
    units: Sequence[Mapping[str, Any]],
    console: Console,
    metric: str = "dice",
    margin: float | None = None,
    only: Sequence[str] = (),
) -> None:
    """Print the tables of `benchmarks.results.leaderboard.details`: what stands behind the ranking.

    The comparisons are shown for the best method only; `details` has all pairs.

    Raises:
        UserError: records that are not complete, an unknown metric or table.
    """
    tables = details(rows, units, metric, margin, only)
    if any(unit["synthetic"] for unit in units):
        console.print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")
    for sheet in detail_sheets(tables, metric):
        _print_sheet(sheet, console)
    if "policies" in tables and tables["policies"].empty:
        console.print(Text(NO_EMPTY_MASK, style="dim"))
    if "rankings" in tables and len(tables["rankings"]):
        console.print(Text(RANKING_LEGEND, style="dim"))
    if "comparisons" in tables and len(tables["comparisons"]):
        console.print(Text(COMPARISON_LEGEND, style="dim"))
    if any(unit["synthetic"] for unit in units):
        console.print(Text(NOT_BESIDE_PHANTOMS, style="dim"))
    for line in _sources(tables.get("published", pd.DataFrame())):
        console.print(Text(line, style="dim"))
    for claim in tables.get("claims", pd.DataFrame()).to_dict("records"):
        text = f"claim ({LABEL}, {claim['standing']}): {claim['method']} {claim['text']}. {claim['citation']}"
        console.print(Text(text, style="dim"))


def _sources(published: pd.DataFrame) -> list[str]:
    """Where the published numbers shown come from, and what their labels mean."""
    if published.empty:
        return []
    cited = published.drop_duplicates("paper").to_dict("records")
    meaning = "published: printed in a paper, on other cases and prompts than ours"
    if (published["standing"] == "recalled").any():
        meaning += "; recalled: written down from memory, not yet compared with the source"
    return [meaning + ".", *(f"{row['paper']}: {row['citation']}" for row in cited)]


def show_ablation(table: pd.DataFrame, metric: str, synthetic: bool, console: Console) -> None:
    """Print the variants of a method against it, one table per protocol."""
    if synthetic:
        console.print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")
    for (track, protocol), rows in table.groupby(["track", "protocol"], sort=False):
        _print_sheet(ablation_sheet(f"given: {track} · {protocol}", rows, metric), console)
    text = "A positive difference says that the variant is better than the whole. Cases of all datasets together; "
    text += "the interval and the test are over patients, and know nothing of the chance in training."
    repeats = int(table["repeats"].max())
    if repeats > 1:
        text += f" Every case counts with its mean over {repeats} trainings; their own means are under 'trainings'."
    else:
        text += " One training each: differences of this size can be luck, see --repeats."
    console.print(Text(text, style="dim"))


def _print_sheet(sheet: Sheet, console: Console) -> None:
    console.print(Text(sheet.title, style="bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    cell_widths = [max(len(row[place]) for row in sheet.rows) for place in range(len(sheet.headings))]
    whole = sum(max(width, len(name)) + 2 for width, name in zip(cell_widths, sheet.headings, strict=True))
    for width, heading in zip(cell_widths, sheet.headings, strict=True):
        right = heading in sheet.numeric
        narrowest = max(width, *map(len, heading.split()), 1)
        lines = textwrap.wrap(heading, narrowest) if right and whole > console.width else [heading]
        table.add_column(Text("\n".join(lines)), justify="right" if right else "left", overflow="fold")
    for cells, style in zip(sheet.rows, sheet.styles or ("",) * len(sheet.rows), strict=True):
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    console.print()


def svg(board: pd.DataFrame, notes: Sequence[str] = (), overall_only: bool = False) -> str:
    """The leaderboard as an SVG picture of a terminal, 100 columns wide; it loads nothing from elsewhere."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    show_leaderboard(board, console, notes, overall_only)
    picture = console.export_svg(title="tags-bench leaderboard")
    return re.sub(r"@font-face\s*{.*?}", "", picture, flags=re.DOTALL)


def to_markdown(board: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The leaderboard as Markdown tables, with the same cells as in the terminal."""
    if board.empty:
        return "no records yet\n"
    blocks = [f"**{SYNTHETIC_BANNER}**"] if board["synthetic"].any() else []
    for sheet in (*overall_sheets(board), *board_sheets(board)):
        lines = [f"**{_markdown(sheet.title)}**", ""]
        lines.append(_markdown_row(sheet.headings))
        lines.append("| " + " | ".join("---:" if name in sheet.numeric else "---" for name in sheet.headings) + " |")
        lines += [_markdown_row(row) for row in sheet.rows]
        blocks.append("\n".join(lines))
    blocks.append("\n".join(f"- {_markdown(note)}" for note in (*legend(board), *notes)))
    return "\n\n".join(blocks) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_markdown, cells)) + " |"


def _markdown(text: str) -> str:
    for sign in "\\|*_`<>":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def to_latex(board: pd.DataFrame) -> str:
    """The leaderboard as LaTeX tables (package booktabs), one per list, with what a caption must say."""
    blocks = []
    for sheet in (*overall_sheets(board), *board_sheets(board)) if len(board) else ():
        columns = "".join("r" if name in sheet.numeric else "l" for name in sheet.headings)
        caption = f"{sheet.title}. {' '.join(legend(board))}"
        if board["synthetic"].any():
            caption = f"{caption} {SYNTHETIC_BANNER}"
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_row(sheet.headings),
            r"\midrule",
            *map(_latex_row, sheet.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


LATEX_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "·": r"\textperiodcentered{}",
    "–": "--",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _latex(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)


def show_mapping(title: str, values: Mapping[str, Any], console: Console) -> None:
    """Print names and values in two columns."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(Text(str(key)), Text(str(value)))
    console.print(table)


def show_rows(title: str, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print like mappings as a table; the first one gives the columns."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in rows[0] if rows else []:
        table.add_column(str(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console.print(table)
