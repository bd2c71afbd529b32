"""A worker without Ray: three cases at once, each in another part of its way."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.common.errors import MachineFault
from benchmarks.contestants import Budget, Segmenter, Session, Target
from benchmarks.data.dataset import Case
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.execution import worker
from benchmarks.execution.evaluate import Evaluation, evaluate_case
from benchmarks.execution.label_guard import reading_labels
from benchmarks.execution.training import train_loop
from benchmarks.execution.training_job import TrainingJob
from benchmarks.execution.worker import Evaluator, Loading, Order, OutOfMemory, Turns
from benchmarks.metrics import DEFAULT_POLICY
from benchmarks.prompting.prompts import PromptKind, Prompts
from benchmarks.prompting.protocol import Protocol
from tests.plain_user import as_plain_user, closed

TARGET = Target("kidney-tumor", "kidney", "tumor", labels=(2,))
EVALUATION = Evaluation((TARGET,), (Protocol("centre-click"),), 1, (1.0,), DEFAULT_POLICY.policy_id, None, {})


class Slow(Segmenter):
    """Takes its time, and notes how many are at work at once."""

    prompts = frozenset({PromptKind.CLICK})

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.seconds, self.error = seconds, error
        self.at_work = self.most = 0
        self.calls = 0

    def open(self, volume: Volume, target: Target) -> Session:
        outer = self

        class Answer(Session):
            def segment(self, prompts: Prompts) -> BoolArray:
                outer.calls += 1
                outer.at_work += 1
                outer.most = max(outer.most, outer.at_work)
                time.sleep(outer.seconds)
                outer.at_work -= 1
                if outer.error is not None:
                    raise outer.error
                return np.asarray(volume.array > 50)

        return Answer()


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    """Four cases in one folder, so that the guard of one guards the labels of all."""
    found = []
    for number in range(4):
        label = np.zeros((12, 12, 8), np.uint8)
        label[4:8, 4:8, 2 : 4 + number] = 2
        image, mask = tmp_path / f"{number}.nii.gz", tmp_path / f"{number}-label.nii.gz"
        nib.save(nib.Nifti1Image((label * 50).astype(np.int16), np.eye(4)), image)
        nib.save(nib.Nifti1Image(label, np.eye(4)), mask)
        found.append(Case("made-up", str(number), image, mask))
    return found


@pytest.fixture
def evaluator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluator:
    monkeypatch.setattr(worker, "redirect_output", lambda log: None)
    monkeypatch.setattr(worker, "_fetched", lambda reference: EVALUATION)
    return Evaluator(Loading(tmp_path / "log"))


def order(number: int, case: Case, last_try: bool = False) -> Order:
    return Order(number, case, ["reference"], case.image.parent / "log", last_try)


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    costs = ("seconds_open", "seconds_segment", "joules", "peak_memory_mb")
    return [{name: value for name, value in row.items() if name not in costs} for row in rows]


def test_cases_are_loaded_and_scored_beside_the_segmenter_which_works_on_one_at_a_time(
    cases: list[Case], evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, score = worker.load_case, worker.score_case

    def slowly(function: Any) -> Any:
        def one(*arguments: Any) -> Any:
            time.sleep(0.3)
            return function(*arguments)

        return one

    monkeypatch.setattr(worker, "load_case", slowly(load))
    monkeypatch.setattr(worker, "score_case", slowly(score))
    evaluator._segmenter = Slow(0.3)
    started = time.perf_counter()
    with ThreadPoolExecutor(3) as threads:
        rows = list(threads.map(evaluator.evaluate, [order(n, case) for n, case in enumerate(cases)]))
    seconds = time.perf_counter() - started
    assert evaluator._segmenter.most == 1
    assert seconds < 0.8 * 4 * 0.9  # one after the other takes 4 × 0.9 s
    expected = [evaluate_case(case, Slow(), EVALUATION) for case in cases]
    assert [without_times(one or []) for one in rows] == [without_times(one) for one in expected]
    assert [one[0]["dice"] for one in expected] == [1.0] * 4


def test_an_order_that_is_taken_back_is_not_computed(cases: list[Case], evaluator: Evaluator) -> None:
    evaluator._segmenter = Slow()
    evaluator.withdraw(1)
    assert evaluator.evaluate(order(1, cases[0])) is None
    assert evaluator._segmenter.calls == 0
    assert evaluator.evaluate(order(2, cases[0])) is not None


def test_memory_is_tried_for_twice_and_then_told_or_written_down(cases: list[Case], evaluator: Evaluator) -> None:
    evaluator._segmenter = Slow(error=MemoryError("too little"))
    with pytest.raises(OutOfMemory, match="MemoryError: too little"):
        evaluator.evaluate(order(1, cases[0]))
    assert evaluator._segmenter.calls == 2
    (row,) = evaluator.evaluate(order(2, cases[0], last_try=True)) or []
    assert (row["status"], row["reason"]) == ("failed", "MemoryError: too little")


def test_turns_are_had_in_the_order_of_arrival() -> None:
    turns, had = Turns(), []
    numbers = [turns.next() for _ in range(5)]

    def have(number: int) -> None:
        with turns.wait_for(number):
            had.append(number)

    threads = [threading.Thread(target=have, args=(number,)) for number in reversed(numbers[1:])]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert had == []
    turns.leave(numbers[0])
    for thread in threads:
        thread.join(timeout=5)
    assert had == numbers[1:]


def test_only_the_thread_that_says_so_may_read_labels_meanwhile(cases: list[Case]) -> None:
    """The method opens the label of another case, from a thread of its own."""

    class Reaching(Slow):
        def open(self, volume: Volume, target: Target) -> Session:
            def reach() -> None:
                with suppress(Exception):
                    cases[1].label.read_bytes()

            thread = threading.Thread(target=reach)
            thread.start()
            thread.join()
            return super().open(volume, target)

    with reading_labels():
        pass  # over: counts no more
    (row,) = evaluate_case(cases[0], Reaching(), replace(EVALUATION))
    assert row["status"] == "failed"
    assert "reached for the label" in row["reason"]


def test_a_weights_file_that_only_the_driver_has_is_the_machines_fault(tmp_path: Path, evaluator: Evaluator) -> None:
    """Of a worker, of a training, and of one worker of a group; the method is not even built."""
    gone = str(tmp_path / "sam.pth")
    job = TrainingJob("mock-bad-fit", {}, TARGET, (), Budget(steps=1), 1, files=(gone,))
    evaluator._loading = Loading(tmp_path / "log", "mock-load-crash", files=(gone,))
    with pytest.raises(MachineFault, match=f"the weights file {gone} is not there: copy it to this place, or "):
        evaluator.ready()
    with pytest.raises(MachineFault, match=f"the weights file {gone} is not there"):
        worker._train_task(job, tmp_path / "out", None, tmp_path / "cache", "")
    with pytest.raises(MachineFault, match=f"the weights file {gone} is not there"):
        train_loop({"job": job, "folder": tmp_path, "log": None, "cache": None})
    Path(gone).touch()
    with pytest.raises(RuntimeError, match="no weights in the file"):
        evaluator.ready()
    assert job.digest() == replace(job, files=()).digest()


@pytest.mark.parametrize("what", ["folder", "label.nii.gz"])
def test_a_training_case_that_must_not_be_read_now_is_the_machines_fault(
    cases: list[Case], open_place: Path, what: str
) -> None:
    """The method, which would fail at once, is not begun."""
    folder = open_place / "folder"
    folder.mkdir()
    image = Path(shutil.copy(cases[0].image, folder / "image.nii.gz"))
    label = Path(shutil.copy(cases[0].label, folder / "label.nii.gz"))
    here = Case("made-up", "one", image, label)
    job = TrainingJob("mock-bad-fit", {}, TARGET, (here,), Budget(steps=1), 1)
    closed(folder if what == "folder" else folder / what)
    with as_plain_user(), pytest.raises(MachineFault, match="Permission denied"):
        worker._train_task(job, open_place / "out", None, open_place / "cache", "")
