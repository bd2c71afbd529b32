"""One case, one segmenter: rows for every step, failures as rows, and no label in reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.datasets.dataset import Case
from benchmarks.evaluate import UNKNOWN_DIAGONAL_MM, Evaluation, applicable, evaluate_case, rescore_case
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.prompts import PromptKind, Prompts
from benchmarks.segmenter import Segmenter, Session, Target, method
from benchmarks.users import Protocol
from benchmarks.volume import BoolArray, Volume

TARGET = Target("kidney-tumor", "kidney", "tumor", labels=(2,))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A cube of 8³ voxels of 1 × 1 × 2 mm at 100 HU in a volume at 0 HU."""
    label = np.zeros((20, 20, 12), np.uint8)
    label[6:14, 6:14, 2:10] = 2
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image((label * 50).astype(np.int16), affine), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "label.nii.gz")
    return Case("made-up", "one", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")


def evaluation(*protocols: Protocol, predictions: Path | None = None) -> Evaluation:
    return Evaluation((TARGET,), protocols, 1, (1.0, 2.0), DEFAULT_POLICY.policy_id, predictions, {"method": "x"})


class Fixed(Segmenter):
    """Answers with given masks, one after the other, and remembers what it was given."""

    prompts = frozenset({PromptKind.CLICK, PromptKind.NEGATIVE_CLICK, PromptKind.NONE})

    def __init__(self, *masks: BoolArray) -> None:
        self.masks = list(masks)
        self.opened: list[Volume] = []
        self.prompted: list[Prompts] = []

    def open(self, volume: Volume, target: Target) -> Session:
        self.opened.append(volume)
        outer = self

        class Answer(Session):
            def segment(self, prompts: Prompts) -> BoolArray:
                outer.prompted.append(prompts)
                return outer.masks[min(len(outer.prompted), len(outer.masks)) - 1]

        return Answer()


def cube(size: int) -> BoolArray:
    mask = np.zeros((20, 20, 12), bool)
    mask[6 : 6 + size, 6:14, 2:10] = True
    return mask


def test_a_perfect_and_a_half_mask_score_their_closed_forms(case: Case) -> None:
    rows = evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click")))
    assert [row["dice"] for row in rows] == [1.0]
    assert rows[0]["hd95_mm"] == 0.0
    rows = evaluate_case(case, Fixed(cube(4)), evaluation(Protocol("centre-click")))
    assert rows[0]["dice"] == pytest.approx(2 * 4 / (8 + 4))
    assert rows[0]["status"] == "ok"


def test_a_correcting_user_gives_a_row_per_round_and_stops_when_satisfied(case: Case) -> None:
    segmenter = Fixed(cube(2), cube(4), cube(8))
    rows = evaluate_case(case, segmenter, evaluation(Protocol("iterative", rounds=5)))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["carried"] for row in rows] == [False, False, False, True, True]
    assert [row["clicks"] for row in rows] == [1, 2, 3, 3, 3]
    assert [round(row["dice"], 3) for row in rows] == [0.4, 0.667, 1.0, 1.0, 1.0]
    assert len(segmenter.opened) == 1


def test_every_protocol_pays_its_own_open(case: Case) -> None:
    segmenter = Fixed(cube(8))
    rows = evaluate_case(case, segmenter, evaluation(Protocol("none"), Protocol("centre-click")))
    assert len(segmenter.opened) == 2
    assert [row["track"] for row in rows] == ["automatic", "clicks"]


def test_the_segmenter_is_given_no_label_and_no_path(case: Case) -> None:
    segmenter = Fixed(cube(8))
    evaluate_case(case, segmenter, evaluation(Protocol("centre-click")))
    given: list[Any] = [*vars(segmenter.opened[0]).values(), *vars(segmenter.prompted[0]).values()]
    assert not any(isinstance(value, (Path, str)) for value in given)
    assert not segmenter.opened[0].array.flags.writeable
    masks = [value for value in given if isinstance(value, np.ndarray) and value.shape == (20, 20, 12)]
    assert len(masks) == 1  # the image
    assert masks[0].dtype == np.float32
    assert segmenter.prompted[0].mask is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [("mock-crash", "RuntimeError: this method always crashes"), ("mock-wrong-shape", "a bool mask of shape")],
)
def test_a_failing_method_gives_worst_rows_with_the_reason(case: Case, name: str, reason: str) -> None:
    asked = evaluation(Protocol("iterative", rounds=3), Protocol("none"))
    rows = evaluate_case(case, method(name).build(), asked)
    assert len(rows) == 4
    assert {row["status"] for row in rows} == {"failed"}
    assert all(reason in row["reason"] and "\n" not in row["reason"] for row in rows)
    assert {row["dice"] for row in rows} == {0.0}
    diagonal = float(np.linalg.norm([20, 20, 24]))
    assert [row["hd95_mm"] for row in rows] == pytest.approx([diagonal] * 4)


def test_a_failure_in_a_later_round_keeps_the_earlier_rows(case: Case) -> None:
    rows = evaluate_case(case, Fixed(cube(2), np.zeros((1, 1, 1), bool)), evaluation(Protocol("iterative", rounds=3)))
    assert [row["status"] for row in rows] == ["ok", "failed", "failed"]


def test_an_unreadable_file_gives_failed_rows(case: Case) -> None:
    case.image.write_bytes(case.image.read_bytes()[:200])
    rows = evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click")))
    assert rows[0]["status"] == "failed"
    assert "unreadable or truncated" in rows[0]["reason"]
    assert rows[0]["hd95_mm"] == pytest.approx(UNKNOWN_DIAGONAL_MM)


def test_an_absent_target_fails_for_clicks_and_counts_for_automatic(case: Case) -> None:
    image = nib.load(case.label)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), case.label)
    rows = evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click"), Protocol("none")))
    assert [row["status"] for row in rows] == ["failed", "ok"]
    assert "NoTarget" in rows[0]["reason"]
    assert rows[1]["dice"] == 0.0
    assert rows[1]["empty"] == "reference"


def test_masks_are_kept_on_the_grid_of_the_file(case: Case, tmp_path: Path) -> None:
    evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click"), predictions=tmp_path / "kept"))
    kept = nib.load(tmp_path / "kept" / "one" / "kidney-tumor.centre-click.1.nii.gz")
    label = nib.load(case.label)
    np.testing.assert_allclose(kept.affine, label.affine)
    # The answer is given in RAS+; the file's axes run the other way in x and y.
    np.testing.assert_array_equal(np.asarray(kept.dataobj) > 0, np.flip(cube(8), (0, 1)))


def test_a_protocol_runs_only_where_all_its_prompts_are_understood() -> None:
    protocols = (Protocol("none"), Protocol("centre-click"), Protocol("iterative", rounds=2), Protocol("box"))
    clicks_only = frozenset({PromptKind.CLICK})
    assert [p.name for p in applicable(protocols, clicks_only)] == ["centre-click"]
    both = clicks_only | {PromptKind.NEGATIVE_CLICK, PromptKind.NONE}
    assert [p.name for p in applicable(protocols, both)] == ["automatic", "centre-click", "iterative-2"]


def test_frozen_prompts_are_replayed_and_named_in_the_rows(case: Case) -> None:
    from benchmarks.prompt_bank import BankItem, PromptBank

    protocol = Protocol("random-click")
    volume, label = case.load()
    item = BankItem(case.case_id, TARGET, label == 2, volume)
    bank = PromptBank.build(case.dataset, "test-0", protocol, 5, [item])
    segmenter = Fixed(cube(8))
    asked = Evaluation((TARGET,), (protocol,), 1, (1.0,), DEFAULT_POLICY.policy_id, None, {}, {protocol.name: bank})
    rows = evaluate_case(case, segmenter, asked)
    assert segmenter.prompted[0] == bank.prompts(case.case_id, TARGET.name)
    assert rows[0]["prompt_bank"] == bank.digest[:16]
    assert evaluate_case(case, segmenter, evaluation(protocol))[0]["prompt_bank"] == ""


def test_kept_masks_give_the_same_rows_again(case: Case, tmp_path: Path) -> None:
    asked = evaluation(Protocol("iterative", rounds=5), Protocol("none"), predictions=tmp_path / "kept")
    assert rescore_case(case, asked) is None
    rows = evaluate_case(case, Fixed(cube(2), cube(4), cube(8)), asked)
    again = rescore_case(case, asked)
    assert again == rows
    (tmp_path / "kept" / "one" / "kidney-tumor.iterative-5.2.json").unlink()
    assert rescore_case(case, asked) is None
