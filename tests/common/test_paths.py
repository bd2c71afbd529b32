"""Paths that nobody can mean end in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from benchmarks.common.errors import UserError, one_line, shorten
from benchmarks.common.paths import user_path


def test_what_can_be_meant_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a") == tmp_path / "a"
    assert user_path("not/there/yet") == Path("not/there/yet")
    assert user_path("not/there/" + "x" * 255) == Path("not/there") / ("x" * 255)
    (tmp_path / "file").write_text("")
    assert user_path(tmp_path / "file" / "inner") == tmp_path / "file" / "inner"  # said where it is opened


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("~nobody-of-this-name/a", "no user 'nobody-of-this-name'"),
        ("a\0b", "cannot hold a NUL"),
        ("x" * 300, "File name too long"),
        ("x/" * 4000, "File name too long"),
        ("not/there/yet/" + "x" * 256, "File name too long"),
        ("not/there/yet/" + "é" * 128, "File name too long"),
        ("\ud800", "no name of a file"),
    ],
)
def test_what_cannot_be_meant_is_one_line(given, message):
    with pytest.raises(UserError, match=message) as caught:
        user_path(given)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_message_of_20_mb_is_cut() -> None:
    error = one_line(ValueError("x\n" * 10_000_000))
    assert error.startswith("ValueError: x x x")
    assert len(error) <= 1001
    assert one_line(ValueError("a\nb")) == "ValueError: a b"
    assert shorten("x" * 200) == "x" * 200
    assert shorten("x" * 201) == "x" * 200 + "…"


def test_an_error_of_a_user_is_one_plain_line() -> None:
    assert str(UserError("a\nb\x1b[2J\ud800 Ü \u202e")) == "a\\nb\\x1b[2J\\ud800 Ü \\u202e"
    assert str(UserError("two  spaces")) == "two  spaces"
    assert len(str(UserError("x" * 20_000_000))) == 2001
    again = pickle.loads(pickle.dumps(UserError("a\nb")))  # noqa: S301 - our own
    assert str(again) == "a\\nb"
