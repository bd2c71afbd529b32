"""Groups of options become single options of Typer, and come back as groups."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from benchmarks.commands.declare import command, flat, new_group

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Inner:
    size: Annotated[int, typer.Option("--size")] = 1
    deep: Annotated[bool, typer.Option("--deep")] = False


@dataclass(frozen=True)
class Outer:
    name: Annotated[str, typer.Option("--name")] = "a"
    inner: Inner = Inner()


LARGE = Outer(inner=Inner(size=9))


@pytest.fixture
def seen() -> list[object]:
    return []


@pytest.fixture
def app(seen: list[object]) -> typer.Typer:
    group = new_group()

    @command(group)
    def plain(*, outer: Outer, place: Annotated[Path, typer.Argument()]) -> None:
        seen.extend((outer, place))

    @command(group)
    def large(*, outer: Outer = LARGE, last: Annotated[str, typer.Option("--last")] = "z") -> None:
        seen.extend((outer, last))

    return group


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plain", "p"], [Outer(), Path("p")]),
        (["plain", "p", "--deep", "--size", "3"], [Outer(inner=Inner(3, True)), Path("p")]),
        (["large"], [LARGE, "z"]),
        (["large", "--name", "b", "--last", "y"], [Outer("b", Inner(size=9)), "y"]),
        (["large", "--size", "1"], [Outer(), "z"]),
    ],
)
def test_options_come_back_as_groups(
    app: typer.Typer, seen: list[object], words: list[str], expected: list[object]
) -> None:
    outcome = CliRunner().invoke(app, words)
    assert outcome.exit_code == 0, outcome.output
    assert seen == expected


def test_the_signature_is_flat() -> None:
    def function(*, outer: Outer = LARGE, last: int = 2) -> None:
        """What it does."""

    shown = inspect.signature(flat(function)).parameters
    assert {name: one.default for name, one in shown.items()} == {"name": "a", "size": 9, "deep": False, "last": 2}
    assert flat(function).__doc__ == "What it does."


def test_no_command_takes_more_than_seven_parameters() -> None:
    lengths = {}
    for file in (ROOT / "benchmarks" / "commands").glob("[a-z]*.py"):
        module = import_module(f"benchmarks.commands.{file.stem}")
        for name, one in vars(module).items():
            if inspect.isfunction(one) and one.__module__ == module.__name__:
                lengths[f"{file.stem}.{name}"] = len(inspect.signature(one).parameters)
    assert len(lengths) > 30
    assert {name: length for name, length in lengths.items() if length > 7} == {}


def test_an_option_with_one_value_is_not_given_twice(call, app: typer.Typer) -> None:
    """The first value would be lost in silence; what may be repeated, may."""
    twice = call("run", "--methods", "ball", "--methods", "region-growing")
    assert twice.code == 2
    assert twice.errors == [
        "error: --methods is given more than once, and takes one value; several names go into one, with commas between"
    ]
    assert call("run", "--fold", "0", "--seed", "3", "--fold", "1", "--seed", "4").errors == [
        "error: --seed is given more than once, and takes one value"
    ]
    result = CliRunner().invoke(app, ["plain", "p", "--deep", "--deep"])
    assert result.exit_code == 0
