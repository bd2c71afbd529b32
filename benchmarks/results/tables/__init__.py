"""What a person sees: sheets of text, and how they are printed. Nothing is computed here."""

from __future__ import annotations

from benchmarks.results.tables.board import board_sheets, legend, overall_sheets
from benchmarks.results.tables.details import detail_sheets
from benchmarks.results.tables.render import (
    show_ablation,
    show_details,
    show_leaderboard,
    show_mapping,
    show_rows,
    svg,
    to_latex,
    to_markdown,
)
from benchmarks.results.tables.sheet import SYNTHETIC_BANNER, Sheet

__all__ = [
    "SYNTHETIC_BANNER",
    "Sheet",
    "board_sheets",
    "detail_sheets",
    "legend",
    "overall_sheets",
    "show_ablation",
    "show_details",
    "show_leaderboard",
    "show_mapping",
    "show_rows",
    "svg",
    "to_latex",
    "to_markdown",
]
