"""docs/paper.md shows what one command printed, and the command that it names is one that exists."""

from __future__ import annotations

import shlex

import pytest

from tests.documents.scripts import ROOT, script

page = script("rehearsal")


def test_the_output_replaces_what_stood_between_the_marks() -> None:
    before = f"above\n\n{page.BEGIN}\nold\n{page.END}\n\nbelow \\1\n"
    after = page.with_output(before, "tags-bench rehearse", "a \\2 table   \nmissing: x\n")
    assert after == (
        f"above\n\n{page.BEGIN}\n\n```\n$ tags-bench rehearse\na \\2 table\nmissing: x\n```\n\n"
        f"{page.END}\n\nbelow \\1\n"
    )
    assert page.with_output(after, "tags-bench rehearse", "a \\2 table\nmissing: x\n") == after
    with pytest.raises(ValueError, match="once"):
        page.with_output("no marks", "", "")


def test_the_page_shows_a_whole_rehearsal_of_the_suite_paper(call) -> None:
    text = (ROOT / "docs" / "paper.md").read_text("utf-8")
    block = text.partition(page.BEGIN)[2].partition(page.END)[0].strip("`\n")
    command, _, output = block.partition("\n")
    words = shlex.split(command.removeprefix("$ "))
    assert words[:4] == ["tags-bench", "rehearse", "--suite", "paper"]
    assert "--kept" in words
    for heading in ("data", "official files", "machine", "licences", "the road", "what the whole will take"):
        assert f"REHEARSAL, {heading}" in output
    known = call("rehearse", "--help").out
    assert all(word in known for word in words if word.startswith("--"))
