"""A report and figures that are made after a run, in its MLflow run: once, renewed, and never in the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.commands.leaderboard import FormatOptions, SourceOptions, TableOptions, leaderboard
from benchmarks.commands.options import FinishedOptions, PrintOptions
from benchmarks.common.output_lock import LOCK_NAME, writing_to
from benchmarks.execution.outcomes import Results
from benchmarks.results.mlflow import attach, sync
from benchmarks.results.mlflow.called import last_call
from tests.results.mlflow_runs import a_run, artifact, client_of, description_of, parents, rows_of, runs_of

AWAY = "http://user:secret@127.0.0.1:9"  # nobody listens there


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


def page_in(folder: Path, text: str) -> Path:
    file = folder / "my page.html"
    file.write_text(text, encoding="utf-8")
    return file


def units() -> list[dict[str, Any]]:
    return [description_of("ball"), description_of("net")]


def waiting(out: Path) -> list[Path]:
    return list((out / "mlflow-outbox").glob("*/file-*"))


def test_a_later_report_is_in_the_run_once_and_the_newest_stays(out: Path, tmp_path: Path) -> None:
    assert a_run(out) == 0
    (before,) = parents(runs_of(out))
    for text in ("first", "second", "second"):
        assert "in MLflow (sqlite" in attach(out, units(), {"report.html": page_in(tmp_path, text)})
    (parent,) = parents(runs_of(out))
    assert parent.info.run_id == before.info.run_id
    assert parent.info.status == "FINISHED"
    assert artifact(out, parent.info.run_id, "report.html").read_text(encoding="utf-8") == "second"
    names = {entry.path for entry in client_of(out).list_artifacts(parent.info.run_id)}
    assert {name for name in names if "report" in name or "page" in name} == {"report.html"}
    assert waiting(out) == []
    assert not (out / LOCK_NAME).exists()


def test_the_same_report_is_not_sent_again(out: Path, tmp_path: Path) -> None:
    assert a_run(out) == 0
    attach(out, units(), {"report.html": page_in(tmp_path, "page")})
    (parent,) = parents(runs_of(out))
    stored = artifact(out, parent.info.run_id, "report.html")
    os.utime(stored, (1, 1))
    attach(out, units(), {"report.html": page_in(tmp_path, "page")})
    assert stored.stat().st_mtime == 1


def test_figures_lie_in_a_folder_under_names_that_every_store_takes(out: Path, tmp_path: Path) -> None:
    assert a_run(out) == 0
    files = {f"figures/{name}": page_in(tmp_path, "x") for name in ("boxes-a.svg", "boxes-ä%20.svg", "boxes-ö%20.svg")}
    attach(out, units(), files)
    (parent,) = parents(runs_of(out))
    names = [entry.path for entry in client_of(out).list_artifacts(parent.info.run_id, "figures")]
    assert len(names) == 3
    assert "figures/boxes-a.svg" in names


def test_a_server_that_is_away_costs_a_warning_and_nothing_is_lost(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(out, AWAY, patience=0.1)
    called = last_call(out, "suite")
    assert called is not None
    assert "secret" not in called.uri
    monkeypatch.setattr("benchmarks.results.mlflow.sink.PATIENCE_SECONDS", 0.1)
    page = page_in(tmp_path, "page")
    assert attach(out, units(), {"report.html": page}) == ""
    page.unlink()
    assert "tags-bench sync" in capsys.readouterr().err
    assert len(waiting(out)) == 2  # the message and its copy of the page
    kept = next((out / "mlflow-outbox").glob("*/file-*.json")).parent
    (out / "mlflow-outbox" / "own-store").mkdir(exist_ok=True)
    for file in kept.iterdir():  # the server is back; here it is the store of the folder
        file.rename(out / "mlflow-outbox" / "own-store" / file.name)
    sent, left = sync(out)
    assert sent > 1
    assert left == 0
    (parent,) = parents(runs_of(out))
    assert artifact(out, parent.info.run_id, "report.html").read_text(encoding="utf-8") == "page"
    assert waiting(out) == []


def test_scans_go_to_no_server(out: Path, tmp_path: Path) -> None:
    a_run(out, AWAY, patience=0.1)
    answer = attach(out, units(), {"report.html": page_in(tmp_path, "a patient")}, private=True)
    assert "holds scans" in answer
    assert waiting(out) == []


def test_scans_go_into_the_store_of_the_folder(out: Path, tmp_path: Path) -> None:
    assert a_run(out) == 0
    attach(out, units(), {"report.html": page_in(tmp_path, "a patient")}, private=True)
    (parent,) = parents(runs_of(out))
    assert artifact(out, parent.info.run_id, "report.html").is_file()


def test_what_was_not_called_here_is_added_to_nothing(out: Path, tmp_path: Path) -> None:
    page = page_in(tmp_path, "page")
    assert attach(out, units(), {"report.html": page}) == ""  # no run was
    assert a_run(out) == 0
    others = [{**unit, "unit": f"other-{number}"} for number, unit in enumerate(units())]
    assert attach(out, others, {"report.html": page}) == ""
    assert attach(out, [description_of("ball", "another")], {"report.html": page}) == ""
    assert attach(out, [], {"report.html": page}) == ""
    (parent,) = parents(runs_of(out))
    assert "report.html" not in {entry.path for entry in client_of(out).list_artifacts(parent.info.run_id)}


def test_a_run_that_goes_on_sends_it(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the folder: the message waits in the outbox for it."""
    assert a_run(out) == 0
    monkeypatch.setattr("benchmarks.common.output_lock._gone", lambda path, holder: False)
    (out / LOCK_NAME).write_text("{}", encoding="utf-8")
    answer = attach(out, units(), {"report.html": page_in(tmp_path, "page")})
    assert "the run that goes on" in answer
    assert len(waiting(out)) == 2
    (out / LOCK_NAME).unlink()
    with writing_to(out, "run"):
        assert a_run(out) == 0
    assert waiting(out) == []
    (parent,) = parents(runs_of(out))
    assert artifact(out, parent.info.run_id, "report.html").read_text(encoding="utf-8") == "page"


def test_the_picture_of_a_leaderboard_is_sent_by_its_command(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert a_run(out) == 0
    rows = pd.concat([rows_of(unit) for unit in units()], ignore_index=True)
    monkeypatch.setattr("benchmarks.api.load_results", lambda *given, **more: Results("suite", rows, tuple(units())))
    picture = tmp_path / "t.svg"
    source = SourceOptions(FinishedOptions("suite", out), incomplete=True)
    leaderboard(source, TableOptions(), FormatOptions(svg=picture), PrintOptions())
    assert "in MLflow (sqlite" in capsys.readouterr().err
    (parent,) = parents(runs_of(out))
    assert artifact(out, parent.info.run_id, "leaderboard.svg").read_bytes() == picture.read_bytes()
