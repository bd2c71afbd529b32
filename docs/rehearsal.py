"""The rehearsal that docs/paper.md shows, put together from what rehearsals into a folder have found.

    tags-bench rehearse --suite paper --cpus 1 --out DIR      # as often and in as many parts as it takes
    python docs/rehearsal.py DIR --cpus 1                     # the same words; nothing runs

What stands between the two marks of the page is the output of one command, unchanged.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from marks import with_block

PAGE = Path(__file__).resolve().parent / "paper.md"
BEGIN, END = "<!-- rehearsal -->", "<!-- end of the rehearsal -->"
PASSED, NOT_PASSED = 0, 1


def main(folder: Path, words: list[str]) -> None:
    """Write the page anew."""
    command = ["tags-bench", "rehearse", "--suite", "paper", *words, "--kept", "--out", folder.name]
    done = subprocess.run(command, cwd=folder.absolute().parent, capture_output=True, text=True)
    if done.returncode not in (PASSED, NOT_PASSED):
        sys.exit(done.stderr)
    printed = done.stdout.replace(str(Path.home()), "~")  # this machine's home is nobody's business
    PAGE.write_text(with_output(PAGE.read_text("utf-8"), " ".join(command), printed), "utf-8")


def with_output(page: str, command: str, output: str) -> str:
    """The page with a command and what it printed between the two marks."""
    lines = "\n".join(line.rstrip() for line in output.splitlines())
    return with_block(page, BEGIN, END, f"```\n$ {command}\n{lines}\n```")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
