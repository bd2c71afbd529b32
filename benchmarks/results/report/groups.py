"""Which methods a test tells apart, as letters in a table and as bars in a diagram."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_lowercase

Apart = Callable[[str, str], bool]
"""Whether two methods differ significantly."""


def letters(methods: Sequence[str], apart: Apart) -> dict[str, str]:
    """Compact letter display: two methods share a letter just when they are not told apart.

    The insert-and-absorb algorithm of Piepho, "An Algorithm for a Letter-Based Representation of All-Pairwise
    Comparisons", J Comput Graph Stat 13 (2004).

    Args:
        methods: best first; letters follow this order.
    """
    columns: list[set[str]] = [set(methods)] if methods else []
    for place, a in enumerate(methods):
        for b in methods[place + 1 :]:
            if not apart(a, b):
                continue
            split: list[set[str]] = []
            for column in columns:
                split += [column - {a}, column - {b}] if {a, b} <= column else [column]
            columns = _absorbed(split)
    columns.sort(key=lambda column: sorted(methods.index(name) for name in column))
    names = [_letter(number) for number in range(len(columns))]
    return {
        name: "".join(letter for letter, column in zip(names, columns, strict=True) if name in column)
        for name in methods
    }


def runs(methods: Sequence[str], apart: Apart) -> list[tuple[str, str]]:
    """First and last of each longest run of neighbours in which no two are told apart; runs of one are left out."""
    found: list[tuple[int, int]] = []
    for first in range(len(methods)):
        last = first
        while last + 1 < len(methods) and not any(apart(methods[i], methods[last + 1]) for i in range(first, last + 1)):
            last += 1
        if last > first and not any(last <= end for _, end in found):
            found.append((first, last))
    return [(methods[first], methods[last]) for first, last in found]


def _absorbed(columns: list[set[str]]) -> list[set[str]]:
    """Without those that lie inside another one."""
    kept: list[set[str]] = []
    for column in sorted(columns, key=len, reverse=True):
        if column and not any(column <= other for other in kept):
            kept.append(column)
    return kept


def _letter(number: int) -> str:
    return ascii_lowercase[number] if number < 26 else f"{_letter(number // 26 - 1)}{ascii_lowercase[number % 26]}"
