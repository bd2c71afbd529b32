"""What the trials of a sweep have done so far: kept on disk by the driver at every event, told to whoever watches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError
from benchmarks.common.files import write_json
from benchmarks.results.sweep import FAILED, FINISHED, METRIC, NOT_RUN, RUNNING, STOPPED, Trial

FORMAT = 1


@dataclass
class Entry:
    """One trial.

    Attributes:
        name: Ray Tune's name of it.
        experiment: Tune's experiment that it is one of; empty in a log of before this was kept.
        status, problem: as in `Trial.status`, which joins them.
    """

    name: str
    number: int
    config: dict[str, Any]
    status: str = RUNNING
    problem: str = ""
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    experiment: str = ""


class SweepLog:
    """The trials of one sweep.

    Args:
        path: of the file; read if it is there.
        rungs: of a whole trial.
        checkpoint: a trial's setting → the folder of its checkpoint.
        changed: called after every event.
    """

    def __init__(
        self,
        path: Path,
        rungs: int,
        checkpoint: Callable[[Mapping[str, Any]], Path],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._path, self._rungs, self._checkpoint, self.changed = path, rungs, checkpoint, changed
        self._seen: set[str] = set()
        self._first_number, self.experiment_ended = 0, True
        self.experiments: list[str] = []
        self.entries: dict[str, Entry] = {}
        if path.is_file():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError("of another version of tags-bench")
            self._first_number, self.experiments = int(content["first_number"]), list(content["experiments"])
            self.experiment_ended = bool(content["experiment_ended"])
            self.entries = {one["name"]: Entry(**one) for one in content["trials"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the log of the sweep {self._path} cannot be read ({' '.join(str(error).split())[:120]}); remove its "
                "folder to begin anew"
            ) from error

    def began(self, name: str, config: Mapping[str, Any], place: int) -> None:
        """A trial is started, or goes on; `place`: which of its experiment, from 0."""
        self._seen.add(name)
        if name not in self.entries:
            number = self._first_number + place
            if number in {one.number for one in self.entries.values()}:  # of one that an ended call has lost
                number = self._next_number()
            self.entries[name] = Entry(name, number, dict(config), experiment="".join(self.experiments[-1:]))
        self.entries[name].status, self.entries[name].problem = RUNNING, ""
        self._save()

    def reported(self, name: str, result: Mapping[str, Any]) -> None:
        """A trial has reached a rung; one that is told again changes nothing."""
        one = self.entries[name]
        one.seconds = max(one.seconds, float(result.get("time_total_s", 0.0)))
        one.problem = str(result.get("problem", ""))
        for place, figures in enumerate(result.get("validations", ()), start=1):
            self._note(one, {**figures, "rung": place})
        if not one.problem:
            self._note(one, result)
        self._save()

    def _note(self, one: Entry, figures: Mapping[str, Any]) -> None:
        rung = int(figures["rung"])
        if rung not in {int(point["rung"]) for point in one.curve}:
            names = ("step", "seconds", METRIC, "loss")
            kept = {name: float(figures[name]) for name in names if name in figures}
            one.curve.append({"rung": rung, **kept, "at": time.time()})
            one.curve.sort(key=lambda point: point["rung"])

    def ended(self, name: str, machine: str = "") -> None:
        """A trial is over; `machine`: why the machine did not let it come to its end."""
        one = self.entries[name]
        if machine:
            one.status, one.problem = NOT_RUN, machine
        elif one.problem:
            one.status = FAILED
        else:
            one.status = FINISHED if len(one.curve) >= self._rungs else STOPPED
        self._save()

    def forget_lost(self) -> None:
        """Drop what an ended call had begun and this one has not gone on with: its setting is suggested again."""
        self.entries = {name: one for name, one in self.entries.items() if one.status != RUNNING or name in self._seen}
        self._save()

    def has(self, config: Mapping[str, Any]) -> bool:
        """Whether a trial has this setting."""
        return _as_kept(config) in [_as_kept(one.config) for one in self.entries.values()]

    @property
    def running(self) -> int:
        return sum(one.status == RUNNING for one in self.entries.values())

    @property
    def unfinished(self) -> list[str]:
        """The experiments to take up, in order: the last one if it was cut off, and those with trials to go on with."""
        left = {one.experiment for one in self.entries.values() if one.status in (RUNNING, NOT_RUN)}
        cut_off = [] if self.experiment_ended else self.experiments[-1:]
        return [name for name in self.experiments if name in (*left, *cut_off) or "" in left]

    @property
    def over(self) -> int:
        """Trials that are not to be run again."""
        return sum(one.status in (FINISHED, STOPPED, FAILED) for one in self.entries.values())

    def begin_experiment(self, name: str) -> None:
        """The trials to come are Tune's experiment of that name; their numbers follow those that are there."""
        self._first_number = self._next_number()
        self.experiments.append(name)
        self.experiment_ended = False
        self._save()

    def end_experiment(self) -> None:
        """All its trials are over."""
        self.experiment_ended = True
        self._save()

    def _next_number(self) -> int:
        return 1 + max((one.number for one in self.entries.values()), default=-1)

    def trials(self) -> list[Trial]:
        """All trials in the order in which they were begun."""
        return [self._trial(one) for one in sorted(self.entries.values(), key=lambda one: one.number)]

    def _trial(self, one: Entry) -> Trial:
        last = one.curve[-1] if one.curve and one.status != FAILED else {}
        return Trial(
            number=one.number,
            config=dict(one.config),
            validation_dice=float(last.get(METRIC, 0.0)),
            rungs=int(last.get("rung", 0)),
            seconds=one.seconds,
            status=f"{one.status}: {one.problem}" if one.problem else one.status,
            checkpoint=self._checkpoint(one.config) if one.status == FINISHED else None,
            curve=tuple(one.curve),
        )

    def _save(self) -> None:
        trials = [asdict(one) for one in self.entries.values()]
        experiments = {"experiments": self.experiments, "experiment_ended": self.experiment_ended}
        content = {"format": FORMAT, "first_number": self._first_number, **experiments, "trials": trials}
        write_json(self._path, content)
        self.changed()


def _as_kept(config: Mapping[str, Any]) -> Any:
    """The setting as it comes back from the file: a tuple is a list there."""
    return json.loads(json.dumps(dict(config)))
