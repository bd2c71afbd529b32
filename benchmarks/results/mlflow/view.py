"""What a person sees first in MLflow: the note of an experiment, and views of its run table that are kept with it.

MLflow has no way to set the columns that a run table shows by default. It keeps named views as tags of the
experiment, in the form in which its own button "Share" writes them; the note links to them, and they are in the list
of saved views.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from benchmarks.results.mlflow.values import KIND_TAG, PARENT_TAG, RESULT, TRAINING, VERDICT_TAG, filter_of

BY_DICE = "metrics.`dice`"
VIEW_TAG = "mlflow.sharedViewState."
LEADERBOARD_VIEW, TRAINING_VIEW = "leaderboard", "training"

TRAINING_PAGES = "workflowType=machine_learning"
"""MLflow opens on pages for language models unless an address, or the switch at its top, says otherwise."""

RESULT_METRICS = ("rank", "dice", "dice_low", "dice_high", "nsd_at_2mm", "hd95_mm", "failed", "train_minutes",
                  "memory_gb", "seconds_segment")  # fmt: skip
TRAINING_METRICS = ("train/loss", "training/steps", "training/seconds_training", "training/parameters")


def saved_views(tolerances_mm: Sequence[float], parent: str, at: int) -> dict[str, str]:
    """The tags of an experiment that hold its views: rows of the leaderboard of the run `parent`, and all trainings.

    Args:
        tolerances_mm: of the surface Dice in these rows.
        at: when the message was written that tells of them, in milliseconds, see `written_at`.
    """
    tolerances = [f"nsd_at_{mm:g}mm" for mm in tolerances_mm]
    metrics = list(RESULT_METRICS)
    if tolerances and "nsd_at_2mm" not in tolerances:
        metrics[metrics.index("nsd_at_2mm")] = tolerances[0]
    leaderboard = _view(
        [*(_column("metrics", name) for name in metrics), _column("tags", VERDICT_TAG), _column("tags", "device")],
        search=rows_of(parent),
        order=BY_DICE,
    )
    training = _view(
        [_column("metrics", name) for name in TRAINING_METRICS], search=filter_of({KIND_TAG: TRAINING}), order=""
    )
    states = {LEADERBOARD_VIEW: ("Leaderboard", leaderboard), TRAINING_VIEW: ("Trainings", training)}
    return {
        f"{VIEW_TAG}{key}": json.dumps({"name": name, "createdAt": at, "updatedAt": at, "state": json.dumps(state)})
        for key, (name, state) in states.items()
    }


def written_at(view: str) -> int:
    """When the message was written that a view tells of, in milliseconds; 0 if it is empty."""
    return int(json.loads(view or "{}").get("updatedAt", 0))


def rows_of(parent: str) -> str:
    """The search for the rows of one leaderboard: an experiment has those of earlier plans, too."""
    return filter_of({KIND_TAG: RESULT, PARENT_TAG: parent})


def _view(columns: list[str], search: str, order: str) -> dict[str, Any]:
    """What the page of an experiment takes up: its columns in their order, its search and its sorting."""
    facets = {"searchFilter": search}
    if order:
        facets |= {"orderByKey": order, "orderByAsc": False}  # type: ignore[dict-item]
    widths = {column: 110 for column in columns if column.startswith("metrics")}
    return {"selectedColumns": columns, "columnOrder": columns, "columnWidths": widths, **facets}


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def view_link(experiment: str, view: str) -> str:
    """The address of a view, from any page of MLflow."""
    return f"#/experiments/{quote(experiment)}/runs?{TRAINING_PAGES}&viewStateShareKey={view}"


def rows_link(experiment: str, parent: str) -> str:
    """The address of the rows of one leaderboard, best first."""
    search = urlencode({"searchFilter": rows_of(parent), "orderByKey": BY_DICE, "orderByAsc": "false"}, quote_via=quote)
    return f"#/experiments/{quote(experiment)}/runs?{TRAINING_PAGES}&{search}"


def run_link(experiment: str, run: str, tab: str = "") -> str:
    return f"#/experiments/{quote(experiment)}/runs/{quote(run)}{tab}?{TRAINING_PAGES}"


def experiment_note(tables: str, plan: Mapping[str, Any], experiment: str, parent: str) -> str:
    """The note of an experiment: where to look, then the tables of the run that ended last."""
    links = " · ".join(
        (
            f"[Leaderboard as a run table]({view_link(experiment, LEADERBOARD_VIEW)})",
            f"[Trainings]({view_link(experiment, TRAINING_VIEW)})",
            f"[The run, with report and tables]({run_link(experiment, parent, '/artifacts')})",
        )
    )
    return f"{links} · suite {plan['suite']}, seed {plan['seed']}. {tables}"


def run_note(tables: str, experiment: str, parent: str) -> str:
    """The note of the run of a suite."""
    return f"[Its rows as a run table]({rows_link(experiment, parent)})\n\n{tables}"
