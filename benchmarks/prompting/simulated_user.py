"""Simulated users: from a label map (and the current prediction) to prompts.

A protocol says what the user gives: nothing, a text, clicks, a box, a rough mask, or clicks that correct the
prediction round by round. The user sees the label; the segmenter sees only the prompts. All chance comes from
`common.seeds`, from (suite seed, dataset, case, target, round), with the lesion before the round where each lesion is
a task of its own: the same case gets the same prompts under every method, on any number of workers, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.seeds import generator
from benchmarks.metrics import crop
from benchmarks.prompting.prompts import Box, Click, PromptKind, Prompts

if TYPE_CHECKING:
    from benchmarks.data.target import Target

BoolArray = NDArray[np.bool_]
Spacing = tuple[float, float, float]
Position = tuple[int, int, int]

Kind = Literal["none", "text", "centre-click", "random-click", "clicks", "box", "mask", "iterative"]
Start = Literal["centre-click", "random-click", "box", "text", "none"]
Per = Literal["target", "lesion", "each-lesion"]
Track = Literal["automatic", "text", "clicks", "box", "mask"]

TRACKS: tuple[Track, ...] = get_args(Track)
"""What a method was given, from the least to the most; a leaderboard never mixes them in one list."""

PROTOCOL_VERSION = "1"
"""Raised when a change here would alter any prompt; part of every prompt bank's identity."""

CONNECTIVITY = np.ones((3, 3, 3), bool)
"""Lesions and error components are 26-connected."""

EXACT_VOXELS = 1 << 18
"""Above this many voxels in a component's box, its interior maximum is sought on a coarser grid."""

TIE_MM = 1e-6

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


class NoTarget(Exception):
    """The case holds no voxel of the target, so no click, box or mask can be made from it."""


@dataclass(frozen=True)
class OperatorNoise:
    """How far the simulated user falls short of a perfect hand.

    Attributes:
        displacement_mm: standard deviation, on each axis, between the click as meant and as made.
        wrong_sign: probability that a click has the wrong sign. The very first click of a case is exempt:
            a user who starts with a negative click sees nothing happen and takes it back.
        late_stop: rounds that the user goes on after being satisfied.
    """

    displacement_mm: float = 0.0
    wrong_sign: float = 0.0
    late_stop: int = 0

    def __post_init__(self) -> None:
        _need(_finite(self.displacement_mm) and self.displacement_mm >= 0, "displacement_mm", "0 or more mm")
        _need(_finite(self.wrong_sign) and 0 <= self.wrong_sign <= 1, "wrong_sign", "a probability")
        _need(_whole(self.late_stop) and self.late_stop >= 0, "late_stop", "a whole number of rounds, 0 or more")

    @property
    def suffix(self) -> str:
        """The part of a protocol's name that tells the noise; empty if there is none."""
        parts = [f"-displaced-{self.displacement_mm:g}mm"] if self.displacement_mm else []
        parts += [f"-wrong-sign-{self.wrong_sign:g}"] if self.wrong_sign else []
        parts += [f"-late-{self.late_stop}"] if self.late_stop else []
        return "".join(parts)


@dataclass(frozen=True)
class Protocol:
    """What a simulated user gives, and in how many rounds.

    Attributes:
        kind: "none" (automatic), "text", "centre-click", "random-click", "clicks" (n random clicks at once),
            "box", "mask" (a rough mask) or "iterative" (a first prompt, then a corrective click per round).
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
    """

    kind: Kind
    clicks: int = 1
    rounds: int = 1
    box_jitter_mm: float = 0.0
    noise: OperatorNoise = field(default_factory=OperatorNoise)
    per: Per = "target"
    start: Start = "centre-click"
    stop_dice: float = 1.0
    previous_mask: bool = False
    mask_error_mm: float = 2.0
    text: bool = False

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, get_args(Kind))
        _one_of("start", self.start, get_args(Start))
        _one_of("per", self.per, get_args(Per))
        _need(_whole(self.clicks) and self.clicks >= 1, "clicks", "a whole number, 1 or more")
        _need(_whole(self.rounds) and self.rounds >= 1, "rounds", "a whole number, 1 or more")
        _need(_finite(self.box_jitter_mm) and self.box_jitter_mm >= 0, "box_jitter_mm", "0 or more mm")
        _need(_finite(self.mask_error_mm) and self.mask_error_mm >= 0, "mask_error_mm", "0 or more mm")
        _need(_finite(self.stop_dice) and 0 < self.stop_dice <= 1, "stop_dice", "above 0 and at most 1")
        _need(isinstance(self.previous_mask, bool), "previous_mask", "true or false")
        _need(isinstance(self.text, bool), "text", "true or false")
        _need(isinstance(self.noise, OperatorNoise), "noise", "a mapping such as {displacement_mm: 2}")
        self._refuse_settings_without_effect()

    def _refuse_settings_without_effect(self) -> None:
        """A setting that changes nothing would give two names to one protocol, or a false sense of noise."""
        iterative, first = self.kind == "iterative", self._first_kind
        for name, given, has_effect in (
            ("clicks", self.clicks != 1, self.kind == "clicks"),
            ("rounds", self.rounds != 1, iterative),
            ("start", self.start != "centre-click", iterative),
            ("stop_dice", self.stop_dice != 1.0, iterative),
            ("previous_mask", self.previous_mask, iterative),
            ("box_jitter_mm", self.box_jitter_mm != 0, first == "box"),
            ("mask_error_mm", self.mask_error_mm != 2.0, first == "mask"),
            ("per: lesion", self.per == "lesion", first in _FIRST_CLICKS),
            ("per: each-lesion", self.per == "each-lesion", self.looks_at_label),
            ("text", self.text, first not in ("none", "text")),
            ("noise.displacement_mm", self.noise.displacement_mm != 0, iterative or first in _FIRST_CLICKS),
            ("noise.wrong_sign", self.noise.wrong_sign != 0, iterative or self.kind == "clicks"),
            ("noise.late_stop", self.noise.late_stop != 0, iterative),
        ):
            if given and not has_effect:
                raise UserError(f"protocol '{self.kind}': '{name}' has no effect there; leave it out")

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any] | str) -> Protocol:
        """Read a protocol from YAML: a mapping with `kind`, or the kind alone.

        Raises:
            UserError: an unknown key or value, with the nearest known one.
        """
        settings: dict[str, Any] = {"kind": given} if isinstance(given, str) else dict(_mapping(given, "protocol"))
        if "kind" not in settings:
            raise UserError(f"a protocol needs 'kind', one of: {', '.join(get_args(Kind))}")
        _check_keys(settings, cls, "protocol")
        if "noise" in settings:
            noise = dict(_mapping(settings["noise"], "noise"))
            _check_keys(noise, OperatorNoise, "noise")
            settings["noise"] = OperatorNoise(**noise)
        return cls(**settings)

    @classmethod
    def ladder_from_mapping(cls, given: Mapping[str, Any] | str) -> tuple[Protocol, ...]:
        """Read one protocol, or a ladder of them: one size of an error may be a list, such as [0, 2, 4, 8] mm.

        Raises:
            UserError: as `from_mapping`; two lists; a list of anything but numbers.
        """
        if isinstance(given, str):
            return (cls.from_mapping(given),)
        noise = given.get("noise", {}) if isinstance(given, Mapping) else {}
        where: dict[str, Any] = {**_mapping(given, "protocol"), **(noise if isinstance(noise, Mapping) else {})}
        lists = [name for name in NOISE_SIZES if isinstance(where.get(name), list | tuple)]
        if not lists:
            return (cls.from_mapping(given),)
        if len(lists) > 1:
            raise UserError(f"protocol: '{lists[0]}' and '{lists[1]}' are lists; a ladder has one kind of error")
        if len(set(where[lists[0]])) < 2:
            raise UserError(f"protocol: '{lists[0]}' needs two sizes or more to be a ladder")
        rest = {key: value for key, value in given.items() if key not in ("noise", lists[0])}
        calm = {key: value for key, value in dict(noise).items() if key != lists[0]}
        return noise_ladder(cls.from_mapping(rest | ({"noise": calm} if calm else {})), lists[0], where[lists[0]])

    def to_mapping(self) -> dict[str, Any]:
        """The settings that differ from the default, as `from_mapping` reads them."""
        told: dict[str, Any] = {"kind": self.kind}
        for spec in fields(self)[1:]:
            value = getattr(self, spec.name)
            if spec.name == "noise":
                noise = {s.name: getattr(value, s.name) for s in fields(value) if getattr(value, s.name) != s.default}
                told |= {"noise": noise} if noise else {}
            elif value != spec.default:
                told[spec.name] = value
        return told

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
        parts += {"target": [], "lesion": ["-per-lesion"], "each-lesion": ["-each-lesion"]}[self.per]
        return "".join(parts)

    @property
    def _first_kind(self) -> str:
        return self.start if self.kind == "iterative" else self.kind

    @property
    def track(self) -> Track:
        """What the method was given, all rounds counted: the part of the leaderboard for its row."""
        given = [_TRACK_OF_KIND[_KINDS_OF_START[self._first_kind]]]
        if self.kind == "iterative" and self.rounds > 1:
            given.append("clicks")
        return max(given, key=TRACKS.index)

    @property
    def needs(self) -> frozenset[PromptKind]:
        """The prompt kinds that a method must understand to take part."""
        kinds = {_KINDS_OF_START[self._first_kind]}
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
        kinds = {_KINDS_OF_START[self._first_kind]} | ({PromptKind.TEXT} if self.text else set())
        return frozenset(kinds)

    @property
    def looks_at_label(self) -> bool:
        """Whether the first prompt is made from the label map; if not, it exists for an empty target too."""
        return self._first_kind not in ("none", "text")


NOISE_SIZES = ("displacement_mm", "wrong_sign", "late_stop", "box_jitter_mm", "mask_error_mm")
"""The settings that tell how large an error of the operator is, those of `OperatorNoise` first."""


def noise_ladder(protocol: Protocol, setting: str, values: Sequence[float]) -> tuple[Protocol, ...]:
    """The same protocol at rising noise, for a robustness curve.

    The draws are shared along the ladder and only their size changes, so the curve shows the noise alone.

    Args:
        setting: "box_jitter_mm", "mask_error_mm", or a setting of `OperatorNoise`.
    """
    if setting not in NOISE_SIZES:
        raise UserError(f"unknown noise '{setting}'; {nearest_name(setting, NOISE_SIZES)}")
    steps: list[dict[str, Any]] = [{setting: value} for value in values]
    if setting in ("box_jitter_mm", "mask_error_mm"):
        return tuple(replace(protocol, **step) for step in steps)
    return tuple(replace(protocol, noise=replace(protocol.noise, **step)) for step in steps)


class SimulatedUser:
    """One user at one target of one case; counts the rounds, so make a new one for each session.

    Args:
        protocol: what the user gives.
        seed_parts: (suite seed, dataset, case, target); the round is added here.
    """

    def __init__(self, protocol: Protocol, seed_parts: tuple[object, ...]) -> None:
        self.protocol = protocol
        self._seed_parts = seed_parts
        self._round = 1
        self._late_rounds = 0

    def first(self, label_mask: BoolArray, spacing: Spacing, target: Target) -> Prompts:
        """The prompts of the first round.

        Args:
            label_mask: bool, axes (x, y, z): the voxels of the target.
            spacing: mm per voxel, in the same order.

        Raises:
            NoTarget: the mask is empty and the protocol needs to see the target. An automatic or a text
                protocol never raises it: what a method paints where there is nothing must be counted.
        """
        self._round, self._late_rounds = 1, 0
        text = target_text(target) if self.protocol.text or self.protocol._first_kind == "text" else None
        if not self.protocol.looks_at_label:
            return Prompts(text=text)
        box = bounding_box(label_mask)
        if box is None:
            raise NoTarget(f"no voxel of '{target.name}' in the case")
        match self.protocol._first_kind:
            case "box":
                return Prompts(box=self._jittered(box, label_mask.shape, spacing), text=text)
            case "mask":
                return Prompts(mask=self._rough_mask(label_mask, box, spacing), text=text)
            case _:
                return Prompts(clicks=self._first_clicks(label_mask, box, spacing), text=text)

    def next(self, label_mask: BoolArray, prediction: BoolArray, previous: Prompts, spacing: Spacing) -> Prompts | None:
        """The prompts of the next round: all given so far and one corrective click.

        The click falls in the largest error component (false negative or false positive), at its interior
        maximum; it is positive on a false negative.

        Returns:
            None when the rounds are used up or the user is satisfied (and the late stop is over).
        """
        if prediction.shape != label_mask.shape:
            raise ValueError(f"prediction {prediction.shape} and label {label_mask.shape} differ in shape")
        if self.protocol.kind != "iterative" or self._round >= self.protocol.rounds:
            return None
        boxes = [box for box in (bounding_box(label_mask), bounding_box(prediction)) if box is not None]
        if not boxes:
            return None  # nothing to find and nothing found
        window = _union(boxes)
        label, predicted = label_mask[_slices(window)], prediction[_slices(window)]
        if self._satisfied(label, predicted):
            if self._late_rounds >= self.protocol.noise.late_stop:
                return None
            self._late_rounds += 1
        self._round += 1
        click = self._correction(label, predicted, window.low, label_mask.shape, spacing, previous)
        mask = prediction.copy() if self.protocol.previous_mask else previous.mask
        return replace(previous, clicks=(*previous.clicks, click), mask=mask)

    def _satisfied(self, label: BoolArray, predicted: BoolArray) -> bool:
        both = np.count_nonzero(label & predicted)
        return 2 * both >= self.protocol.stop_dice * (np.count_nonzero(label) + np.count_nonzero(predicted))

    def _correction(
        self,
        label: BoolArray,
        predicted: BoolArray,
        origin: Position,
        shape: tuple[int, ...],
        spacing: Spacing,
        previous: Prompts,
    ) -> Click:
        error, positive = largest_error(label, predicted)
        if error.size:
            local = interior_maximum(error.mask, spacing)
            position = _shift(local, error.low, origin)
        else:  # a late user clicks on a mask that is already right
            chance = generator(*self._seed_parts, "round", self._round, "place")
            position = _shift(_draw_voxels(label, 1, chance)[0], origin)
        return self._hand(position, positive, shape, spacing, 0, exempt=not previous.clicks)

    def _first_clicks(self, label_mask: BoolArray, box: Box, spacing: Spacing) -> tuple[Click, ...]:
        inside = label_mask[_slices(box)]
        regions = components(inside) if self.protocol.per == "lesion" else [_Component(inside, (0, 0, 0), 0)]
        positions = [
            _shift(position, region.low, box.low)
            for lesion, region in enumerate(regions)
            for position in self._places(region.mask, spacing, lesion)
        ]
        return tuple(
            self._hand(position, True, label_mask.shape, spacing, order, exempt=order == 0)
            for order, position in enumerate(positions)
        )

    def _places(self, region: BoolArray, spacing: Spacing, lesion: int) -> list[Position]:
        """Where the first click or clicks fall in a target or in one lesion."""
        if self.protocol._first_kind == "centre-click":
            largest = largest_component(region)
            return [_shift(interior_maximum(largest.mask, spacing), largest.low)]
        chance = generator(*self._seed_parts, "lesion", lesion, "place")
        return _draw_voxels(region, self.protocol.clicks, chance)

    def _hand(
        self,
        meant: Position,
        positive: bool,
        shape: tuple[int, ...],
        spacing: Spacing,
        order: int,
        exempt: bool,
    ) -> Click:
        """The click that the operator makes where one was meant; draws do not depend on the noise level."""
        chance = generator(*self._seed_parts, "round", self._round, "click", order, "hand")
        offset = chance.standard_normal(3) * self.protocol.noise.displacement_mm / np.asarray(spacing)
        wrong = bool(chance.random() < self.protocol.noise.wrong_sign) and not exempt
        made = np.clip(np.rint(np.asarray(meant) + offset), 0, np.asarray(shape) - 1)
        return Click(_position(made), positive != wrong)

    def _jittered(self, box: Box, shape: tuple[int, ...], spacing: Spacing) -> Box:
        chance = generator(*self._seed_parts, "box")
        moves = chance.uniform(-1, 1, (2, 3)) * self.protocol.box_jitter_mm / np.asarray(spacing)
        ends = np.rint(np.asarray([box.low, box.high]) + moves)
        low = np.clip(ends.min(axis=0), 0, np.asarray(shape) - 1)
        high = np.clip(ends.max(axis=0), low + 1, np.asarray(shape))
        return Box(_position(low), _position(high))

    def _rough_mask(self, label_mask: BoolArray, box: Box, spacing: Spacing) -> BoolArray:
        """The label with its boundary moved by a smooth random field: bulges, dents, never empty."""
        sigma = self.protocol.mask_error_mm
        rough = np.zeros(label_mask.shape, bool)
        if sigma == 0:
            rough[_slices(box)] = label_mask[_slices(box)]
            return rough
        window = _padded(box, np.ceil(4 * sigma / np.asarray(spacing)).astype(int) + 1, label_mask.shape)
        label = label_mask[_slices(window)]
        outside = ndimage.distance_transform_edt(~label, spacing)
        inside = ndimage.distance_transform_edt(np.pad(label, 1), spacing)[1:-1, 1:-1, 1:-1]
        chance = generator(*self._seed_parts, "mask")
        field_ = ndimage.gaussian_filter(
            chance.standard_normal(label.shape, dtype=np.float32), 10.0 / np.asarray(spacing), mode="wrap"
        )
        moved = (inside - outside) > sigma * (field_ - field_.mean()) / max(float(field_.std()), 1e-12)
        if not moved.any():
            moved[interior_maximum(label, spacing)] = True
        rough[_slices(window)] = moved
        return rough


@dataclass(frozen=True)
class Task:
    """What one session is for: the whole target, or one lesion of it, and the user who prompts for it.

    Attributes:
        lesion: None for the whole target, otherwise 0 for the largest lesion, and so on.
        voxels: how many the task's mask has.
    """

    user: SimulatedUser
    lesion: int | None
    voxels: int
    mask: Callable[[], BoolArray] = field(repr=False)


def tasks_of(protocol: Protocol, seed_parts: tuple[object, ...], target_mask: BoolArray) -> list[Task]:
    """The tasks that a protocol makes of a target: one, or one for each lesion; none if there is no lesion then.

    Args:
        seed_parts: (suite seed, dataset, case, target). Each lesion's user draws from (…, "lesion", number, round),
            so its clicks do not depend on how the method fared at another lesion.
    """
    if protocol.per != "each-lesion":
        whole = SimulatedUser(protocol, seed_parts)
        return [Task(whole, None, int(np.count_nonzero(target_mask)), lambda: target_mask)]
    return [
        Task(SimulatedUser(protocol, (*seed_parts, "lesion", number)), number, lesion.voxels, lesion.mask)
        for number, lesion in enumerate(lesions_of(target_mask))
    ]


def target_text(target: Target) -> str:
    """The target in plain words, such as "kidney tumor"; its name if it has none."""
    return f"{target.organ} {target.lesion}".strip() or target.name


def bounding_box(mask: BoolArray) -> Box | None:
    """The smallest box around a 3D bool mask; None if the mask is empty."""
    if mask.ndim != 3:
        raise ValueError(f"a 3D mask is needed, this one has shape {mask.shape}")
    if mask.dtype != np.bool_:
        raise TypeError(f"a bool mask is needed, this one is {mask.dtype}")
    place = crop.bounding_box(mask)
    if place is None:
        return None
    return Box(_position([part.start for part in place]), _position([part.stop for part in place]))


@dataclass(frozen=True)
class _Component:
    """A connected component in its own box, `low` being the box's corner in the array it came from."""

    mask: BoolArray
    low: Position
    size: int


@dataclass(frozen=True)
class Lesion:
    """One lesion of a target, kept as a crop: a hundred whole volumes would not fit into memory."""

    part: BoolArray
    low: Position
    shape: tuple[int, int, int]

    @property
    def voxels(self) -> int:
        return int(np.count_nonzero(self.part))

    def mask(self) -> BoolArray:
        """The lesion in the whole volume."""
        whole = np.zeros(self.shape, bool)
        whole[tuple(slice(a, a + n) for a, n in zip(self.low, self.part.shape, strict=True))] = self.part
        return whole


def lesions_of(target_mask: BoolArray) -> list[Lesion]:
    """The lesions (26-connected components) of a target, in the order of `components`: the largest first."""
    box = bounding_box(target_mask)
    if box is None:
        return []
    x, y, z = target_mask.shape
    regions = components(target_mask[_slices(box)])
    return [Lesion(region.mask, _shift(region.low, box.low), (x, y, z)) for region in regions]


def components(mask: BoolArray) -> list[_Component]:
    """The 26-connected components, largest first; equal ones in the order of their first voxel."""
    labelled, count = ndimage.label(mask, CONNECTIVITY)
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    places = ndimage.find_objects(labelled)
    order = np.argsort(-sizes, kind="stable")
    return [_component(labelled, places[i], int(i), int(sizes[i])) for i in order]


def largest_component(mask: BoolArray) -> _Component:
    """The largest 26-connected component; of size 0 if the mask is empty."""
    box = bounding_box(mask)
    if box is None:
        return _Component(np.zeros((0, 0, 0), bool), (0, 0, 0), 0)
    inside = mask[_slices(box)]
    labelled, count = ndimage.label(inside, CONNECTIVITY)
    if count == 1:
        return _Component(inside, box.low, int(np.count_nonzero(inside)))
    sizes = np.bincount(labelled.ravel())[1:]
    largest = int(np.argmax(sizes))
    found = _component(labelled, ndimage.find_objects(labelled)[largest], largest, int(sizes[largest]))
    return replace(found, low=_shift(found.low, box.low))


def largest_error(label: BoolArray, predicted: BoolArray) -> tuple[_Component, bool]:
    """The largest error component, and whether it is a false negative; of equals, the false negative.

    Components of one kind are not searched when all its voxels together are fewer than those of the largest
    component of the other kind: the answer is the same, and a flooded volume costs one search, not two.
    """
    missed, spurious = label & ~predicted, predicted & ~label
    count_missed, count_spurious = np.count_nonzero(missed), np.count_nonzero(spurious)
    if count_missed >= count_spurious:
        hole = largest_component(missed)
        if count_spurious <= hole.size:
            return hole, True
        flood = largest_component(spurious)
    else:
        flood = largest_component(spurious)
        if count_missed < flood.size:
            return flood, False
        hole = largest_component(missed)
    return (hole, True) if hole.size >= flood.size else (flood, False)


def _component(labelled: NDArray[np.integer], place: tuple[slice, ...], index: int, size: int) -> _Component:
    return _Component(labelled[place] == index + 1, _position([part.start for part in place]), size)


def interior_maximum(region: BoolArray, spacing: Spacing) -> Position:
    """The voxel farthest (mm) from the region's outside: the centre of the largest ball that fits in.

    The array's border counts as outside. Among equally deep voxels the one nearest to their common centroid
    wins, then the first in C order. Up to `EXACT_VOXELS` voxels the distance map is exact; above, it is
    computed on blocks that lie wholly inside the region, and the voxel found is at most two block diagonals
    less deep.
    """
    depth_of_block, factors = _pooled(region, spacing)
    if not depth_of_block.any():  # too thin for any whole block
        depth = ndimage.distance_transform_cdt(np.pad(region, 1), "chessboard")[1:-1, 1:-1, 1:-1]
        return _deepest(depth.astype(np.float32), spacing)
    scaled = np.asarray(spacing) * factors
    depth = ndimage.distance_transform_edt(np.pad(depth_of_block, 1), scaled)[1:-1, 1:-1, 1:-1]
    block = np.asarray(_deepest(depth, _spacing(scaled)))
    return _position(block * factors + (factors - 1) // 2)


def _pooled(region: BoolArray, spacing: Spacing) -> tuple[BoolArray, NDArray[np.int64]]:
    """The region in blocks (true: wholly inside), doubled along the finest axis until few enough."""
    factors = np.ones(3, np.int64)
    pooled = region
    while pooled.size > EXACT_VOXELS:
        long_enough = np.asarray(pooled.shape) > 1
        axis = int(np.argmin(np.where(long_enough, np.asarray(spacing) * factors, np.inf)))
        pairs = [(0, 0)] * 3
        pairs[axis] = (0, pooled.shape[axis] % 2)
        even = np.moveaxis(np.pad(pooled, pairs), axis, 0)
        pooled = np.moveaxis(even[0::2] & even[1::2], 0, axis)
        factors[axis] *= 2
    return pooled, factors


def _deepest(depth: NDArray[np.floating], spacing: Spacing) -> Position:
    tied = np.argwhere(depth >= depth.max() - TIE_MM)
    if len(tied) == 1:
        return _position(tied[0])
    away = ((tied - tied.mean(axis=0)) * np.asarray(spacing)) ** 2
    return _position(tied[int(np.argmin(np.round(away.sum(axis=1), 6)))])


def _draw_voxels(region: BoolArray, count: int, chance: np.random.Generator) -> list[Position]:
    """Distinct voxels, uniform in the region, or all it has; a longer draw starts as a shorter one."""
    inside = np.flatnonzero(region)
    drawn: dict[int, None] = {}
    while len(drawn) < min(count, inside.size):
        drawn[int(inside[chance.integers(inside.size)])] = None
    return [_position(np.unravel_index(voxel, region.shape)) for voxel in drawn]


def _slices(box: Box) -> tuple[slice, slice, slice]:
    x, y, z = (slice(low, high) for low, high in zip(box.low, box.high, strict=True))
    return x, y, z


def _union(boxes: Sequence[Box]) -> Box:
    low = np.min([box.low for box in boxes], axis=0)
    return Box(_position(low), _position(np.max([box.high for box in boxes], axis=0)))


def _padded(box: Box, margin: NDArray[np.integer], shape: tuple[int, ...]) -> Box:
    low = np.maximum(np.asarray(box.low) - margin, 0)
    return Box(_position(low), _position(np.minimum(np.asarray(box.high) + margin, shape)))


def _shift(position: Position, *origins: Position) -> Position:
    return _position(np.sum([position, *origins], axis=0))


def _position(values: Iterable[Any]) -> Position:
    x, y, z = (int(value) for value in values)
    return x, y, z


def _spacing(values: Iterable[Any]) -> Spacing:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _need(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise UserError(f"protocol: '{name}' must be {what}")


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"protocol: unknown {name} '{value}'; {nearest_name(str(value), known)}")


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{name}: a mapping of settings is needed, not {value!r}")
    return value


def _check_keys(settings: Mapping[str, Any], of: type, name: str) -> None:
    known = [spec.name for spec in fields(of)]
    for key in settings:
        if key not in known:
            raise UserError(f"{name}: unknown setting '{key}'; {nearest_name(str(key), known)}")
