"""What of records, descriptions and figures becomes which metric, parameter or tag in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.prompting.protocol import Protocol
from benchmarks.results.leaderboard import mean_columns, summarise, with_seconds_of_answers

PLAN_TAG, OUT_TAG, SUITE_TAG, CALLED_TAG = "tagsbench.plan", "tagsbench.out", "tagsbench.suite", "tagsbench.called_at"
ENDED_TAG = "tagsbench.ended"  # the time of the call that has ended
KIND_TAG, KEY_TAG, UNIT_TAG, CONTENT_TAG = "tagsbench.kind", "tagsbench.key", "tagsbench.unit", "tagsbench.content"
CHECKPOINT_TAG, SWEEP_TAG, SYNTHETIC_TAG = "tagsbench.checkpoint", "tagsbench.sweep", "tagsbench.synthetic"
PARENT_TAG, NOTE_TAG, USER_TAG = "mlflow.parentRunId", "mlflow.note.content", "mlflow.user"
DATASET_TAG, TARGET_TAG = "tagsbench.dataset", "tagsbench.target"
VERDICT_TAG = "verdict"
FILE_TAG = "tagsbench.file."  # and the name of an artifact → digest of its content
SYNTHETIC_NOTE = "Synthetic phantoms: these numbers rank methods on generated data and say nothing about patients."

SUITE, RESULT, TRAINING, SWEEP, TRIAL = "suite", "result", "training", "sweep", "trial"
"""Kinds of runs."""

BOUNDS = ("dice_low", "dice_high", "failed")


def result_key(unit_key: str, protocol: str) -> str:
    """Names the run of one unit under one protocol within its parent."""
    return f"{unit_key}|{protocol}"


def identity_tags(kind: str, description: Mapping[str, Any], out: str) -> dict[str, str]:
    """Names what belongs to one checkpoint of one output folder: two folders never share it, for a budget in minutes
    gives other weights each time.
    """
    return {KIND_TAG: kind, CHECKPOINT_TAG: str(description["checkpoint"]), OUT_TAG: str(out)}


def protocols_of(description: Mapping[str, Any]) -> dict[str, str]:
    """The protocols of a unit: name → track."""
    given = [Protocol.from_mapping(one) for one in description["protocols"]]
    return {protocol.name: protocol.track for protocol in given}


def filter_of(tags: Mapping[str, str]) -> str:
    """MLflow's search for runs that carry all these tags.

    Its filters have no way to escape a quote, so an unusual character is any character in it.
    """
    return " and ".join(f"tags.`{name}` {_condition(value)}" for name, value in tags.items())


def _condition(value: str) -> str:
    plain = "".join(letter if letter.isalnum() or letter in " -./:" else "_" for letter in value)
    return f"= '{value}'" if plain == value else f"LIKE '{plain}'"


def tolerances_of(units: Sequence[Mapping[str, Any]]) -> list[float]:
    """Of the surface Dice in the rows of these units, in mm."""
    return list(dict.fromkeys(float(mm) for unit in units for mm in unit.get("tolerances_mm", ())))


def curves_of(rows: pd.DataFrame) -> list[tuple[int, dict[str, float]]]:
    """Of the rows of one protocol, at every step: means over cases, bounds of the mean Dice, failed rows.

    Failures count as worst. MLflow draws the steps as click curves, and its table shows the last. Where there is
    one step only it has the number 0, of which MLflow makes a bar and no curve. Four decimals: its table shows all.
    """
    if rows.empty:
        return []
    rows = with_seconds_of_answers(rows)
    curves = []
    steps = sorted(int(step) for step in rows["step"].unique())
    for step in steps:
        record = summarise(rows[rows["step"] == step]).iloc[0].to_dict()
        names = [*mean_columns(rows, "mlflow"), *BOUNDS]
        values = {metric_name(name): round(float(record[name]), 4) for name in names if pd.notna(record.get(name))}
        if "peak_memory_mb" in values:
            values["memory_gb"] = round(values["peak_memory_mb"] / 1000.0, 2)
        curves.append((step if len(steps) > 1 else 0, values))
    return curves


def metric_name(column: str) -> str:
    """MLflow allows letters, digits and _-./ and spaces in names."""
    return column.replace("@", "_at_")


def parameters_of(description: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    """What a run of a unit was made with."""
    keys = ("method", "method_version", "dataset", "dataset_version", "fold", "seed", "checkpoint", "workers",
            "empty_policy", "metrics_version", "contamination")  # fmt: skip
    parameters = {"protocol": protocol, "target": description["target"]["name"]}
    parameters |= {key: description[key] for key in keys}
    parameters |= {f"config.{key}": value for key, value in description["config"].items()}
    return parameters | {f"budget.{key}": value for key, value in description["budget"].items()}


def training_metrics(training: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a training that are numbers."""
    return {
        f"training/{key}": float(value)
        for key, value in training.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def training_costs(training: Mapping[str, Any] | None) -> dict[str, float]:
    """What a training cost, in the columns of the leaderboard."""
    if not training:
        return {}
    seconds = training.get("seconds_training", training.get("seconds_total"))
    costs = {"train_minutes": round(seconds / 60.0, 3)} if seconds is not None else {}
    return costs | ({"parameters": training["parameters"]} if "parameters" in training else {})


def seconds_of_work(rows: pd.DataFrame) -> float:
    """Seconds of the method's own work on the cases; what is known where nobody looked at the clock."""
    return float(sum(rows[name].sum() for name in ("seconds_open", "seconds_segment") if name in rows))


def marked(name: str, description: Mapping[str, Any]) -> str:
    """The name of a run, with a mark at its end for phantoms."""
    return f"{name} [synthetic]" if description["synthetic"] else name


def synthetic_tags(description: Mapping[str, Any]) -> dict[str, str]:
    synthetic = bool(description["synthetic"])
    return {SYNTHETIC_TAG: str(synthetic).lower()} | ({NOTE_TAG: SYNTHETIC_NOTE} if synthetic else {})


def device_of(rows: pd.DataFrame) -> str:
    """On what the method worked, as most rows say; empty where they do not."""
    if "device" not in rows:
        return ""
    named = rows["device"].dropna()
    named = named[named != ""]
    return str(named.mode().iloc[0]) if len(named) else ""
