"""A process that is ended without a word is spoken of; one that ends as it should is not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import os, signal, sys
from benchmarks.execution.last_words import last_words, take_back
end = sys.argv[1]
with last_words("error: ended, $HOME and `date` too"):
    if end == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if end == "by a library": os._exit(1)
    if end == "raises": raise SystemExit(4)
    if end == "at once": take_back(); os._exit(130)
"""


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("killed", -9, "error: ended, $HOME and `date` too\n"),
        ("by a library", 1, "error: ended, $HOME and `date` too\n"),
        ("raises", 4, ""),
        ("at once", 130, ""),
        ("well", 0, ""),
    ],
)
def test_only_an_end_without_a_word_is_spoken_of(end: str, code: int, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, end],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, told)
