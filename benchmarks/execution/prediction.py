"""One segmenter on one case: a session for every protocol, prompted step by step by a simulated user.

Nothing is scored here, so that the scores of a case can be computed while the segmenter works on the next one. The
simulated user looks at the label, as does the guard; the segmenter never sees it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import Segmenter, Session
from benchmarks.data.volume import BoolArray, Volume
from benchmarks.execution.case_rows import Cell, device_name, peak_memory_mb
from benchmarks.execution.energy import EnergyMeter
from benchmarks.execution.label_guard import Guard
from benchmarks.prompting.prompts import Prompts
from benchmarks.prompting.tasks import Task, tasks_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What a session gave at one step.

    Attributes:
        joules: energy from the opening of the scan up to this answer; NaN where the machine does not tell.
    """

    prompts: Prompts
    seconds_open: float
    seconds_segment: float
    joules: float
    peak_memory_mb: float
    device: str = ""
    carried: bool = False


@dataclass(frozen=True)
class Spent:
    """What a session had cost before a prompt: seconds of its opening, joules in all."""

    seconds_open: float
    joules: float


@dataclass(frozen=True)
class Step:
    """The answer for the target at one step.

    Attributes:
        answers: one, or one for each lesion.
        mask: their union, a bit per voxel: the masks of all steps are kept until they are scored.
        lesion_dices: of each lesion that was a task of its own.
    """

    answers: tuple[Answer, ...]
    mask: NDArray[np.uint8]
    lesion_dices: tuple[float, ...] = ()

    def whole_mask(self, shape: tuple[int, ...]) -> BoolArray:
        """The mask on the grid of the volume."""
        return np.unpackbits(self.mask, count=int(np.prod(shape))).view(np.bool_).reshape(shape)


@dataclass
class Predicted:
    """What a segmenter did with one target under one protocol.

    Attributes:
        steps: the steps that have an answer, from the first on.
        failure: why the next step has none; None if all have one.
        lesions: the tasks of a protocol that goes lesion by lesion.
    """

    cell: Cell
    steps: list[Step] = field(default_factory=list)
    failure: Exception | None = None
    lesions: tuple[Task, ...] = ()


@dataclass(frozen=True)
class Interaction:
    """One segmenter under one protocol: open, then prompt step by step.

    A session is never shared, neither by protocols nor by lesions: each pays its own `open`.
    """

    cell: Cell
    volume: Volume
    segmenter: Segmenter
    guard: Guard

    def predicted(self) -> Predicted:
        """All steps, as far as they succeed."""
        cell, result = self.cell, Predicted(self.cell)
        try:
            seed_parts = (cell.evaluation.seed, cell.case.dataset, cell.case.case_id, cell.target.name)
            tasks = tasks_of(cell.protocol, seed_parts, cell.truth.mask)
        except Exception as error:
            logger.exception("%s/%s, %s: no prompts", cell.case.dataset, cell.case.case_id, cell.protocol.name)
            result.failure = error
            return result
        if cell.protocol.per == "each-lesion":
            self._lesion_by_lesion(tasks, result)
        else:
            self._whole(tasks[0], result)
        return result

    def _whole(self, task: Task, result: Predicted) -> None:
        """One session for the target."""
        stream = self._answers(task, task.mask())
        for step in self.cell.steps:
            try:
                answer, mask = next(stream)
            except Exception as error:
                self._note_failure(step, error)
                result.failure = error
                return
            result.steps.append(Step((answer,), np.packbits(mask)))

    def _lesion_by_lesion(self, tasks: Sequence[Task], result: Predicted) -> None:
        """A session for each lesion; the union of their answers at a step is the answer for the target.

        If a lesion fails at a step, the target's steps from there on have failed; the steps before are whole.
        """
        steps = list(self.cell.steps)
        unions = {step: np.zeros(-(-self.volume.array.size // 8), np.uint8) for step in steps}
        answers: dict[int, list[Answer]] = {step: [] for step in steps}
        dices: dict[int, list[float]] = {step: [] for step in steps}
        for task in tasks:
            lesion = task.mask()
            stream = self._answers(task, lesion)
            for step in steps:
                try:
                    answer, mask = next(stream)
                except Exception as error:
                    self._note_failure(step, error)
                    result.failure, steps = error, steps[: step - 1]
                    break
                unions[step] |= np.packbits(mask)
                dices[step].append(_dice(mask, lesion))
                answers[step].append(answer)
        result.lesions = tuple(tasks)
        result.steps = [Step(tuple(answers[step]), unions[step], tuple(dices[step])) for step in steps]

    def _answers(self, task: Task, truth: BoolArray) -> Iterator[tuple[Answer, BoolArray]]:
        """The answers of one session with their masks, one for each step; raises what the segmenter raises."""
        cell, volume = self.cell, self.volume
        if cell.bank is None:
            prompts = task.user.first(truth, volume.spacing, cell.target)
        else:
            prompts = cell.bank.prompts(cell.case.case_id, cell.target.name, volume, task.lesion)
        meter, started = EnergyMeter(), time.perf_counter()
        with self.guard.watch(volume, cell.target):
            session = self.segmenter.open(volume, cell.target)
        opened = Spent(time.perf_counter() - started, meter.joules())
        answer, mask = self._answer(session, prompts, opened)
        yield answer, mask
        for _ in cell.steps[1:]:
            following = task.user.next(truth, mask, answer.prompts, volume.spacing)
            if following is None:  # satisfied: the remaining steps keep the last answer
                answer = replace(answer, carried=True, seconds_segment=0.0)
            else:
                answer, mask = self._answer(session, following, Spent(answer.seconds_open, answer.joules))
            yield answer, mask

    def _answer(self, session: Session, prompts: Prompts, before: Spent) -> tuple[Answer, BoolArray]:
        meter, started = EnergyMeter(), time.perf_counter()
        with self.guard.watch(self.volume, self.cell.target, prompts):
            mask = session.segment(prompts)
        seconds = time.perf_counter() - started
        joules = before.joules + meter.joules()
        answer = Answer(prompts, before.seconds_open, seconds, joules, peak_memory_mb(), device_name())
        return answer, _checked(mask, self.volume)

    def _note_failure(self, step: int, error: Exception) -> None:
        self.cell.evaluation.pass_on(error)
        case, protocol = self.cell.case, self.cell.protocol
        logger.exception("%s/%s, %s, step %d failed", case.dataset, case.case_id, protocol.name, step)


def _dice(mask: BoolArray, lesion: BoolArray) -> float:
    return float(2 * np.count_nonzero(mask & lesion) / (np.count_nonzero(mask) + np.count_nonzero(lesion)))


def _checked(mask: Any, volume: Volume) -> BoolArray:
    """The geometry contract: a boolean mask on the volume's own grid."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != volume.shape:
        found = f"{getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')}"
        raise TypeError(f"the method returned {found}; a bool mask of shape {volume.shape} is due")
    return mask
