"""An official weights file: what a method announces of it, and the one folder where such files are looked for.

Light on purpose (standard library only): networks and torch-free descriptions of methods both import it. What is
done with the files (list, fetch, verify) is in `official_files.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.paths import user_path

FOLDER_VARIABLE = "TAGS_BENCH_WEIGHTS"
DEFAULT_FOLDER = "~/.cache/tags-bench/weights"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}")


@dataclass(frozen=True)
class WeightFile:
    """A file that a method's authors released. Two methods that share a file announce equal facts.

    Facts of the file:
        name: plain file name under which it lies in the weights folder.
        page: where a person finds it.
        licence: of the weights, in a few words.
        url: address that answers a plain GET with the file; empty where only a person can fetch it.
        bytes: its size, where known.
        checksum: "sha256:…" or "md5:…" in lower-case hexadecimal, only where one is published.
        upstream: what it is called where it is released, if that is not `name`.
        note: what else is to be known before fetching it.
        restricted: the licence restricts the use, so that a run refuses the file until the licence has been accepted,
            wherever the file came from.

    How the announcing method uses it (no part of equality):
        setting: key of the method's configuration that takes the path.
        datasets: names of the datasets that it was trained for; empty: for any.
        optional: the method can get the same weights by other means.
        system: what the file must turn out to be, in the words of `check`.
        check: "module:callable" that looks into the file without running anything of it; called as
            `callable(path, system)`, returns what is wrong in a line, or "".
        stand_in: "module:callable" that writes a file of this layout with meaningless weights, for rehearsals (see
            `benchmarks.weights.stand_ins`); called as `callable(path, system)`.
    """

    name: str
    page: str
    licence: str
    url: str = ""
    bytes: int | None = None
    checksum: str = ""
    upstream: str = ""
    note: str = ""
    restricted: bool = False
    setting: str = field(default="checkpoint", compare=False)
    datasets: tuple[str, ...] = field(default=(), compare=False)
    optional: bool = field(default=False, compare=False)
    system: str = field(default="", compare=False)
    check: str = field(default="", compare=False)
    stand_in: str = field(default="", compare=False)

    def fits(self, dataset: str) -> bool:
        """Whether it was trained for that dataset, or for any."""
        return not self.datasets or dataset in self.datasets

    def __post_init__(self) -> None:
        """Mistakes of whoever wrote the method; a name can never lead out of the weights folder."""
        if not _PLAIN_NAME.fullmatch(self.name):
            raise ValueError(f"weights file '{self.name}': the name must be plain (letters, digits, '.', '_', '-')")
        if self.url and not self.url.startswith(("https://", "http://")):
            raise ValueError(f"weights file '{self.name}': only http and https addresses can be fetched")
        if self.checksum and not _CHECKSUM.fullmatch(self.checksum):
            raise ValueError(f"weights file '{self.name}': a checksum is 'sha256:' or 'md5:' and lower-case digits")

    @property
    def path(self) -> Path:
        """Where it belongs on this machine."""
        return weights_folder() / self.name


def weights_folder() -> Path:
    """Where official files are looked for: `$TAGS_BENCH_WEIGHTS`, else `~/.cache/tags-bench/weights`."""
    return user_path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER).absolute()


def locate(name: Path | str) -> Path | None:
    """A weights file by path, or by plain name in the weights folder; None if it is at neither place."""
    named = user_path(name)
    for path in (named, weights_folder() / named.name) if named.name == str(name) else (named,):
        if path.is_file():
            return path
    return None


def named_files(config: Mapping[str, Any], settings: Iterable[str]) -> tuple[str, ...]:
    """Those values of the settings that name a weights file which is on this machine; see `locate`."""
    values = dict.fromkeys(str(config[key]) for key in settings if config.get(key))
    return tuple(value for value in values if locate(value) is not None)


def missing_file(names: Iterable[str]) -> str:
    """Which of the files, that another machine has, this one lacks, and how to mend it; "" if all are here."""
    for name in names:
        if locate(name) is None:
            named = user_path(name)
            place = weights_folder() / named if named.name == name else named.absolute()
            return (
                f"the weights file {place} is not there: copy it to this place, or keep it on storage that all nodes "
                f"see ({FOLDER_VARIABLE} names the weights folder)"
            )
    return ""
