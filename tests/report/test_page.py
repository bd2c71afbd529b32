"""The page holds the numbers of the leaderboard, shows only masks that are those of the records, and escapes names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks import load_results
from benchmarks.api import ReportChoice, report
from benchmarks.common.errors import UserError
from benchmarks.execution.case_files import case_files, machines_of, note_machine
from benchmarks.execution.case_pictures import case_pictures, picture_of, picture_orders
from benchmarks.execution.outcomes import Results
from benchmarks.execution.plan import Folders
from benchmarks.results.mlflow.called import Called, note_call
from benchmarks.results.mlflow.sender import Sender
from benchmarks.results.report import ReportContent, report_html
from benchmarks.results.report.pictures import encoded
from benchmarks.results.report.provenance import provenance_of
from tests.conftest import Outcome
from tests.report.test_pictures import unpacked
from tests.results.boards import study

CLICK = "centre-click"


class _Scripts(HTMLParser):
    """The JSON in a page by the id of its script, and every text that is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Any] = {}
        self.texts: list[str] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = (dict(attrs).get("id") or "?") if tag in ("script", "style") else None

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, text: str) -> None:
        if self._inside is None:
            self.texts.append(text.strip())
        elif self._inside != "?":
            self.found[self._inside] = json.loads(text)


def parsed(page: str) -> _Scripts:
    scripts = _Scripts()
    scripts.feed(page)
    return scripts


def test_numbers_on_the_page_are_those_of_the_leaderboard(
    page_file: Path, out: Path, call: Callable[..., Outcome]
) -> None:
    page = parsed(page_file.read_text(encoding="utf-8"))
    data = page.found["data"]
    told = call("leaderboard", "--suite", "small", "--out", str(out), "--json")
    assert told.code == 0
    assert data["leaderboard"] == json.loads(told.out)
    more = call("leaderboard", "--suite", "small", "--out", str(out), "--details", "--json")
    tables = json.loads(more.out)
    assert data["overall"] == tables["overall"]
    assert (
        json.loads(call("leaderboard", "--suite", "small", "--out", str(out), "--overall", "--json").out)
        == data["overall"]
    )
    for name in ("rounds", "rankings", "sizes"):
        assert [row for one in data["lists"] for row in one["drawn"].get(name, ())] == tables[name]
    shown = call("leaderboard", "--suite", "small", "--out", str(out), "--markdown").out
    texts = set(page.texts)
    for interval in re.findall(r"\d\.\d+ \[\d\.\d+, \d\.\d+\]†", shown):
        assert interval in texts


def test_every_case_is_there_with_the_dice_of_each_step(page_file: Path, results: Results) -> None:
    data = parsed(page_file.read_text(encoding="utf-8")).found["data"]
    seen = 0
    for one in data["lists"]:
        dataset, target, _, protocol, _ = one["key"]
        place = (results.rows[["dataset", "target", "protocol"]] == [dataset, target, protocol]).all(axis=1)
        rows = results.rows[place]
        for method in one["methods"]:
            for case, steps in zip(one["cases"], one["dice"][method], strict=True):
                mine = rows[(rows["method"] == method) & (rows["case"] == case)].sort_values("step")
                assert steps == pytest.approx(mine["dice"].tolist(), abs=5e-5)
                seen += len(steps)
        assert set(one["status"]["mock-crash"]) == {"f"}
        assert "this method always crashes" in one["reasons"]["mock-crash"]["0"]
    assert seen == len(results.rows)


def test_every_case_has_its_picture_and_masks_are_those_of_the_run(
    page_file: Path, results: Results, out: Path
) -> None:
    """The masks in the page against the files of the run, read by nibabel, cropped where the reference is."""
    page = parsed(page_file.read_text(encoding="utf-8")).found
    one = page["data"]["lists"][0]
    for place, case in enumerate(one["cases"]):
        content = page[f"picture-{one['pictures'][place]}"]
        mine = (results.rows["dataset"] == one["key"][0]) & (results.rows["case"] == case)
        row = results.rows[mine & (results.rows["status"] == "ok")].iloc[0]
        masks = unpacked(content)
        assert masks[0].sum() == row["voxels_reference"]
        kept = [(layer["protocol"], layer["method"], layer["step"]) for layer in content["layers"]]
        assert (CLICK, "region-growing", 1) in kept
        for layer, mask in zip(content["layers"], masks[1:], strict=True):
            files = list(
                (out / "predictions/small").glob(
                    f"{one['key'][0]}/*/{case}/*.{layer['protocol']}.{layer['step']}.nii.gz"
                )
            )
            sums = {int((np.asarray(nib.load(file).dataobj) > 0).sum()) for file in files}
            assert int(mask.sum()) + layer.get("outside", 0) in sums
            assert len(layer["clicks"]) == layer["step"]


def test_the_first_click_is_inside_the_reference(results: Results, out: Path) -> None:
    for order in picture_orders(results.rows, results.units, Folders(out)):
        picture = picture_of(order)
        for layer in picture.layers:
            x, y, z, positive = layer.prompted.clicks[0]
            inside = tuple(n - low for n, low in zip((x, y, z), picture.low, strict=True))
            assert positive == 1
            assert picture.reference[inside]


def test_names_are_text_and_no_script(page_file: Path) -> None:
    page = page_file.read_text(encoding="utf-8")
    assert "<script>alert(1)</script>" not in page
    assert "grown <script>alert(1)</script>" in parsed(page).texts


def test_the_page_asks_nobody_for_anything(page_file: Path) -> None:
    """No address is loaded from: what is named in the page are name spaces and citations, in text."""
    page = page_file.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src &#39;none&#39;" in page


def test_scans_can_be_left_out(results: Results, out: Path, tmp_path: Path) -> None:
    told = report(results, tmp_path / "a.html", out=out, choice=ReportChoice(scans=False))
    assert told.pictures == len(results.rows.drop_duplicates(["dataset", "case"]))
    assert not told.scans
    page = parsed((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert all(page.found[f"picture-{n}"]["scan"] is None for n in range(told.pictures))
    bare = report(results, tmp_path / "b.html", out=out, choice=ReportChoice(masks=False))
    assert bare.pictures == 0
    assert "picture-0" not in parsed((tmp_path / "b.html").read_text(encoding="utf-8")).found


@pytest.fixture
def copied(out: Path, tmp_path: Path) -> Path:
    """The whole output folder at another place, as when it was moved."""
    return Path(shutil.copytree(out, tmp_path / "moved"))


@pytest.mark.parametrize(
    ("real", "scans", "sent"),
    [({"kits21"}, True, False), ({"kits21", "lits17"}, True, False), ({"kits21"}, False, True), (set(), True, True)],
)
def test_a_page_with_the_scan_of_a_patient_goes_to_no_server(
    copied: Path, monkeypatch: pytest.MonkeyPatch, real: set[str], scans: bool, sent: bool
) -> None:
    """Phantoms beside it open no door: what is kept for the server is a copy of the page, or nothing."""
    monkeypatch.setattr(Sender, "wake", lambda self: None)
    found = load_results("small", out=copied)
    units = tuple({**unit, "synthetic": unit["dataset"] not in real} for unit in found.units)
    plan = {"suite": "small", "seed": 5, "plan": "plan", "synthetic": True, "out": "here", "user": "me"}
    note_call(copied, Called(plan, "http://127.0.0.1:9", tuple(str(unit["unit"]) for unit in units)))
    page = copied / "page.html"
    told = report(Results("small", found.rows, units), page, out=copied, choice=ReportChoice(scans=scans))
    kept = [file.read_bytes() for file in (copied / "mlflow-outbox").glob("*/*.file")]
    assert kept == ([page.read_bytes()] if sent else [])
    assert ("because it holds scans" in told.mlflow) == (not sent)
    assert told.scans == scans


def test_a_folder_that_was_moved_shows_its_own_files(copied: Path) -> None:
    results = load_results("small", out=copied)
    orders = picture_orders(results.rows, results.units, Folders(copied))
    assert len(orders) == len(results.rows.drop_duplicates(["dataset", "case"]))
    assert all(order.case.image.is_relative_to(copied) for order in orders)


def test_a_mask_that_is_not_that_of_the_record_is_not_shown(copied: Path) -> None:
    results = load_results("small", out=copied)
    mask = next((copied / "predictions").rglob("*centre-click.1.nii.gz"))
    image = nib.load(mask)
    changed = np.asarray(image.dataobj).copy()
    changed[0, 0, 0] ^= 1
    nib.save(nib.Nifti1Image(changed, image.affine), mask)
    lost = next((copied / "predictions").rglob("*iterative-3.2.nii.gz"))
    lost.unlink()
    notes = [
        note
        for order in picture_orders(results.rows, results.units, Folders(copied))
        for note in picture_of(order).notes
    ]
    assert sum("is not that of the record" in note for note in notes) == 1
    assert sum("step 2: no mask" in note for note in notes) == 1


def test_a_step_without_its_mask_leaves_a_gap_in_the_picture(copied: Path) -> None:
    """Of one dialogue a mask is gone; in another the method fails at the second of three prompts."""
    results = load_results("small", out=copied)
    lost = next((copied / "predictions").rglob("*iterative-3.2.nii.gz"))
    lost.unlink()
    rows = results.rows.copy()
    mine = rows[(rows["protocol"] == "iterative-3") & (rows["method"] == "region-growing")]
    case = next(case for case, group in mine.groupby("case") if case != lost.parent.name and len(group) == 3)
    failing = mine.index[(mine["case"] == case) & (mine["step"] > 1)]
    rows.loc[failing, ["status", "reason", "dice"]] = ["failed", "RuntimeError: no", 0.0]
    found = {
        order.key[1]: encoded(picture_of(order), 10**6)
        for order in picture_orders(rows, results.units, Folders(copied))
    }
    gaps = {(name, *gap.values()) for name, one in found.items() for gap in one["gaps"]}
    of_lost = {gap for gap in gaps if gap[0] == lost.parent.name and gap[1:2] + gap[3:] == ("iterative-3", 2)}
    assert len(of_lost) == 1
    assert gaps - of_lost == {(case, "iterative-3", "region-growing", 2), (case, "iterative-3", "region-growing", 3)}
    drawn = {(one["protocol"], one["method"], one["step"]) for one in found[case]["layers"]}
    assert ("iterative-3", "region-growing", 1) in drawn
    assert not drawn & {gap[1:] for gap in gaps if gap[0] == case}


def test_a_label_that_was_changed_costs_the_picture_and_says_so(copied: Path) -> None:
    results = load_results("small", out=copied)
    orders = picture_orders(results.rows, results.units, Folders(copied))
    label = orders[0].case.label
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), label)
    key, content = next(case_pictures(orders[:1]))
    assert key == orders[0].key
    assert "has changed since the run" in content["error"]


def test_without_notes_of_the_run_there_is_a_page_without_pictures(copied: Path, call: Callable[..., Outcome]) -> None:
    shutil.rmtree(copied / "data")
    told = call("report", "page.html", "--suite", "small", "--out", str(copied))
    assert told.code == 0
    assert "page.html" in told.out
    assert "0 cases with pictures" in told.out


def test_several_processes_make_the_same_pictures(results: Results, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import benchmarks.execution.case_pictures as module

    orders = picture_orders(results.rows, results.units, Folders(out))[:2]
    alone = list(case_pictures(orders))
    monkeypatch.setattr(module, "WORTHWHILE", 1)
    monkeypatch.setattr(module, "BYTES_OF_ONE", 1)
    assert list(case_pictures(orders)) == alone


def test_a_run_that_is_not_finished_is_refused_or_shown_as_such(copied: Path, call: Callable[..., Outcome]) -> None:
    lines = next((copied / "records").rglob("unit.parquet"))
    lines.unlink()
    told = call("report", "--suite", "small", "--out", str(copied))
    assert told.code == 2
    assert len(told.errors) == 1
    assert not Path("report.html").exists()
    shown = call("report", "--suite", "small", "--out", str(copied), "--incomplete")
    assert shown.code == 0
    page = Path("report.html").read_text(encoding="utf-8")
    assert "The run is not finished" in page
    assert "not finished:" in page


def test_mistakes_of_a_user_are_one_line(out: Path, call: Callable[..., Outcome]) -> None:
    for words, part in (
        (["report", "page.pdf", "--suite", "small", "--out", str(out)], "a report is an .html file"),
        (["report", "--suite", "small", "--out", "x.html"], "tags-bench report x.html"),
        (["report", "--suite", "smal", "--out", str(out)], "no records of suite 'smal'"),
        (["report", "--suite", "small", "--out", str(out), "--metric", "dise"], "dice"),
        (["report", "/proc/1/x.html", "--suite", "small", "--out", str(out), "--no-cases"], "/proc/1/x.html"),
    ):
        told = call(*words)
        assert (told.code, len(told.errors)) == (2, 1), told.err
        assert part in told.err


def test_records_of_real_data_show_published_numbers_apart_and_what_was_seen() -> None:
    rows, units = study(methods=3, cases=5)
    units = [unit | {"suite": "s", "cases": unit["cases"]} for unit in units]
    page = parsed(report_html(ReportContent("s", rows, units)))
    texts = "\n".join(page.texts)
    assert "PUBLISHED, not measured here" in texts
    assert "trained-on" in texts
    assert "failed: nnunet on kits21, case_03: RuntimeError: out of memory" in texts
    assert "SYNTHETIC" not in texts
    assert page.found["data"]["lists"][0]["pictures"] == [None] * 5


def test_another_metric_changes_the_tables_and_not_who_wins() -> None:
    """Distances are drawn at random here, so that by them another method leads."""
    rows, units = study(methods=3, cases=30)
    units = [unit | {"suite": "s"} for unit in units]
    usual, other = (parsed(report_html(ReportContent("s", rows, units, metric))) for metric in ("dice", "hd95_mm"))
    assert usual.found["data"] == other.found["data"]  # the board, and what every chart is drawn from
    wins = [[text for text in page.texts if "Dice 0." in text or "winner" in text] for page in (usual, other)]
    assert wins[0] == wins[1] != []
    assert usual.texts != other.texts


def test_units_of_two_targets_of_a_data_set_are_told_apart() -> None:
    rows, units = study(methods=1, cases=2)
    other = [{**unit, "target": {"name": "cyst"}, "unit": "other"} for unit in units if unit["dataset"] == "kits21"]
    (sheet,) = (one for one in provenance_of(rows, [*units, *other], []).sheets if one.title.startswith("Units"))
    assert [row[1] for row in sheet.rows] == ["kits21, kidney-tumor", "msd-pancreas", "lits17", "kits21, cyst"]


def test_nothing_recorded_gives_a_page_that_says_so() -> None:
    import pandas as pd

    assert "No records yet." in report_html(ReportContent("empty", pd.DataFrame(), []))


def test_a_machine_is_noted_once(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    note_machine("s", folders)
    note_machine("s", folders)
    (machine,) = machines_of("s", folders)
    assert machine["cpus"] >= 1
    assert machine["packages"]["numpy"] == np.__version__


def test_a_damaged_note_is_one_line(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    (tmp_path / "data/cases").mkdir(parents=True)
    (tmp_path / "data/cases/abc.json").write_text("[1]")
    with pytest.raises(UserError, match="does not say where cases lie"):
        case_files({"cases_digest": "abc"}, folders)
    assert case_files({"cases_digest": "other"}, folders) == {}
