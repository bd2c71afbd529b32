"""What a suite sets is of the kind that the method has there, and of no other, before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.common.errors import UserError
from benchmarks.contestants import Method, method, methods
from benchmarks.contestants.search_space import knobs_of
from benchmarks.contestants.settings import fitting
from benchmarks.execution.members import method_of
from benchmarks.execution.suite import MethodEntry, Suite, load_suite, parse_suite
from benchmarks.execution.sweep_space import SweepSpace

ROOT = Path(__file__).resolve().parents[2]
OURS = [one for one in methods().values() if one.factory.startswith(("baselines.", "tags."))]
SUITES = [*(ROOT / "benchmarks" / "suites").glob("*.yaml"), *(ROOT / "examples").rglob("*.yaml")]


def suite(settings: str, name: str = "tags-tiny") -> Suite:
    text = f"{{name: {name}, config: {{{settings}}}}}"
    return parse_suite(
        f"{{name: s, datasets: [{{name: kits21, source: phantom}}], methods: [{text}], protocols: [none], "
        "budget: {steps: 1}}",
        "x",
    )


def configured(settings: str, name: str = "tags-tiny") -> dict[str, Any]:
    (entry,) = suite(settings, name).methods
    return method_of(entry).configured(entry.config)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("4E-4", 0.0004), ("1.5e2", 150.0), (".5e0", 0.5), ("2.e1", 20.0), ("+1e-3", 0.001), ("1", 1)],
)
def test_a_number_with_an_exponent_is_a_number(text: str, value: float) -> None:
    """By the core schema of YAML 1.2; PyYAML, which reads YAML 1.1, takes all but the last for text."""
    assert (yaml.safe_load(text) == value) == (text == "1")
    found = configured(f"learning_rate: {text}")["learning_rate"]
    assert (found, type(found)) == (value, type(value))


def test_such_a_number_is_read_in_lists_and_text_stays_text() -> None:
    assert configured("zoom: [7e-1, 2.4]")["zoom"] == [0.7, 2.4]
    assert configured("sam_weights: 1e3")["sam_weights"] == "1e3"  # a file may be called so
    entry = MethodEntry.model_validate(yaml.safe_load("{name: ball, label: 1e3}"))
    assert entry.label == "1e3"
    sweep = SweepSpace.of(method("tags-tiny"), {"learning_rate": "4e-4"})
    assert sweep.start["learning_rate"] == 0.0004


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("learning_rate: fast", "'learning_rate' takes a number, not 'fast'"),
        ("learning_rate: '0.001'", "'learning_rate' takes a number, not '0.001'"),
        ("learning_rate: true", "'learning_rate' takes a number, not True"),
        ("learning_rate: .nan", "'learning_rate' takes a number, not nan"),
        ("learning_rate:", "'learning_rate' takes a number, not None"),
        ("batch_size: 2.5", "'batch_size' takes a whole number, not 2.5"),
        ("batch_size: true", "'batch_size' takes a whole number, not True"),
        ("adapters: 'false'", "'adapters' takes true or false, not 'false'"),
        ("adapters: 0", "'adapters' takes true or false, not 0"),
        ("flips: false", r"'flips' takes a list such as \[0.5, 0.5, 0.5\], not False"),
        ("zoom: 2.4", r"'zoom' takes a list such as \[0.7, 2.4\], not 2.4"),
        ("zoom: [near, far]", r"'zoom' takes a list such as \[0.7, 2.4\], not \['near', 'far'\]"),
    ],
)
def test_another_kind_is_refused_in_a_line(settings: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^method 'tags-tiny': {message}$"):
        configured(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("gradient_clip: 0", "gradient_clip is above 0, not 0"),
        ("learning_rate: 0", "learning_rate is above 0, not 0"),
        ("zoom: [2.4, 0.7]", "zoom is two factors above 0, the smaller one first"),
        ("zoom: null", "zoom is two factors above 0, the smaller one first, not None"),
        ("zoom: [0, 1]", "zoom is two factors above 0, the smaller one first"),
        ("part_share: 1.5", "part_share is a share from 0 to 1, not 1.5"),
        ("threshold: 50", "threshold is a share from 0 to below 1, not 50"),
        ("spacing: -1", "spacing is mm above 0, not -1"),
        ("spacing: fine", "spacing is mm above 0, not fine"),
        ("overlap: 1", "overlap is a share from 0 to below 1, not 1"),
        ("ema: 1", "ema is a share from 0 to below 1, not 1"),
        ("flips: [0.5]", "flips is three chances between 0 and 1"),
        ("flips: [0.5, 0.5, 2]", "flips is three chances between 0 and 1"),
        ("patch: 33", "patch must be a multiple of 4, not 33"),
        ("fusion: sum", "fusion must be gated, concat or none, not 'sum'"),
    ],
)
def test_what_no_run_can_have_is_refused_before_one(settings: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^method 'tags-tiny': {message}"):
        method_of(suite(settings).methods[0])


def test_no_flips_is_three_zeros_or_what_the_anatomy_allows() -> None:
    with pytest.raises(UserError, match="flips is three chances between 0 and 1, not False"):
        method_of(suite("flips: false", "tags-vit-b").methods[0])
    for settings in ("flips: [0, 0, 0]", "flips: null"):
        method_of(suite(settings).methods[0])


@pytest.mark.parametrize("one", OURS, ids=lambda one: one.name)
def test_all_that_a_method_says_of_itself_is_what_it_takes(one: Method) -> None:
    assert one.checked() == dict(one.config)
    for part in one.ablations.values():
        assert one.checked(part).items() >= part.items()
    for knob in knobs_of(one.search_space):
        for value in knob.choices or (knob.low, knob.high - knob.whole):
            assert one.checked({knob.name: value})[knob.name] == value


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_suite_of_the_project_sets_what_it_set(path: Path) -> None:
    """Neither kind nor value changes on the way: 1 and 1.0 have different digests."""
    for entry in load_suite(str(path)).methods:
        chosen = method_of(entry).configured(entry.config)
        for key, value in entry.config.items():
            assert chosen[key] is value


def test_a_kind_that_a_sweep_may_find_is_taken_too() -> None:
    assert fitting(2.5, [1, 1.0, 4.0]) == 2.5
    assert fitting("auto", ["auto"]) == "auto"
    assert fitting(True, ["auto"]) is True
    assert fitting({"a": 1}, [{}]) == {"a": 1}
    assert fitting((1, 2), [[]]) == (1, 2)
    assert fitting(10**400, [1.0]) == 10**400
    with pytest.raises(ValueError, match="a whole number or a number"):
        fitting("much", [1, 1.0])
    with pytest.raises(ValueError, match="a mapping"):
        fitting(3, [{}])
