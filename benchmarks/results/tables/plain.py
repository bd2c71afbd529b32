"""Names and values for a terminal, where no sheet is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


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
