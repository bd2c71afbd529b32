"""The command line names what is broken, lists what works, and refuses what is asked for in a line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contestants import ENTRY_POINT_GROUP
from benchmarks.data import catalogue
from tests.plugins import install

LOST = "'lost' of stranger 1.0 (stranger:lost) is broken: it cannot be imported (RuntimeError: no luck)"


@pytest.fixture(autouse=True)
def _stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "raise RuntimeError('no luck')"
    install(monkeypatch, tmp_path / "m", "stranger", ENTRY_POINT_GROUP, {"lost": "lost"}, code)
    install(monkeypatch, tmp_path / "d", "strange-data", catalogue.ENTRY_POINT_GROUP, {"gone": "gone"}, code)


@pytest.mark.parametrize("words", [("methods",), ("weights", "list")])
def test_a_listing_is_whole_and_names_what_is_broken(call: Callable[..., Any], words: tuple[str, ...]) -> None:
    outcome = call(*words, "--json")
    assert outcome.code == 0
    assert len(json.loads(outcome.out)) > 5
    assert LOST in " ".join(outcome.err.split())


def test_datasets_too(call: Callable[..., Any]) -> None:
    outcome = call("datasets", "--json")
    assert {"kits21", "lits17"} <= {row["name"] for row in json.loads(outcome.out)}
    assert "'gone' of strange-data 1.0" in outcome.err


def test_doctor_names_both() -> None:
    from benchmarks.execution.doctor import plugins

    found = plugins()
    assert found["lost of stranger 1.0"] == "broken: it cannot be imported (RuntimeError: no luck)"
    assert "gone of strange-data 1.0" in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--methods", "lost,ball"), f"error: method {LOST}"),
        (
            ("data", "synth", "--dataset", "gone"),
            "error: dataset 'gone' of strange-data 1.0 (strange_data:gone) is broken",
        ),
        (("run", "--dataset", "gone", "--methods", "ball"), "error: dataset 'gone' of strange-data 1.0"),
    ],
)
def test_what_is_asked_for_and_broken_is_refused_in_a_line(
    call: Callable[..., Any], words: tuple[str, ...], message: str
) -> None:
    outcome = call(*words)
    assert outcome.code == 2
    (line,) = outcome.errors
    assert line.startswith(message)
