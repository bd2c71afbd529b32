"""Calls that pages show are those of the code: the table of docs/running.md, and that for authors of methods."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from benchmarks import api, contestants

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "running.md"
LINES = re.findall(r"^\| `(\w+)\(([^`]*)\)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
FOR_AUTHORS = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("| question | answer |")[2]
SHOWN = re.findall(r"`(\w+)\(([\w, ]*)\)`", FOR_AUTHORS.partition("\n\n")[0])
SAME_AS = {"ablate": "run"}  # "the same, and …"


def test_every_verb_that_gives_something_is_there() -> None:
    assert {name for name, _, _ in LINES} >= {"run", "predict_table", "compare", "show", "report", "load_suite"}


@pytest.mark.parametrize(("name", "arguments", "gives"), LINES, ids=[line[0] for line in LINES])
def test_a_call_of_the_table_is_as_the_code_has_it(name: str, arguments: str, gives: str) -> None:
    verb = getattr(api, name)
    words = [word.strip() for word in arguments.split(",") if word.strip()]
    by_name = {word.removesuffix("="): None for word in words if word.endswith("=")}
    inspect.signature(verb).bind(*(word for word in words if not word.endswith("=")), **by_name)
    result = _result_of(verb)
    promised = re.findall(r"`(\w+)(?:\(\w*\))?`", re.sub(r"\[[^]]*\]\([^)]*\)", "", gives))
    known = {*dir(result), *getattr(result, "model_fields", {}), *getattr(result, "__dataclass_fields__", {})}
    assert {one for one in promised if one != "Suite"} <= known
    if name in SAME_AS:
        assert issubclass(result, _result_of(getattr(api, SAME_AS[name])))


@pytest.mark.parametrize(("name", "arguments"), SHOWN, ids=[name for name, _ in SHOWN])
def test_what_authors_of_methods_are_shown_is_what_the_bench_calls(name: str, arguments: str) -> None:
    shown = getattr(contestants, name, None) or getattr(contestants.Trainable, name)
    parameters = [one for one in inspect.signature(shown).parameters if one != "self"]
    assert [word.strip() for word in arguments.split(",") if word.strip()] == parameters


def test_the_table_for_authors_shows_what_follows_from_the_cases() -> None:
    assert {name for name, _ in SHOWN} >= {"plan", "prepare", "checkpoint_facts"}


def _result_of(verb: Any) -> Any:
    """What a call returns; of several alike, one of them."""
    result = get_type_hints(verb)["return"]
    return next(iter(get_args(result)), result)
