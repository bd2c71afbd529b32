"""The report: one HTML file that opens offline, from the answer down to every case.

    html = report_html(ReportContent(suite, rows, units, pictures=pictures))

It shows what `benchmarks.results.leaderboard` computes and `benchmarks.results.tables` writes; there is no arithmetic
of its own. Pictures of cases come from outside, see `pictures.encoded`: this package opens no scan.
"""

from __future__ import annotations

from benchmarks.results.report.page import ReportContent, report_html

__all__ = ["ReportContent", "report_html"]
