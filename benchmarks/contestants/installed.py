"""The contestants that are installed, found by entry point."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.common.plugins import BrokenPlugin, chosen, installed
from benchmarks.contestants.description import Method

ENTRY_POINT_GROUP = "tags_bench.methods"


def methods() -> dict[str, Method]:
    """All installed methods by name, in the order floors last; broken ones are left out (`broken_methods`)."""
    return _installed()[0]


def broken_methods() -> tuple[BrokenPlugin, ...]:
    """The installed methods that cannot be used, each with its reason."""
    return _installed()[1]


def method(name: str) -> Method:
    """The method of that name. Raises UserError with the reason if it is broken, else with the nearest name."""
    return chosen(name, "method", *_installed())


def _installed() -> tuple[dict[str, Method], tuple[BrokenPlugin, ...]]:
    found, broken = installed(ENTRY_POINT_GROUP, Method, _contradiction)
    return dict(sorted(found.items(), key=lambda item: (item[1].floor, item[0]))), broken


def _contradiction(new: Method, known: Mapping[str, Method]) -> str:
    """A file lies under one name in one folder, so two methods that share it must say the same of it."""
    files = {file.name: (file, name) for name, one in known.items() for file in one.files}
    for file in new.files:
        other, owner = files.get(file.name, (file, ""))
        if other != file:
            return f"it announces other facts of the file '{file.name}' than method '{owner}'"
    return ""
