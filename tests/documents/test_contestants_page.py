"""docs/methods/index.md says of every method what its card says, and names tests that are there."""

from __future__ import annotations

import tomllib

import pytest

from benchmarks.contestants import method, methods
from tests.documents.scripts import ROOT, script

page = script("contestants")


def own() -> list[str]:
    """The methods that this project announces, whatever else is installed."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return list(content["project"]["entry-points"]["tags_bench.methods"])


def test_the_list_is_the_one_that_the_cards_give() -> None:
    text = page.PAGE.read_text("utf-8")
    for row in page.table(method(name) for name in own()).splitlines():
        assert row in text, "run `python docs/contestants.py`"
    assert text.count("| [`") == len(own())
    assert page.tests_table() in text


def test_every_page_of_a_method_has_tests_that_are_there() -> None:
    described = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} - {"index"}
    assert described == set(page.PAGES)
    for _, tests in page.PAGES.values():
        assert all((ROOT / test).exists() for test in tests)


def test_a_method_belongs_to_the_page_with_the_longest_fitting_name() -> None:
    assert [page.page_of(name) for name in ("sam-b-tiny", "sam-med2d", "medsam2", "ball", "tags-vit-b")] == [
        "sam-b",
        "sam-med2d",
        "sam2",
        "floors",
        "tags",
    ]


def test_a_method_without_a_page_is_told_how_to_get_one() -> None:
    with pytest.raises(ValueError, match=r"'my-method' has no page: .*add 'my-method' to PAGES in .*contestants\.py"):
        page.page_of("my-method")


def test_methods_of_others_have_no_row() -> None:
    """The mock methods are installed here, as that of the tutorial is for who has followed it."""
    assert {"mock-noop", *own()} <= methods().keys()
    assert sorted(one.name for one in page.own()) == sorted(own())
    text = page.PAGE.read_text("utf-8")
    assert page.with_tables(text) == text
