"""What a person sees when records are damaged: a line that names the file, and a run that mends it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import output_lock
from benchmarks.results.records import RecordStore

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.ray

SUITE = """
name: small
datasets: [{name: kits21, source: phantom, cases: 6}]
methods: [ball, region-growing]
protocols: [centre-click]
budget: {steps: 1}
save_predictions: false
"""


def board_of(outcome: Any) -> list[tuple[Any, ...]]:
    assert outcome.code == 0, outcome.err
    content = json.loads(outcome.out)
    rows = content["leaderboard"] if isinstance(content, dict) else content
    return [(row["method"], row["dice"], row["hd95_mm"], row["cases"]) for row in rows]


def test_a_run_through_everything_that_can_happen_to_its_records(
    call: Callable[..., Any], tmp_path: Path, local_ray: None, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "s.yaml").write_text(SUITE)
    run = ("run", "--suite", "s.yaml", "--all-datasets", "--out", "out", "--json")
    show = ("leaderboard", "--suite", "small", "--out", "out", "--json")
    board = board_of(call(*run))
    assert {row[0] for row in board} == {"ball", "region-growing"}
    records = tmp_path / "out" / "records" / "small"
    index, ball = records / "units.json", next(records.glob("kits21/ball-*"))
    kept = tmp_path / "kept"
    shutil.copytree(records, kept)

    def restore() -> None:
        shutil.rmtree(records)
        shutil.copytree(kept, records)

    for damaged, text in ((index, ""), (index, "[]"), (ball / "unit.json", "{"), (ball / "unit.json", None)):
        damaged.unlink() if text is None else damaged.write_text(text)
        shown = call(*show)
        assert board_of(shown) == board
        assert str(damaged.relative_to(tmp_path)) in caplog.text
        caplog.clear()
        again = call(*run)
        assert board_of(again) == board
        assert json.loads(again.out)["computed_cases"] == 0
        restore()

    whole = ball / "rows" / "unit.parquet"
    whole.write_bytes(whole.read_bytes()[:-100])
    shown = call(*show)
    assert shown.code == 2
    assert "internal error" not in shown.err
    assert len(shown.errors) == 1
    assert "rows are missing" in shown.errors[0]
    words = [sys.executable, "-m", "cli", *show]
    told = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert [line.startswith("error: ") for line in told.stderr.splitlines()] == [False, True], told.stderr
    assert f"{whole.relative_to(tmp_path)}: no readable Parquet file" in told.stderr
    again = call(*run)
    assert board_of(again) == board
    assert json.loads(again.out)["computed_cases"] == board[0][3]
    assert whole.with_name("unit.parquet.damaged-1").exists()

    fresh = call(*run, "--fresh")
    assert board_of(fresh) == board
    assert json.loads(fresh.out)["computed_cases"] == 2 * board[0][3]

    lock = tmp_path / "out" / output_lock.LOCK_NAME
    about = {"machine": "node7", "host": "node7", "pid": 1, "since": "2026-01-01 00:00:00", "command": "run"}
    lock.write_text(json.dumps(about))
    busy = call(*run)
    assert busy.code == 2
    (line,) = busy.errors
    assert "`tags-bench run` is writing there since 2026-01-01 00:00:00 (process 1 on node7)" in line
    assert board_of(call(*show)) == board, "reading needs no lock"
    os.utime(lock, (1, 1))
    assert board_of(call(*run)) == board

    other = call(*run, "--methods", "ball", "--seed", "7")
    assert other.code == 0, other.err
    _, units = RecordStore(records.parent).read_suite("small")
    by_method = {unit["method"]: unit for unit in units}
    assert {name: unit["latest_call"] for name, unit in by_method.items()} == {"region-growing": False, "ball": True}
    differ = {key for key in by_method["ball"] if by_method["ball"][key] != by_method["region-growing"].get(key)}
    assert {"cases_digest", "prompts_digest", "seed"} <= differ
    assert not {"lesion_rule", "metrics_version", "empty_policy", "tolerances_mm"} & differ


def test_names_that_lead_out_of_the_output_folder(call: Callable[..., Any], tmp_path: Path, local_ray: None) -> None:
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    text = SUITE.replace("name: small", "name: ../../victim").replace("save_predictions: false", "")
    (place / "s.yaml").write_text(text.replace("[ball,", "[{name: ball, label: ../../../victim},"))
    outcome = call("run", "--suite", str(place / "s.yaml"), "--all-datasets", "--out", str(place / "out"), "--json")
    assert outcome.code == 0, outcome.err
    assert not [path for path in tmp_path.rglob("*victim*") if place / "out" not in path.parents]
    shown = call("leaderboard", "--suite", "../../victim", "--out", str(place / "out"), "--json")
    assert board_of(shown) == board_of(outcome)
