"""The label stays out of a segmenter's reach while it works, and whoever reaches for it is found out.

Three things are watched, at every `open` and every `segment`:

- files: for the time of the call no scan or label map in the folder of the case's label can be opened, linked or
  named to another program by this process, in whatever thread (a Python audit hook);
- arguments: `Volume`, `Target` and `Prompts` are just that, carry no path, and share no memory with the label;
- the outcome: an attempt is a failure of the case, even if the segmenter swallowed the error that it was given.

It is a guard against mistakes, such as a wrapper that crops around the label "as upstream does". It is no wall:
code that walks the interpreter's frames, or a native library that opens files by itself, is not stopped.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contestants import Target
from benchmarks.data.dataset import Case
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Prompts

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".dcm")

_EVENTS = {"open", "os.link", "os.symlink", "os.rename", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"}


class LabelLeak(Exception):
    """A segmenter reached for the label, or was handed something that leads to it."""


@contextmanager
def reading_labels() -> Iterator[None]:
    """For the bench's own threads: here this thread may open labels while another one is in a segmenter's call."""
    thread = threading.get_ident()
    _watch.readers.add(thread)
    try:
        yield
    finally:
        _watch.readers.discard(thread)


class Guard:
    """Watches the calls of a segmenter on one case.

    Args:
        case: whose label is guarded.
        label: the label map in memory.
    """

    def __init__(self, case: Case, label: NDArray[np.generic]) -> None:
        self._file, self._folder = _real(case.label), os.path.dirname(_real(case.label))
        self._label = label

    @contextmanager
    def watch(self, volume: Volume, target: Target, prompts: Prompts | None = None) -> Iterator[None]:
        """The time of one call. One call at a time in a process.

        Raises:
            LabelLeak: the label could be reached by the arguments, or was reached for during the call.
        """
        self._look_through(volume, target, prompts)
        _install()
        _watch.begin(self._file, self._folder)
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        finally:
            attempts = _watch.end()
        if attempts:  # whatever the method made of the error that it was given
            raise LabelLeak(f"the method reached for the label: {attempts[0]}") from error
        if error is not None:
            raise error

    def _look_through(self, volume: Volume, target: Target, prompts: Prompts | None) -> None:
        for passed, kind in ((volume, Volume), (target, Target), (prompts, Prompts)):
            if passed is None:
                continue
            if type(passed) is not kind or set(vars(passed)) != {spec.name for spec in fields(kind)}:
                raise LabelLeak(f"the method would be given more than a {kind.__name__}: {sorted(vars(passed))}")
        arrays = [volume.array, volume.affine, volume.orientation, None if prompts is None else prompts.mask]
        if any(array is not None and np.may_share_memory(array, self._label) for array in arrays):
            raise LabelLeak("the method would be given an array that shares memory with the label")


class _Watch:
    """What this process may not touch now; one for the process, because an audit hook cannot be taken away."""

    def __init__(self) -> None:
        self.active = False
        self.readers: set[int] = set()  # threads that load or score another case meanwhile
        self._file = self._folder = ""
        self._attempts: list[str] = []

    def begin(self, file: str, folder: str) -> None:
        self._file, self._folder, self._attempts = file, folder, []
        self.active = True

    def end(self) -> list[str]:
        self.active = False
        return self._attempts

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: sees every file that Python opens, and raises where it must not."""
        if not self.active or event not in _EVENTS or threading.get_ident() in self.readers:
            return
        self.active = False  # looking at a path must not call this again
        try:
            touched = next((word for word in _words(arguments) if self._is_guarded(word)), None)
        finally:
            self.active = True
        if touched is not None:
            self._attempts.append(f"{event} of {os.path.basename(touched)}")
            raise LabelLeak(f"{os.path.basename(touched)} lies with the labels and cannot be opened here")

    def _is_guarded(self, path: str) -> bool:
        if not path.endswith(VOLUME_SUFFIXES) and os.path.basename(path) != os.path.basename(self._file):
            return self._file in path
        real = _real(Path(path))
        return real == self._file or real.startswith(self._folder + os.sep)


def _words(arguments: tuple[Any, ...]) -> Iterator[str]:
    """The strings among the arguments of an audit event, those of a command line included."""
    for argument in arguments:
        if isinstance(argument, bytes):
            yield os.fsdecode(argument)
        elif isinstance(argument, str):
            yield argument
        elif isinstance(argument, os.PathLike):
            yield os.fsdecode(os.fspath(argument))
        elif isinstance(argument, list | tuple):
            yield from _words(tuple(argument))


def _real(path: Path) -> str:
    return os.path.realpath(path)


_watch = _Watch()
_installed = False


def _install() -> None:
    global _installed
    if not _installed:
        sys.addaudithook(_watch.hook)
        _installed = True
