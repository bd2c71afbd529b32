"""One case × one segmenter × simulated users → records. Pure: no Ray, no MLflow, nothing written but masks.

The segmenter sees the volume, the target's name and the prompts. The label stays on this side: the simulated
user and the metrics look at it, the segmenter must not; `label_guard` watches over every call of it.
"""

from __future__ import annotations

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.environment import revision
from benchmarks.common.errors import one_line
from benchmarks.common.files import safe_name, write_json
from benchmarks.contestants import Segmenter, Session, Target
from benchmarks.data.dataset import Case, target_mask
from benchmarks.data.volume import BoolArray, Volume, read_label, write_mask
from benchmarks.execution.label_guard import Guard
from benchmarks.metrics import POLICIES, Reference, evaluate_mask, failed_values, is_metric
from benchmarks.prompting.bank import PromptBank
from benchmarks.prompting.prompts import SIMULATED, Prompts, to_json
from benchmarks.prompting.protocol import Protocol
from benchmarks.prompting.tasks import Task, tasks_of
from benchmarks.results.records import FAILED, NO_TARGET, OK, SCHEMA_VERSION, SPACINGS

logger = logging.getLogger(__name__)

UNKNOWN_DIAGONAL_MM = 1000.0  # worst distance where the image cannot be read, so that its size is not known


@dataclass(frozen=True)
class Evaluation:
    """What to do with every case of a unit.

    Attributes:
        targets, protocols: all pairs are evaluated; the protocols are those that the method can follow.
        seed: seed of the suite; prompts depend on (seed, dataset, case, target, step) only.
        tolerances_mm, empty_policy: for the metrics.
        predictions: folder for masks and prompts, or None to keep none.
        provenance: columns that every row of the unit shares.
        banks: frozen first prompts by protocol name; without a bank the simulated user makes them on the spot.
    """

    targets: tuple[Target, ...]
    protocols: tuple[Protocol, ...]
    seed: int
    tolerances_mm: tuple[float, ...]
    empty_policy: str
    predictions: Path | None
    provenance: dict[str, Any]
    banks: Mapping[str, PromptBank] = field(default_factory=dict)


def evaluate_case(case: Case, segmenter: Segmenter, evaluation: Evaluation) -> list[dict[str, Any]]:
    """All rows of one case: targets × protocols × steps, failed ones included.

    A failure of the method, of the file or of the prompts becomes rows with `status` "failed", the reason in one
    line and the worst values; it never raises and never drops a row. Where a protocol has nothing to click on,
    because no voxel of the target is there, the method is not asked, and its rows say "no-target".
    """
    try:
        volume, label = case.load()
    except Exception as error:
        logger.exception("%s/%s cannot be loaded", case.dataset, case.case_id)
        return failed_case(case, evaluation, error)
    volume.array.setflags(write=False)
    guard = Guard(case, label)
    rows: list[dict[str, Any]] = []
    for target in evaluation.targets:
        truth = _Truth(target_mask(label, target), volume.spacing, evaluation)
        for protocol in evaluation.protocols:
            asked = _Asked(case, target, protocol, evaluation, truth)
            if asked.has_target():
                rows += _Run(asked, volume, segmenter, guard).rows()
            else:
                rows += asked.not_asked()
    return rows


def rescore_case(case: Case, evaluation: Evaluation) -> list[dict[str, Any]] | None:
    """All rows of one case from the masks that an earlier run kept: no segmenter, no GPU; None if one is missing.

    Timings, memory and the Dice of each lesion are those of the run that made the masks.
    """
    folder = evaluation.predictions
    if folder is None or not (folder / safe_name(case.case_id)).is_dir():
        return None
    volume, label = case.load()
    rows: list[dict[str, Any]] = []
    for target in evaluation.targets:
        truth = _Truth(target_mask(label, target), volume.spacing, evaluation)
        for protocol in evaluation.protocols:
            asked = _Asked(case, target, protocol, evaluation, truth)
            if not asked.has_target():
                rows += asked.not_asked()
                continue
            for step in asked.steps:
                facts = _kept_facts(asked.stem(step))
                if facts is None:
                    return None
                if facts["carried"]:
                    rows.append({**rows[-1], "step": step} | facts)
                    continue
                mask = read_label(_mask_file(asked.stem(step)), like=volume) > 0
                rows.append({**asked.identity(step), **evaluate_mask(mask, truth.reference), **_WELL} | facts)
    return rows


def failed_case(case: Case, evaluation: Evaluation, error: BaseException) -> list[dict[str, Any]]:
    """The rows of a case that could not be evaluated at all: every expected row, failed, with the reason."""
    try:
        volume, label = case.load()
    except Exception:  # the file itself may be what failed; `error` has the reason
        volume, label = None, None
    rows = []
    for target in evaluation.targets:
        if volume is None or label is None:
            truth = _Truth.unknown(evaluation)
        else:
            truth = _Truth(target_mask(label, target), volume.spacing, evaluation)
        for protocol in evaluation.protocols:
            asked = _Asked(case, target, protocol, evaluation, truth)
            rows += asked.failed(error, since=1) if asked.has_target() else asked.not_asked()
    return rows


_WELL = {"status": OK, "reason": ""}


class _Truth:
    """What the label says of a target: for the simulated user and the metrics, never for the segmenter."""

    def __init__(
        self, mask: BoolArray, spacing: tuple[float, float, float], evaluation: Evaluation, known: bool = True
    ) -> None:
        self.mask, self.spacing, self.known = mask, spacing, known
        policy = POLICIES[evaluation.empty_policy]
        self.reference = Reference(mask, spacing, evaluation.tolerances_mm, policy)

    @classmethod
    def unknown(cls, evaluation: Evaluation) -> _Truth:
        """Of a case whose image or label cannot be read."""
        edge = UNKNOWN_DIAGONAL_MM / 3**0.5
        return cls(np.zeros((1, 1, 1), bool), (edge, edge, edge), evaluation, known=False)

    @property
    def told_spacing(self) -> dict[str, float]:
        return dict(zip(SPACINGS, self.spacing if self.known else (math.nan,) * 3, strict=True))


@dataclass(frozen=True)
class _Asked:
    """One target of one case under one protocol: what its rows have in common."""

    case: Case
    target: Target
    protocol: Protocol
    evaluation: Evaluation
    truth: _Truth

    @property
    def bank(self) -> PromptBank | None:
        return self.evaluation.banks.get(self.protocol.name)

    @property
    def steps(self) -> range:
        return range(1, self.protocol.rounds + 1)

    def has_target(self) -> bool:
        """Whether the protocol can ask anything; a frozen bank decides, as it does for every other method."""
        if not self.protocol.looks_at_label:
            return True
        if self.bank is not None:
            return self.bank.has_target(self.case.case_id, self.target.name)
        return not self.truth.known or self.truth.reference.voxels > 0

    def stem(self, step: int) -> Path:
        """Where the mask and the facts of a step are kept, without suffix."""
        assert self.evaluation.predictions is not None
        name = f"{safe_name(f'{self.target.name}.{self.protocol.name}')}.{step}"
        return self.evaluation.predictions / safe_name(self.case.case_id) / name

    def identity(self, step: int) -> dict[str, Any]:
        return {
            **self.evaluation.provenance,
            "schema_version": SCHEMA_VERSION,
            "seed": self.evaluation.seed,
            "dataset": self.case.dataset,
            "case": self.case.case_id,
            "patient": self.case.patient or self.case.case_id,
            "target": self.target.name,
            "protocol": self.protocol.name,
            "prompt_bank": self.bank.digest[:16] if self.bank is not None else "",
            "prompt_origin": self.bank.origin if self.bank is not None else SIMULATED,
            "track": self.protocol.track,
            "step": step,
            **self.truth.told_spacing,
        }

    def failed(self, error: BaseException, since: int, lesions: Sequence[Task] = ()) -> list[dict[str, Any]]:
        """The rows from a step on, with the worst values, the reason, and the clicks that were due by then."""
        told = failed_values(self.truth.reference) | _nothing_done(FAILED, one_line(error)[:500])
        told |= _lesion_figures(self, lesions, [0.0] * len(lesions))
        sessions = max(1, len(lesions))
        return [
            {**self.identity(step), **told, "clicks": sessions * self.protocol.clicks_by(step)}
            for step in self.steps
            if step >= since
        ]

    def not_asked(self) -> list[dict[str, Any]]:
        """The rows of a case without the target: no metric, for the method did nothing well or badly."""
        nothing = {
            key: math.nan if is_metric(key) else value for key, value in failed_values(self.truth.reference).items()
        }
        told = nothing | _nothing_done(NO_TARGET, f"no voxel of '{self.target.name}' in the case")
        told |= _lesion_figures(self, (), ())
        return [{**self.identity(step), **told} for step in self.steps]


@dataclass(frozen=True)
class _Answer:
    """What a session gave at one step."""

    mask: BoolArray
    prompts: Prompts
    seconds_open: float
    seconds_segment: float
    carried: bool = False


@dataclass(frozen=True)
class _Run:
    """One segmenter under one protocol: open, then prompt step by step.

    A session is never shared, neither by protocols nor by lesions: each pays its own `open`.
    """

    asked: _Asked
    volume: Volume
    segmenter: Segmenter
    guard: Guard

    def rows(self) -> list[dict[str, Any]]:
        asked = self.asked
        try:
            seed_parts = (asked.evaluation.seed, asked.case.dataset, asked.case.case_id, asked.target.name)
            tasks = tasks_of(asked.protocol, seed_parts, asked.truth.mask)
        except Exception as error:
            logger.exception("%s/%s, %s: no prompts", asked.case.dataset, asked.case.case_id, asked.protocol.name)
            return asked.failed(error, since=1)
        return self._whole(tasks[0]) if asked.protocol.per != "each-lesion" else self._lesion_by_lesion(tasks)

    def _whole(self, task: Task) -> list[dict[str, Any]]:
        """One session for the target; each answer is scored before the next prompt."""
        rows: list[dict[str, Any]] = []
        answers = self._answers(task, task.mask())
        for step in self.asked.steps:
            try:
                answer = next(answers)
                row = self._row(step, [answer], answer.mask, rows[-1] if rows else None)
            except Exception as error:
                self._log(step)
                return rows + self.asked.failed(error, since=step)
            rows.append(row)
        return rows

    def _lesion_by_lesion(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """A session for each lesion; the union of their answers at a step is the answer for the target.

        If a lesion fails at a step, the target's rows from there on have failed; the steps before are whole.
        """
        asked = self.asked
        steps = list(asked.steps)
        voxels = self.volume.array.size
        unions = {step: np.zeros(-(-voxels // 8), np.uint8) for step in steps}  # a bit per voxel: rounds add up
        answers: dict[int, list[_Answer]] = {step: [] for step in steps}
        dices: dict[int, list[float]] = {step: [] for step in steps}
        failure: Exception | None = None
        for task in tasks:
            lesion = task.mask()
            given = self._answers(task, lesion)
            for step in steps:
                try:
                    answer = next(given)
                except Exception as error:
                    self._log(step)
                    failure, steps = error, steps[: step - 1]
                    break
                unions[step] |= np.packbits(answer.mask)
                dices[step].append(_dice(answer.mask, lesion))
                answers[step].append(replace(answer, mask=_NO_MASK))
        rows: list[dict[str, Any]] = []
        for step in steps:
            figures = _lesion_figures(asked, tasks, dices[step])
            union = np.unpackbits(unions[step], count=voxels).view(np.bool_).reshape(self.volume.shape)
            try:
                rows.append(self._row(step, answers[step], union, rows[-1] if rows else None, figures))
            except Exception as error:
                self._log(step)
                return rows + asked.failed(error, step, tasks)
        return rows if failure is None else rows + asked.failed(failure, len(rows) + 1, tasks)

    def _answers(self, task: Task, truth: BoolArray) -> Iterator[_Answer]:
        """The answers of one session, one for each step; raises what the segmenter raises."""
        asked, volume = self.asked, self.volume
        if asked.bank is None:
            prompts = task.user.first(truth, volume.spacing, asked.target)
        else:
            prompts = asked.bank.prompts(asked.case.case_id, asked.target.name, volume, task.lesion)
        started = time.perf_counter()
        with self.guard.watch(volume, asked.target):
            session = self.segmenter.open(volume, asked.target)
        answer = self._answer(session, prompts, time.perf_counter() - started)
        yield answer
        for _ in asked.steps[1:]:
            following = task.user.next(truth, answer.mask, answer.prompts, volume.spacing)
            if following is None:  # satisfied: the remaining steps keep the last answer
                answer = replace(answer, carried=True, seconds_segment=0.0)
            else:
                answer = self._answer(session, following, answer.seconds_open)
            yield answer

    def _answer(self, session: Session, prompts: Prompts, seconds_open: float) -> _Answer:
        started = time.perf_counter()
        with self.guard.watch(self.volume, self.asked.target, prompts):
            mask = session.segment(prompts)
        return _Answer(_checked(mask, self.volume), prompts, seconds_open, time.perf_counter() - started)

    def _row(
        self,
        step: int,
        answers: Sequence[_Answer],
        mask: BoolArray,
        before: dict[str, Any] | None,
        figures: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The record of a step, kept on disk if masks are kept."""
        asked = self.asked
        if before is not None and all(answer.carried for answer in answers):
            carried: dict[str, Any] = {"carried": True, "seconds_segment": 0.0}
            self._keep(step, {"facts": carried})
            return {**before, "step": step} | carried
        facts = {
            "carried": False,
            "clicks": sum(len(answer.prompts.clicks) for answer in answers),
            "seconds_open": sum(answer.seconds_open for answer in answers),
            "seconds_segment": sum(answer.seconds_segment for answer in answers),
            "peak_memory_mb": peak_memory_mb(),
            "predicted_commit": revision()[0],
        } | dict(figures or {})
        row = {**asked.identity(step), **evaluate_mask(mask, asked.truth.reference), **_WELL} | facts
        told = [to_json(answer.prompts, self.volume) for answer in answers]
        self._keep(step, {"facts": facts, "prompts": told[0] if figures is None else told}, mask)
        return row

    def _keep(self, step: int, told: dict[str, Any], mask: BoolArray | None = None) -> None:
        """Keep the mask of a step, then its side-car: whoever finds the side-car finds the whole mask."""
        if self.asked.evaluation.predictions is None:
            return
        stem = self.asked.stem(step)
        if mask is not None:
            write_mask(mask, self.volume, _mask_file(stem))
        write_json(_facts_file(stem), told)

    def _log(self, step: int) -> None:
        case, protocol = self.asked.case, self.asked.protocol
        logger.exception("%s/%s, %s, step %d failed", case.dataset, case.case_id, protocol.name, step)


_NO_MASK = np.zeros((0, 0, 0), bool)


def _lesion_figures(asked: _Asked, lesions: Sequence[Task], dices: Sequence[float]) -> dict[str, Any]:
    """The Dice of each lesion that was a task of its own, and its diameter (mm, of the ball of its volume)."""
    if asked.protocol.per != "each-lesion":
        return {}
    voxel_mm3 = asked.truth.reference.voxel_mm3
    diameters = [float(np.cbrt(6 / np.pi * lesion.voxels * voxel_mm3)) for lesion in lesions]
    return {"each_lesion_dice": list(dices), "each_lesion_diameter_mm": diameters}


def _dice(mask: BoolArray, lesion: BoolArray) -> float:
    return float(2 * np.count_nonzero(mask & lesion) / (np.count_nonzero(mask) + np.count_nonzero(lesion)))


def _checked(mask: Any, volume: Volume) -> BoolArray:
    """The geometry contract: a boolean mask on the volume's own grid."""
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != volume.shape:
        found = f"{getattr(mask, 'dtype', type(mask).__name__)} {getattr(mask, 'shape', '')}"
        raise TypeError(f"the method returned {found}; a bool mask of shape {volume.shape} is due")
    return mask


def _kept_facts(stem: Path) -> dict[str, Any] | None:
    path = _facts_file(stem)
    return dict(json.loads(path.read_text(encoding="utf-8"))["facts"]) if path.is_file() else None


def _mask_file(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.nii.gz")


def _facts_file(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.json")


def _nothing_done(status: str, reason: str) -> dict[str, Any]:
    """What a row without an answer says of how it came about."""
    return {
        "status": status,
        "reason": reason,
        "carried": False,
        "clicks": 0,
        "seconds_open": math.nan,
        "seconds_segment": math.nan,
        "peak_memory_mb": peak_memory_mb(),
        "predicted_commit": revision()[0],
    }


def peak_memory_mb() -> float:
    """Peak of this process so far, in MB: GPU memory if CUDA is in use, otherwise resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated() / 1e6)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def applicable(protocols: Sequence[Protocol], segmenter_prompts: frozenset[Any]) -> tuple[Protocol, ...]:
    """The protocols that a method can follow: it understands every kind of prompt that they may send."""
    return tuple(protocol for protocol in protocols if protocol.needs <= segmenter_prompts)
