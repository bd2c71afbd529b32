"""Plug-ins: objects that installed packages announce under an entry-point group, the broken ones apart.

A plug-in of somebody else must not stop the bench, nor pass itself off as another: one that fails at import, gives the
wrong kind of thing, or takes a name that exists is listed as broken with its reason, and the others are used.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

from benchmarks.common.errors import UserError, nearest_name, one_line

OWN_DISTRIBUTION = "tags-bench"
LONGEST_REASON = 300


class Named(Protocol):
    """What a plug-in must at least have."""

    @property
    def name(self) -> str: ...


Plugin = TypeVar("Plugin", bound=Named)


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in that is installed and cannot be used.

    Attributes:
        name: of its entry point.
        value: what the entry point names, "module:object".
        distribution: the installed package that announces it, with its version.
        reason: in a line.
    """

    name: str
    value: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"'{self.name}' of {self.distribution} ({self.value}) is broken: {self.reason}"


def installed(
    group: str, kind: type[Plugin], contradiction: Callable[[Plugin, Mapping[str, Plugin]], str] = lambda new, known: ""
) -> tuple[dict[str, Plugin], tuple[BrokenPlugin, ...]]:
    """The plug-ins of a group by name, and those that are broken.

    A name belongs to the bench's own package first, then to the package whose name comes first in the alphabet.

    Args:
        contradiction: what of a plug-in cannot be true beside those found before it, in a line; "" if nothing.
    """
    found: dict[str, Plugin] = {}
    owners: dict[str, str] = {}
    broken = []
    for entry, distribution in _announced(group, tuple(sys.path)):
        plugin, reason = _load(entry, kind)
        if plugin is not None and entry.name in found:
            plugin, reason = None, f"the name '{entry.name}' belongs to {owners[entry.name]}"
        if plugin is not None and (problem := contradiction(plugin, found)):
            plugin, reason = None, _shortened(problem)
        if plugin is None:
            broken.append(BrokenPlugin(entry.name, entry.value, distribution, reason))
            continue
        found[entry.name], owners[entry.name] = plugin, distribution
    return found, tuple(broken)


def chosen(name: str, what: str, good: Mapping[str, Plugin], broken: tuple[BrokenPlugin, ...]) -> Plugin:
    """The plug-in of that name; `what` says in a word what it is.

    Raises:
        UserError: it is broken (with the reason), or there is none (with the nearest name).
    """
    if name in good:
        return good[name]
    for one in broken:
        if one.name == name:
            raise UserError(f"{what} {one}")
    raise UserError(f"unknown {what} '{name}'; {nearest_name(name, good)}")


@lru_cache(maxsize=16)
def _announced(group: str, path: tuple[str, ...]) -> tuple[tuple[importlib.metadata.EntryPoint, str], ...]:
    """The entry points of a group, each with its package, as long as the path of imports stays as it is.

    Reading the metadata of hundreds of packages takes tens of milliseconds, and a plan asks for every method.
    """
    entries = sorted(importlib.metadata.entry_points(group=group), key=_precedence)
    return tuple((entry, _distribution(entry)) for entry in entries)


def _precedence(entry: importlib.metadata.EntryPoint) -> tuple[bool, str, str]:
    owner = (entry.dist.name if entry.dist else None) or ""
    return owner != OWN_DISTRIBUTION, owner, entry.name


def _distribution(entry: importlib.metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"


def _load(entry: importlib.metadata.EntryPoint, kind: type[Plugin]) -> tuple[Plugin | None, str]:
    """The object, or None and what is wrong with it. Whatever its import does is the plug-in's fault, not ours."""
    try:
        plugin = entry.load()
    except (Exception, SystemExit) as error:
        return None, _shortened(f"it cannot be imported ({one_line(error)})")
    if not isinstance(plugin, kind):
        return None, f"it gives a {type(plugin).__name__}, not a {kind.__name__}"
    if plugin.name != entry.name:
        return None, _shortened(f"it gives a {kind.__name__} that is named '{plugin.name}'")
    return plugin, ""


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} …"
