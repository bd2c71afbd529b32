"""All pictures of the documentation that show a run, from one output folder of the default suite.

    make run && make pictures
    python docs/pictures.py --out DIR --suite NAME --images DIR     # of another run, to another place

Headless: a browser (Chromium on the path, or TAGS_BENCH_BROWSER) and playwright open the report, MLflow's pages
(served on 127.0.0.1, and closed at the end) and a terminal of 80 columns. Runs of phantoms only: nobody's scans belong
into the documentation. `docs/images/scheduler.svg` shows no run and is none of these.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

import benchmarks
from benchmarks.data.catalogue import load_dataset
from benchmarks.data.dataset import target_mask
from benchmarks.data.phantom import folder_name
from benchmarks.data.volume import read_label
from benchmarks.execution.outcomes import Results
from benchmarks.results.mlflow.server import free_port, opened_store, server_command
from benchmarks.results.tables import leaderboard_page, render

IMAGES = Path(__file__).resolve().parent / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OUTLINES = {"tags-tiny": "#ff5252", "sam-med3d-tiny": "#ffd740", "ball": "#40c4ff"}
WITH_CLICKS = "centre-click"
COLUMNS, LINES = 80, 50
SERVER_SECONDS = 120.0


def main() -> None:
    """Draw and photograph everything."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--out", type=Path, default=Path("tags-bench-out"), help="output folder of the run")
    words.add_argument("--suite", default="phantom")
    words.add_argument("--images", type=Path, default=IMAGES, help="where the pictures go")
    given = words.parse_args()
    out, images = given.out.resolve(), given.images
    results = benchmarks.load_results(given.suite, out=out)
    results.check_complete()
    if not all(unit["synthetic"] for unit in results.units):
        raise SystemExit(f"'{given.suite}' holds scans of patients; pictures of the documentation show phantoms only")
    images.mkdir(parents=True, exist_ok=True)
    page = leaderboard_page(results.leaderboard, results.overall, overall_only=True)
    (images / "leaderboard.svg").write_text(render(page, "svg", 110), encoding="utf-8")
    draw_cases(results, out, images / "cases.png")
    with tempfile.TemporaryDirectory() as folder, a_browser() as browser:
        report = Path(folder) / "report.html"
        print(benchmarks.report(results, report, out=out))
        shoot_report(browser, report, images)
        shoot_terminal(browser, ["leaderboard", "--suite", given.suite, "--out", str(given.out)], images)
        with served(out, given.suite) as (address, experiment, parent):
            shoot_mlflow(browser, address, experiment, parent, images)
    for path in sorted(images.glob("*.*")):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


# The report


def shoot_report(browser: Browser, report: Path, images: Path) -> None:
    """Its answer, a leaderboard, a case and the difference of two methods."""
    address = f"file://{report.resolve()}"
    with a_page(browser, (1280, 860), "light") as page:
        page.goto(address)
        shot(page, images / "report-answer-light.png")
        place = list_with_clicks(page)
    with a_page(browser, (1280, 1240), "dark") as page:
        page.goto(address)
        shot(page, images / "report-answer-dark.png", height=860)
        page.goto(f"{address}#{place}")
        shot(page, images / "report-leaderboard-dark.png")
    with a_page(browser, (1180, 720), "light") as page:
        page.goto(f"{address}#{place}/cases")
        page.goto(f"{address}{typical_link(page)}")
        page.wait_for_selector("#viewer canvas.main:visible")
        shot(page, images / "report-case.png")
        page.keyboard.press("d")
        shot(page, images / "report-difference.png")


def list_with_clicks(page: Page) -> str:
    """The first list of one data set whose methods were given a click, such as "list-3"."""
    places = page.locator("#which option").evaluate_all("options => options.map(one => [one.value, one.textContent])")
    fitting = [value for value, text in places if value.startswith("list-") and WITH_CLICKS in text]
    return str((fitting or [value for value, _ in places if value.startswith("list-")])[0])


def typical_link(page: Page) -> str:
    """The address of the case in the middle of the table, which has the worst first."""
    links = page.locator("#case-table tbody a").evaluate_all("found => found.map(one => one.getAttribute('href'))")
    links = [link for link in links if "/case-" in link]
    return str(links[len(links) // 2])


# The terminal


def shoot_terminal(browser: Browser, words: list[str], images: Path) -> None:
    """What a command prints into a terminal of 80 columns: its first lines, up to the end of a table."""
    lines = printed(words).rstrip().splitlines()
    if len(lines) > LINES:
        ends = [number for number, line in enumerate(lines[:LINES]) if not Text.from_ansi(line).plain.strip()]
        lines = lines[: (ends or [LINES])[-1]]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi("\n".join([f"$ tags-bench {' '.join(words[:1])}", *lines])), soft_wrap=False)
    form = "<pre style='margin:0;padding:14px;font:14px/1.25 DejaVu Sans Mono,monospace;width:max-content'>{code}</pre>"
    html = console.export_html(inline_styles=True, code_format=form, theme=DEFAULT_TERMINAL_THEME)
    with a_page(browser, (900, 600), "light") as page:
        page.set_content(f"<body style='margin:0;background:white'>{html}</body>")
        saved(page.locator("pre").screenshot(), images / "terminal-80.png")


def printed(words: list[str]) -> str:
    """The output of a command in a terminal of 80 columns, with its colours."""
    start = [sys.executable, "-c", "import sys; sys.argv[0] = 'tags-bench'; from cli import app; app()"]
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    command = subprocess.Popen(
        [*start, *words], stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm-256color"}
    )
    os.close(theirs)
    parts = []
    with suppress(OSError):  # which Linux raises at the end of a terminal
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    os.close(ours)
    text = b"".join(parts).decode("utf-8").replace("\r\n", "\n")
    if command.wait():
        raise SystemExit(f"tags-bench {' '.join(words)}: exit code {command.returncode}\n{text}")
    return text


# MLflow


@contextmanager
def served(out: Path, suite: str) -> Iterator[tuple[str, str, str]]:
    """MLflow's server on the store of an output folder: its address, the experiment and the run of the suite."""
    uri, _ = opened_store(out, suite)
    from mlflow.tracking import MlflowClient

    from benchmarks.results.mlflow.store import experiment_name

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(experiment_name(suite)).experiment_id
    parent = client.search_runs(
        [experiment], "tags.`tagsbench.kind` = 'suite'", order_by=["attributes.start_time DESC"], max_results=1
    )[0]
    port = a_port()
    server = subprocess.Popen(
        server_command(uri, out, port), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + SERVER_SECONDS
        while free_port(port):
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit("MLflow's server does not answer")
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/", str(experiment), str(parent.info.run_id)
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # the server and its workers
        server.wait()


def shoot_mlflow(browser: Browser, address: str, experiment: str, parent: str, images: Path) -> None:
    """The run table, its charts, the models and the run of the suite with its report."""
    from benchmarks.results.mlflow.view import LEADERBOARD_VIEW, TRAINING_PAGES, run_link, view_link

    table = address + view_link(experiment, LEADERBOARD_VIEW)
    with a_page(browser, (1600, 780), "light") as page:
        settled(page, table, r"text=/^[1-9]\d* matching runs/")
        shot(page, images / "mlflow-runs.png")
        page.locator("input[value=CHART]").dispatch_event("click")  # the button over it is what one sees
        page.wait_for_selector(".js-plotly-plot svg.main-svg", timeout=60_000)
        page.wait_for_timeout(4000)
        shot(page, images / "mlflow-charts.png")
    with a_page(browser, (1600, 520), "light") as page:
        settled(page, f"{address}#/experiments/{experiment}/models?{TRAINING_PAGES}", "text=Model attributes")
        shot(page, images / "mlflow-models.png")
    with a_page(browser, (1600, 900), "light") as page:
        settled(page, address + run_link(experiment, parent, "/artifacts/report.html"), "iframe")
        page.evaluate(HIDE_PATHS)
        shot(page, images / "mlflow-report.png")


HIDE_PATHS = """() => {
  const leaves = [...document.querySelectorAll('*')].filter(one => one.children.length === 0);
  leaves.filter(one => one.textContent.includes('file://')).forEach(one => { one.style.visibility = 'hidden'; });
}"""
"""Where the files of this machine lie is nobody's business."""

ASSISTANT = "[data-component-id='mlflow.assistant.chat_panel.close']"


def settled(page: Page, address: str, sign: str) -> None:
    """Go to a page of MLflow and wait until it is drawn."""
    page.goto(address, wait_until="domcontentloaded")
    page.wait_for_selector(sign, timeout=90_000)
    page.wait_for_timeout(3000)
    if page.locator(ASSISTANT).count():  # a panel that MLflow opens beside the first page
        page.locator(ASSISTANT).click()
        page.wait_for_timeout(1000)


def a_port() -> int:
    """A port of this machine that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# The browser


@contextmanager
def a_browser() -> Iterator[Browser]:
    found = os.environ.get("TAGS_BENCH_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"no browser on this machine ({', '.join(BROWSERS)}, or TAGS_BENCH_BROWSER)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def a_page(browser: Browser, size: tuple[int, int], theme: Any) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=theme)
    yield page
    page.close()


def shot(page: Page, path: Path, height: int | None = None) -> None:
    """What is seen, once it is drawn."""
    page.wait_for_timeout(1000)
    whole = page.viewport_size or {"width": 0, "height": 0}
    clip = {"x": 0, "y": 0, "width": whole["width"], "height": height or whole["height"]}
    saved(page.screenshot(clip=clip), path)  # type: ignore[arg-type]


def saved(picture: bytes, path: Path) -> None:
    Image.open(io.BytesIO(picture)).convert("RGB").save(path, optimize=True)


# Cases


def draw_cases(results: Results, out: Path, picture: Path) -> None:
    """A slice of one case of each data set: the label filled, masks after one click as outlines."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    suite = benchmarks.load_suite(results.suite)
    names = {str(name) for name in results.rows["dataset"].unique()}
    entries = [entry for entry in suite.datasets if entry.name in names]
    drawn: dict[str, str] = {}
    figure, panels = plt.subplots(1, len(entries), figsize=(4 * len(entries), 4.3), squeeze=False)
    for axes, entry in zip(panels[0], entries, strict=True):
        dataset = load_dataset(entry.name, out / "data" / "phantom" / folder_name(entry.name, suite.seed, entry.cases))
        target, case = dataset.targets[0], dataset.cases[typical_case(results.rows, entry.name)]
        volume, values = case.load()
        label = target_mask(values, target)
        z = int(label.sum((0, 1)).argmax())
        low, high = target.window
        shown = np.clip((volume.array[..., z] - low) / (high - low), 0, 1)
        axes.imshow(shown.T, cmap="gray", origin="lower", aspect=volume.spacing[1] / volume.spacing[0])
        axes.contourf(label[..., z].T, levels=[0.5, 1.5], colors=["#69f0ae"], alpha=0.45)
        for method, colour in OUTLINES.items():
            masks = out / "predictions" / results.suite / entry.name
            for file in masks.glob(f"{method}-{'?' * 16}/{case.case_id}/{target.name}.{WITH_CLICKS}.1.nii.gz"):
                drawn[method] = colour
                mask = read_label(file, like=volume)[..., z] > 0
                if mask.any():
                    axes.contour(mask.T, levels=[0.5], colors=[colour], linewidths=1.4)
        axes.set_title(f"{entry.name} (phantom)", fontsize=10)
        axes.invert_xaxis()  # the patient's right on the left, as radiologists have it
        axes.axis("off")
    handles = [plt.Line2D([], [], color=colour, label=name) for name, colour in drawn.items()]
    handles.append(plt.Rectangle((0, 0), 1, 1, color="#69f0ae", alpha=0.6, label="label"))
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), frameon=False, fontsize=9)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.09, wspace=0.03)
    figure.savefig(picture, dpi=80)


def typical_case(rows: pd.DataFrame, dataset: str) -> str:
    """The case whose Dice is the median of the first outlined method after one click."""
    clicked = rows[(rows["dataset"] == dataset) & (rows["protocol"] == WITH_CLICKS)]
    first = next(name for name in OUTLINES if (clicked["method"] == name).any())
    ordered = clicked[clicked["method"] == first].sort_values(["dice", "case"])
    return str(ordered["case"].iloc[len(ordered) // 2])


if __name__ == "__main__":
    main()
