"""Masks made elsewhere: a folder of files that takes part as a method, scored and not predicted here.

What its maker was given, and what a training has cost, nobody here knows. Such masks are therefore in lists of their
own ("given: unknown"), beside the lists of the methods that the bench has prompted.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common.content import sha256_of_all
from benchmarks.common.errors import MachineFault, UserError
from benchmarks.common.files import require_readable
from benchmarks.common.paths import user_path
from benchmarks.contestants import Card, Method, methods
from benchmarks.data.dataset import Case
from benchmarks.data.layouts.layout import VOLUME_SUFFIXES, volume_files, volume_stem
from benchmarks.data.volume import BoolArray, Volume, read_label, values_in
from benchmarks.prompting.protocol import Protocol

MADE_ELSEWHERE = Protocol(kind="made-elsewhere")
CHANNEL_SUFFIX = "_0000"
VALUES_SHOWN = 8


@dataclass(frozen=True)
class GivenMasks:
    """The masks of one method for the cases of one dataset.

    Attributes:
        folder: where they lie, for messages.
        files: case → its file; a case without one has none.
        value: the value in the files that means the target; None: they are binary.
    """

    folder: Path
    files: Mapping[str, Path]
    value: int | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers: the content of the files, not their place."""
        cases = sorted(self.files)
        content = sha256_of_all([self.files[case] for case in cases])
        return {"masks": dict(zip(cases, content, strict=True)), "value": self.value}

    def mask(self, case: Case, volume: Volume) -> BoolArray:
        """The mask of a case on the grid of its volume.

        Raises:
            UserError: there is none, it cannot be read, it lies on another grid, or nobody says which value counts.
            MachineFault: the file was there when the run was planned and is not there now.
        """
        path = self.files.get(case.case_id)
        if path is None:
            raise UserError(f"no mask for case '{case.case_id}' in {self.folder}")
        if not path.exists():
            raise MachineFault(f"{path} is not there on {socket.gethostname()}")
        require_readable(path)
        label = read_label(path, like=volume)
        if self.value is not None:
            return np.asarray(label == self.value)
        held = [value for value in values_in(label) if value != 0]
        if len(held) > 1:
            shown = ", ".join(map(str, held[:VALUES_SHOWN]))
            raise UserError(f"{path}: holds the values {shown}; say with `value` which one means the target")
        return np.asarray(label != 0)


def masks_method(name: str) -> Method:
    """What stands for the masks where a method is due. Raises UserError if an installed method has the name."""
    if name in methods():
        raise UserError(f"masks '{name}': this is the name of an installed method; give them another one")
    return Method(
        name=name,
        summary="masks made elsewhere",
        factory="",
        prompts=frozenset(),
        card=Card(title=f"{name}, masks made elsewhere", notes="Prompts, training and code are not known here."),
    )


def given_masks(
    name: str, folder: str | Mapping[str, str], value: int | None, dataset: str, cases: Iterable[Case]
) -> GivenMasks | None:
    """The masks for these cases; None where the entry names folders by dataset, and this dataset is not among them.

    Raises:
        UserError: no such folder, no file of it belongs to a case, or two files for one case.
    """
    if not isinstance(folder, str):
        if dataset not in folder:
            return None
        place = user_path(folder[dataset]).absolute()
    else:
        place = user_path(folder).absolute()
        place = place / dataset if (place / dataset).is_dir() else place
    if not place.is_dir():
        raise UserError(f"masks '{name}': no such folder {place}")
    # the mask of a case behind a dead link is one that is not there: the case fails, the others are scored
    files_there = {stem: [path for path in paths if path.exists()] for stem, paths in volume_files(place).items()}
    found, cases = {stem: paths for stem, paths in files_there.items() if paths}, list(cases)
    files = {}
    for case in cases:
        for stem in _names_of(case, cases):
            if len(found.get(stem, ())) > 1:
                two = " and ".join(path.name for path in found[stem])
                raise UserError(f"masks '{name}': {place} holds two files for case '{case.case_id}': {two}; keep one")
            if stem in found:
                files[case.case_id] = found[stem][0]
                break
    if not files:
        shown = min(found, default="")
        holds = f"such as '{shown}'" if found else f"none ends with {', '.join(VOLUME_SUFFIXES)}"
        raise UserError(
            f"masks '{name}': no file in {place} ({holds}) has the name of a case of '{dataset}', "
            f"such as '{cases[0].case_id}.nii.gz'"
        )
    return GivenMasks(place, files, value)


def _names_of(case: Case, cases: Iterable[Case]) -> list[str]:
    """Stems that the mask of a case may have: the case's own name, or that of its scan where no other has it."""
    stem = volume_stem(case.image) or ""
    names = [case.case_id, case.case_id + CHANNEL_SUFFIX]
    if sum(other.image.name == case.image.name for other in cases) == 1:
        names += [stem, stem.removesuffix(CHANNEL_SUFFIX)]
    return list(dict.fromkeys(filter(None, names)))
