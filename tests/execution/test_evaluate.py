"""One case, one segmenter: rows for every step, failures as rows, and no label in reach."""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from benchmarks.common.errors import MachineFault, UserError
from benchmarks.contestants import Segmenter, Session, Target, method
from benchmarks.data.dataset import Case
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.execution import prediction
from benchmarks.execution.energy import Counter, EnergyMeter
from benchmarks.execution.evaluate import (
    UNKNOWN_DIAGONAL_MM,
    Evaluation,
    applicable,
    evaluate_case,
    failed_case,
    rescore_case,
)
from benchmarks.execution.given_masks import GivenMasks
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.prompting.bank import BankItem, PromptBank
from benchmarks.prompting.prompts import PromptKind, Prompts
from benchmarks.prompting.protocol import OperatorNoise, Protocol
from benchmarks.results.records import SPACINGS
from tests.plain_user import as_plain_user, closed

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


@pytest.mark.parametrize(
    ("protocol", "clicks"),
    [
        (Protocol("iterative", rounds=3, start="box"), [0, 1, 2]),
        (Protocol("iterative", rounds=3), [1, 2, 3]),
        (Protocol("clicks", clicks=4), [4]),
        (Protocol("box"), [0]),
        (Protocol("iterative", rounds=2, per="each-lesion"), [1, 2]),
    ],
    ids=lambda value: value.name if isinstance(value, Protocol) else "",
)
def test_rows_count_clicks_and_not_rounds_even_where_the_method_failed(
    case: Case, protocol: Protocol, clicks: list[int]
) -> None:
    """So that a curve over clicks has a place for every row; a box alone is no click."""
    well = evaluate_case(case, Fixed(cube(2)), evaluation(protocol))
    assert [row["clicks"] for row in well] == clicks
    broken = evaluate_case(case, method("mock-crash").build(), evaluation(protocol))
    assert {row["status"] for row in broken} == {"failed"}
    assert [row["clicks"] for row in broken] == clicks
    unreadable = failed_case(case, evaluation(protocol), RuntimeError("gone"))
    assert [row["clicks"] for row in unreadable] == clicks


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


ASKED = (Protocol("iterative", rounds=2), Protocol("centre-click", per="each-lesion"), Protocol("none"))


def without_target(case: Case) -> Case:
    image = nib.load(case.label)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), case.label)
    return case


def test_where_no_target_is_a_clicked_method_is_not_asked_and_an_automatic_one_is(case: Case) -> None:
    segmenter = Fixed(cube(8))
    rows = evaluate_case(without_target(case), segmenter, evaluation(*ASKED))
    assert [row["status"] for row in rows] == ["no-target", "no-target", "no-target", "ok"]
    assert [row["step"] for row in rows] == [1, 2, 1, 1]
    assert len(segmenter.opened) == 1  # for the automatic protocol only
    assert all(math.isnan(row["dice"]) and math.isnan(row["hd95_mm"]) for row in rows[:3])
    assert rows[0]["reason"] == "no voxel of 'kidney-tumor' in the case"
    assert rows[3]["dice"] == 0.0
    assert rows[3]["empty"] == "reference"


def assert_same(again: list[dict[str, Any]] | None, rows: list[dict[str, Any]]) -> None:
    """Every value of every row; what is not known (the energy, on most machines) is not known in both."""
    assert again is not None
    pd.testing.assert_frame_equal(pd.DataFrame(again), pd.DataFrame(rows), check_like=True)


def test_cases_without_the_target_are_scored_again_too(case: Case, tmp_path: Path) -> None:
    asked = evaluation(*ASKED, predictions=tmp_path / "kept")
    rows = evaluate_case(without_target(case), Fixed(cube(8)), asked)
    again = rescore_case(case, asked)
    assert again is not None
    pd.testing.assert_frame_equal(
        pd.DataFrame(again).drop(columns="peak_memory_mb"), pd.DataFrame(rows).drop(columns="peak_memory_mb")
    )


def test_no_target_is_the_same_for_a_method_that_fails(case: Case) -> None:
    """Otherwise one method would be blamed for a case that no other was asked about."""
    asked = evaluation(*ASKED)
    crashed = evaluate_case(without_target(case), method("mock-crash").build(), asked)
    ended = failed_case(case, asked, TimeoutError("no result within 30 minutes"))
    for rows in (crashed, ended):
        assert [row["status"] for row in rows] == ["no-target", "no-target", "no-target", "failed"]
    case.label.unlink()  # even then, if a frozen bank tells
    bank = PromptBank("made-up", "test-0", ASKED[0], 1, {"one": {TARGET.name: {"grid": {}, "no_target": True}}})
    ended = failed_case(case, replace(asked, banks={ASKED[0].name: bank}), FileNotFoundError("gone"))
    assert [row["status"] for row in ended] == ["no-target", "no-target", "failed", "failed"]


class Raising(Segmenter):
    """Raises a given error when it is opened."""

    prompts = Fixed.prompts

    def __init__(self, error: Exception) -> None:
        self.error = error

    def open(self, volume: Volume, target: Target) -> Session:
        raise self.error


def test_a_file_that_is_gone_is_the_machines_fault_and_a_damaged_one_a_failure(case: Case) -> None:
    case.image.write_bytes(b"no image")
    (row,) = evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click")))
    assert row["status"] == "failed"
    case.image.unlink()
    with pytest.raises(MachineFault, match=r"image\.nii\.gz is not there on "):
        evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click")))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES])
def test_a_mask_that_cannot_be_written_is_the_machines_fault(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("benchmarks.execution.evaluate.write_mask", full)
    with pytest.raises(MachineFault, match=os.strerror(number)):
        evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click"), predictions=tmp_path / "masks"))


def test_a_disk_that_fails_while_a_case_is_read_is_the_machines_fault(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Case) -> None:
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError as error:
            raise UserError("image.nii.gz: cannot be read") from error

    monkeypatch.setattr(Case, "load", broken)
    with pytest.raises(MachineFault, match="cannot be read"):
        evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click")))


@pytest.mark.parametrize("name", ["EACCES", "EPERM", "EKEYEXPIRED"])
def test_a_file_that_must_not_be_read_now_is_the_machines_fault(
    case: Case, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A ticket or a right that runs out during a run takes no rank from anybody."""
    number = getattr(errno, name, None)
    if number is None:
        pytest.skip(f"this system has no {name}")

    def refused(self: Case) -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError as error:
            raise UserError("image.nii.gz: cannot be read") from error

    monkeypatch.setattr(Case, "load", refused)
    with pytest.raises(MachineFault, match="cannot be read"):
        evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click")))


@pytest.mark.parametrize("what", ["folder", "image.nii.gz", "label.nii.gz", "mask.nii.gz"])
def test_a_place_that_is_closed_for_a_while_costs_no_case(case: Case, open_place: Path, what: str) -> None:
    """Of a folder not even whether a file is there can be asked. Once it is open again the case is as ever."""
    folder = open_place / "folder"
    folder.mkdir()
    here = Case("made-up", "one", folder / "image.nii.gz", folder / "label.nii.gz")
    for name in ("image.nii.gz", "label.nii.gz", "mask.nii.gz"):
        shutil.copy(case.image if name == "image.nii.gz" else case.label, folder / name)
    given = GivenMasks(folder, {"one": folder / "mask.nii.gz"}, None)  # made elsewhere
    asked = replace(evaluation(Protocol("none")), given=given)
    place = closed(folder if what == "folder" else folder / what)
    with as_plain_user(), pytest.raises(MachineFault, match="Permission denied"):
        rescore_case(here, asked)
    place.chmod(0o755)
    (row,) = rescore_case(here, asked) or []
    assert (row["status"], row["dice"]) == ("ok", 1.0)


def test_an_error_of_the_storage_in_the_methods_own_code_is_its_failure(case: Case) -> None:
    full = Raising(OSError(errno.ENOSPC, "No space left on device"))
    (row,) = evaluate_case(case, full, evaluation(Protocol("centre-click")))
    assert row["status"] == "failed"
    assert "No space left" in row["reason"]


def test_too_little_memory_is_a_failure_unless_the_caller_will_try_again(case: Case) -> None:
    asked = evaluation(Protocol("centre-click"))
    (row,) = evaluate_case(case, Raising(MemoryError("no more")), asked)
    assert row["reason"] == "MemoryError: no more"
    with pytest.raises(MemoryError):
        evaluate_case(case, Raising(MemoryError("no more")), replace(asked, raise_out_of_memory=True))


def test_rows_tell_the_spacing_and_who_made_the_prompts(case: Case) -> None:
    rows = evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click")))
    assert [rows[0][name] for name in SPACINGS] == [1.0, 1.0, 2.0]
    assert rows[0]["prompt_origin"] == "simulated"
    assert rows[0]["schema_version"] == 2
    case.image.write_bytes(b"no image")
    unreadable = evaluate_case(case, Fixed(cube(8)), evaluation(Protocol("centre-click")))
    assert all(math.isnan(unreadable[0][name]) for name in SPACINGS)


# -- each lesion a task of its own --


@pytest.fixture
def two_lesions(tmp_path: Path) -> Case:
    """Blocks of 6 × 6 × 4 and 4 × 4 × 4 voxels of 1 × 1 × 2 mm."""
    label = np.zeros((24, 20, 12), np.uint8)
    label[2:8, 2:8, 2:6] = 2
    label[14:18, 10:14, 4:8] = 2
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image((label * 50).astype(np.int16), affine), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), tmp_path / "label.nii.gz")
    return Case("made-up", "two", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")


class Brush(Segmenter):
    """Paints a cube around every positive click, of a half-width that grows with the clicks of the session."""

    prompts = Fixed.prompts

    def __init__(self, fail_at: tuple[int, int] | None = None) -> None:
        self.sessions: list[list[Prompts]] = []
        self.fail_at = fail_at

    def open(self, volume: Volume, target: Target) -> Session:
        self.sessions.append([])
        outer, number = self, len(self.sessions)

        class Answer(Session):
            def segment(self, prompts: Prompts) -> BoolArray:
                outer.sessions[number - 1].append(prompts)
                if outer.fail_at == (number, len(prompts.clicks)):
                    raise RuntimeError("out of memory")
                mask = np.zeros(volume.shape, bool)
                for click in prompts.clicks:
                    if click.positive:
                        x, y, z = click.position
                        mask[max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2, max(z - 1, 0) : z + 2] = True
                return mask

        return Answer()


LESION_BY_LESION = Protocol("iterative", rounds=3, per="each-lesion")


def test_each_lesion_is_a_session_of_its_own_and_the_union_is_scored(two_lesions: Case) -> None:
    _, label = two_lesions.load()
    brush = Brush()
    rows = evaluate_case(two_lesions, brush, evaluation(LESION_BY_LESION))
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [len(session) for session in brush.sessions] == [3, 3]
    large, small = (np.zeros(label.shape, bool) for _ in range(2))
    large[2:8, 2:8, 2:6], small[14:18, 10:14, 4:8] = True, True
    for lesion, session in zip((large, small), brush.sessions, strict=True):
        assert all(lesion[click.position] for prompts in session for click in prompts.clicks if click.positive)
        assert [len(prompts.clicks) for prompts in session] == [1, 2, 3]
    first = [np.zeros(label.shape, bool) for _ in range(2)]
    for mask, session in zip(first, brush.sessions, strict=True):
        x, y, z = session[0].clicks[0].position
        mask[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = True
    assert rows[0]["voxels_prediction"] == 54
    assert rows[0]["dice"] == pytest.approx(2 * 54 / (54 + 144 + 64))
    assert rows[0]["each_lesion_dice"] == pytest.approx([2 * 27 / (27 + 144), 2 * 27 / (27 + 64)])
    assert rows[0]["each_lesion_diameter_mm"] == pytest.approx([np.cbrt(6 * 288 / np.pi), np.cbrt(6 * 128 / np.pi)])
    assert [row["clicks"] for row in rows] == [2, 4, 6]
    assert rows[0]["dice"] < rows[1]["dice"] < rows[2]["dice"]


def test_a_lesion_is_prompted_alike_whatever_happens_at_the_other(two_lesions: Case) -> None:
    """Seeds are those of (case, target, lesion, round): the second lesion's clicks are its own."""
    noisy = replace(LESION_BY_LESION, start="random-click", noise=OperatorNoise(displacement_mm=1.0))
    apart = Brush()
    evaluate_case(two_lesions, apart, evaluation(noisy))

    class Flood(Brush):
        """Perfect at the first lesion, so that its user stops there."""

        def open(self, volume: Volume, target: Target) -> Session:
            session = super().open(volume, target)
            if len(self.sessions) == 1:
                block = np.zeros(volume.shape, bool)
                block[2:8, 2:8, 2:6] = True
                session.segment = lambda prompts: block  # type: ignore[method-assign]
            return session

    other = Flood()
    rows = evaluate_case(two_lesions, other, evaluation(noisy))
    assert other.sessions[1] == apart.sessions[1]
    assert [row["carried"] for row in rows] == [False, False, False]  # the second lesion went on
    assert [row["clicks"] for row in rows] == [2, 3, 4]
    again = Brush()
    evaluate_case(two_lesions, again, evaluation(noisy))
    assert again.sessions == apart.sessions
    elsewhere = Brush()
    evaluate_case(replace(two_lesions, case_id="other"), elsewhere, evaluation(noisy))
    assert elsewhere.sessions != apart.sessions


def test_a_lesion_that_fails_late_fails_the_later_steps_of_the_target(two_lesions: Case) -> None:
    rows = evaluate_case(two_lesions, Brush(fail_at=(1, 3)), evaluation(LESION_BY_LESION))
    assert [row["status"] for row in rows] == ["ok", "ok", "failed"]
    assert rows[1]["clicks"] == 4  # the other lesion was still done for the first two steps
    assert rows[2]["each_lesion_dice"] == [0.0, 0.0]
    assert len(rows[2]["each_lesion_diameter_mm"]) == 2
    rows = evaluate_case(two_lesions, Brush(fail_at=(2, 1)), evaluation(LESION_BY_LESION))
    assert [row["status"] for row in rows] == ["failed"] * 3
    assert [row["step"] for row in rows] == [1, 2, 3]


def test_lesion_by_lesion_replays_a_bank_and_scores_kept_masks_again(two_lesions: Case, tmp_path: Path) -> None:
    volume, label = two_lesions.load()
    item = BankItem("two", TARGET, label == 2, volume)
    box = Protocol("box", per="each-lesion", box_jitter_mm=2.0)
    banks = {
        protocol.name: PromptBank.build("made-up", "test-0", protocol, 1, [item])
        for protocol in (box, LESION_BY_LESION)
    }
    with_banks, without = Brush(), Brush()
    asked = replace(evaluation(LESION_BY_LESION, predictions=tmp_path / "kept"), banks=banks)
    rows = evaluate_case(two_lesions, with_banks, asked)
    evaluate_case(two_lesions, without, evaluation(LESION_BY_LESION))
    assert with_banks.sessions == without.sessions
    assert_same(rescore_case(two_lesions, asked), rows)
    boxes = Brush()
    evaluate_case(two_lesions, boxes, replace(evaluation(box), banks=banks))
    assert [session[0].box is not None for session in boxes.sessions] == [True, True]
    assert boxes.sessions[0][0].box != boxes.sessions[1][0].box


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
    assert_same(again, rows)
    (tmp_path / "kept" / "one" / "kidney-tumor.iterative-5.2.json").unlink()
    assert rescore_case(case, asked) is None


def test_a_kept_mask_says_by_which_weights_it_was_made(case: Case, tmp_path: Path) -> None:
    """Also in a unit that has others now; one of before, which says nothing, is not given those of now."""
    plain = evaluation(Protocol("iterative", rounds=3), predictions=tmp_path / "kept")
    first, second = (replace(plain, provenance={"method": "x", "weights": name}) for name in ("first", "second"))
    for made, found in ((first, {"first"}), (plain, {""})):
        rows = evaluate_case(case, Fixed(cube(2), cube(8)), made)
        assert {row.get("weights", "") for row in rows} == found
        assert rows[-1]["carried"]
        again = rescore_case(case, second)
        assert again is not None
        assert {row["weights"] for row in again} == found
        assert_same(rescore_case(case, plain), rows)


def test_the_energy_of_an_answer_is_all_that_was_spent_since_the_opening(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A meter that counts 1 J for every look at it: 1 for the opening, 1 more for every answer."""
    ticks = itertools.count()
    counter = Counter(lambda: float(next(ticks)))
    monkeypatch.setattr(prediction, "EnergyMeter", lambda: EnergyMeter((counter,)))
    asked = evaluation(Protocol("iterative", rounds=3), predictions=tmp_path / "kept")
    rows = evaluate_case(case, Fixed(cube(5)), asked)
    assert [row["joules"] for row in rows] == [2.0, 3.0, 4.0]
    kept = rescore_case(case, asked)
    assert kept is not None
    assert [row["joules"] for row in kept] == [row["joules"] for row in rows]


def test_energy_that_nobody_tells_is_kept_as_null(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "EnergyMeter", lambda: EnergyMeter(()))
    asked = evaluation(Protocol("centre-click"), predictions=tmp_path / "kept")
    (row,) = evaluate_case(case, Fixed(cube(8)), asked)
    assert math.isnan(row["joules"])
    (file,) = (tmp_path / "kept").rglob("*.json")
    assert json.loads(file.read_text(), parse_constant=pytest.fail)["facts"]["joules"] is None
