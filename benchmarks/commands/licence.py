"""A licence is shown, and accepted once, before anything is fetched."""

from __future__ import annotations

import sys

import typer

from benchmarks.commands.printing import say
from benchmarks.common.errors import UserError


def show_licence(terms: str, accept: bool) -> None:
    """Show it, and go on only if it is accepted, by option or by answer."""
    say(terms)
    if not accept and not (sys.stdin.isatty() and typer.confirm("Do you accept it?", err=True)):
        raise UserError("the licence was not accepted; read it and use --accept-licence")
