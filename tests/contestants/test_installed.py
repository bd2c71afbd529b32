"""Plug-ins of others: good ones are found, broken ones are named with their reason and stop nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.contestants import ENTRY_POINT_GROUP, broken_methods, method, methods
from tests.plugins import install

METHODS = """
from benchmarks.contestants import Method, WeightFile
def describe(name, **rest):
    return Method(name, "for a test", "nowhere:nothing", frozenset(), **rest)
good, ball, other_name = describe("good"), describe("ball"), describe("another")
not_a_method = {"name": "not-a-method"}
file = WeightFile("sam_vit_b_01ec64.pth", "https://example.org", "CC0-1.0", bytes=1)
liar = describe("liar", config={"checkpoint": None}, files=(file,))
"""


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    entries = {
        "good": "good",
        "ball": "ball",
        "missing": "no_such_attribute",
        "not-a-method": "not_a_method",
        "renamed": "other_name",
        "liar": "liar",
    }
    install(monkeypatch, tmp_path / "a", "a-stranger", ENTRY_POINT_GROUP, entries, METHODS)
    broken = {"breaks": "anything"}
    install(monkeypatch, tmp_path / "b", "b-stranger", ENTRY_POINT_GROUP, broken, "raise ImportError('no\\nluck')")
    install(monkeypatch, tmp_path / "c", "c-stranger", ENTRY_POINT_GROUP, {"leaves": "x"}, "raise SystemExit(3)")
    install(monkeypatch, tmp_path / "d", "d-stranger", ENTRY_POINT_GROUP, {"good": "good"}, METHODS)


@pytest.mark.usefixtures("strangers")
def test_each_broken_method_is_named_with_its_package_and_reason_and_stops_nothing() -> None:
    found = {(one.name, one.distribution): one.reason for one in broken_methods()}
    assert found == {
        ("ball", "a-stranger 1.0"): "the name 'ball' belongs to tags-bench 0.1.0",
        ("missing", "a-stranger 1.0"): (
            "it cannot be imported (AttributeError: module 'a_stranger' has no attribute 'no_such_attribute')"
        ),
        ("not-a-method", "a-stranger 1.0"): "it gives a dict, not a Method",
        ("renamed", "a-stranger 1.0"): "it gives a Method that is named 'another'",
        (
            "liar",
            "a-stranger 1.0",
        ): "it announces other facts of the file 'sam_vit_b_01ec64.pth' than method 'tags-vit-b'",
        ("breaks", "b-stranger 1.0"): "it cannot be imported (ImportError: no luck)",
        ("leaves", "c-stranger 1.0"): "it cannot be imported (SystemExit: 3)",
        ("good", "d-stranger 1.0"): "the name 'good' belongs to a-stranger 1.0",
    }
    assert {"ball", "good", "tags-tiny"} <= methods().keys()
    assert not {"missing", "not-a-method", "renamed", "another", "liar", "breaks", "leaves"} & methods().keys()


@pytest.mark.usefixtures("strangers")
def test_a_built_in_is_never_replaced() -> None:
    assert method("ball").factory == "baselines.ball.segmenter:build"
    assert method("good").summary == "for a test"


@pytest.mark.usefixtures("strangers")
def test_asking_for_a_broken_one_gives_its_reason_in_a_line() -> None:
    with pytest.raises(UserError) as caught:
        method("breaks")
    reason = "it cannot be imported (ImportError: no luck)"
    assert str(caught.value) == f"method 'breaks' of b-stranger 1.0 (b_stranger:anything) is broken: {reason}"


def test_nothing_of_ours_is_broken() -> None:
    assert broken_methods() == ()
