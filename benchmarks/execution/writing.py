"""Rows on their way to the disk."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from benchmarks.data.dataset import Case
from benchmarks.execution.evaluate import failed_case
from benchmarks.execution.plan import Unit
from benchmarks.execution.way import Way
from benchmarks.results.records import RecordStore


class Writer:
    """Writes the rows of cases.

    Those of a case that failed are made in a thread: its label has to be read to know the worst values.
    """

    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1)
        self._failing: list[tuple[Way, Case, Future[list[dict[str, Any]]]]] = []
        self.unwritten = 0  # in a row

    @property
    def waiting(self) -> bool:
        """Whether rows of failed cases are still to be written."""
        return bool(self._failing)

    def begin_failed(self, way: Way, case: Case, error: Exception) -> None:
        """Make the rows of a case that failed; `failed` gives them back."""
        self._failing.append((way, case, self._thread.submit(failed_case, case, way.evaluation_by_weights, error)))

    def failed(self, wait: bool = False) -> Iterator[tuple[Way, Case, list[dict[str, Any]]]]:
        """Cases that failed, with their rows, as far as these are made by now."""
        ready = [one for one in self._failing if wait or one[2].done()]
        self._failing = [one for one in self._failing if one not in ready]
        for way, case, rows in ready:
            yield way, case, rows.result()

    def write(self, unit: Unit, case: Case, rows: list[dict[str, Any]]) -> None:
        """Raises OSError, counted in `unwritten`."""
        if len(rows) != unit.rows_per_case:
            raise RuntimeError(f"{unit.title}, {case.case_id}: {len(rows)} rows, {unit.rows_per_case} due")
        self.unwritten += 1
        self._store.write_case(unit.folder, case.case_id, rows)
        self.unwritten = 0

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
