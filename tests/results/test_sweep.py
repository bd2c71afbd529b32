"""Tables and figures of a sweep, and what MLflow has of one while it goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results.mlflow import MlflowSink, default_uri, quiet_mlflow
from benchmarks.results.sweep import Trial, as_rows, best_first, importance, trial_of
from benchmarks.results.sweep_figures import sweep_figures


def trial(number: int, dice: float = 0.5, rungs: int = 4, status: str = "finished", **config: Any) -> Trial:
    curve = tuple(
        {
            "rung": n,
            "step": 10 * n,
            "seconds": 1.0 * n,
            "validation_dice": dice * n / rungs,
            "loss": 1 / n,
            "at": 100.0 + n,
        }
        for n in range(1, rungs + 1)
    )
    return Trial(number, config, dice, rungs, 4.0, status, None, curve)


def noisy_trials(number: int = 40) -> list[Trial]:
    """The rate decides nearly all on a logarithmic scale, the form a little, the seed nothing; half have "extra"."""
    random = np.random.default_rng(3)
    found = []
    for place in range(number):
        rate, form = float(10 ** random.uniform(-4, -1)), str(random.choice(["a", "b"]))
        config = {"rate": rate, "form": form, "seed": int(random.integers(0, 9))}
        if place % 2:
            config["extra"] = float(random.uniform())
        dice = 1 - abs(math.log10(rate) + 2.5) / 2 + 0.1 * (form == "a")
        found.append(trial(place, dice, **config))
    return found


def test_importance_finds_the_knob_that_decides() -> None:
    table = importance(noisy_trials()).set_index("knob")
    assert table.index[0] == "rate"
    assert table.loc["rate", "importance"] > 0.7
    assert table.loc["seed", "importance"] < 0.15
    assert table["conditional"].to_dict() == {"rate": False, "form": False, "seed": False, "extra": True}
    assert table["trials"].to_dict() == {"rate": 40, "form": 40, "seed": 40, "extra": 20}
    again = importance(noisy_trials()).set_index("knob")
    assert again.equals(table)


def test_few_or_equal_trials_say_nothing_of_importance() -> None:
    assert importance(noisy_trials(7)).empty
    failed = [trial(n, 0.0, 0, "failed: ValueError", rate=1.0) for n in range(20)]
    assert importance(failed).empty
    equal = importance([trial(n, 0.5, rate=0.1 * (n + 1), form="a") for n in range(12)])
    assert equal["importance"].tolist() == [0.0, 0.0]


def test_the_table_and_its_order() -> None:
    trials = [
        trial(0, 0.2, rate=0.123456, form="a"),
        trial(1, 0.9, 1, "stopped early", rate=0.1),
        trial(2, 0.0, 0, "failed: ValueError", rate=0.1),
        trial(3, 0.4, rate=0.1),
    ]
    ordered = best_first(trials)
    assert [one.number for one in ordered] == [3, 0, 1, 2]
    rows = as_rows(ordered)
    assert rows[0] == {
        "trial": 3, "validation_dice": 0.4, "rungs": 4, "seconds": 4.0, "status": "finished", "rate": 0.1, "form": "–",
    }  # fmt: skip
    assert rows[1]["rate"] == 0.123
    assert [trial_of(one.as_plain()) for one in trials] == trials


def test_the_figures_show_knobs_and_trials(tmp_path: Path) -> None:
    parallel, bars = sweep_figures(noisy_trials(), tmp_path, "synthetic")
    text = parallel.read_text(encoding="utf-8")
    for word in ("rate", "form", "extra", "validation_dice", "synthetic"):
        assert f">{word}<" in text
    assert text.count("stroke-dasharray") == 0
    assert "share of the spread" in bars.read_text(encoding="utf-8")
    assert "extra *" in bars.read_text(encoding="utf-8")
    (alone,) = sweep_figures([trial(0, rate=0.1), trial(1, 0.3, 1, "stopped early", form=[1, 2])], tmp_path / "few")
    assert alone.read_text(encoding="utf-8").count("stroke-dasharray") == 1  # the one that was stopped
    sweep_figures([trial(0, 0.0, 0, "failed: x", rate=1.0)], tmp_path / "none")


DESCRIPTION = {"suite": "clicks", "unit": "u1", "method": "mock", "dataset": "kits21", "synthetic": False,
               "target": {"name": "kidney-tumor"}}  # fmt: skip


def test_mlflow_follows_a_sweep_and_keeps_one_run_for_each_trial(tmp_path: Path) -> None:
    quiet_mlflow()
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=default_uri(tmp_path))

    def told(trials: list[Trial], ended: bool) -> dict[str, Any]:
        sink = MlflowSink(tmp_path)
        sink.log_sweep(DESCRIPTION, trials, "s1", ended)
        assert sink.close() == 0
        ids = [one.experiment_id for one in client.search_experiments()]
        return {run.info.run_name: run for run in client.search_runs(ids)}

    going = trial(1, 0.2, 2, "running", rate=0.2)
    runs = told([trial(0, 0.4, rate=0.1), going], ended=False)
    assert sorted(runs) == ["mock · kits21 · sweep", "mock · kits21 · trial 0", "mock · kits21 · trial 1"]
    assert {name: run.info.status for name, run in runs.items()} == {
        "mock · kits21 · sweep": "RUNNING", "mock · kits21 · trial 0": "FINISHED", "mock · kits21 · trial 1": "RUNNING",
    }  # fmt: skip
    parent = runs["mock · kits21 · sweep"]
    assert parent.data.tags["best.rate"] == "0.1"
    assert all(
        run.data.tags["mlflow.parentRunId"] == parent.info.run_id for name, run in runs.items() if "trial" in name
    )

    runs = told([trial(0, 0.4, rate=0.1), trial(1, 0.8, rate=0.2)], ended=True)
    assert len(runs) == 3
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["mock · kits21 · sweep"].data.tags["best.rate"] == "0.2"
    points = client.get_metric_history(runs["mock · kits21 · trial 1"].info.run_id, "validation_dice")
    assert [(point.step, point.timestamp) for point in points] == [(n, 1000 * (100 + n)) for n in (1, 2, 3, 4)]
    assert runs["mock · kits21 · trial 1"].data.params == {"rate": "0.2"}
