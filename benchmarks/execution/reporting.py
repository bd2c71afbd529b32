"""A report is written: the records, and the pictures of the cases that the run kept masks of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically
from benchmarks.common.paths import user_path
from benchmarks.execution.case_files import machines_of
from benchmarks.execution.case_pictures import CaseKey, case_pictures, picture_orders
from benchmarks.execution.datasets import Folders
from benchmarks.execution.outcomes import ReportChoice, ReportResult, Results
from benchmarks.execution.progress import Progress
from benchmarks.results.mlflow import REPORT, attach
from benchmarks.results.report import ReportContent, report_html


def write_report(
    results: Results, path: Path, folders: Folders, choice: ReportChoice, progress: Progress
) -> ReportResult:
    """Make the page, write it in one piece, and add it to the run in MLflow.

    Raises:
        UserError: records that are not complete, an unknown metric, a file that cannot be written.
    """
    path = user_path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{path}: a report is an .html file")
    if not choice.incomplete:
        results.check_complete()
    if not results.rows.empty:
        results.check_metric(choice.metric)
    orders = picture_orders(results.rows, results.units, folders) if choice.masks else []
    made: dict[CaseKey, dict[str, Any]] = {}

    def pictures() -> Iterator[tuple[CaseKey, dict[str, Any]]]:
        for key, picture in case_pictures(orders, choice.scans):
            made[key] = picture
            yield key, picture

    with progress.step(f"pictures of {len(orders)} cases" if orders else "tables and charts"):
        content = ReportContent(
            suite=results.suite,
            rows=results.rows,
            units=results.units,
            metric=choice.metric,
            margin=choice.margin,
            incomplete=choice.incomplete,
            pictures=pictures(),
            machines=machines_of(results.suite, folders),
            scans=choice.scans and bool(orders),
        )
        page = report_html(content)
    try:
        with atomically(path) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    scanned = {dataset for (dataset, *_), one in made.items() if one.get("scan")}
    private = any(unit["dataset"] in scanned and not unit["synthetic"] for unit in results.units)
    with progress.step("sending it to MLflow"):
        sent = attach(folders.out, results.units, {REPORT: path}, private=private)
    return ReportResult(
        path=path,
        megabytes=path.stat().st_size / 1e6,
        pictures=sum("error" not in one for one in made.values()),
        without_picture={"/".join(key): str(one["error"]) for key, one in made.items() if "error" in one},
        scans=bool(scanned),
        mlflow=sent,
    )
