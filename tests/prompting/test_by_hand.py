"""Prompts taken out of a bank, edited by hand, put back, and replayed to every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.common.errors import UserError
from benchmarks.contestants import Target, method
from benchmarks.data.dataset import Case, Dataset, Split
from benchmarks.execution.evaluate import Evaluation, evaluate_case
from benchmarks.execution.prompt_banks import bank_file, frozen_bank
from benchmarks.execution.suite import parse_suite
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.prompting.bank import PromptBank
from benchmarks.prompting.by_hand import export_prompts, import_prompts, prompt_rows, save_given
from benchmarks.prompting.protocol import Protocol

TARGET = Target("kidney-tumor", "kidney", "tumor", labels=(2,))
PROTOCOLS = [
    Protocol("centre-click"),
    Protocol("clicks", clicks=3),
    Protocol("random-click", per="lesion"),
    Protocol("box", text=True),
    Protocol("mask"),
    Protocol("iterative", rounds=2, per="each-lesion"),
    Protocol("box", per="each-lesion"),
]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two lesions, one lesion, none; 1 × 1 × 2 mm, axes of the file running the other way in x and y."""
    affine = np.array([[-1.0, 0, 0, 30], [0, -1, 0, -5], [0, 0, 2, 7], [0, 0, 0, 1]])
    cases = {}
    for number, blocks in enumerate(((slice(2, 6), slice(10, 18)), (slice(4, 9),), ())):
        label = np.zeros((20, 20, 12), np.uint8)
        for block in blocks:
            label[block, 6:14, 2:10] = 2
        image, truth = (tmp_path / f"{name}_{number}.nii.gz" for name in ("image", "label"))
        nib.save(nib.Nifti1Image(label.astype(np.int16), affine), image)
        nib.save(nib.Nifti1Image(label, affine), truth)
        cases[f"case.{number}"] = Case("own", f"case.{number}", image, truth)
    return Dataset("own", cases, (TARGET,), (Split((), (), tuple(cases)),))


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_what_is_exported_comes_back_the_same(dataset: Dataset, tmp_path: Path, protocol: Protocol) -> None:
    bank = PromptBank.of_dataset(dataset, "test", 0, protocol, 7)
    files = export_prompts(bank, tmp_path / "prompts")
    lesions = [
        "case.0.kidney-tumor.lesion-1.json",
        "case.0.kidney-tumor.lesion-2.json",
        "case.1.kidney-tumor.lesion-1.json",
    ]
    whole = ["case.0.kidney-tumor.json", "case.1.kidney-tumor.json"]
    assert [path.name for path in files] == (lesions if protocol.per == "each-lesion" else whole)
    again = import_prompts(tmp_path / "prompts", dataset, "test", 0, protocol, 7)
    assert again.cases == bank.cases
    assert again.origin == "given"
    assert again.digest != bank.digest  # a run with it is another run
    again.save(tmp_path / "bank.json")
    assert PromptBank.load(tmp_path / "bank.json") == again
    with pytest.raises(UserError, match="not empty"):
        export_prompts(bank, tmp_path / "prompts")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_prompts(bank, tmp_path / "file" / "prompts")


def test_companions_that_macos_leaves_beside_files_are_no_prompts(dataset: Dataset, tmp_path: Path) -> None:
    """AppleDouble: 00 05 16 07, beside every file that was copied to a disk which knows no resource forks."""
    bank = PromptBank.of_dataset(dataset, "test", 0, Protocol("centre-click"), 7)
    for path in export_prompts(bank, tmp_path / "prompts"):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    assert import_prompts(tmp_path / "prompts", dataset, "test", 0, Protocol("centre-click"), 7).cases == bank.cases


def test_a_click_moved_by_hand_reaches_the_method_and_the_row(dataset: Dataset, tmp_path: Path) -> None:
    protocol = Protocol("centre-click")
    bank = PromptBank.of_dataset(dataset, "test", 0, protocol, 7)
    for path in export_prompts(bank, tmp_path / "prompts"):
        path.write_text(json.dumps({"version": 1, "space": "LPS", "clicks": [{"mm": [-20.0, 10.0, 11.0]}]}))
    given = import_prompts(tmp_path / "prompts", dataset, "test", 0, protocol, 7)
    volume, _ = dataset.cases["case.0"].load()
    (click,) = given.prompts("case.0", TARGET.name, volume).clicks
    world = volume.affine @ [*click.position, 1]
    np.testing.assert_allclose(world[:3], [20.0, -10.0, 11.0])
    asked = Evaluation((TARGET,), (protocol,), 7, (1.0,), DEFAULT_POLICY.policy_id, None, {}, {protocol.name: given})
    rows = [row for case in dataset.cases.values() for row in evaluate_case(case, method("mock-noop").build(), asked)]
    assert [row["prompt_origin"] for row in rows] == ["given"] * 3
    assert [row["prompt_bank"] for row in rows] == [given.digest[:16]] * 3
    assert [row["status"] for row in rows] == ["ok", "ok", "no-target"]


def test_a_run_finds_what_was_imported(dataset: Dataset, tmp_path: Path) -> None:
    lines = ("name: s", "datasets: [{name: own, source: here}]", "methods: [ball]", "protocols: [centre-click]")
    suite = parse_suite("\n".join([*lines, "budget: {steps: 1}"]), "s")
    protocol = suite.protocol("centre-click")
    simulated = frozen_bank(tmp_path / "out", suite, dataset, 0, protocol)
    export_prompts(simulated, tmp_path / "prompts")
    given = import_prompts(tmp_path / "prompts", dataset, suite.part, 0, protocol, suite.seed)
    path = bank_file(tmp_path / "out", suite, dataset, 0, protocol)
    assert path.is_file()
    save_given(given, path)  # takes the place of simulated prompts without a word
    assert frozen_bank(tmp_path / "out", suite, dataset, 0, protocol) == given
    save_given(given, path)
    file = tmp_path / "prompts" / "case.1.kidney-tumor.json"
    content = json.loads(file.read_text())
    content["clicks"][0]["mm"][2] += 2
    file.write_text(json.dumps(content))
    other = import_prompts(tmp_path / "prompts", dataset, suite.part, 0, protocol, suite.seed)
    with pytest.raises(UserError, match="other prompts that were given by hand lie there"):
        save_given(other, path)
    save_given(other, path, replace=True)
    assert frozen_bank(tmp_path / "out", suite, dataset, 0, protocol) == other
    with pytest.raises(UserError, match="did you mean 'centre-click'"):
        suite.protocol("center-click")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clicks": []}, r"case\.0\.kidney-tumor\.json: gives none; protocol '2-clicks' gives click"),
        ({"text": "tumour"}, "gives click, text; protocol '2-clicks' gives click"),
        ({"clicks": [{"mm": [20, -10, 11]}] * 3}, "3 clicks; protocol '2-clicks' gives at most 2 there"),
        ({"clicks": [{"mm": [20, -10, 11], "positive": False}]}, "gives negative-click"),
        ({"clicks": [{"mm": [500, 0, 0]}]}, r"case\.0.*click 1, 'mm': \(500\.0, 0\.0, 0\.0\) mm \(RAS\) lies outside"),
        ({"klicks": []}, "unknown key 'klicks'; did you mean 'clicks'"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_that_names_it(
    dataset: Dataset, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    protocol = Protocol("clicks", clicks=2)
    export_prompts(PromptBank.of_dataset(dataset, "test", 0, protocol, 7), tmp_path / "prompts")
    file = tmp_path / "prompts" / "case.0.kidney-tumor.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=message) as caught:
        import_prompts(tmp_path / "prompts", dataset, "test", 0, protocol, 7)
    assert "\n" not in str(caught.value)


def test_files_that_lack_or_belong_to_nothing(dataset: Dataset, tmp_path: Path) -> None:
    protocol, folder = Protocol("centre-click"), tmp_path / "prompts"

    def back() -> PromptBank:
        return import_prompts(folder, dataset, "test", 0, protocol, 7)

    with pytest.raises(UserError, match="no such folder"):
        back()
    export_prompts(PromptBank.of_dataset(dataset, "test", 0, protocol, 7), folder)
    one, other = folder / "case.1.kidney-tumor.json", folder / "case.2.kidney-tumor.json"
    text = one.read_text()
    other.write_text(text)
    with pytest.raises(UserError, match=r"case\.2.*belongs to no case of own .* that has the target \(1 such files\)"):
        back()
    other.unlink()
    one.write_text("{")
    with pytest.raises(UserError, match=r"case\.1.*not JSON"):
        back()
    one.unlink()
    with pytest.raises(UserError, match=r"no file 'case\.1\.kidney-tumor\.json'"):
        back()
    with pytest.raises(UserError, match="has no prompts to give by hand"):
        import_prompts(folder, dataset, "test", 0, Protocol("text"), 7)


def test_prompts_are_shown_in_mm_and_voxels(dataset: Dataset) -> None:
    rows = prompt_rows(PromptBank.of_dataset(dataset, "test", 0, Protocol("box", per="each-lesion"), 7))
    assert [(row["case"], row["lesion"], row["prompt"]) for row in rows] == [
        ("case.0", 1, "box"),
        ("case.0", 2, "box"),
        ("case.1", 1, "box"),
        ("case.2", "", "no-target"),
    ]
    assert len({tuple(row) for row in rows}) == 1  # one table
    bank = PromptBank.of_dataset(dataset, "test", 0, Protocol("centre-click", text=True), 7)
    rows = prompt_rows(bank, "case.1")
    assert [row["prompt"] for row in rows] == ["click +", "text"]
    volume, _ = dataset.cases["case.1"].load()
    voxel, world = (np.array(rows[0][key].split(", "), float) for key in ("voxel", "mm"))
    np.testing.assert_allclose((volume.affine @ [*voxel, 1])[:3], world)
    assert rows[1]["voxel"] == "kidney tumor"
    with pytest.raises(UserError, match=r"has no case 'case\.9'"):
        prompt_rows(bank, "case.9")
