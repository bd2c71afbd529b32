"""What a large report weighs and takes: 300 cases × 8 methods, generated; from records and from files on a disk."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.data.volume import Volume, write_mask, write_nifti
from benchmarks.execution.datasets import Folders
from benchmarks.execution.outcomes import ReportChoice, Results
from benchmarks.execution.progress import Progress
from benchmarks.execution.reporting import write_report
from benchmarks.prompting.prompts import Click, Prompts, to_json
from benchmarks.prompting.protocol import Protocol
from benchmarks.results.predictions import facts_file, mask_file, step_stem
from benchmarks.results.report import ReportContent, report_html
from benchmarks.results.report.pictures import CasePicture, Layer, Prompted, bytes_of_each, encoded
from tests.report.conftest import BROWSERS
from tests.results.boards import row_of, unit_of

CASES, METHODS, ROUNDS = 300, 8, 5
CROP, SPACING = (130, 120, 40), (0.8, 0.8, 2.5)  # a tumour of 7 cm with its margin
PROTOCOLS = (Protocol(kind="centre-click"), Protocol(kind="iterative", rounds=ROUNDS))


def ball(shape: tuple[int, int, int], radius: float, shift: float) -> np.ndarray:
    across = [(np.arange(n) - n / 2 - shift) * mm for n, mm in zip(shape, SPACING, strict=True)]
    x, y, z = np.meshgrid(*across, indexing="ij", sparse=True)
    return np.asarray(x**2 + y**2 + z**2 < radius**2)


def picture(case: str, chance: np.random.Generator) -> CasePicture:
    """Noise as of a CT of 10 HU, a target, and the masks of every method after every step, each a little off."""
    radius = chance.uniform(8, 35)
    reference = ball(CROP, radius, 0)
    scan = 40 + 60 * reference + chance.normal(0, 10, CROP)
    layers = []
    for protocol in PROTOCOLS:
        for method in range(METHODS):
            for step in range(1, protocol.rounds + 1):
                rough = ball(CROP, radius * chance.uniform(0.8, 1.2), chance.uniform(0, 4 / step))
                clicks = tuple((*map(int, chance.integers(10, 30, 3)), 1) for _ in range(step))
                layers.append(Layer(protocol.name, f"method-{method}", step, rough, Prompted(clicks)))
    return CasePicture(
        "kits21",
        case,
        "kidney-tumor",
        (0, 0, 0),
        SPACING,
        reference,
        scan.astype(np.float32),
        (-60, 180),
        tuple(layers),
    )


def records(chance: np.random.Generator) -> tuple[Any, list[dict[str, Any]]]:
    import pandas as pd

    units = [unit_of(f"method-{n}", "kits21", PROTOCOLS, CASES, suite="large") for n in range(METHODS)]
    for unit in units:
        unit["cases"] = [f"case_{n:02}" for n in range(CASES)]
    template = row_of(units[0], 0, PROTOCOLS[0], 1, 0.5)
    hard = chance.normal(0, 0.1, CASES)
    rows = [
        template
        | {"unit": unit["unit"], "method": unit["method"], "case": f"case_{case:02}", "patient": f"patient_{case:02}"}
        | {"protocol": protocol.name, "track": protocol.track, "step": step}
        | {"dice": float(np.clip(0.75 - 0.02 * place + 0.02 * step + hard[case] + chance.normal(0, 0.05), 0, 1))}
        for place, unit in enumerate(units)
        for protocol in PROTOCOLS
        for step in range(1, protocol.rounds + 1)
        for case in range(CASES)
    ]
    return pd.DataFrame(rows), units


@pytest.mark.bench
def test_300_cases_of_8_methods_fit_into_a_page(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    rows, units = records(chance)
    size = bytes_of_each(CASES, 36.0)
    took = time.process_time()
    pictures = []
    for number in range(CASES):
        case = f"case_{number:02}"
        pictures.append((("kits21", case, "kidney-tumor"), encoded(picture(case, chance), size)))
    made = time.process_time() - took
    took = time.process_time()
    page = report_html(ReportContent("large", rows, units, pictures=pictures, scans=True))
    written = time.process_time() - took
    file = tmp_path / "large.html"
    file.write_text(page, encoding="utf-8")
    megabytes = file.stat().st_size / 1e6
    bare = len(report_html(ReportContent("large", rows, units))) / 1e6
    print(f"\n{CASES} cases, {METHODS} methods, {len(rows)} rows: {megabytes:.1f} MB, without pictures {bare:.1f} MB")
    print(f"processor seconds: pictures {made:.0f}, page {written:.1f}; reduced {pictures[0][1]['reduction']}")
    assert megabytes < 40
    opened_in_a_browser(file)


def opened_in_a_browser(file: Path) -> None:
    """How long the page takes to open, and a case of it."""
    if (found := next(filter(None, map(shutil.which, BROWSERS)), None)) is None:
        pytest.skip("no browser to open it with")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page()
        started = time.perf_counter()
        tab.goto(f"file://{file}#list-1")
        tab.wait_for_selector("#list-1 .chart svg")
        opened = time.perf_counter() - started
        started = time.perf_counter()
        tab.goto(f"file://{file}#list-1/case-7")
        tab.wait_for_selector("#viewer canvas.main:visible")
        print(f"seconds: to open the page {opened:.1f}, a case {time.perf_counter() - started:.2f}")
        assert opened < 20
        browser.close()


VARIANTS = 10  # cases of different content; the others are links to their files


@pytest.mark.bench
def test_the_whole_command_on_files(tmp_path: Path) -> None:
    """As `tags-bench report` does once the records are read: scans, labels and 14 400 masks from the disk, one page."""
    chance = np.random.default_rng(0)
    rows, units = records(chance)
    rows, units = on_disk(tmp_path / "out", rows, units, chance)
    started, before = time.perf_counter(), os.times()
    file = tmp_path / "large.html"
    result = write_report(
        Results("large", rows, tuple(units)), file, Folders(tmp_path / "out"), ReportChoice(), Progress()
    )
    after = os.times()
    processor = sum(after[:4]) - sum(before[:4])
    print(f"\nfrom files: {result.megabytes:.1f} MB, {result.pictures} pictures")
    print(f"seconds: {time.perf_counter() - started:.0f}, of processors {processor:.0f}; {os.getloadavg()[0]:.0f} load")
    assert result.pictures == CASES
    assert not result.without_picture
    assert result.megabytes < 40
    opened_in_a_browser(file)


def on_disk(
    out: Path, rows: Any, units: list[dict[str, Any]], chance: np.random.Generator
) -> tuple[Any, list[dict[str, Any]]]:
    """Files as a run leaves them, and records that say of each mask how many voxels it has."""
    affine = np.diag([*SPACING, 1.0])
    like = Volume(np.zeros(CROP, np.float32), affine)
    voxels: dict[tuple[int, str, str, int], int] = {}
    of_reference = []
    for number in range(VARIANTS):
        one = picture(f"case_{number:02}", chance)
        assert one.scan is not None
        write_nifti(one.scan.astype(np.int16), affine, out / f"scans/{number}.nii.gz")
        write_mask(one.reference, like, out / f"labels/{number}.nii.gz")
        of_reference.append(int(one.reference.sum()))
        for layer in one.layers:
            stem = out / "variants" / f"{number}-{layer.protocol}-{layer.method}-{layer.step}"
            write_mask(layer.mask, like, mask_file(stem))
            given = Prompts(clicks=tuple(Click((x, y, z), True) for x, y, z, _ in layer.prompted.clicks))
            facts = {"prompts": to_json(given, like), "facts": {"seconds_segment": 0.5}}
            facts_file(stem).write_text(json.dumps(facts), encoding="utf-8")
            voxels[number, layer.protocol, layer.method, layer.step] = int(layer.mask.sum())
    variant = rows["case"].str.removeprefix("case_").astype(int) % VARIANTS
    keys = zip(variant, rows["protocol"], rows["method"], rows["step"], strict=True)
    rows = rows.assign(
        voxels_prediction=[voxels[key] for key in keys], voxels_reference=[of_reference[number] for number in variant]
    )
    files = {
        case: [f"scans/{n % VARIANTS}.nii.gz", f"labels/{n % VARIANTS}.nii.gz"]
        for n, case in enumerate(units[0]["cases"])
    }
    (out / "data" / "cases").mkdir(parents=True)
    (out / "data" / "cases" / "large.json").write_text(json.dumps(files), encoding="utf-8")
    described = []
    for unit in units:
        place = Path("predictions") / "large" / "kits21" / str(unit["method"])
        target = {"name": "kidney-tumor", "organ": "kidney", "lesion": "tumor", "labels": [1], "window": [-60.0, 180.0],
                  "mean": 0.0, "std": 1.0}  # fmt: skip
        described.append({**unit, "cases_digest": "large", "predictions": str(place), "target": target})
        for n, case in enumerate(unit["cases"]):
            for protocol in PROTOCOLS:
                for step in range(1, protocol.rounds + 1):
                    source = out / "variants" / f"{n % VARIANTS}-{protocol.name}-{unit['method']}-{step}"
                    stem = step_stem(out / place, case, "kidney-tumor", protocol.name, step)
                    stem.parent.mkdir(parents=True, exist_ok=True)
                    for of in (mask_file, facts_file):
                        os.link(of(source), of(stem))
    return rows, described
