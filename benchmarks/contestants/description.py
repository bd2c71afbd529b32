"""What is announced of a contestant; importing it loads no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.weight_file import WeightFile
from benchmarks.contestants.environment import Environment, check_active
from benchmarks.contestants.interface import Segmenter, Trainable
from benchmarks.contestants.search_space import knobs_of
from benchmarks.contestants.settings import fitting
from benchmarks.prompting.prompts import PromptKind

Seen = Literal["trained-on", "superset", "unseen", "unknown"]


@dataclass(frozen=True)
class Card:
    """What a reader must know before believing a row: origin, licences, size, training data.

    Attributes:
        training_data: dataset name → whether the released weights have seen it; "*" stands for any other name, and
            names without an entry are "unknown".
    """

    title: str
    paper: str = ""
    code_licence: str = ""
    weights_licence: str = ""
    parameters: str = ""
    training_data: Mapping[str, Seen] = field(default_factory=dict)
    notes: str = ""


@dataclass(frozen=True)
class ZooTraining:
    """How the weights that come with a method are made by `tags-bench zoo train`, and where they lie.

    Attributes:
        package: whose folder `zoo` holds them; it need not be imported.
        steps: optimiser steps of a training.
        joint: one training on all data sets, their crops in turn; else one for each.
    """

    package: str
    steps: int
    joint: bool = True


@dataclass(frozen=True)
class Method:
    """A named contestant: code + configuration.

    Attributes:
        name: the word on the command line, such as "tags-tiny".
        summary: one line for `tags-bench methods`.
        factory: "module:callable"; called as `callable(config, device)` and returns a `Segmenter`.
        prompts: the prompt kinds it understands.
        training: "none", "bench" (the factory gives a `Trainable`) or "own" (an `OwnTraining`).
        config: default configuration, JSON-like; a suite may override single keys, by values of the same kind: a
            default of 0.0 takes any number, 0 a whole one, None or a word such as "auto" anything.
        inference_settings: settings that act when a trained method works and not when it is trained, such as the
            threshold of the mask; a change of them does not ask for another training.
        later_settings: keys of `config` that joined later, with what the method did until then as their default. One
            that has its default is no part of an identity, so that digests stay what they were.
        search_space: what a sweep varies, in the plain form of `benchmarks.contestants.search_space`:
            ["uniform", low, high], ["loguniform", low, high], ["randint", low, high], ["lograndint", low, high] or
            ["choice", [one, other]], with a condition such as {"fusion": ["gated"]} as the last word of a knob that
            exists only beside these values.
        ablations: part → the settings that switch it off, for `tags-bench ablate`.
        floor: a reference floor, not a contestant.
        reads_words: reads organ and lesion in words from the target, also where a protocol gives no text.
        needs_checkpoint: works only with the official file named by `checkpoint` in its configuration; where that is
            None, a run takes the file of the weights folder.
        files: the official files that it uses, for `tags-bench weights` and for a run; the `setting` of each is a key
            of `config`.
        environment: where its processes run, if not in the bench's own Python environment.
        version: raised when the method's results would change; part of every record's identity.
        trained_as: the version since which trainings are the same, where `version` rose for what the method does with
            its weights: what was trained since then, and the weights of the zoo, stay of use.
        zoo: how the small weights are made that come with it, if any do.
        check: called with a whole configuration before anything is run; raises ValueError for what no run can have,
            such as a share above 1. Like the file that holds the method, it must not import torch.
    """

    name: str
    summary: str
    factory: str
    prompts: frozenset[PromptKind]
    training: Literal["none", "bench", "own"] = "none"
    config: Mapping[str, Any] = field(default_factory=dict)
    inference_settings: tuple[str, ...] = ()
    search_space: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    later_settings: tuple[str, ...] = ()
    ablations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    card: Card = field(default_factory=lambda: Card(title=""))
    floor: bool = False
    reads_words: bool = False
    needs_checkpoint: bool = False
    files: tuple[WeightFile, ...] = ()
    environment: Environment | None = None
    version: str = "1"
    trained_as: str = ""
    zoo: ZooTraining | None = None
    check: Callable[[Mapping[str, Any]], object] | None = None

    def __post_init__(self) -> None:
        """Mistakes of whoever wrote the method."""
        named = {
            "inference_settings": self.inference_settings,
            "later_settings": self.later_settings,
            "needs_checkpoint": ("checkpoint",) if self.needs_checkpoint else (),
            "files": tuple(file.setting for file in self.files if not file.optional),
        }
        for where, settings in named.items():
            for setting in settings:
                if setting not in self.config:
                    raise ValueError(f"method '{self.name}': '{setting}' of {where} is no setting of it")
        try:
            knobs = knobs_of(self.search_space)
        except ValueError as error:
            raise ValueError(f"method '{self.name}', search space: {error}") from error
        for knob in knobs:
            if knob.name not in self.config:
                raise ValueError(f"method '{self.name}': '{knob.name}' of search_space is no setting of it")

    @property
    def training_version(self) -> str:
        """Part of every training's identity."""
        return self.trained_as or self.version

    def build(self, config: Mapping[str, Any] | None = None, device: str = "cpu") -> Segmenter:
        """Import the factory and make the segmenter; keys of `config` override the defaults.

        The module of a `Trainable` is moved to the device here.

        Raises:
            UserError: what `configured` refuses, or this process is not in the method's environment.
        """
        check_active(self.name, self.environment)
        module_name, _, attribute = self.factory.partition(":")
        factory = getattr(importlib.import_module(module_name), attribute)
        segmenter: Segmenter = factory(self.configured(config), device)
        segmenter.prompts = self.prompts
        if isinstance(segmenter, Trainable):
            segmenter.module.to(device)
            if device == "cpu":
                from benchmarks.contestants.convolutions import by_onednn

                by_onednn(segmenter.module)
        return segmenter

    def training_config(self, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The settings that a training depends on: `configured` without those that act at inference only."""
        return {key: value for key, value in self.configured(config).items() if key not in self.inference_settings}

    def identifying(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A whole configuration without the later settings that have their default."""
        same = {key for key in self.later_settings if config.get(key) == self.config[key]}
        return {key: value for key, value in config.items() if key not in same}

    @property
    def file_settings(self) -> tuple[str, ...]:
        """The settings that may name a weights file."""
        return tuple(dict.fromkeys(("checkpoint", *(file.setting for file in self.files))))

    def configured(self, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The default configuration with `config` laid over it.

        Raises:
            UserError: a key that the method does not have, or a value of another kind than its setting takes.
        """
        chosen = dict(self.config)
        for key, value in (config or {}).items():
            if key not in self.config:
                raise UserError(f"method '{self.name}' has no setting '{key}'; {nearest_name(key, self.config)}")
            try:
                chosen[key] = fitting(value, self._known_values(key))
            except ValueError as error:
                raise UserError(f"method '{self.name}': '{key}' takes {error}, not {value!r}") from error
        return chosen

    def checked(self, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`configured`, for what is going to be run.

        Raises:
            UserError: as there, or no run can have these settings.
        """
        chosen = self.configured(config)
        try:
            if self.check is not None:
                self.check(chosen)
        except ValueError as error:
            raise UserError(f"method '{self.name}': {error}") from error
        return chosen

    def _known_values(self, key: str) -> list[Any]:
        """Its default, and what a sweep may find there."""
        knobs = [knob for knob in knobs_of(self.search_space) if knob.name == key]
        return [self.config[key], *(value for knob in knobs for value in knob.choices or (knob.low, knob.high))]
