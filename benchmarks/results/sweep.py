"""What came of a sweep over hyper-parameters: its trials, which knobs mattered, and figures of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

METRIC = "validation_dice"

FINISHED, STOPPED, RUNNING = "finished", "stopped early", "running"
FAILED, NOT_RUN = "failed", "not run"

LEAST_TRIALS = 8  # for a statement on which knob matters
IMPORTANCE_SEED = 0


@dataclass(frozen=True)
class Trial:
    """One point of the sweep and what came of it.

    Attributes:
        config: the settings that were searched, without those whose condition did not hold.
        validation_dice: at the last rung; 0 for a failed one.
        rungs: how many validations it reached.
        status: "finished", "stopped early", "running", "failed: …" (the method) or "not run: …" (the machine).
        checkpoint: of a finished one.
        curve: one mapping for each rung: "rung", "step", "seconds" of training, "validation_dice", "loss", "at"
            (seconds since 1970).
    """

    number: int
    config: dict[str, Any]
    validation_dice: float
    rungs: int
    seconds: float
    status: str
    checkpoint: Path | None
    curve: tuple[Mapping[str, float], ...] = field(default=())

    @property
    def has_result(self) -> bool:
        """Whether its Dice says something about its setting."""
        return self.status in (FINISHED, STOPPED)

    def as_plain(self) -> dict[str, Any]:
        """JSON-like."""
        return {**asdict(self), "checkpoint": str(self.checkpoint or ""), "curve": [dict(one) for one in self.curve]}


def trial_of(plain: Mapping[str, Any]) -> Trial:
    """The trial that `Trial.as_plain` gave."""
    checkpoint = Path(plain["checkpoint"]) if plain["checkpoint"] else None
    return Trial(**{**plain, "checkpoint": checkpoint, "curve": tuple(plain.get("curve", ()))})


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Those that went further before all others, then by Dice; failed ones and those without a result last."""
    return sorted(trials, key=lambda one: (not one.has_result, -one.rungs, -one.validation_dice, one.number))


def as_rows(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The trials as a table, in their order; "–" where a knob did not exist in a trial."""
    knobs = list(dict.fromkeys(knob for one in trials for knob in one.config))
    return [
        {
            "trial": one.number,
            METRIC: round(one.validation_dice, 4),
            "rungs": one.rungs,
            "seconds": round(one.seconds, 1),
            "status": one.status,
            **{knob: _short(one.config[knob]) if knob in one.config else "–" for knob in knobs},
        }
        for one in trials
    ]


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def importance_rows(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """`importance` as a table."""
    return [
        {
            "knob": row["knob"],
            "importance": round(float(row["importance"]), 3),
            "trials": row["trials"],
            "exists": "in a part of them" if row["conditional"] else "always",
        }
        for row in importance(trials).to_dict("records")
    ]


def importance(trials: Sequence[Trial]) -> pd.DataFrame:
    """How much of the spread of the Dice at the first rung each knob explains, by Optuna's fANOVA.

    The first rung is the only one that all trials reach with the same share of the budget. A knob that exists in a
    part of the trials only is judged among these, so its share is not one of the same whole.

    Returns:
        Columns "knob", "importance" (0 to 1), "trials" (how many it is from), "conditional"; the greatest first. Empty
        with fewer than `LEAST_TRIALS` results.
    """
    import optuna

    known = [one for one in trials if one.has_result and one.curve]
    columns = ["knob", "importance", "trials", "conditional"]
    if len(known) < LEAST_TRIALS:
        return pd.DataFrame(columns=columns)
    knobs = list(dict.fromkeys(knob for one in known for knob in one.config))
    common = [knob for knob in knobs if all(knob in one.config for one in known)]
    rows = [(knob, share, len(known), False) for knob, share in _shares(optuna, known, common).items()]
    for knob in knobs:
        holding = [one for one in known if knob in one.config]
        if knob not in common and len(holding) >= LEAST_TRIALS:
            rows.append((knob, _shares(optuna, holding, [*common, knob]).get(knob, 0.0), len(holding), True))
    return pd.DataFrame(rows, columns=columns).sort_values("importance", ascending=False, ignore_index=True)


def _shares(optuna: Any, trials: Sequence[Trial], knobs: Sequence[str]) -> dict[str, float]:
    """Of knobs that all of the trials have. A knob with one value only explains nothing."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        distributions = {knob: _distribution(optuna, [one.config[knob] for one in trials]) for knob in knobs}
        study = optuna.create_study(direction="maximize")
        for one in trials:
            study.add_trial(
                optuna.trial.create_trial(
                    params={knob: _word(one.config[knob]) for knob in knobs},
                    distributions=distributions,
                    value=float(one.curve[0][METRIC]),
                )
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=IMPORTANCE_SEED)
        if len({trial.value for trial in study.trials}) < 2:
            return dict.fromkeys(knobs, 0.0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(knobs)))
    finally:
        optuna.logging.set_verbosity(verbosity)


def _distribution(optuna: Any, values: Sequence[Any]) -> Any:
    """A range for numbers, on a logarithmic scale if they span more than a decade; otherwise the values."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if numbers and len(set(values)) > 1:
        low, high = float(min(values)), float(max(values))
        return optuna.distributions.FloatDistribution(low, high, log=low > 0 and high > 10 * low)
    return optuna.distributions.CategoricalDistribution(sorted({_word(value) for value in values}, key=str))


def _word(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool)) else str(value)
