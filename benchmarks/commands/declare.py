"""How a command is declared: with groups of options as parameters, which Typer then sees one by one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from benchmarks.common.errors import UserError

DATA, PROMPTS, METHODS, TABLES = "Data", "Prompts", "Methods", "Tables"
BUDGET, CLUSTER, OUTPUT = "Budget", "Cluster", "Output"
"""Headings of `--help`, in its order; arguments and the options of a single command come before them."""

Function = TypeVar("Function", bound=Callable[..., None])


class _Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As usual, but an option that takes one value is not given twice: the first would be lost in silence."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        options: list[Any] = list(given)
        for option in options:
            takes_one = option.param_type_name == "option" and not (option.multiple or option.is_flag)
            if takes_one and options.count(option) > 1:
                several = "; several names go into one, with commas between" if "," in (option.metavar or "") else ""
                raise UserError(f"{option.opts[0]} is given more than once, and takes one value{several}")
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        options = _without_type(super().get_params(ctx))
        for option in options:
            if "--help" in option.opts:
                option.rich_help_panel = OUTPUT  # where the other options of every command are
        return sorted(
            options, key=lambda option: _place(getattr(option, "rich_help_panel", None))
        )  # as the help shows them


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type(super().get_params(ctx))


def _without_type(options: list[Any]) -> list[Any]:
    """The help shows a flag as it is typed, with no `<bool>` after it."""
    for option in options:
        if getattr(option, "is_flag", False) and option.metavar is None:
            option.metavar = ""
    return options


def _place(option: Any) -> int:
    order = (DATA, PROMPTS, METHODS, TABLES, BUDGET, CLUSTER, OUTPUT)
    panel = getattr(option, "rich_help_panel", None)
    return order.index(panel) if panel in order else -1


def new_group(**settings: Any) -> typer.Typer:
    """A Typer to which commands are added."""
    options: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": "markdown", "cls": _Group}
    return typer.Typer(pretty_exceptions_enable=False, **options | settings)


def command(group: typer.Typer, name: str | None = None, panel: str | None = None) -> Callable[[Function], Function]:
    """Add a function as a command of a group; see `flat`. The function itself stays as it is."""

    def register(function: Function) -> Function:
        group.command(name, cls=_Command, rich_help_panel=panel)(flat(function))
        return function

    return register


def flat(function: Callable[..., None]) -> Callable[..., None]:
    """The same function with one parameter for every option.

    A parameter whose type is a dataclass stands for a group of options: the fields of the dataclass, `Annotated` with
    a `typer.Option`, or groups again. The parameter's default, an instance, gives the defaults of its options.
    """
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    shown: list[inspect.Parameter] = []
    for one in parameters:
        if is_dataclass(one.annotation):
            group: Any = one.annotation
            shown += _options_of(group() if one.default is one.empty else one.default)
        else:
            shown.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(function)
    def call(**values: Any) -> None:
        function(**{one.name: _take(one.annotation, one.name, values) for one in parameters})

    del call.__wrapped__  # the signature below counts, not that of the function inside
    call.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    call.__annotations__ = {one.name: one.annotation for one in shown}
    return call


def _options_of(group: Any) -> Iterator[inspect.Parameter]:
    """One parameter for each option of a group, its value in `group` the default."""
    hints = get_type_hints(type(group), include_extras=True)
    for one in fields(group):
        value = getattr(group, one.name)
        if is_dataclass(hints[one.name]):
            yield from _options_of(value)
        else:
            yield inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=hints[one.name])


def _take(kind: Any, name: str, values: dict[str, Any]) -> Any:
    """The value of a parameter: a group made of the values of its options, or the value itself."""
    if not is_dataclass(kind):
        return values[name]
    hints = get_type_hints(kind)
    return kind(**{one.name: _take(hints[one.name], one.name, values) for one in fields(kind)})  # type: ignore[operator]
