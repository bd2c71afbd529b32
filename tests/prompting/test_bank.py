"""Prompt banks: replay equals the user, a changed byte is seen, another grid is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.common.errors import UserError
from benchmarks.contestants import Target
from benchmarks.data.dataset import Case, Dataset, Split
from benchmarks.data.volume import Volume
from benchmarks.prompting.bank import BankItem, PromptBank, StoredGrid, file_name
from benchmarks.prompting.protocol import PROTOCOL_VERSION, OperatorNoise, Protocol
from benchmarks.prompting.simulated_user import NoTarget, SimulatedUser
from benchmarks.prompting.tasks import tasks_of

TARGET = Target("kidney-tumor", "kidney", "tumor", (2,))
AFFINE = np.array([[0.8, 0.02, 0, -100], [0, 0.8, 0, -50.5], [0, 0, 3.0, -700], [0, 0, 0, 1]])
SHAPE = (30, 28, 20)
PROTOCOLS = [
    Protocol("none"),
    Protocol("text"),
    Protocol("centre-click"),
    Protocol("clicks", clicks=5, noise=OperatorNoise(displacement_mm=2, wrong_sign=0.2)),
    Protocol("box", box_jitter_mm=5),
    Protocol("mask"),
    Protocol("iterative", rounds=5),
]


def mask(case: int) -> np.ndarray:
    field = np.zeros(SHAPE, bool)
    if case:
        field[4 + case : 12 + case, 6:15, 5:11] = True
    return field


def items() -> list[BankItem]:
    return [BankItem(f"case_{i}", TARGET, mask(i), Volume(np.zeros(SHAPE, np.float32), AFFINE)) for i in range(4)]


@pytest.fixture
def bank_file(tmp_path: Path) -> Path:
    path = tmp_path / "banks" / "bank.json"
    PromptBank.build("kits21", "test-0", Protocol("clicks", clicks=3), 7, items()).save(path)
    return path


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_replay_equals_the_simulated_user(tmp_path: Path, protocol: Protocol) -> None:
    built = PromptBank.build("kits21", "test-0", protocol, 7, items())
    built.save(tmp_path / "bank.json")
    bank = PromptBank.load(tmp_path / "bank.json")
    assert bank == built
    assert bank.digest == built.digest
    for item in items()[1:]:
        user = SimulatedUser(protocol, (7, "kits21", item.case_id, TARGET.name))
        expected = user.first(item.mask, item.grid.spacing, TARGET)  # type: ignore[attr-defined]
        replayed = bank.prompts(item.case_id, TARGET.name, item.grid)
        assert (replayed.clicks, replayed.box, replayed.text) == (
            expected.clicks,
            expected.box,
            expected.text,
        )
        if expected.mask is not None:
            np.testing.assert_array_equal(replayed.mask, expected.mask)


def test_the_hash_is_a_plain_sha256_that_anybody_can_check(bank_file: Path) -> None:
    content = json.loads(bank_file.read_text())
    stated = content.pop("sha256")
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == stated == PromptBank.load(bank_file).digest


def test_building_twice_in_another_order_gives_the_same_bank() -> None:
    protocol = Protocol("clicks", clicks=3)
    one = PromptBank.build("kits21", "test-0", protocol, 7, items())
    assert PromptBank.build("kits21", "test-0", protocol, 7, reversed(items())).digest == one.digest
    assert PromptBank.build("kits21", "test-0", protocol, 8, items()).digest != one.digest


@pytest.mark.parametrize("change", ["click", "seed", "protocol"])
def test_a_changed_bank_is_refused(bank_file: Path, change: str) -> None:
    content = json.loads(bank_file.read_text())
    if change == "click":
        content["cases"]["case_1"]["kidney-tumor"]["prompts"]["clicks"][0]["mm"][0] += 0.8
    elif change == "seed":
        content["seed"] = 8
    else:
        content["protocol"]["clicks"] = 4
    bank_file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="SHA-256 differs"):
        PromptBank.load(bank_file)


def test_an_empty_target_is_replayed_as_such(bank_file: Path) -> None:
    with pytest.raises(NoTarget, match="kidney-tumor"):
        PromptBank.load(bank_file).prompts("case_0", "kidney-tumor")


def test_another_grid_case_target_or_purpose_is_refused(bank_file: Path) -> None:
    bank = PromptBank.load(bank_file)
    other = Volume(np.zeros(SHAPE, np.float32), AFFINE + np.diag([0.1, 0, 0, 0]))
    with pytest.raises(UserError, match="another grid"):
        bank.prompts("case_1", "kidney-tumor", other)
    with pytest.raises(UserError, match="another grid"):
        bank.prompts("case_1", "kidney-tumor", Volume(np.zeros((30, 28, 21), np.float32), AFFINE))
    with pytest.raises(UserError, match="did you mean 'case_"):
        bank.prompts("case_9", "kidney-tumor")
    with pytest.raises(UserError, match="did you mean 'kidney-tumor'"):
        bank.prompts("case_1", "kidney-tumour")
    bank.require("kits21", "test-0", Protocol("clicks", clicks=3), 7)
    with pytest.raises(UserError, match="dataset 'kits21', not for 'lits17'"):
        bank.require("lits17", "test-0", Protocol("clicks", clicks=3), 7)
    with pytest.raises(UserError, match="split 'test-0', not for 'test-1'"):
        bank.require("kits21", "test-1", Protocol("clicks", clicks=3), 7)
    with pytest.raises(UserError, match="protocol '3-clicks', not for 'box'"):
        bank.require("kits21", "test-0", Protocol("box"), 7)
    with pytest.raises(UserError, match="seed '7', not for '8'"):
        bank.require("kits21", "test-0", Protocol("clicks", clicks=3), 8)


def test_what_is_not_a_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such prompt bank"):
        PromptBank.load(tmp_path / "none.json")
    for text in ("not json", "[]", '{"version": 1}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match="not a prompt bank"):
            PromptBank.load(tmp_path / "bad.json")


def test_a_bank_of_a_dataset_on_disk_is_built_once(tmp_path: Path) -> None:
    cases = {}
    for i in range(3):
        image, label = tmp_path / f"{i}_image.nii.gz", tmp_path / f"{i}_label.nii.gz"
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE), image)
        nib.save(nib.Nifti1Image((2 * mask(i)).astype(np.uint8), AFFINE), label)
        cases[f"case_{i}"] = Case("kits21", f"case_{i}", image, label)
    dataset = Dataset("kits21", cases, (TARGET,), (Split((), (), tuple(cases)),))
    protocol = Protocol("centre-click")
    first = PromptBank.frozen(tmp_path / "banks", dataset, "test", 0, protocol, 7)
    stored = tmp_path / "banks" / file_name("kits21", "test-0", protocol, 7)
    assert stored.is_file()
    assert not list(stored.parent.glob(".*"))
    for case in cases.values():
        case.label.unlink()  # replay needs no label
    again = PromptBank.frozen(tmp_path / "banks", dataset, "test", 0, protocol, 7)
    assert again.digest == first.digest
    volume = Volume(np.zeros(SHAPE, np.float32), AFFINE)
    click = again.prompts("case_2", "kidney-tumor", volume).clicks[0]
    assert mask(2)[click.position]


def test_a_label_on_another_grid_than_its_image_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), AFFINE), tmp_path / "i.nii.gz")
    nib.save(nib.Nifti1Image(mask(1).astype(np.uint8), np.eye(4)), tmp_path / "l.nii.gz")
    case = Case("kits21", "c", tmp_path / "i.nii.gz", tmp_path / "l.nii.gz")
    dataset = Dataset("kits21", {"c": case}, (TARGET,), (Split((), (), ("c",)),))
    with pytest.raises(UserError, match="different grids"):
        PromptBank.of_dataset(dataset, "test", 0, Protocol("box"), 7)


GOLDEN = {
    "automatic": "10486db5fc0ee2d4",
    "text": "4046e5f624c7171e",
    "centre-click": "e7f1b45b9f2310b1",
    "random-click": "dda226e036eb8066",
    "5-clicks-displaced-3mm-wrong-sign-0.2": "e576da81603c7c05",
    "centre-click-per-lesion-displaced-2mm": "0928f22c875edc08",
    "random-click-per-lesion": "c8de8cd8d3fcd84e",
    "box-jitter-5mm": "b17826319aff62d2",
    "iterative-3-from-box-text": "1b552ccfdbad2f98",
    "iterative-2-from-random-click-each-lesion": "4dc0e014306563a0",
    "box-jitter-5mm-each-lesion": "f0d5bd5cbc87d1f2",
}
"""SHA-256 (first 16 digits) of banks under protocol version 1."""


def four_lesions() -> NDArray[np.bool_]:
    truth = np.zeros((40, 36, 20), bool)
    truth[4:16, 5:17, 3:12] = truth[10:14, 14:22, 8:12] = truth[28:33, 24:28, 10:14] = truth[36, 30, 17] = True
    return truth


def test_corrections_do_not_change_between_releases() -> None:
    """Corrections stand in no bank, because they depend on the prediction; here it is the label, ever further away."""
    truth, spacing = four_lesions(), (0.75, 0.75, 2.5)
    protocol = Protocol("iterative", rounds=5, start="random-click", noise=OperatorNoise(3.0, 0.5))
    user = SimulatedUser(protocol, (2026, "lits17", "one", "liver-tumor"))
    prompts = user.first(truth, spacing, Target("liver-tumor", "liver", "tumor", (2,)))
    for shift in range(3, 7):
        prompts = user.next(truth, np.roll(truth, (shift, -2, 1), (0, 1, 2)), prompts, spacing) or prompts
    assert PROTOCOL_VERSION == "1"
    assert [(*click.position, click.positive) for click in prompts.clicks] == [
        (27, 34, 15, True),
        (8, 18, 4, False),
        (8, 6, 4, False),
        (12, 9, 3, True),
        (14, 9, 3, True),
    ]


def test_prompts_do_not_change_between_releases() -> None:
    """Whoever changes a digest here changes everybody's prompts, and raises PROTOCOL_VERSION."""
    truth = four_lesions()
    affine = np.array([[0.75, 0, 0, -100.0], [0, 0.75, 0, -50.0], [0, 0, 2.5, 300.0], [0, 0, 0, 1.0]])
    item = BankItem("one", Target("liver-tumor", "liver", "tumor", (2,)), truth, StoredGrid((40, 36, 20), affine))
    protocols = [
        Protocol("none"),
        Protocol("text"),
        Protocol("centre-click"),
        Protocol("random-click"),
        Protocol("clicks", clicks=5, noise=OperatorNoise(3.0, 0.2)),
        Protocol("centre-click", per="lesion", noise=OperatorNoise(2.0)),
        Protocol("random-click", per="lesion"),
        Protocol("box", box_jitter_mm=5.0),
        Protocol("iterative", rounds=3, start="box", text=True),
        Protocol("iterative", rounds=2, per="each-lesion", start="random-click"),
        Protocol("box", per="each-lesion", box_jitter_mm=5.0),
    ]
    found = {p.name: PromptBank.build("lits17", "test-0", p, 2026, [item]).digest[:16] for p in protocols}
    assert PROTOCOL_VERSION == "1"
    assert found == GOLDEN


def test_a_bank_of_lesions_has_prompts_for_each_and_knows_how_many(tmp_path: Path) -> None:
    truth = np.zeros((20, 20, 20), bool)
    truth[2:8, 2:8, 2:8] = truth[12:16, 12:16, 12:16] = True
    protocol = Protocol("centre-click", per="each-lesion")
    grid = StoredGrid((20, 20, 20), np.eye(4))
    items_ = [BankItem("two", TARGET, truth, grid), BankItem("none", TARGET, np.zeros_like(truth), grid)]
    PromptBank.build("kits21", "test-0", protocol, 1, items_).save(tmp_path / "bank.json")
    bank = PromptBank.load(tmp_path / "bank.json")
    for number, task in enumerate(tasks_of(protocol, (1, "kits21", "two", TARGET.name), truth)):
        assert bank.prompts("two", TARGET.name, grid, number) == task.user.first(task.mask(), (1, 1, 1), TARGET)
    with pytest.raises(UserError, match="the prompt bank has 2 lesions, the label has more"):
        bank.prompts("two", TARGET.name, grid, 2)
    assert bank.has_target("two", TARGET.name)
    assert not bank.has_target("none", TARGET.name)
    assert bank.origin == "simulated"
    assert "origin" not in json.loads((tmp_path / "bank.json").read_text())  # banks of old keep their hash
