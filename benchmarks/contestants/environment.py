"""The Python environment that a method works in, where the bench's own does not suit it."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError, nearest_name

ACTIVE = "TAGS_BENCH_ENVIRONMENT"
"""Environment variable of a process that was started for one method, in the environment that was chosen for it."""

_FORMS = ("pip", "uv", "python", "conda", "apptainer")


@dataclass(frozen=True)
class Environment:
    """Where a method's processes run: exactly one of these is given. The bench builds the first two itself.

    Attributes:
        pip: requirements, such as ("nninteractive>=2.6,<3",), options of pip among them: an environment laid over the
            bench's own, so that only what differs is installed. Where the bench's own meets them all, none is built.
        uv: the same with `uv`, which also installs again what the requirements depend on.
        python: an interpreter that is there, such as "/opt/venvs/medsam2/bin/python".
        conda: the name or the folder of a conda environment that is there.
        apptainer: a container image, a file or an address, whose `python` is used.

    An environment that is there (`python`, `conda`, `apptainer`) has tags-bench in it, the same Ray and the same
    minor version of Python: the bench's processes run in it.
    """

    pip: tuple[str, ...] = ()
    uv: tuple[str, ...] = ()
    python: str = ""
    conda: str = ""
    apptainer: str = ""

    def __post_init__(self) -> None:
        given = [form for form in _FORMS if getattr(self, form)]
        if len(given) != 1:
            raise UserError(f"environment: give one of {', '.join(_FORMS)}, not {len(given)} of them")

    @classmethod
    def from_mapping(cls, content: Any) -> Environment:
        """Read one from YAML. Raises UserError for an unknown key or a value of the wrong type."""
        if not isinstance(content, Mapping):
            raise UserError(f"environment: a mapping such as {{python: /venv/bin/python}} is needed, not {content!r}")
        values: dict[str, Any] = {}
        for key, value in content.items():
            if key not in _FORMS:
                raise UserError(f"environment: unknown key '{key}'; {nearest_name(str(key), _FORMS)}")
            listed = key in ("pip", "uv")
            if listed and isinstance(value, list) and all(isinstance(one, str) for one in value):
                value = tuple(value)
            elif listed or not isinstance(value, str):
                raise UserError(f"environment: '{key}' is {'a list of words' if listed else 'a word'}, not {value!r}")
            values[key] = value
        return cls(**values)

    def as_mapping(self) -> dict[str, Any]:
        """As `from_mapping` reads it."""
        values = {form: value for form, value in asdict(self).items() if value}
        return {form: list(value) if isinstance(value, tuple) else value for form, value in values.items()}

    @property
    def requirements(self) -> tuple[str, ...]:
        """What is installed, by whichever program."""
        return self.pip or self.uv

    @property
    def identity(self) -> dict[str, Any]:
        """What of it may change results wherever it lies: requirements and images, not places on this machine."""
        kept = {"pip": list(self.pip), "uv": list(self.uv), "apptainer": Path(self.apptainer).name}
        return {form: value for form, value in kept.items() if value}

    def __str__(self) -> str:
        form, value = next((form, value) for form, value in asdict(self).items() if value)
        return f"{form} {' '.join(value) if isinstance(value, tuple) else value}"

    def is_here(self) -> bool:
        """Whether this very process meets the requirements, so that nothing has to be built."""
        return bool(self.requirements) and all(_met(one) for one in self.requirements)


def _met(requirement: str) -> bool:
    """Whether a requirement is met here. One that names a file or an address never is: its content is not known."""
    from packaging.requirements import InvalidRequirement, Requirement

    if requirement.startswith("-"):  # how to install and not what, but for files and folders
        return not requirement.startswith(("-r", "--requirement", "-e", "--editable"))
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement:
        return False
    if wanted.url or wanted.extras:
        return False
    if wanted.marker is not None and not wanted.marker.evaluate():
        return True
    try:
        found = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return wanted.specifier.contains(found, prereleases=True)


def check_active(method: str, environment: Environment | None) -> None:
    """Refuse to load a method outside its environment.

    Raises:
        UserError: this process is in another one.
    """
    if environment is None or os.environ.get(ACTIVE) == method or environment.is_here():
        return
    raise UserError(
        f"method '{method}' works in an environment of its own ({environment}), and this process is not in it; "
        "the commands of tags-bench use it by themselves, see docs/running.md, environments"
    )
