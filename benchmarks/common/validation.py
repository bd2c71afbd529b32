"""What pydantic found wrong, in the one line that this bench prints."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from benchmarks.common.errors import UserError, nearest_name

Class = TypeVar("Class", bound=type)

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")


def first_problem(error: ValidationError, fields: Mapping[str, Any]) -> str:
    """The problem to name first, of a flat object with these fields: a misspelt key explains the rest.

    A field's `description` says what it must be, such as "0 or more mm".
    """
    problem = min(error.errors(), key=lambda one: one["type"] not in _UNKNOWN)
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] in _UNKNOWN:
        return f"unknown setting '{name}'; {nearest_name(name, fields)}"
    if problem["type"] in _MISSING:
        return f"'{name}' is missing"
    value = problem["input"]
    if problem["type"] == "literal_error":
        return f"unknown {name} '{value}'; {nearest_name(str(value), _literals(problem))}"
    phrase = getattr(fields.get(name), "description", None)
    return f"'{name}' must be {phrase}, not {value!r}" if phrase else f"'{name}': {problem['msg']}"


def one_line_errors(name: str) -> Callable[[Class], Class]:
    """Decorate a pydantic dataclass: wrong settings raise UserError, in one line that begins with `name`."""

    def decorate(cls: Class) -> Class:
        build = cls.__init__  # type: ignore[misc]

        @functools.wraps(build)
        def init(self: Any, *args: Any, **settings: Any) -> None:
            try:
                build(self, *args, **settings)
            except ValidationError as error:
                fields = cls.__pydantic_fields__  # type: ignore[attr-defined]
                raise UserError(f"{name}: {first_problem(error, fields)}") from error

        cls.__init__ = init  # type: ignore[misc]
        return cls

    return decorate


def settings_of(value: object, name: str) -> dict[str, Any]:
    """A mapping with words for keys. Raises UserError if it is something else."""
    if not isinstance(value, Mapping):
        raise UserError(f"{name}: a mapping of settings is needed, not {value!r}")
    return {str(key): entry for key, entry in value.items()}


def _literals(problem: Any) -> Iterable[str]:
    """The allowed words of a literal: pydantic gives them as one text, 'a', 'b' or 'c'."""
    return str(problem["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
