"""A suite: datasets × methods × simulated users × metrics × budget, read from YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from benchmarks.common.errors import UserError, nearest_name, shorten
from benchmarks.common.paths import user_path
from benchmarks.data.catalogue import broken_datasets, phantom_names
from benchmarks.data.catalogue import datasets as known_datasets
from benchmarks.data.registry import registration, registrations
from benchmarks.execution.embedded import embedded_suites, suite_text
from benchmarks.execution.entries import (
    ALL_FOLDS,
    BudgetChanges,
    BudgetEntry,
    DatasetEntry,
    EveryKeyOnce,
    MethodBudget,
    MethodEntry,
    OwnData,
    Strict,
    first_problem,
)
from benchmarks.execution.training_job import TIMEOUT_MINUTES
from benchmarks.execution.training_storage import check_storage
from benchmarks.metrics import DEFAULT_POLICY, POLICIES
from benchmarks.prompting.protocol import Protocol

__all__ = [
    "ALL_FOLDS",
    "BudgetChanges",
    "BudgetEntry",
    "DatasetEntry",
    "MethodBudget",
    "MethodEntry",
    "OwnData",
    "Suite",
    "load_suite",
    "parse_suite",
]


PLAIN_KINDS = ("none", "text", "centre-click", "random-click", "box", "mask")
"""Protocols that need no setting: a command may name them whatever the suite holds."""


class Suite(Strict):
    """What a benchmark run consists of."""

    name: str = Field(min_length=1)
    title: str = ""
    seed: int = 2026
    datasets: tuple[DatasetEntry, ...] = Field(min_length=1)
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    protocols: tuple[Protocol, ...] = Field(min_length=1)
    budget: BudgetEntry
    tolerances_mm: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(1.0, 2.0, 5.0), min_length=1)
    empty_policy: str = DEFAULT_POLICY.policy_id
    case_timeout_minutes: float = Field(default=30.0, gt=0)
    train_timeout_minutes: float = Field(default=TIMEOUT_MINUTES, gt=0, description="without a sign of life")
    workers: int = Field(default=1, ge=1, description="Ray Train workers for a method that the bench trains")
    keep_best: int = Field(
        default=0,
        ge=0,
        description="validations of a training by the bench, of which the best is kept; 0: the last step",
    )
    storage: Annotated[str, AfterValidator(check_storage)] = Field(
        default="", description="a folder or a URI such as s3://…, for the states and checkpoints of trainings"
    )
    save_predictions: bool = True
    untrained: bool = Field(default=False, description="show every method that the bench trains untrained as well")
    part: Literal["test", "validation"] = "test"
    repeats: int = Field(default=1, ge=1, description="trainings of every method that learns, by other random numbers")
    rehearsal: bool = Field(default=False, description="a rehearsal, whose numbers mean nothing; see `rehearse`")

    @field_validator("datasets", mode="before")
    @classmethod
    def _folds_are_entries(cls, value: Any) -> Any:
        """An entry with `folds` stands for one entry for each of them."""
        if not isinstance(value, list | tuple):
            return value
        entries: list[Any] = []
        for entry in value:
            folds = entry.get("folds") if isinstance(entry, Mapping) else None
            if not isinstance(entry, Mapping) or "folds" not in entry:
                entries.append(entry)
            elif "fold" in entry or not isinstance(folds, list) or not folds:
                raise UserError("datasets: `folds` is a list such as [0, 1, 2], and takes the place of `fold`")
            else:
                rest = {key: content for key, content in entry.items() if key != "folds"}
                entries += [{**rest, "fold": fold} for fold in folds]
        return entries

    @field_validator("methods", mode="before")
    @classmethod
    def _names_are_methods(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise UserError(f"methods: a list is needed, such as [ball, nnunet], not {value!r}")
        return [_entry(item) if isinstance(item, str) else item for item in value]

    @field_validator("protocols", mode="before")
    @classmethod
    def _kinds_are_protocols(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise UserError(f"protocols: a list is needed, such as [centre-click, box], not {value!r}")
        if any(
            item == "made-elsewhere" or (isinstance(item, dict) and item.get("kind") == "made-elsewhere")
            for item in value
        ):
            raise UserError("protocols: made-elsewhere is no protocol to ask for; give masks as `kind: masks`")
        ladders = [(item,) if isinstance(item, Protocol) else Protocol.ladder_from_mapping(item) for item in value]
        return tuple(dict.fromkeys(protocol for ladder in ladders for protocol in ladder))  # two names, one protocol

    @field_validator("tolerances_mm")
    @classmethod
    def _each_tolerance_once(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("empty_policy")
    @classmethod
    def _policy_is_known(cls, value: str) -> str:
        if value not in POLICIES:
            raise UserError(f"unknown empty_policy '{value}'; {nearest_name(value, POLICIES)}")
        if POLICIES[value].skips:
            counting = ", ".join(name for name, policy in POLICIES.items() if not policy.skips)
            raise UserError(
                f"empty_policy '{value}' leaves cases out, and a suite counts every case ({counting}); "
                "`leaderboard --table policies` shows afterwards what it would say"
            )
        return value

    @model_validator(mode="after")
    def _methods_name_its_datasets(self) -> Self:
        known = [entry.name for entry in self.datasets]
        for entry in self.methods:
            for name in entry.datasets:
                if name not in known:
                    raise UserError(f"method '{entry.title}': not a dataset of the suite; {nearest_name(name, known)}")
        return self

    def with_methods(self, names: Sequence[str]) -> Suite:
        """Only these methods, by title or label, each once; a name that the suite does not list joins with its default
        configuration, a YAML file as the entry that it holds."""
        if not all(names):
            raise UserError("methods: an empty name; give names with commas between them")
        if not names:
            raise UserError("methods: no method is named")
        listed = {entry.label: entry for entry in self.methods if entry.label}
        listed |= {entry.title: entry for entry in self.methods}
        chosen = [listed[name] if name in listed else _entry(name) for name in names]
        return self.model_copy(
            update={"methods": tuple(entry for place, entry in enumerate(chosen) if entry not in chosen[:place])}
        )

    def with_checkpoints(self, files: Mapping[str, Path]) -> Suite:
        """The official files of some methods, by the names of the methods; others keep theirs."""
        titles = [entry.title for entry in self.methods]
        for name in files:
            if name not in titles:
                raise UserError(f"checkpoint of '{name}': not among the methods; {nearest_name(name, titles)}")
        changed = [
            entry.model_copy(update={"config": {**entry.config, "checkpoint": str(files[entry.title])}})
            if entry.title in files
            else entry
            for entry in self.methods
        ]
        return self.model_copy(update={"methods": tuple(changed)})

    def with_masks(self, folders: Mapping[str, Path]) -> Suite:
        """Masks made elsewhere join, each folder under a name."""
        joining = tuple(MethodEntry(name=name, kind="masks", folder=str(place)) for name, place in folders.items())
        return self.model_copy(update={"methods": (*self.methods, *joining)})

    def with_datasets(self, names: Sequence[str], phantoms: bool = False) -> Suite:
        """Only these datasets, each once.

        A name that the suite lists as phantoms, or does not list, means the data that were added on this machine under
        that name, if there are any; else the phantoms of an installed dataset, in a suite of phantoms.

        Args:
            phantoms: those of the suite, whatever was added.

        Raises:
            UserError: an unknown name (the nearest one is offered), a dataset that is broken, some of the suite
                beside some that were added, or no phantoms where they are asked for.
        """
        added, names = {} if phantoms else registrations(), list(dict.fromkeys(names))
        own = [name for name in names if name in added and not self._keeps(name)]
        if own and len(own) == len(names):
            return self.with_added_datasets(names)
        if own:
            other = next(name for name in names if name not in own)
            raise UserError(
                f"'{own[0]}' was added on this machine, '{other}' is a dataset of suite '{self.name}': run them apart"
            )
        known = [*self._listed, *added]
        chosen = [self._listed.get(name) or (self._phantoms(name, known, phantoms),) for name in names]
        entries = tuple(entry for several in chosen for entry in several)
        real = [entry.name for entry in entries if entry.source != "phantom"]
        if phantoms and real:
            raise UserError(f"suite '{self.name}' has no phantoms of '{real[0]}'; it lists real scans of that name")
        return self.model_copy(update={"datasets": entries})

    @property
    def dataset_names(self) -> list[str]:
        """Each once, in order."""
        return list(self._listed)

    def with_first_dataset(self) -> Suite:
        """Only its first one, in all folds that the suite has of it."""
        return self.model_copy(update={"datasets": self._listed[self.datasets[0].name]})

    @property
    def _listed(self) -> dict[str, tuple[DatasetEntry, ...]]:
        """The entries of each dataset by name, one for each fold."""
        names = dict.fromkeys(entry.name for entry in self.datasets)
        return {name: tuple(entry for entry in self.datasets if entry.name == name) for name in names}

    def _keeps(self, name: str) -> bool:
        """Whether the entry of the suite counts, and not what was added under its name."""
        return any(entry.source != "phantom" for entry in self._listed.get(name, ()))

    def _phantoms(self, name: str, known: Sequence[str], asked_for: bool) -> DatasetEntry:
        """As many phantoms of a dataset as the suite has of its first; the error says whether they were asked for."""
        first = self.datasets[0]
        imitated = phantom_names() if first.source == "phantom" else []
        if name in imitated:
            return DatasetEntry(name=name, source="phantom", cases=first.cases)
        broken = {one.name: one for one in broken_datasets()}
        if name in broken and name not in known_datasets():
            raise UserError(f"dataset {broken[name]}")
        what = "phantoms of" if asked_for else "dataset"
        raise UserError(f"suite '{self.name}' has no {what} '{name}'; {nearest_name(name, {*known, *imitated})}")

    def with_added_datasets(self, names: Sequence[str]) -> Suite:
        """The methods and protocols of this suite on datasets that were added on this machine.

        Raises:
            UserError: one was not added.
        """
        entries = tuple(DatasetEntry(name=registration(name).name) for name in names)
        changes = {"name": f"data-{'-'.join(names)}", "title": "datasets of this machine", "datasets": entries}
        return self.model_copy(update=changes)

    def with_fold(self, fold: int | str) -> Suite:
        """This fold of every dataset, or "all"."""
        return self.with_folds([fold])

    def with_folds(self, folds: Sequence[int | str]) -> Suite:
        """These folds of every dataset, each once; "all" for every one that it has."""
        folds = [ALL_FOLDS] if ALL_FOLDS in folds else list(dict.fromkeys(folds))
        single = {entry.model_copy(update={"fold": 0}): None for entry in self.datasets}
        entries = [DatasetEntry(**{**dict(entry), "fold": fold}) for entry in single for fold in folds]
        return self.model_copy(update={"datasets": tuple(entries)})

    def with_splits(self, splits: str) -> Suite:
        """Every dataset split as this word says, see `benchmarks.data.split_files`.

        Of one that is tested whole it says how the dataset is split that is learned from.
        """

        def split(entry: DatasetEntry) -> DatasetEntry:
            changed = {"splits": splits} if entry.train_on is None else {"train_on": split(entry.train_on)}
            return DatasetEntry(**{**dict(entry), **changed})

        return self.model_copy(update={"datasets": tuple(split(entry) for entry in self.datasets)})

    def with_training_on(self, name: str, phantoms: bool = False) -> Suite:
        """Every dataset tested whole, by methods that learn from this other one."""
        (training, *_) = self.with_datasets([name], phantoms).datasets
        entries = tuple(entry.model_copy(update={"train_on": training}) for entry in self.datasets)
        return self.model_copy(update={"datasets": entries})

    def with_repeats(self, repeats: int) -> Suite:
        """So many trainings of every method that learns, each by other random numbers."""
        methods = tuple(entry.model_copy(update={"repeats": None}) for entry in self.methods)
        return self.model_copy(update={"repeats": repeats, "methods": methods})

    def with_protocols(self, names: Sequence[str]) -> Suite:
        """Only these protocols, each once. Raises UserError with the nearest name."""
        return self.model_copy(update={"protocols": tuple(dict.fromkeys(self.protocol(name) for name in names))})

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name, of the suite or a plain kind. Raises UserError with the nearest one."""
        known = {protocol.name: protocol for protocol in self.protocols}
        if name in known:
            return known[name]
        if name in PLAIN_KINDS:
            return Protocol.ladder_from_mapping(name)[0]
        hint = nearest_name(name, [*known, *PLAIN_KINDS])
        raise UserError(f"suite '{self.name}' has no protocol '{name}'; {hint}")

    def with_own_data(self, own: OwnData) -> Suite:
        """The methods and protocols of this suite on the user's own scans. Raises UserError if nothing lies there."""
        entry = own.entry()
        return self.model_copy(update={"name": f"data-{entry.name}", "title": str(own.source), "datasets": (entry,)})

    def with_budget(self, changes: BudgetChanges) -> Suite:
        """Another training budget; minutes or steps mean that what learns is trained, whatever the zoo has of it.

        Raises:
            UserError: a value that no budget can have.
        """
        changed = {key: value for key, value in asdict(changes).items() if value is not None}
        workers = changed.pop("workers", self.workers)
        if workers < 1:
            raise UserError(f"budget: 'workers' must be 1 or more, not {workers}")
        limits = {"minutes", "steps"} & changed.keys()
        suite = self.from_scratch() if limits else self
        budget = self.budget.model_dump() | changed
        if changes.steps is not None and changes.minutes is None:
            budget["minutes"] = None  # a budget in steps replaces one in minutes
        update: dict[str, Any] = {"budget": BudgetEntry(**budget), "workers": workers}
        if changes.steps is not None or changes.minutes is not None:  # for every method
            update["methods"] = tuple(entry.model_copy(update={"budget": None}) for entry in suite.methods)
        return suite.model_copy(update=update)

    def with_seed(self, seed: int) -> Suite:
        """Other phantoms, splits, prompts and trainings."""
        return self.model_copy(update={"seed": seed})

    def with_storage(self, place: str) -> Suite:
        """Trainings keep their states and checkpoints in a folder or an object store beside the output folder.

        Raises:
            UserError: pyarrow has no file system for it.
        """
        return self.model_copy(update={"storage": check_storage(place)})

    def with_untrained(self) -> Suite:
        """Every method that the bench trains is shown untrained as well."""
        return self.model_copy(update={"untrained": True})

    def from_scratch(self) -> Suite:
        """No weights of the zoo: what learns is trained here. What is fine-tuned from the zoo falls away."""
        kept = [entry for entry in self.methods if not (entry.zoo and entry.fine_tune)] or list(self.methods)
        entries = tuple(entry.model_copy(update={"zoo": False}) for entry in kept)
        return self.model_copy(update={"methods": entries})

    def fine_tuned(self) -> Suite:
        """Every method trained, those with official weights from these."""
        entries = tuple(entry.model_copy(update={"fine_tune": True}) for entry in self.methods)
        return self.model_copy(update={"methods": entries})

    def as_plain(self) -> dict[str, Any]:
        """The suite as plain values, for MLflow."""
        unused = {
            name for name in ("repeats", "rehearsal") if getattr(self, name) == type(self).model_fields[name].default
        }
        plain = self.model_dump(mode="json", exclude={"protocols", *unused})
        return plain | {"protocols": [protocol.to_mapping() for protocol in self.protocols]}


def _entry(name_or_file: str) -> MethodEntry:
    if name_or_file.endswith((".yaml", ".yml")):
        return MethodEntry.from_file(Path(name_or_file))
    return MethodEntry(name=name_or_file)


def load_suite(name_or_file: str) -> Suite:
    """Read a suite by embedded name or from a YAML file.

    Raises:
        UserError: unknown name, unreadable file, unknown key (the nearest known one is offered), bad value.
    """
    if name_or_file.endswith((".yaml", ".yml")):
        path = user_path(name_or_file)
        if not path.is_file():
            raise UserError(f"suite file {path} does not exist")
        try:
            text, where = path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"suite file {path}: not readable as UTF-8 ({error})") from error
    else:
        if name_or_file not in embedded_suites():
            raise UserError(f"unknown suite '{name_or_file}'; {nearest_name(name_or_file, embedded_suites())}")
        text, where = suite_text(name_or_file), name_or_file
    return parse_suite(text, where)


def parse_suite(text: str, where: str) -> Suite:
    """Read a suite from YAML text; `where` names it in error messages."""
    try:
        content = yaml.load(text, Loader=EveryKeyOnce)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise UserError(f"suite {where}: not valid YAML ({shorten(str(error))})") from error
    if not isinstance(content, dict):
        raise UserError(f"suite {where}: a mapping with name, datasets, methods, protocols, budget is needed")
    try:
        return Suite.model_validate(content)
    except UserError as error:
        raise UserError(f"suite {where}: {error}") from error
    except ValidationError as error:
        raise UserError(f"suite {where}: {first_problem(error, Suite.model_fields)}") from error
