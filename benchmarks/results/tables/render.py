"""A page in a terminal, as Markdown, as LaTeX and as a picture: the same sheets, cells, marks and notes in each."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.results.tables.fit import fitted
from benchmarks.results.tables.sheet import SYNTHETIC_BANNER, Page, Sheet

Format = Literal["terminal", "markdown", "latex", "svg"]
NOTHING = "no records yet"


def render(page: Page, form: Format, width: int = 100) -> str:
    """The text of a page. `width` is that of the terminal and of its picture, in columns."""
    if form == "markdown":
        return _to_markdown(page)
    if form == "latex":
        return _to_latex(page)
    return _svg(page, width) if form == "svg" else _terminal(page, width)


def print_page(page: Page, console: Console) -> None:
    """Print to a terminal, as wide as it is."""
    if not page.sheets and not page.notes:
        console.print(NOTHING)
    if page.synthetic:
        console.print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")
    for sheet in page.sheets:
        _print_sheet(sheet, console)
    for note in page.notes:
        console.print(Text(note, style="dim"))


def _print_sheet(sheet: Sheet, console: Console) -> None:
    console.print(Text(sheet.title, style="bold"))
    shown, fits = fitted(sheet, console.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading in shown.headings:
        justify: Literal["left", "right"] = "right" if heading in shown.numeric else "left"
        table.add_column(Text(heading), justify=justify, overflow="fold", no_wrap=fits)
    for cells, style in zip(shown.rows, shown.styles or ("",) * len(shown.rows), strict=True):
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    console.print()


def _terminal(page: Page, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    print_page(page, console)
    return console.export_text()


def _svg(page: Page, width: int) -> str:
    """A picture of a terminal; it loads nothing from elsewhere."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    print_page(page, console)
    picture = console.export_svg(title="tags-bench leaderboard")
    return re.sub(r"@font-face\s*{.*?}", "", picture, flags=re.DOTALL)


def _to_markdown(page: Page) -> str:
    if not page.sheets and not page.notes:
        return f"{NOTHING}\n"
    blocks = [f"**{SYNTHETIC_BANNER}**"] if page.synthetic else []
    for sheet in page.sheets:
        lines = [f"**{markdown_text(sheet.title)}**", ""]
        lines.append(_markdown_row(sheet.headings))
        lines.append("| " + " | ".join("---:" if name in sheet.numeric else "---" for name in sheet.headings) + " |")
        lines += [_markdown_row(row) for row in sheet.rows]
        blocks.append("\n".join(lines))
    blocks.append("\n".join(f"- {markdown_text(note)}" for note in page.notes))
    return "\n\n".join(blocks) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def markdown_text(text: str) -> str:
    """Words that Markdown shows as they are, on one line."""
    for sign in "\\|*_`<>":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("](", "]\\(").split())  # no name is a link or a picture


def _to_latex(page: Page) -> str:
    """One table for each sheet (package booktabs), then the notes as a list."""
    if not page.sheets and not page.notes:
        return f"{NOTHING}\n"
    blocks = [rf"\textbf{{{_latex(SYNTHETIC_BANNER)}}}"] if page.synthetic else []
    for sheet in page.sheets:
        columns = "".join("r" if name in sheet.numeric else "l" for name in sheet.headings)
        caption = f"{sheet.title}. {SYNTHETIC_BANNER}" if page.synthetic else sheet.title
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
    if page.notes:
        items = [rf"\item {_latex(note)}" for note in page.notes]
        blocks.append("\n".join([r"\begin{itemize}", *items, r"\end{itemize}"]))
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
    "τ": r"$\tau$",
    "→": r"$\to$",
    "ⁿ": "$^n$",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _latex(text: str) -> str:
    return "".join(LATEX_SIGNS.get(sign, sign) for sign in text)
