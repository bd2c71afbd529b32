"""One finished run for all tests of the report, and a browser to open its page with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load_results
from benchmarks.api import report
from benchmarks.execution.outcomes import Results
from tests.report.finished import finish

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "out"
    finish(folder)
    return folder


@pytest.fixture(scope="session")
def results(out: Path) -> Results:
    return load_results("small", out=out)


@pytest.fixture(scope="session")
def page_file(out: Path, results: Results) -> Path:
    file = out.parent / "report.html"
    report(results, file, out=out)
    return file


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium of this machine: `TAGS_BENCH_BROWSER`, or one on the path; else the test is skipped."""
    found = os.environ.get("TAGS_BENCH_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser on this machine ({', '.join(BROWSERS)}, or TAGS_BENCH_BROWSER)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
