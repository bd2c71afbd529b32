"""`doctor` says what is there; `sync` what is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.mark.ray
def test_doctor_says_what_is_there(call, local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    findings = json.loads(call("doctor", "--json").out)
    assert findings["software"]["ray"] != "missing"
    assert "CPU" in findings["services"]["Ray"]
    assert "no store yet" in findings["services"]["MLflow"]
    assert findings["environments"]["mock-apart"].startswith("CANNOT BE BUILT: ERROR: ")
    assert {"nninteractive", "sam2", "medsam2"} <= findings["environments"].keys()


def test_sync_of_a_folder_that_is_not_there(call) -> None:
    done = call("sync", "--out", "nope")
    assert (done.code, done.out) == (2, "")
    assert done.errors == ["error: --out nope: no such folder; nothing waits there to be sent"]
    assert not Path("nope").exists()


def test_sync_says_what_was_sent_and_fails_if_anything_is_left(call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def outbox(out: Path, tracking_uri: str | None) -> tuple[int, int]:
        asked.extend((out, tracking_uri))
        return 3, len(asked) // 4

    monkeypatch.setattr("benchmarks.results.mlflow.sync", outbox)
    for folder in ("out", "tags-bench-out"):
        Path(folder).mkdir()
    done = call("sync", "--out", "out", "--tracking-uri", "http://127.0.0.1:1")
    assert (done.code, done.out) == (0, "3 messages sent, 0 left\n")
    assert asked == [Path("out").resolve(), "http://127.0.0.1:1"]
    left = call("sync", "--json")
    assert left.code == 2
    assert json.loads(left.out) == {"sent": 3, "left": 1}
    assert len(left.errors) == 1
