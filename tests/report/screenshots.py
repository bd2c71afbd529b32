"""Makes the pictures of docs/report.md from a report: python -m tests.report.screenshots report.html [LIST [CASE]].

Reports of phantoms only: nobody's scans belong into the documentation.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.report.conftest import BROWSERS

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


def take(report: Path, number: int, case: int) -> None:
    shots = {
        "report-answer-light": ("", "light", (1280, 860), ""),
        "report-leaderboard-dark": (f"#list-{number}", "dark", (1280, 1240), ""),
        "report-case": (f"#list-{number}/case-{case}", "light", (1180, 720), ""),
        "report-difference": (f"#list-{number}/case-{case}", "light", (1180, 720), "d"),
    }
    found = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for name, (place, theme, (width, height), key) in shots.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=theme)
            page.goto(f"file://{report.resolve()}{place}")
            page.wait_for_timeout(1000)
            if key:
                page.keyboard.press(key)
                page.wait_for_timeout(200)
            image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            image.save(IMAGES / f"{name}.png", optimize=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[2:4]]
    take(Path(sys.argv[1]), *(numbers + [0, 0][len(numbers) :]))
