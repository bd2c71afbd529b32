"""README shows the numbers of the default run: README against docs/first_table.json, and that against a new run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.contestants import method
from benchmarks.data.catalogue import load_dataset
from benchmarks.data.layouts.kits21 import ABDOMEN
from benchmarks.data.synthetic.scan import draw
from benchmarks.data.volume import write_nifti
from benchmarks.execution.evaluate import Evaluation, evaluate_case
from benchmarks.execution.suite import load_suite
from benchmarks.execution.training import load_segmenter
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.prompting.protocol import Protocol
from benchmarks.weights.zoo import zoo_weights

ROOT = Path(__file__).resolve().parents[1]
CLOSE = 0.01


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "docs" / "first_table.json").read_text("utf-8"))
    return content


def tables_in_readme() -> list[list[list[str]]]:
    """The cells of each table between the marks, headings first."""
    text = (ROOT / "README.md").read_text("utf-8")
    inside = text[text.index("<!-- first table -->") : text.index("<!-- end of first table -->")]
    blocks = re.findall(r"(?:^\|.*\n)+", inside, flags=re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines()] for block in blocks
    ]


def test_readme_shows_the_stored_numbers(stored: dict[str, Any]) -> None:
    shown = 0
    by_name = {(row["track"], re.sub(r"\W", "", row["method"])): row for row in stored["rows"]}
    tracks = list(dict.fromkeys(row["track"] for row in stored["rows"]))
    for track, (headings, _, *lines) in zip(tracks, tables_in_readme(), strict=True):
        for line in lines:
            name = re.sub(r"\W", "", line[0].replace("(floor)", ""))
            row = by_name[track, name]
            for heading, cell in zip(headings, line, strict=True):
                number = row.get("dice") if heading.startswith("mean Dice") else row.get(f"dice/{heading}")
                if number is not None and re.match(r"\d", cell):
                    assert float(cell.split()[0]) == pytest.approx(number, abs=CLOSE), (name, heading)
                    shown += 1
    rows = [row for row in stored["rows"] if not row["method"].endswith("(untrained)")]
    assert shown >= sum(len([key for key in row if key.startswith("dice")]) for row in rows) > 30


def test_readme_shows_what_untrained_weights_give(stored: dict[str, Any]) -> None:
    lines = re.findall(
        r"^With untrained weights on (\S+): (.*)\.$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    shown = {
        (dataset, name): float(dice)
        for dataset, text in lines
        for name, dice in (one.rsplit(" ", 1) for one in text.split(", "))
        if name != "tags-tiny"  # in both lines
    }
    rows = [row for row in stored["rows"] if row["method"].endswith("(untrained)")]
    tags = [row["dice/kits21"] for row in rows if row["method"].startswith("tags")]
    assert [float(re.search(r"tags-tiny ([0-9.]+)", text)[1]) for _, text in lines] == pytest.approx(tags, abs=CLOSE)  # type: ignore[index]
    others = {("kits21", row["method"].split()[0]): row["dice/kits21"] for row in rows if "tags" not in row["method"]}
    assert shown == pytest.approx(others, abs=CLOSE)


def test_stored_rows_are_those_of_the_suite(stored: dict[str, Any]) -> None:
    suite = load_suite(stored["suite"])
    assert {row["method"] for row in stored["rows"]} == {entry.title for entry in suite.methods}
    everywhere = [row for row in stored["rows"] if "dice" in row]
    for row in everywhere:
        lists = [row[f"dice/{entry.name}"] for entry in suite.datasets]
        assert row["dice"] == pytest.approx(float(np.mean(lists)), abs=2e-4)


def test_a_cell_of_the_table_comes_out_again(stored: dict[str, Any], tmp_path: Path) -> None:
    """Three cases of one method, drawn, segmented and scored anew."""
    checked, suite = stored["cases"], load_suite(stored["suite"])
    name, dataset = checked["method"], checked["dataset"]
    assert dataset == ABDOMEN.dataset
    entry = next(one for one in suite.datasets if one.name == dataset)
    for case_id in checked["dice"]:
        index = int(case_id.removeprefix("case_"))
        phantom = draw(ABDOMEN, suite.seed, index)
        x, y, z = phantom.image.shape
        files = ABDOMEN.place(tmp_path, index, entry.cases, (x, y, z), phantom.spacing)
        affine = np.diag([*phantom.spacing, 1.0])
        affine[:3, 3] = files.origin
        write_nifti(phantom.image, affine, files.image)
        write_nifti(phantom.label, affine, files.label)
    found = load_dataset(dataset, tmp_path, splits="patient", seed=suite.seed)
    weights = zoo_weights(method(name), dataset)
    assert weights is not None
    segmenter = load_segmenter(method(name), {}, "cpu", weights.folder)
    how = Evaluation(
        found.targets, (Protocol(checked["protocol"]),), suite.seed, (), DEFAULT_POLICY.policy_id, None, {}
    )
    for case_id, dice in checked["dice"].items():
        (row,) = evaluate_case(found.cases[case_id], segmenter, how)
        assert row["dice"] == pytest.approx(dice, abs=CLOSE), case_id
