"""Progress bars of downloads and of checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TransferSpeedColumn,
)


@contextmanager
def download_bars(console: Console) -> Iterator[Callable[[Any, int, int | None], None]]:
    """A bar for every file that is being fetched."""
    with Progress(*_columns(), DownloadColumn(), TransferSpeedColumn(), console=console) as bars:
        tasks: dict[str, Any] = {}

        def advance(remote: Any, done: int, total: int | None) -> None:
            if remote.path not in tasks:
                tasks[remote.path] = bars.add_task(remote.path, total=total)
            bars.update(tasks[remote.path], completed=done, total=total)

        yield advance


@contextmanager
def case_bar(console: Console, name: str) -> Iterator[tuple[Callable[[Any], None], Callable[[Any], None]]]:
    """A bar over the cases of a dataset: to be told the dataset, then every case."""
    with Progress(*_columns(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task(f"checking {name}", total=None)
        yield (lambda dataset: bar.update(task, total=len(dataset.cases))), (lambda report: bar.advance(task))


def _columns() -> tuple[ProgressColumn, ...]:
    """Those of rich, but a name of a file or a dataset is shown as it is: brackets in it are no markup."""
    return TextColumn("{task.description}", markup=False), *Progress.get_default_columns()[1:]
