"""What a person sees: pages of sheets, and how they are printed. Nothing is computed here.

page = leaderboard_page(board, overall, notes) + details_page(rows, units)
text = render(page, "markdown")     # or "latex", "svg", "terminal"; print_page(page, console) for a terminal
"""

from __future__ import annotations

from benchmarks.results.tables.ablation import ablation_page
from benchmarks.results.tables.board import board_sheets, leaderboard_page, legend, overall_sheets
from benchmarks.results.tables.details import detail_sheets, details_page
from benchmarks.results.tables.pairs import pairs_page
from benchmarks.results.tables.render import Format, print_page, render
from benchmarks.results.tables.sheet import SYNTHETIC_BANNER, Page, Sheet

__all__ = [
    "SYNTHETIC_BANNER",
    "Format",
    "Page",
    "Sheet",
    "ablation_page",
    "board_sheets",
    "detail_sheets",
    "details_page",
    "leaderboard_page",
    "legend",
    "overall_sheets",
    "pairs_page",
    "print_page",
    "render",
]
