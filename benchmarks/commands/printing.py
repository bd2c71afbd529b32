"""What commands print: results on standard output, all else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.common.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.common.plugins import BrokenPlugin


def console(stderr: bool = True) -> Console:
    """Progress goes to standard error, results to standard output; a file or a pipe gets wide lines."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else 120)


def say(text: str) -> None:
    """A line on standard error, as it is: brackets and colons in names and paths are no markup."""
    from rich.text import Text

    console().print(Text(text), soft_wrap=True)


def print_json(content: Any) -> None:
    """As JSON, in which NaN and infinity do not exist: they are null."""
    known = json.loads(json.dumps(content, default=_plain), parse_constant=lambda _: None)
    print(json.dumps(known, indent=2, allow_nan=False))


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool = False) -> None:
    """Like mappings as a table, whose columns the first one gives, or as JSON."""
    if as_json:
        print_json(rows)
        return
    show_rows(title, rows, console(stderr=False))


def show_rows(title: str, rows: Sequence[Mapping[str, Any]], printer: Console) -> None:
    """Like mappings as a table on a console; the first one gives the columns, of which empty ones are left out."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = [column for column in (rows[0] if rows else ()) if any(str(row[column]) for row in rows)]
    headings = [str(column).replace("_", " ") for column in columns]
    least = [max(map(len, heading.split()), default=0) for heading in headings]
    names = max((len(str(row[columns[0]])) for row in rows), default=0)
    if least and names <= printer.width // 3:  # what a row is called stays whole
        least[0] = max(least[0], names)
    needed = sum(least) + 2 * len(least)
    if not printer.is_terminal:
        printer.width = max(printer.width, needed)
    shown_title = Text(title, style="bold")
    table = Table(title=shown_title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading, width in zip(headings, least, strict=True):  # a heading breaks between words, if there is room
        table.add_column(Text(heading), overflow="fold", min_width=width if needed <= printer.width else None)
    for row in rows:
        table.add_row(*(Text(str(row[column])) for column in columns))
    printer.print(table)


def print_broken(broken: Iterable[BrokenPlugin]) -> None:
    """Plug-ins that cannot be used, a line each on standard error, so that a listing stays what it is."""
    for one in broken:
        print(f"warning: {one}", file=sys.stderr)


def print_mapping(title: str, values: Mapping[str, Any]) -> None:
    """Names and values in two columns."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="bold"), title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(Text(str(key)), Text(str(value)))
    console(stderr=False).print(table)


def refuse_two(options: Mapping[str, bool]) -> None:
    """Raises UserError where more than one of these was given: all but one would be left out in silence."""
    chosen = [name for name, wanted in options.items() if wanted]
    if len(chosen) > 1:
        raise UserError(f"choose one of {', '.join(chosen[:-1])} and {chosen[-1]}; each is a call of its own")


def say_synthetic(synthetic: bool) -> None:
    """The banner, where any number comes from phantoms."""
    if synthetic:
        from benchmarks.results.tables import SYNTHETIC_BANNER

        console(stderr=False).print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
