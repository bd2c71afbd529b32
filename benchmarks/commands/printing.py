"""What commands print: results on standard output, all else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(stderr: bool = True) -> Console:
    """Progress goes to standard error, results to standard output; a file or a pipe gets wide lines."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else 120)


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, default=_plain))


def print_rows(title: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Rows as a table, or as JSON."""
    if as_json:
        print_json(rows)
        return
    from benchmarks.results.tables import show_rows

    show_rows(title, rows, console(stderr=False))


def print_mapping(title: str, values: Mapping[str, Any]) -> None:
    """Names and values in two columns."""
    from benchmarks.results.tables import show_mapping

    show_mapping(title, values, console(stderr=False))


def say_synthetic(synthetic: bool) -> None:
    """The banner, where any number comes from phantoms."""
    if synthetic:
        from benchmarks.results.tables import SYNTHETIC_BANNER

        console(stderr=False).print(f"[bold yellow]{SYNTHETIC_BANNER}[/]")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
