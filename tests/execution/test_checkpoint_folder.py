"""A checkpoint is replaced by a complete one only, whatever ends the process that makes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.contestants import OwnTraining, Session
from benchmarks.execution import training
from benchmarks.execution.training import run_job
from benchmarks.execution.training_watch import work_folder
from tests.execution.training_cases import job_of, write_cases


def completed(folder: Path, steps: int) -> Path:
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"steps": steps}))
    return folder


def test_a_checkpoint_stays_until_the_fresh_one_is_complete(tmp_path: Path) -> None:
    job = replace(job_of(write_cases(tmp_path / "scans", 1)), method="mock-bad-fit")
    folder = completed(tmp_path / "model", steps=5)
    with pytest.raises(ValueError, match="exit code 9"):
        run_job(job, folder, fresh="one")
    assert run_job(job, folder) == {"steps": 5}

    job = replace(job, method="mock-dying-fit", config={"folder": str(tmp_path)})
    (tmp_path / "asked").touch()  # the second time it lives
    assert run_job(job, folder, fresh="one")["steps"] == 1
    assert run_job(job, folder)["steps"] == 1
    assert sorted(path.name for path in tmp_path.glob("*model*")) == ["model"]


def test_a_fresh_training_leaves_the_state_of_other_calls_and_goes_on_from_its_own(tmp_path: Path) -> None:
    job = replace(job_of(write_cases(tmp_path / "scans", 1)), method="mock-bad-fit")
    folder = tmp_path / "model"
    state = work_folder(folder) / "state.pt"
    state.parent.mkdir()
    state.write_bytes(b"of an interrupted training")
    for call, there in (("one", False), ("one", True), ("two", False)):
        with pytest.raises(ValueError, match="exit code 9"):
            run_job(job, folder, fresh=call)
        assert state.exists() == there
        state.write_bytes(b"of the fresh one")


@pytest.mark.parametrize("resumes", [True, False])
def test_a_tool_of_a_methods_own_finds_what_it_left_where_it_can_go_on(tmp_path: Path, resumes: bool) -> None:
    found: list[list[str]] = []

    class Tool(OwnTraining):
        def fit(self, cases: Any, target: Any, budget: Any, folder: Path, seed: int) -> dict[str, Any]:
            found.append([path.name for path in folder.iterdir()])
            (folder / "state").touch()
            return {}

        def load(self, folder: Path) -> None: ...

        def open(self, volume: Any, target: Any) -> Session:
            raise NotImplementedError

    Tool.resumes = resumes
    method = SimpleNamespace(name="tool", build=lambda config, device: Tool())
    for _ in range(2):
        training._train_by_own_tool(method, job_of(()), tmp_path)  # type: ignore[arg-type]
    assert found == [[], ["state"] if resumes else []]


@pytest.mark.parametrize("old_one", [True, False])
def test_a_training_that_only_had_to_take_its_place_is_not_done_again(tmp_path: Path, old_one: bool) -> None:
    job = replace(job_of(write_cases(tmp_path / "scans", 1)), method="mock-bad-fit")
    folder = tmp_path / "model"
    if old_one:
        completed(folder, steps=5)
    completed(work_folder(folder), steps=7)
    assert run_job(job, folder) == {"steps": 7}
    assert run_job(job, folder) == {"steps": 7}
    assert not work_folder(folder).exists()
