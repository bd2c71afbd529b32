"""The registry, and what every announced method promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.contestants import Method, method, methods
from benchmarks.contestants.search_space import knobs_of
from tests.documents.scripts import script

contestants = script("contestants")
ROOT = Path(__file__).resolve().parents[2]
OURS = [one for one in methods().values() if one.factory.startswith(("baselines.", "tags."))]


def test_methods_are_found_by_entry_point_floors_last() -> None:
    names = list(methods())
    assert {"tags-tiny", "nnunet", "ball", "region-growing", "mock-noop"} <= set(names)
    assert names[-2:] == ["ball", "region-growing"]


def test_an_unknown_method_or_setting_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'region-growing'"):
        method("region-growin")
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        method("mock-network").configured({"learning_rat": 1})


@pytest.mark.parametrize("one", OURS, ids=lambda one: one.name)
def test_every_knob_is_a_setting_and_gives_plain_values(one: Method) -> None:
    assert set(one.search_space) <= set(one.config)
    for knob in knobs_of(one.search_space):
        values = knob.choices or ((int(knob.low),) if knob.whole else (knob.low,))
        for value in values:
            assert json.loads(json.dumps(value)) == value
            assert isinstance(value, (type(one.config[knob.name]), int, float)), knob.name


@pytest.mark.parametrize("one", OURS, ids=lambda one: one.name)
def test_every_method_has_a_card_and_a_page(one: Method) -> None:
    assert one.summary
    assert one.card.title
    assert one.card.code_licence
    described = (ROOT / "docs" / "methods" / f"{contestants.page_of(one.name)}.md").read_text(encoding="utf-8")
    assert f"`{one.name}`" in described
