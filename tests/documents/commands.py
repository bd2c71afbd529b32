"""The commands that pages, help texts and the files of deploy/ show, and whether the command line knows them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer

FENCE = re.compile(r"^```\w*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`(tags-bench\s[^`]+)`")
NUMBER = re.compile(r"N|MM|K|X,Y,Z")


def commands_in(text: str) -> Iterator[list[str]]:
    """The words of every `tags-bench …` and `sbatch … tags-bench.sbatch …` that names an option or ends a line; lines
    that end in a backslash are joined."""
    joined = re.sub(r"\\\n[#\s]*", " ", text)
    for line in joined.splitlines():
        for found in re.finditer(r"tags-bench(?:\.sbatch)? ((?:[a-z][a-z-]* )*(?:--?[^`\"]*|$))", line):
            yield shlex.split(found.group(1).rstrip(" .;,)"), comments=True)


def shown_in(page: str) -> Iterator[list[str]]:
    """The words of every `tags-bench …` of a page or a help text: lines of its blocks, and what stands between single
    backticks. What it leaves open ("…", [--option N]) is left out or stands as it is written."""
    for block in FENCE.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("tags-bench "):
                yield _words(line)
    for span in SPAN.findall(FENCE.sub("", page)):
        yield _words(span)


def _words(line: str) -> list[str]:
    words = shlex.split(re.sub(r"[\[\]]|…", " ", line), comments=True)[1:]
    ends = [place for place, word in enumerate(words) if word in ("&&", "||", "|", ">", ";")]
    return words[: ends[0]] if ends else words


def parse(words: list[str]) -> None:
    """Raises AssertionError for a command that there is not, and the command line's own error for an option.

    A command may be named without its arguments, and a group without a command.
    """
    import cli

    command: Any = typer.main.get_command(cli.app)
    words = ["1" if NUMBER.fullmatch(word) else word for word in words]
    if words[0].startswith("-"):
        known = {name for parameter in command.params for name in parameter.opts}
        assert words[0] in known, f"no option '{words[0]}'"
        return
    while hasattr(command, "commands") and words:
        name, *words = words
        assert name in command.commands, f"no command '{name}'"
        command = command.commands[name]
    if hasattr(command, "commands"):
        return
    try:
        command.make_context(command.name, list(words))
    except Exception as error:  # typer may have a click of its own
        if type(error).__name__ != "MissingParameter":
            raise


def help_texts() -> dict[str, str]:
    """What `--help` says of every command, by its words."""
    import cli

    found: dict[str, str] = {}

    def read(command: Any, words: str) -> None:
        found[words] = "\n".join([command.help or "", *(getattr(one, "help", "") or "" for one in command.params)])
        for name, child in getattr(command, "commands", {}).items():
            read(child, f"{words} {name}")

    read(typer.main.get_command(cli.app), "tags-bench")
    return found
