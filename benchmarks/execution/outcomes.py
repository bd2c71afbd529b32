"""What a call gives back: rows as a data frame, where things lie, and a short picture for a notebook."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.execution.ablation import Variant, ablation_table
from benchmarks.execution.course import NotRun
from benchmarks.results import leaderboard as boards
from benchmarks.results.statistics import higher_is_better
from benchmarks.results.sweep import NOT_RUN, Trial, as_rows, importance

Description = Mapping[str, Any]
"""What a unit is, as in its `unit.json`."""


@dataclass(frozen=True, repr=False)
class Results:
    """The records of a suite.

    Attributes:
        suite: its name.
        rows: one for each unit × case × target × protocol × step.
        units: what the units are.
    """

    suite: str
    rows: pd.DataFrame
    units: tuple[Description, ...]

    @property
    def synthetic(self) -> bool:
        """Whether any of the data are phantoms."""
        return any(unit["synthetic"] for unit in self.units)

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """Means and intervals, one row for each dataset, target, track, protocol and method; ranked inside these."""
        return boards.leaderboard_of(self.rows, self.units)

    @cached_property
    def overall(self) -> pd.DataFrame:
        """Over all datasets: means of means with intervals, ranks, and who is better; for each track and protocol."""
        return boards.overall_of(self.leaderboard, self.rows)

    @cached_property
    def notes(self) -> list[str]:
        """What must be said beside the leaderboard, such as failed cases."""
        return boards.notes_of(self.rows, self.units)

    def check_complete(self) -> None:
        """Raises UserError if a row of a unit is missing."""
        boards.check_complete(self.rows, self.units)

    def check_metric(self, metric: str) -> None:
        """Raises UserError, with the nearest name, for a metric that these rows do not have."""
        if metric in self.rows:
            higher_is_better(metric)
            return
        numbers = self.rows.select_dtypes("number").columns
        known = [str(name) for name in numbers if _has_direction(str(name))]
        raise UserError(f"no metric '{metric}' in these records; {nearest_name(metric, known)}")

    def details(
        self, metric: str = "dice", margin: float | None = None, only: Sequence[str] = ()
    ) -> dict[str, pd.DataFrame]:
        """The tables beside the leaderboard, by name; see `benchmarks.results.leaderboard.details`."""
        self.check_metric(metric)
        return boards.details(self.rows, self.units, metric, margin, only)

    def __repr__(self) -> str:
        methods = dict.fromkeys(str(unit["method"]) for unit in self.units)
        return f"<{type(self).__name__} of suite '{self.suite}': {len(self.rows)} rows, {', '.join(methods)}>"

    def _repr_html_(self) -> str:
        from benchmarks.results.tables import leaderboard_page, print_page

        page = leaderboard_page(self.leaderboard, self.overall, self.notes)
        return as_html(lambda console: print_page(page, console))


@dataclass(frozen=True, repr=False)
class RunResult(Results):
    """What a run came to.

    Attributes:
        computed: cases that were computed now; the others were finished before.
        cases: cases of all units together.
        not_run: cases that the machine, not the method, kept from being evaluated; the next run takes them up.
        seconds: that this call took.
        places: where things lie, by what they are.
    """

    computed: int = 0
    cases: int = 0
    not_run: tuple[NotRun, ...] = ()
    seconds: float = 0.0
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every case has its rows."""
        return not self.not_run

    def __repr__(self) -> str:
        told = f"{self.computed} of {self.cases} cases computed now, {self.seconds:.0f} s"
        missing = "" if self.complete else f", {len(self.not_run)} not run"
        return f"{super().__repr__()[:-1]}; {told}{missing}; records in {self.places.get('records', '?')}>"

    def not_run_lines(self) -> list[str]:
        """What was not run and why; while there is any, nothing is ranked."""
        lines = [f"not run: {one.unit}, {one.case}: {one.reason}" for one in self.not_run]
        return [*lines, "nothing is ranked before these are run; the same call takes them up again"] if lines else []

    def _repr_html_(self) -> str:
        if self.complete:
            return super()._repr_html_()
        return _lines_as_html(self.not_run_lines())


@dataclass(frozen=True, repr=False)
class AblationResult(RunResult):
    """A run of a method whole and without each of its parts.

    Attributes:
        variants: of the method, the whole one first.
    """

    variants: tuple[Variant, ...] = ()

    @classmethod
    def of(cls, run: RunResult, variants: Sequence[Variant]) -> AblationResult:
        """The same run, with what was varied in it."""
        return cls(**{one.name: getattr(run, one.name) for one in fields(RunResult)}, variants=tuple(variants))

    def table(self, metric: str = "dice") -> pd.DataFrame:
        """Every variant against the whole method; see `benchmarks.execution.ablation.ablation_table`."""
        self.check_metric(metric)
        return ablation_table(self.rows, list(self.variants), metric)

    def _repr_html_(self) -> str:
        if not self.complete:
            return super()._repr_html_()
        from benchmarks.results.tables import ablation_page, print_page

        page = ablation_page(self.table(), "dice", self.synthetic)
        return as_html(lambda console: print_page(page, console))


@dataclass(frozen=True)
class NotTrained:
    """A unit without a checkpoint, by its title, and why."""

    unit: str
    reason: str


@dataclass(frozen=True, repr=False)
class TrainingResult:
    """Trained models.

    Attributes:
        trainings: figures of each: method, dataset, steps, seconds, loss curve, `checkpoint` (the folder).
        units: what the units are, in the same order.
        seconds: that this call took.
        places: where things lie, by what they are.
        failed: methods that could not be trained.
        not_run: trainings that the machine, not the method, kept from their end; the next call goes on with them.
    """

    trainings: tuple[Mapping[str, Any], ...]
    units: tuple[Description, ...]
    seconds: float
    places: Mapping[str, str]
    failed: tuple[NotTrained, ...] = ()
    not_run: tuple[NotTrained, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every method has its checkpoint."""
        return not self.failed and not self.not_run

    def unfinished_lines(self) -> list[str]:
        """What has no checkpoint, and why."""
        lines = [f"failed: {one.unit}: {one.reason}" for one in self.failed]
        lines += [f"not run: {one.unit}: {one.reason}" for one in self.not_run]
        return [*lines, "the same call takes up again what was not run"] if self.not_run else lines

    @property
    def rows(self) -> pd.DataFrame:
        """One row for each training, without its curves."""
        return pd.DataFrame([short_figures(one) for one in self.trainings])

    def __repr__(self) -> str:
        titles = ", ".join(f"{unit['method']} on {unit['dataset']}" for unit in self.units)
        missing = "".join(f", {len(n)} {word}" for n, word in ((self.failed, "failed"), (self.not_run, "not run")) if n)
        models = self.places["trained models"]
        return f"<TrainingResult: {titles or 'none'}{missing}; {self.seconds:.0f} s; models in {models}>"

    def _repr_html_(self) -> str:
        unfinished = _lines_as_html(self.unfinished_lines())
        return str(self.rows.to_html(index=False)) + ("" if self.complete else unfinished)


@dataclass(frozen=True, repr=False)
class TuningResult:
    """A sweep over hyper-parameters.

    Attributes:
        unit: what was varied.
        trials: best first.
        best_file: an entry for the `methods:` of a suite with the best setting.
        seconds: that this call took.
        places: where things lie, by what they are.
    """

    unit: Description
    trials: tuple[Trial, ...]
    best_file: Path
    seconds: float
    places: Mapping[str, str]

    @property
    def best(self) -> dict[str, Any]:
        """The setting of the best trial."""
        return self.trials[0].config

    @property
    def rows(self) -> pd.DataFrame:
        """One row for each trial, best first."""
        return pd.DataFrame(as_rows(self.trials))

    @property
    def importance(self) -> pd.DataFrame:
        """Which knobs mattered; see `benchmarks.results.sweep.importance`. Empty with few trials."""
        return importance(self.trials)

    @property
    def not_run(self) -> tuple[Trial, ...]:
        """Trials that the machine, not the method, kept from their end; the next call goes on with them."""
        return tuple(one for one in self.trials if one.status.startswith(NOT_RUN))

    def __repr__(self) -> str:
        title = f"{self.unit['method']} on {self.unit['dataset']}"
        return f"<TuningResult of {title}: {len(self.trials)} trials, {self.seconds:.0f} s; best: {self.best}>"

    def _repr_html_(self) -> str:
        return str(self.rows.to_html(index=False))


@dataclass(frozen=True)
class ReportChoice:
    """What a report shows.

    Attributes:
        metric, margin: of the comparisons, as for `Results.details`.
        incomplete: show a run that is not finished, without comparisons.
        scans: show reduced crops of the scans; False shows outlines alone.
        masks: show cases at all; False makes a page of tables and charts.
    """

    metric: str = "dice"
    margin: float | None = None
    incomplete: bool = False
    scans: bool = True
    masks: bool = True


@dataclass(frozen=True, repr=False)
class ReportResult:
    """A report that was written.

    Attributes:
        path: the page.
        pictures: cases that can be opened.
        without_picture: dataset/case/target → why its files could not be shown.
        scans: whether the page holds crops of scans: then it is as private as they are.
        mlflow: where it is in MLflow, or why not; empty if no run was called from this output folder, or its server
            is away (a warning says so).
    """

    path: Path
    megabytes: float
    pictures: int
    without_picture: Mapping[str, str]
    scans: bool
    mlflow: str = ""

    def __repr__(self) -> str:
        lines = [f"{self.path}: {self.megabytes:.1f} MB, {self.pictures} cases with pictures"]
        if self.scans:
            lines.append("it holds reduced crops of the scans; --no-scans leaves them out")
        if self.mlflow:
            lines.append(self.mlflow)
        lines += [f"no picture of {case}: {reason}" for case, reason in list(self.without_picture.items())[:5]]
        if len(self.without_picture) > 5:
            lines.append(f"… and of {len(self.without_picture) - 5} more")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Prediction:
    """One scan, segmented.

    Attributes:
        mask: the file that was written.
        figures: mask, modality, voxels, millilitres, clicks, seconds_open, seconds_segment, notes, preview.
        unit: what the method was trained and evaluated on.
    """

    mask: Path
    figures: Mapping[str, Any]
    unit: Description

    def __repr__(self) -> str:
        return f"<Prediction {self.mask}: {self.figures['millilitres']:.2f} ml by {self.unit['method']}>"


@dataclass(frozen=True, repr=False)
class TablePrediction:
    """Many scans, segmented by one method.

    Attributes:
        cases: one mapping for each row of the table: line, scan, mask, status ("ok", "failed", "was there"), reason,
            voxels, millilitres, seconds.
        unit: what the method was trained and evaluated on.
    """

    cases: tuple[Mapping[str, Any], ...]
    unit: Description

    @property
    def failed(self) -> tuple[Mapping[str, Any], ...]:
        """The rows without a mask."""
        return tuple(one for one in self.cases if one["status"] == "failed")

    @property
    def rows(self) -> pd.DataFrame:
        """One row for each scan."""
        return pd.DataFrame([dict(one) for one in self.cases])

    def __repr__(self) -> str:
        return f"<TablePrediction by {self.unit['method']}: {len(self.cases)} scans, {len(self.failed)} failed>"

    def _repr_html_(self) -> str:
        return str(self.rows.to_html(index=False))


@dataclass(frozen=True, repr=False)
class ScoreResult:
    """Masks of a folder against labels.

    Attributes:
        cases: one mapping for each, with its metrics, status and reason.
        means: over all cases, failed ones at their worst values.
    """

    cases: tuple[Mapping[str, Any], ...]
    means: Mapping[str, float]

    @property
    def rows(self) -> pd.DataFrame:
        """One row for each case."""
        return pd.DataFrame([dict(one) for one in self.cases])

    def __repr__(self) -> str:
        return f"<ScoreResult: {len(self.cases)} cases, mean Dice {self.means['dice']:.3f}>"

    def _repr_html_(self) -> str:
        return str(self.rows.to_html(index=False))


def short_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a training without curves and lists."""
    return {key: value for key, value in figures.items() if not isinstance(value, (list, dict))}


def as_html(show: Callable[[Any], None]) -> str:
    """What `show` prints on a rich console, as preformatted HTML."""
    from rich.console import Console

    console = Console(file=io.StringIO(), record=True, width=120)
    show(console)
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")


def _lines_as_html(lines: Sequence[str]) -> str:
    """Lines as they are: brackets and colons in names are no markup."""
    from rich.text import Text

    return as_html(lambda console: console.print(Text("\n".join(lines))))


def _has_direction(metric: str) -> bool:
    try:
        higher_is_better(metric)
    except UserError:
        return False
    return True
