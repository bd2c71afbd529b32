"""No segmenter reaches a label: not by what it is handed, and not by a file, without being found out."""

from __future__ import annotations

import contextlib
import gc
import gzip
import inspect
import os
import shutil
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.contestants import Segmenter, Session, Target
from benchmarks.data.dataset import Case
from benchmarks.data.volume import BoolArray, Volume, read_label
from benchmarks.execution.evaluate import Evaluation, evaluate_case
from benchmarks.execution.label_guard import Guard, LabelLeak
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.prompting.prompts import PromptKind, Prompts
from benchmarks.prompting.protocol import Protocol

TARGET = Target("kidney-tumor", "kidney", "tumor", labels=(2,))
SHAPE = (16, 14, 10)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A case as in KiTS21: image and label in one folder, single annotations in a folder below."""
    folder = tmp_path / "case_00001"
    (folder / "segmentations").mkdir(parents=True)
    label = np.zeros(SHAPE, np.uint8)
    label[4:9, 4:9, 3:7] = 2
    for name, array in (("imaging", label.astype(np.int16) * 40), ("segmentation", label)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}.nii.gz")
    shutil.copy(folder / "segmentation.nii.gz", folder / "segmentations" / "tumor_annotation-1.nii.gz")
    return Case("kits21", "case_00001", folder / "imaging.nii.gz", folder / "segmentation.nii.gz")


class Curious(Segmenter):
    """Does something in `open` or in `segment`, and answers with an empty mask."""

    prompts = frozenset(PromptKind)

    def __init__(self, act: Callable[..., Any], when: str = "segment") -> None:
        self.act, self.when = act, when

    def open(self, volume: Volume, target: Target) -> Session:
        outer = self
        if self.when == "open":
            self.act(volume, target)

        class Answer(Session):
            def segment(self, prompts: Prompts) -> BoolArray:
                if outer.when == "segment":
                    outer.act(volume, target, prompts)
                return np.zeros(volume.shape, bool)

        return Answer()


def rows_of(case: Case, segmenter: Segmenter, protocol: Protocol | None = None) -> list[dict[str, Any]]:
    asked = protocol or Protocol("centre-click")
    return evaluate_case(
        case, segmenter, Evaluation((TARGET,), (asked,), 1, (1.0,), DEFAULT_POLICY.policy_id, None, {})
    )


# -- files --


def by_name(path: Path) -> None:
    path.open("rb").close()


def by_library(path: Path) -> None:
    np.asarray(nib.load(path).dataobj)


def by_the_bench(path: Path) -> None:
    read_label(path)


def by_number(path: Path) -> None:
    os.close(os.open(path, os.O_RDONLY))


def by_gzip(path: Path) -> None:
    gzip.open(path).close()


def by_copy(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".txt"))


def by_link(path: Path) -> None:
    os.link(path, path.parent.parent / "harmless.bin")


def by_program(path: Path) -> None:
    subprocess.run(["cat", str(path)], check=True, capture_output=True)


def by_thread(path: Path) -> None:
    thread = threading.Thread(target=by_name, args=(path,), daemon=True)
    thread.start()
    thread.join()


WAYS = [by_name, by_library, by_the_bench, by_number, by_gzip, by_copy, by_link, by_program, by_thread]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("when", ["open", "segment"])
def test_a_label_file_cannot_be_opened_by_a_segmenter(case: Case, way: Callable[[Path], None], when: str) -> None:
    rows = rows_of(case, Curious(lambda *given: way(case.label), when))
    assert rows[0]["status"] == "failed"
    assert "LabelLeak" in rows[0]["reason"]
    assert "segmentation.nii.gz" in rows[0]["reason"]
    assert str(case.label.parent) not in rows[0]["reason"]
    way(case.label)  # and everybody else may again


def test_an_attempt_is_a_failure_even_if_the_method_swallows_the_error(case: Case) -> None:
    def try_and_go_on(*given: Any) -> None:
        with contextlib.suppress(Exception):
            case.label.read_bytes()

    assert "LabelLeak: the method reached for the label" in rows_of(case, Curious(try_and_go_on))[0]["reason"]


@pytest.mark.parametrize("name", ["imaging.nii.gz", "segmentations/tumor_annotation-1.nii.gz", "../loop/x.nii.gz"])
def test_nor_what_lies_beside_it(case: Case, name: str) -> None:
    if "loop" in name:  # another way to the same file
        (case.label.parent.parent / "loop").mkdir()
        (case.label.parent.parent / "loop" / "x.nii.gz").symlink_to(case.label)
    rows = rows_of(case, Curious(lambda *given: by_name(case.label.parent / name)))
    assert "LabelLeak" in rows[0]["reason"]


def test_files_that_are_no_scans_and_scans_elsewhere_can_be_opened(case: Case) -> None:
    weights = case.label.parent / "weights.safetensors"
    weights.write_bytes(b"0")
    scratch = case.label.parent.parent / "scratch"
    scratch.mkdir()

    def work(volume: Volume, target: Target, prompts: Prompts) -> None:
        by_name(weights)
        nib.save(nib.Nifti1Image(volume.array, volume.affine), scratch / "temporary.nii.gz")
        by_library(scratch / "temporary.nii.gz")

    assert rows_of(case, Curious(work))[0]["status"] == "ok"


# -- arguments --


def reachable(*roots: object) -> Iterator[object]:
    """Everything that the roots refer to, directly or not; code and modules are not followed: they are everybody's."""
    code = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.FrameType)
    seen: set[int] = set()
    left = list(roots)
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, code):
            continue
        seen.add(id(one))
        yield one
        left += gc.get_referents(one)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol("none"),
        Protocol("text"),
        Protocol("clicks", clicks=3, per="lesion"),
        Protocol("box", text=True),
        Protocol("mask"),
        Protocol("iterative", rounds=3, previous_mask=True),
        Protocol("iterative", rounds=2, per="each-lesion", start="box"),
    ],
    ids=lambda protocol: protocol.name,
)
def test_nothing_that_is_handed_over_leads_to_the_label(case: Case, protocol: Protocol) -> None:
    _, label = case.load()
    truth = np.asarray(label == 2)
    looked = []

    def look(volume: Volume, target: Target, prompts: Prompts | None = None) -> None:
        looked.append(prompts)
        for one in reachable(volume, target, prompts):
            assert not isinstance(one, Path)
            assert not (isinstance(one, str) and (os.sep in one or "case_00001" in one)), one
            if isinstance(one, np.ndarray) and one.shape == SHAPE and one is not volume.array:
                assert not np.array_equal(one, label)
                assert not np.array_equal(one, truth)

    for when in ("open", "segment"):
        rows = rows_of(case, Curious(look, when), protocol)
        assert rows[0]["status"] == "ok", rows[0]["reason"]
    assert len(looked) >= 2


def test_the_walk_would_find_a_label(case: Case) -> None:
    """The test above can fail: the same walk from an object that holds the case finds path and array."""

    @dataclass
    class Careless:
        case: Case
        label: Any

    found = list(reachable(Careless(case, case.load()[1])))
    assert any(isinstance(one, Path) for one in found)
    assert any(isinstance(one, np.ndarray) and one.shape == SHAPE for one in found)


def test_the_guard_refuses_what_would_lead_to_the_label(case: Case) -> None:
    volume, label = case.load()
    guard = Guard(case, label)

    class WithPath(Volume):
        pass

    marked = Volume(volume.array, volume.affine, volume.orientation)
    object.__setattr__(marked, "path", case.image)
    shared = Prompts(
        mask=np.asarray(label).view(np.uint16).astype(np.uint16, copy=False).view(np.bool_)[..., : SHAPE[2]]
    )
    for given in (WithPath(volume.array, volume.affine), marked):
        with pytest.raises(LabelLeak, match="more than a Volume"), guard.watch(given, TARGET):
            pass
    with pytest.raises(LabelLeak, match="shares memory"), guard.watch(volume, TARGET, shared):
        pass
    with guard.watch(volume, TARGET, Prompts()):
        pass


def test_the_signature_has_no_room_for_a_label() -> None:
    assert list(inspect.signature(Segmenter.open).parameters) == ["self", "volume", "target"]
    assert list(inspect.signature(Session.segment).parameters) == ["self", "prompts"]


def test_the_hook_is_installed_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of(case, Curious(lambda *given: None))
    added: list[object] = []
    monkeypatch.setattr(sys, "addaudithook", added.append)
    rows_of(case, Curious(lambda *given: None))
    assert added == []
