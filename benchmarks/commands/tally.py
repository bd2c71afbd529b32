"""How far a run has come, and how long the rest may take. Without a clock and without a terminal.

Lines are asked for by another thread than the one that counts, so they look at copies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TO_TRAIN, TRAINING = "to be trained", "training"
EVALUATING = ("evaluating", "scoring")
AT_REST = ("", "waiting", TO_TRAIN, "done", "failed", "not run")
TRAININGS_IN_A_LINE = 4


@dataclass
class _Training:
    """How far a training has come since this run looked at it first: a share of its budget, after so many seconds."""

    first: float
    first_at: float
    last: float
    last_at: float


class Tally:
    """What is finished, and how long the rest may take.

    Trainings and cases are two kinds of work with a cost of their own, in seconds of a unit. What is left of both, at
    these costs, takes as long as what is done of both has taken: so many units as have been at work at once so far
    will be so on.

    Args:
        cases: of each unit; 1 where units are only trained.
        now: seconds that only go forward.
        counted: "cases" or "trainings".
    """

    def __init__(self, cases: Mapping[Path, int], now: float, counted: str = "cases") -> None:
        self._cases, self._began, self._counted = cases, now, counted
        self._finished: dict[Path, int] = {}
        self._before: dict[Path, int] = {}  # finished when the run began
        self._entered: dict[Path, float] = {}  # the stage it is in
        self._first: float | None = None  # when something was first trained or evaluated
        self._worked = 0.0  # seconds of all units in the stages of evaluation that they have left
        self._progress: dict[Path, _Training] = {}
        self._trained_for = 0.0  # likewise, of training
        self.stages: dict[Path, str] = {}
        self.trainings: dict[Path, tuple[str, str]] = {}  # which training it is, and how far that has come
        self.failed = 0

    def stage(self, unit: Path, stage: str, now: float) -> None:
        before, since = self.stages.get(unit, ""), self._entered.get(unit, now)
        if before in EVALUATING:
            self._worked += now - since
        if before == TRAINING:
            self._trained_for += now - since
            if stage not in ("failed", "not run"):
                self.trained(unit, 1.0, now)
        if stage == TRAINING:
            self._progress[unit] = _Training(0.0, now, 0.0, now)
        self._entered[unit] = now
        self.stages[unit] = stage
        if self._first is None and stage in (TRAINING, *EVALUATING):
            self._first = now

    def trained(self, unit: Path, progress: float, now: float) -> None:
        """The training of a unit has come so far, from 0 to 1."""
        one = self._progress.get(unit)
        if one is None or self.stages.get(unit) != TRAINING:
            return
        if one.last == 0.0 and progress < 1.0:  # it may go on from an earlier run, or have prepared its cases
            one.first, one.first_at = progress, now
        one.last, one.last_at = progress, now

    def advanced(self, unit: Path, finished: int) -> None:
        self._before.setdefault(unit, finished)
        self._finished[unit] = finished

    @property
    def total(self) -> int:
        return sum(self._cases.values())

    @property
    def finished(self) -> int:
        return sum(self._finished.values())

    def seconds_left(self, now: float) -> float | None:
        """None while nothing says what a training, or a case, costs."""
        return self._left(now, with_cases=self._counted == "cases")

    def _left(self, now: float, with_cases: bool) -> float | None:
        training, evaluating = self._of_training(now), self._of_cases(now) if with_cases else (0.0, 0.0)
        if training is None or evaluating is None or self._first is None:
            return None
        done, left = (sum(pair) for pair in zip(training, evaluating, strict=True))
        return left * (now - self._first) / done if done > 0 else None

    def _of_training(self, now: float) -> tuple[float, float] | None:
        """Seconds of units that trainings have taken, and will take; None: not known yet."""
        stages, seen = dict(self.stages), list(self._progress.values())
        running = [unit for unit, stage in stages.items() if stage == TRAINING]
        done = self._trained_for + sum(now - self._entered[unit] for unit in running)
        left = sum(1.0 - self._progress[unit].last for unit in running)
        left += sum(stage == TO_TRAIN for stage in stages.values())
        if left == 0:
            return done, 0.0
        gained = sum(one.last - one.first for one in seen)
        return (done, left * sum(one.last_at - one.first_at for one in seen) / gained) if gained > 0 else None

    def _of_cases(self, now: float) -> tuple[float, float] | None:
        """Likewise of cases."""
        running = [unit for unit, stage in dict(self.stages).items() if stage in EVALUATING]
        done = self._worked + sum(now - self._entered[unit] for unit in running)
        left, gained = self.total - self.finished, self.finished - sum(self._before.values())
        if left == 0:
            return done, 0.0
        return (done, left * done / gained) if gained > 0 else None

    def time_left(self, now: float) -> str:
        """In words; "" while it is not known."""
        left = self.seconds_left(now)
        if left is not None:
            return f"about {duration(left)} left"
        training = self._left(now, with_cases=False)
        return f"about {duration(training)} of training left" if training else ""

    def line(self, now: float) -> str:
        """One line for a log."""
        words = [f"{duration(now - self._began)}: {self.finished} of {self.total} {self._counted}"]
        if self.failed:
            words.append(f"{self.failed} failed")
        stages = dict(self.stages)
        doing = Counter(stage for stage in stages.values() if stage not in AT_REST)
        words += [f"{stage} {count} unit{'s' * (count > 1)}" for stage, count in sorted(doing.items())]
        running: dict[str, str] = {}
        for unit, (training, text) in dict(self.trainings).items():
            if stages.get(unit) == TRAINING:
                running.setdefault(training, text)  # where units share one, the first stands for it
        if running:
            words.append("trained so far: " + "; ".join([*running.values()][:TRAININGS_IN_A_LINE]))
        if self.seconds_left(now) != 0:
            words.append(self.time_left(now) or "time left not known yet")
        return ", ".join(words)


def duration(seconds: float) -> str:
    """Seconds for people: "70 s", "12 min", "2.5 h"."""
    minutes = seconds / 60
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
