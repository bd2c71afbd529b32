"""Prompting protocols: what a simulated user gives, in how many rounds, and with how steady a hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, fields, replace
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.validation import one_line_errors, settings_of
from benchmarks.prompting.prompts import PromptKind

Kind = Literal["none", "text", "centre-click", "random-click", "clicks", "box", "mask", "iterative", "made-elsewhere"]
Start = Literal["centre-click", "random-click", "box", "text", "none"]
Corrections = Literal["standard", "cvpr25"]
Per = Literal["target", "lesion", "each-lesion"]
Track = Literal["automatic", "text", "clicks", "box", "mask", "unknown"]

TRACKS: tuple[Track, ...] = get_args(Track)
"""What a method was given, from the least to the most; a leaderboard never mixes them in one list. "unknown": the
masks were made elsewhere."""

PROTOCOL_VERSION = "1"
"""Raised when a change here would alter any prompt; part of every prompt bank's identity."""

MOST_ROUNDS = 1000
"""More rounds or clicks than this are a slip of the pen: nobody clicks that often, and no disk holds the masks."""

MOST_MM = 10_000

_FIRST_CLICKS = ("centre-click", "random-click", "clicks")
_KINDS_OF_START: dict[str, PromptKind] = {
    "none": PromptKind.NONE,
    "text": PromptKind.TEXT,
    "centre-click": PromptKind.CLICK,
    "random-click": PromptKind.CLICK,
    "clicks": PromptKind.CLICK,
    "box": PromptKind.BOX,
    "mask": PromptKind.MASK,
}
_TRACK_OF_KIND: dict[PromptKind, Track] = {
    PromptKind.NONE: "automatic",
    PromptKind.TEXT: "text",
    PromptKind.CLICK: "clicks",
    PromptKind.BOX: "box",
    PromptKind.MASK: "mask",
}

_STRICT = ConfigDict(strict=True, extra="forbid")

Millimetres = Annotated[int | float, Field(ge=0, le=MOST_MM, description=f"0 or more mm, at most {MOST_MM}")]
Probability = Annotated[int | float, Field(ge=0, le=1, description="a probability")]
Quality = Annotated[int | float, Field(gt=0, le=1, description="above 0 and at most 1")]
Count = Annotated[int, Field(ge=1, le=MOST_ROUNDS, description=f"a whole number, 1 to {MOST_ROUNDS}")]
Rounds = Annotated[int, Field(ge=0, le=MOST_ROUNDS, description=f"a whole number of rounds, 0 to {MOST_ROUNDS}")]
Switch = Annotated[bool, Field(description="true or false")]
# `int | float` and not `float`: 5 in a suite stays 5, so that names and the hashes of prompt banks stay as they are.


@one_line_errors("noise")
@dataclass(frozen=True, config=_STRICT)
class OperatorNoise:
    """How far the simulated user falls short of a perfect hand.

    Attributes:
        displacement_mm: standard deviation, on each axis, between the click as meant and as made.
        wrong_sign: probability that a click has the wrong sign. The very first click of a case is exempt:
            a user who starts with a negative click sees nothing happen and takes it back.
        late_stop: rounds that the user goes on after being satisfied.
    """

    displacement_mm: Millimetres = 0.0
    wrong_sign: Probability = 0.0
    late_stop: Rounds = 0

    @property
    def suffix(self) -> str:
        """The part of a protocol's name that tells the noise; empty if there is none."""
        parts = [f"-displaced-{self.displacement_mm:g}mm"] if self.displacement_mm else []
        parts += [f"-wrong-sign-{self.wrong_sign:g}"] if self.wrong_sign else []
        parts += [f"-late-{self.late_stop}"] if self.late_stop else []
        return "".join(parts)


def _noise(value: object) -> OperatorNoise:
    return value if isinstance(value, OperatorNoise) else OperatorNoise(**settings_of(value, "noise"))


@one_line_errors("protocol")
@dataclass(frozen=True, config=_STRICT)
class Protocol:
    """What a simulated user gives, and in how many rounds.

    Attributes:
        kind: "none" (automatic), "text", "centre-click", "random-click", "clicks" (n random clicks at once),
            "box", "mask" (a rough mask) or "iterative" (a first prompt, then a corrective click per round).
            "made-elsewhere" gives nothing: masks are scored that the bench has not asked for. No suite lists it.
        clicks: how many clicks the kind "clicks" gives.
        rounds: prompting rounds of "iterative", the first one counted; each gives one record.
        start: the first prompt of "iterative".
        stop_dice: "iterative" ends once the prediction reaches this Dice; 1 ends it on a perfect mask only.
        previous_mask: "iterative" hands the current prediction back as a mask prompt.
        box_jitter_mm: each of the box's six faces moves by a uniform draw from ± this.
        mask_error_mm: standard deviation of the error of a rough mask's boundary.
        noise: the operator's noise on clicks and on stopping.
        per: "target" gives one prompt for the whole target (centre click: its largest lesion); "lesion" gives
            the first click (or clicks) on every lesion of the target, all in one prompt; "each-lesion" makes every
            lesion a task of its own: one session, first prompt and corrections for it alone, and the union of
            the answers is the answer for the target.
        text: adds the target's text to any other prompt.
        corrections: whose rule places the corrective clicks of "iterative": "standard" is this bench's, "cvpr25" that
            of the CVPR 2025 challenge, see `benchmarks.prompting.cvpr25`.
    """

    kind: Kind
    clicks: Count = 1
    rounds: Count = 1
    box_jitter_mm: Millimetres = 0.0
    noise: Annotated[OperatorNoise, BeforeValidator(_noise)] = field(default_factory=OperatorNoise)
    per: Per = "target"
    start: Start = "centre-click"
    stop_dice: Quality = 1.0
    previous_mask: Switch = False
    mask_error_mm: Millimetres = 2.0
    text: Switch = False
    corrections: Corrections = "standard"

    def __post_init__(self) -> None:
        self._refuse_settings_without_effect()

    def _refuse_settings_without_effect(self) -> None:
        """A setting that changes nothing would give two names to one protocol, or a false sense of noise."""
        iterative, first = self.kind == "iterative", self.first_kind
        corrected = iterative and self.rounds > 1
        # The first click of a session has never a wrong sign; with "each-lesion" every lesion is a session.
        clicked_twice = corrected or self.clicks > 1 or self.per == "lesion"
        for name, is_set, has_effect in (
            ("clicks", self.clicks != 1, self.kind == "clicks"),
            ("rounds", self.rounds != 1, iterative),
            ("start", self.start != "centre-click", iterative),
            ("stop_dice", self.stop_dice != 1.0, corrected),
            ("previous_mask", self.previous_mask, corrected),
            ("box_jitter_mm", self.box_jitter_mm != 0, first == "box"),
            ("mask_error_mm", self.mask_error_mm != 2.0, first == "mask"),
            ("per: lesion", self.per == "lesion", first in _FIRST_CLICKS),
            ("per: each-lesion", self.per == "each-lesion", self.looks_at_label),
            ("corrections", self.corrections != "standard", corrected),
            ("text", self.text, first not in ("none", "text")),
            ("noise.displacement_mm", self.noise.displacement_mm != 0, corrected or first in _FIRST_CLICKS),
            ("noise.wrong_sign", self.noise.wrong_sign != 0, clicked_twice),
            ("noise.late_stop", self.noise.late_stop != 0, corrected),
        ):
            if is_set and not has_effect:
                raise UserError(f"protocol '{self.kind}': '{name}' has no effect there; leave it out")

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any] | str) -> Protocol:
        """Read a protocol from YAML: a mapping with `kind`, or the kind alone.

        Raises:
            UserError: an unknown key or value, with the nearest known one.
        """
        settings = {"kind": content} if isinstance(content, str) else settings_of(content, "protocol")
        if "kind" not in settings:
            raise UserError(f"a protocol needs 'kind', one of: {', '.join(get_args(Kind))}")
        return cls(**settings)

    @classmethod
    def ladder_from_mapping(cls, content: Mapping[str, Any] | str) -> tuple[Protocol, ...]:
        """Read one protocol, or a ladder of them: one size of an error may be a list, such as [0, 2, 4, 8] mm.

        Raises:
            UserError: as `from_mapping`; two lists; a list of anything but numbers.
        """
        if isinstance(content, str):
            return (cls.from_mapping(content),)
        settings = settings_of(content, "protocol")
        noise = settings.get("noise", {})
        noise = settings_of(noise, "noise") if isinstance(noise, Mapping) else {}
        sizes = {name: value for name, value in {**settings, **noise}.items() if name in NOISE_SIZES}
        lists = [name for name, value in sizes.items() if isinstance(value, list | tuple)]
        if not lists:
            return (cls.from_mapping(content),)
        if len(lists) > 1:
            first, second = sorted(lists, key=NOISE_SIZES.index)[:2]
            raise UserError(f"protocol: '{first}' and '{second}' are lists; a ladder has one kind of error")
        (size,) = lists
        if all(value == sizes[size][0] for value in sizes[size]):
            raise UserError(f"protocol: '{size}' needs two sizes or more to be a ladder")
        rest = {name: value for name, value in settings.items() if name not in ("noise", size)}
        calm = {name: value for name, value in noise.items() if name != size}
        return noise_ladder(cls.from_mapping(rest | ({"noise": calm} if calm else {})), size, sizes[size])

    def to_mapping(self) -> dict[str, Any]:
        """The settings that differ from the default, as `from_mapping` reads them."""
        settings: dict[str, Any] = {"kind": self.kind}
        for spec in fields(self)[1:]:
            value = getattr(self, spec.name)
            if spec.name == "noise":
                noise = {s.name: getattr(value, s.name) for s in fields(value) if getattr(value, s.name) != s.default}
                settings |= {"noise": noise} if noise else {}
            elif value != spec.default:
                settings[spec.name] = value
        return settings

    @property
    def name(self) -> str:
        """Short and stable, for tables and file names; two protocols that differ never share it."""
        return self._base_name + self._setting_suffix + self.noise.suffix

    @property
    def _base_name(self) -> str:
        match self.kind:
            case "none":
                return "automatic"
            case "clicks":
                return f"{self.clicks}-click" + ("s" if self.clicks > 1 else "")
            case "iterative":
                return f"iterative-{self.rounds}" + ("" if self.start == "centre-click" else f"-from-{self.start}")
            case _:
                return self.kind

    @property
    def _setting_suffix(self) -> str:
        parts = [f"-jitter-{self.box_jitter_mm:g}mm"] if self.box_jitter_mm else []
        parts += [f"-error-{self.mask_error_mm:g}mm"] if self.kind == "mask" else []
        parts += [f"-until-{self.stop_dice:g}"] if self.stop_dice < 1 else []
        parts += ["-mask-back"] if self.previous_mask else []
        parts += ["-text"] if self.text else []
        parts += [f"-{self.corrections}"] if self.corrections != "standard" else []
        parts += {"target": [], "lesion": ["-per-lesion"], "each-lesion": ["-each-lesion"]}[self.per]
        return "".join(parts)

    @property
    def first_kind(self) -> str:
        """What the first prompt is: `start` of an iterative protocol, otherwise the kind."""
        return self.start if self.kind == "iterative" else self.kind

    @property
    def track(self) -> Track:
        """What the method was given, all rounds counted: the part of the leaderboard for its row."""
        if self.kind == "made-elsewhere":
            return "unknown"
        tracks = [_TRACK_OF_KIND[_KINDS_OF_START[self.first_kind]]]
        if self.kind == "iterative" and self.rounds > 1:
            tracks.append("clicks")
        return max(tracks, key=TRACKS.index)

    @property
    def needs(self) -> frozenset[PromptKind]:
        """The prompt kinds that a method must understand to take part."""
        if self.kind == "made-elsewhere":
            return frozenset()
        kinds = {_KINDS_OF_START[self.first_kind]}
        if self.text:
            kinds.add(PromptKind.TEXT)
        if self.kind == "iterative" and self.rounds > 1:
            kinds |= {PromptKind.CLICK, PromptKind.NEGATIVE_CLICK}
            if self.previous_mask:
                kinds.add(PromptKind.MASK)
        if self.noise.wrong_sign:
            kinds.add(PromptKind.NEGATIVE_CLICK)
        return frozenset(kinds)

    @property
    def first_needs(self) -> frozenset[PromptKind]:
        """The prompt kinds of the first round, from a user who makes no mistake."""
        kinds = {_KINDS_OF_START[self.first_kind]} | ({PromptKind.TEXT} if self.text else set())
        return frozenset(kinds)

    def clicks_by(self, step: int) -> int:
        """How many clicks one session (of one lesion, where each has its own clicks) has been given by a step."""
        first = {"centre-click": 1, "random-click": 1, "clicks": self.clicks}.get(self.first_kind, 0)
        return first + (min(step, self.rounds) - 1)

    @property
    def looks_at_label(self) -> bool:
        """Whether the first prompt is made from the label map; if not, it exists for an empty target too."""
        return self.first_kind not in ("none", "text", "made-elsewhere")


NOISE_SIZES = ("displacement_mm", "wrong_sign", "late_stop", "box_jitter_mm", "mask_error_mm")
"""The settings that tell how large an error of the operator is, those of `OperatorNoise` first."""


def noise_ladder(protocol: Protocol, setting: str, values: Sequence[float]) -> tuple[Protocol, ...]:
    """The same protocol at rising noise, for a robustness curve.

    The draws are shared along the ladder and only their size changes, so the curve shows the noise alone. The rough
    masks of "mask_error_mm" are an exception: each size has a field of errors of its own.

    Args:
        setting: "box_jitter_mm", "mask_error_mm", or a setting of `OperatorNoise`.
    """
    if setting not in NOISE_SIZES:
        raise UserError(f"unknown noise '{setting}'; {nearest_name(setting, NOISE_SIZES)}")
    steps: list[dict[str, Any]] = [{setting: value} for value in values]
    if setting in ("box_jitter_mm", "mask_error_mm"):
        return tuple(replace(protocol, **step) for step in steps)
    return tuple(replace(protocol, noise=replace(protocol.noise, **step)) for step in steps)
