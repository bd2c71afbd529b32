"""The page in headless Chromium: it is read, sorted, filtered and leafed through as a person would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.api import report
from benchmarks.execution.outcomes import Results

pytestmark = pytest.mark.browser

CASES = "#case-table tbody tr"


class Opened:
    """A page of the browser, and everything that went wrong in it."""

    def __init__(self, page: Any, file: Path) -> None:
        self.page, self.file = page, file
        self.faults: list[str] = []
        page.on("console", lambda message: self.faults.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        page.on("request", self._request)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((f"file://{self.file}", "data:", "blob:")):
            self.faults.append(f"request: {request.url}")

    def go(self, place: str = "") -> None:
        self.page.goto("about:blank")
        self.page.goto(f"file://{self.file}{place}")

    def column(self, number: int) -> list[str]:
        return [str(text) for text in self.page.locator(f"{CASES} > :nth-child({number})").all_inner_texts()]

    def pixels(self) -> str:
        """The main picture of the viewer."""
        return str(self.page.locator("#viewer canvas.main").evaluate("canvas => canvas.toDataURL()"))

    def changes(self, key: str) -> bool:
        """Whether a key changes the main picture."""
        before = self.pixels()
        self.page.keyboard.press(key)
        for _ in range(40):  # of 50 ms; it is drawn a moment later
            self.page.wait_for_timeout(50)
            if self.pixels() != before:
                return True
        return False


@pytest.fixture
def opened(chromium: Any, page_file: Path) -> Iterator[Opened]:
    with opening(chromium, page_file) as one:
        yield one


@contextmanager
def opening(chromium: Any, file: Path) -> Iterator[Opened]:
    """A page; whatever it does, nothing may go wrong and nobody be asked."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    one = Opened(page, file)
    yield one
    faults = list(one.faults)
    page.close()
    assert faults == []


def test_the_answer_comes_first_and_leads_to_its_leaderboard(opened: Opened) -> None:
    opened.go()
    top = opened.page.locator("h2").first.bounding_box()
    assert top["y"] < 300
    assert opened.page.locator(".panel:visible").count() == 1
    opened.page.locator("a.pick[href='#list-1']").click()
    opened.page.wait_for_selector("#list-1:visible")  # the page follows its address a moment later
    assert opened.page.locator(".panel:visible").get_attribute("id") == "list-1"
    assert opened.page.locator("#list-1 .chart svg").count() >= 4
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1280  # nothing hangs over the edge of a laptop
    opened.page.go_back()
    opened.page.wait_for_selector("#list-1", state="hidden")
    opened.page.go_forward()
    opened.page.wait_for_selector("#list-1:visible")
    assert opened.page.locator("#which").input_value() == "list-1"


def test_headings_sort_by_mouse_and_by_key(opened: Opened) -> None:
    opened.go("#list-0")
    table = opened.page.locator("#list-0 table.board")
    heading = table.locator("thead th").nth(2)
    heading.click()
    dices = [float(text.split(" ")[0]) for text in table.locator("tbody tr td:nth-child(3)").all_inner_texts()]
    assert dices == sorted(dices, reverse=True)
    heading.focus()
    opened.page.keyboard.press("Enter")
    dices = [float(text.split(" ")[0]) for text in table.locator("tbody tr td:nth-child(3)").all_inner_texts()]
    assert dices == sorted(dices)
    assert heading.get_attribute("aria-sort") == "ascending"


def test_a_row_leads_to_its_cases_worst_first(opened: Opened) -> None:
    opened.go("#list-0")
    methods = opened.page.locator("#list-0 table.board tbody th").all_inner_texts()
    opened.page.locator("#list-0 table.board a").first.click()
    opened.page.wait_for_selector("#case-table th[aria-sort=ascending]")
    heading = opened.page.locator("#case-table th[aria-sort=ascending]").inner_text().strip()
    assert methods[0].startswith(heading.split("\n")[0])
    dices = [float(text) for text in opened.column(5)]
    assert dices == sorted(dices)


def test_cases_are_searched_and_filtered_and_compared(opened: Opened) -> None:
    opened.go("#list-0")
    names = opened.column(1)
    opened.page.fill("#case-search", names[0])
    assert opened.column(1) == [names[0]]
    opened.page.fill("#case-search", "")
    opened.page.select_option("#case-status", "f")
    assert sorted(opened.column(1)) == sorted(names)  # mock-crash failed in every case
    opened.page.select_option("#case-status", "picture")
    assert len(opened.column(1)) == len(names)
    opened.page.select_option("#case-a", "region-growing")
    opened.page.select_option("#case-b", "mock-crash")
    differences = [float(text.replace("−", "-")) for text in opened.column(4)]
    assert differences == sorted(differences)
    place = opened.page.locator("#case-table thead th").all_inner_texts()
    column = next(n for n, text in enumerate(place, start=1) if text.strip() == "region-growing")
    assert differences == [float(text) for text in opened.column(column)]  # the other one has 0


def test_a_case_opens_and_every_key_does_what_it_says(opened: Opened) -> None:
    number = opened.page.evaluate  # evaluated in the page
    opened.go()
    lists = number("data.lists.map(list => list.key[3])")
    iterative = lists.index("iterative-3")
    opened.go(f"#list-{iterative}")
    opened.page.locator(f"{CASES} a").first.click()
    opened.page.wait_for_selector("#viewer canvas.main:visible")
    first = opened.page.locator("#viewer h2").inner_text()
    for key in ("r", "r", "w", "v", "d", "d", "ArrowLeft", "ArrowUp"):
        assert opened.changes(key), key
    assert "prompt 2 of 3" in opened.page.locator("#viewer .steps").inner_text()
    drawn = opened.page.locator("#viewer .methods tbody tr:has(.name:text-is('region-growing')) input")
    order = number("viewer.list.methods.indexOf('region-growing')") + 1
    opened.page.keyboard.press(str(order))
    assert not drawn.is_checked()
    opened.page.keyboard.press("n")
    opened.page.wait_for_selector(f"#viewer h2:not(:text-is('{first}'))")
    opened.page.keyboard.press("p")
    opened.page.wait_for_selector(f"#viewer h2:text-is('{first}')")
    assert "always crashes" in opened.page.locator("#viewer .side").inner_text()
    opened.page.keyboard.press("Escape")
    opened.page.wait_for_selector("#viewer", state="hidden")
    opened.page.keyboard.press("?")
    assert opened.page.locator("#keys").is_visible()


def test_the_viewer_draws_the_masks_that_it_was_given(opened: Opened) -> None:
    """The bits that the page unpacks against those of Python, and the slice that it shows first."""
    opened.go("#list-0/case-0")
    opened.page.wait_for_selector("#viewer canvas.main:visible")
    found = opened.page.evaluate(
        """() => {
          const { picture } = viewer, count = bits => {
            let n = 0;
            for (let i = 0; i < picture.shape[0] * picture.shape[1] * picture.shape[2]; i++) n += isIn(bits, i);
            return n;
          };
          return { number: viewer.list.pictures[0], counts: picture.masks.map(count), slice: viewer.at.axial,
                   area: picture.slice(picture.reference, 'axial', viewer.at.axial).reduce((a, b) => a + b, 0),
                   click: picture.layers[0].clicks[0], grey: picture.scan.length };
        }"""
    )
    from tests.report.test_page import parsed
    from tests.report.test_pictures import unpacked

    content = parsed(opened.file.read_text(encoding="utf-8")).found[f"picture-{found['number']}"]
    masks = unpacked(content)
    assert found["counts"] == [int(mask.sum()) for mask in masks]
    areas = masks[0].sum(axis=(0, 1))
    assert found["slice"] == int(areas.argmax())
    assert found["area"] == int(areas.max())
    assert found["grey"] == masks[0].size


def test_no_earlier_mask_stands_for_a_step_that_failed(
    chromium: Any, out: Path, results: Results, tmp_path: Path
) -> None:
    rows, method, protocol = results.rows.copy(), "region-growing", "iterative-3"
    mine = rows[(rows["method"] == method) & (rows["protocol"] == protocol)]
    case = str(mine["case"].iloc[0])
    failing = mine.index[(mine["case"] == case) & (mine["step"] > 1)]
    rows.loc[failing, ["status", "reason", "dice"]] = ["failed", "RuntimeError: no", 0.0]
    file = tmp_path / "page.html"
    report(Results(results.suite, rows, results.units), file, out=out)
    with opening(chromium, file) as one:
        one.go()
        told = (
            "([protocol, name]) => data.lists.map(({ key, cases }) => key[3] === protocol ? cases.indexOf(name) : -1)"
        )
        number, place = next(pair for pair in enumerate(one.page.evaluate(told, [protocol, case])) if pair[1] >= 0)
        one.go(f"#list-{number}/case-{place}")
        one.page.wait_for_selector("#viewer canvas.main:visible")
        steps = "(asked) => [1, 2, 3].map((step) => viewer.picture.layer(...asked, step)?.step ?? null)"
        assert one.page.evaluate(steps, [protocol, method]) == [1, None, None]
        key = str(one.page.evaluate("(name) => viewer.list.methods.indexOf(name)", method) + 1)
        assert not one.changes(key)  # after the third prompt there is no outline to be hidden
        one.page.keyboard.press(key)
        for _ in range(2):
            one.page.keyboard.press("ArrowLeft")
        assert one.changes(key)


def test_a_method_named_reference_is_not_the_reference(
    chromium: Any, out: Path, results: Results, tmp_path: Path
) -> None:
    rows = results.rows.replace({"method": {"region-growing": "reference"}})
    units = tuple(
        unit | {"method": str(unit["method"]).replace("region-growing", "reference")} for unit in results.units
    )
    file = tmp_path / "page.html"
    report(Results(results.suite, rows, units), file, out=out)
    with opening(chromium, file) as one:
        one.go("#list-0/case-0")
        one.page.wait_for_selector("#viewer canvas.main:visible")
        key = str(one.page.evaluate("() => viewer.list.methods.indexOf('reference')") + 1)
        drawn = one.page.locator("#viewer .methods tbody input")
        before = [drawn.nth(row).is_checked() for row in range(drawn.count())]
        assert all(before)
        for pressed, row in (("r", 0), (key, int(key))):
            assert one.changes(pressed)
            hidden = [row for row in range(drawn.count()) if not drawn.nth(row).is_checked()]
            assert hidden == [row]
            one.page.keyboard.press(pressed)


def test_a_pooled_table_has_its_chart_whatever_its_title(
    chromium: Any, out: Path, results: Results, tmp_path: Path
) -> None:
    """The title of a list has an apostrophe where a method "reads the target's words", as others do not."""
    units = tuple({**unit, "knows": ["words"] * str(unit["method"]).startswith("grown")} for unit in results.units)
    file = tmp_path / "page.html"
    report(Results(results.suite, results.rows, units), file, out=out)
    with opening(chromium, file) as one:
        one.go()
        titles = one.page.evaluate("() => Object.fromEntries([...document.querySelectorAll('.panel[data-given]')]"
                                   ".map((panel) => [panel.id, panel.querySelector('h3').textContent]))")  # fmt: skip
        assert any("target's words" in title for title in titles.values())
        assert any("target's words" not in title for title in titles.values())
        for panel in titles:
            one.go(f"#{panel}")
            one.page.wait_for_selector(f"#{panel}:visible")
            assert one.page.locator(f"#{panel} [data-chart=pooled] svg").count() == 1


def test_light_and_dark_and_no_word_on_its_own_colour(opened: Opened) -> None:
    opened.go()
    light = opened.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    opened.page.keyboard.press("t")
    dark = opened.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert light == "rgb(255, 255, 255)"
    assert dark == "rgb(20, 23, 26)"
    contrast = """() => [...document.querySelectorAll('.note, .meta, td, th, .banner, a, .tag')].filter(e => e.offsetParent).map(e => {
      const light = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const a = light(getComputedStyle(e).color), b = light(getComputedStyle(document.documentElement).backgroundColor);
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    })"""  # noqa: E501 - WCAG 2's contrast in one expression
    for _ in range(2):
        assert min(opened.page.evaluate(contrast)) >= 4.5
        opened.page.keyboard.press("t")


def test_all_leaderboards_are_printed_when_asked_for(opened: Opened) -> None:
    opened.go()
    opened.page.check("#every")
    panels = opened.page.locator(".panel")
    assert opened.page.locator(".panel:visible").count() == panels.count()
    pdf = opened.page.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
