"""What a sweep may vary of a method: typed knobs, some of which exist only beside certain values of others.

A method announces them in plain form, `{knob: [kind, …]}`:

    {
        "learning_rate": ["loguniform", 1e-5, 1e-3],
        "fusion": ["choice", ["gated", "concat", "none"]],
        "fusion_layers": ["randint", 1, 4, {"fusion": ["gated", "concat"]}],
        "zoom": ["choice", [[0.85, 1.25], [0.6, 1.5]]],
    }

A mapping at the end is a condition: the knob is searched only where each knob that it names, which must come before,
has one of these values. Elsewhere the method keeps its own setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

Kind = Literal["uniform", "loguniform", "randint", "lograndint", "choice"]

Plain = Mapping[str, Sequence[Any]]
"""A search space as a method announces it."""


@dataclass(frozen=True)
class Knob:
    """One setting that is searched.

    Attributes:
        low, high: ends of a range; of whole numbers `high` itself is not reached.
        choices: JSON-like values, of "choice".
        when: other knob → the values beside which this one exists.
    """

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Any, ...] = ()
    when: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def applies(self, chosen: Mapping[str, Any]) -> bool:
        """Whether it exists beside the values that are chosen for the knobs before it."""
        return all(chosen.get(name) in values for name, values in self.when.items())

    def holds(self, value: Any) -> bool:
        """Whether the value can be found."""
        if self.kind == "choice":
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.whole:
            return value == int(value) and self.low <= value < self.high
        return self.low <= value <= self.high

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return self.kind in ("randint", "lograndint")

    def holding(self, value: Any) -> Knob:
        """The knob widened, where it has to be, so that it can find the value."""
        if self.holds(value):
            return self
        if self.kind == "choice":
            return replace(self, choices=(value, *self.choices))
        return replace(self, low=min(self.low, value), high=max(self.high, value + self.whole))


def knobs_of(space: Plain) -> list[Knob]:
    """The knobs of a plain search space, in its order.

    Raises:
        ValueError: what is wrong with which knob.
    """
    knobs: list[Knob] = []
    for name, words in space.items():
        try:
            knobs.append(_knob(name, list(words), {knob.name for knob in knobs}))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from error
    return knobs


def _knob(name: str, words: list[Any], before: set[str]) -> Knob:
    kind, *arguments = words
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind '{kind}', known: {', '.join(get_args(Kind))}")
    when = arguments.pop() if arguments and isinstance(arguments[-1], Mapping) else {}
    missing = [other for other in when if other not in before]
    if missing:
        raise ValueError(f"its condition names '{missing[0]}', which is no knob before it")
    if kind == "choice":
        (choices,) = arguments
        if not choices:
            raise ValueError("nothing to choose from")
        return Knob(name, kind, choices=tuple(choices), when=when)
    low, high = arguments
    if not low < high:
        raise ValueError(f"{low} is not below {high}")
    if kind.startswith("log") and low <= 0:
        raise ValueError(f"a logarithmic range begins above 0, not at {low}")
    return Knob(name, kind, low, high, when=when)
