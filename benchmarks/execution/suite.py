"""A suite: datasets × methods × simulated users × metrics × budget, read from YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from benchmarks.common.errors import UserError, nearest_name, shorten
from benchmarks.common.paths import user_path
from benchmarks.common.validation import one_line_errors
from benchmarks.contestants import Budget
from benchmarks.data.catalogue import broken_datasets, phantom_names
from benchmarks.data.catalogue import datasets as known_datasets
from benchmarks.data.registry import registration, registrations
from benchmarks.execution.embedded import embedded_suites, suite_text
from benchmarks.execution.training_job import TIMEOUT_MINUTES
from benchmarks.metrics import DEFAULT_POLICY, POLICIES
from benchmarks.prompting.protocol import Protocol


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetEntry(_Strict):
    """One dataset of a suite.

    `source` is "phantom" (synthetic data written in the official layout), a folder, or empty: then the dataset is the
    one that `tags-bench data add` listed under this name on this machine. For a folder in MSD or
    nnU-Net raw layout that the catalogue does not know, `target`, `organ` and `lesion` name what to segment.
    """

    name: str
    source: str = ""
    cases: int = Field(default=14, ge=3, description="number of phantoms; ignored for real data")
    fold: int = Field(default=0, ge=0)
    target: int | str | None = None
    organ: str = ""
    lesion: str = ""


class MethodEntry(_Strict):
    """One method of a suite.

    `config` overrides single settings and `label` names the variant in the tables. A method with an official
    `checkpoint` in its configuration is evaluated as released; `fine_tune` trains it on the training split first.
    `repeat` n > 0 trains from other random numbers (initial weights, crops, prompts) than the suite's seed gives.
    `untrained` evaluates the weights that a training by the bench begins with.
    `zoo` evaluates the weights that come with the method, on phantoms of the data sets for which it brings some, or
    with `fine_tune` trains from them; elsewhere the method is trained from nothing.
    `datasets` names those of the suite that it is run on, where that is not all of them.
    """

    name: str
    config: dict[str, Any] = Field(default_factory=dict)
    label: str = ""
    fine_tune: bool = False
    repeat: int = Field(default=0, ge=0)
    untrained: bool = False
    zoo: bool = False
    datasets: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return (self.label or self.name) + (" (untrained)" if self.untrained else "")

    @staticmethod
    def from_file(path: Path) -> MethodEntry:
        """Read one entry from a YAML file, such as the `best.yaml` of a sweep. Raises UserError."""
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=_EveryKeyOnce)  # noqa: S506 - a SafeLoader
            return MethodEntry.model_validate(content)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"method file {path}: cannot be read ({' '.join(str(error).split())})") from error
        except ValidationError as error:
            raise UserError(f"method file {path}: {_first_problem(error, MethodEntry.model_fields)}") from error


@one_line_errors("budget")
class BudgetEntry(_Strict):
    """What every method may spend on training, on one worker; see `benchmarks.contestants.Budget`."""

    minutes: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _is_limited(self) -> Self:
        if self.minutes is None and self.steps is None:
            raise UserError("budget: give minutes or steps of training, such as {minutes: 5}")
        return self

    def budget(self) -> Budget:
        return Budget(self.minutes, self.steps, self.cpus, self.gpus)


@dataclass(frozen=True)
class OwnData:
    """Scans of the user's own, in place of the datasets of a suite.

    Attributes:
        source: a folder in a known layout, or a CSV table of pairs.
        name: of the dataset; by default that of the folder or table.
        target: the label to segment, value or name; needed where there is more than one.
        organ, lesion: plain words for methods that read text.
    """

    source: Path
    name: str = ""
    target: int | str | None = None
    organ: str = ""
    lesion: str = ""

    def entry(self) -> DatasetEntry:
        """The entry of a suite. Raises UserError if nothing lies there."""
        source = user_path(self.source)
        if not source.exists():
            raise UserError(f"own data {self.source}: no such folder or table")
        whole = source.resolve()
        name = self.name or (whole.stem if whole.is_file() else whole.name)
        return DatasetEntry(
            name=name, source=str(self.source), target=self.target, organ=self.organ, lesion=self.lesion
        )


@dataclass(frozen=True)
class BudgetChanges:
    """What replaces the budget of a suite; None keeps what it says. `steps` alone takes the place of `minutes`.

    `workers` is the number of Ray Train workers of one training; `cpus` and `gpus` are for each of them.
    """

    minutes: float | None = None
    steps: int | None = None
    cpus: int | None = None
    gpus: float | None = None
    workers: int | None = None


class Suite(_Strict):
    """What a benchmark run consists of."""

    name: str
    title: str = ""
    seed: int = 2026
    datasets: tuple[DatasetEntry, ...] = Field(min_length=1)
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    protocols: tuple[Protocol, ...] = Field(min_length=1)
    budget: BudgetEntry
    tolerances_mm: tuple[Annotated[float, Field(ge=0)], ...] = (1.0, 2.0, 5.0)
    empty_policy: str = DEFAULT_POLICY.policy_id
    case_timeout_minutes: float = Field(default=30.0, gt=0)
    train_timeout_minutes: float = Field(default=TIMEOUT_MINUTES, gt=0, description="without a sign of life")
    workers: int = Field(default=1, ge=1, description="Ray Train workers for a method that the bench trains")
    save_predictions: bool = True
    untrained: bool = Field(default=False, description="show every method that the bench trains untrained as well")
    part: Literal["test", "validation"] = "test"

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
        ladders = [(item,) if isinstance(item, Protocol) else Protocol.ladder_from_mapping(item) for item in value]
        return tuple(dict.fromkeys(protocol for ladder in ladders for protocol in ladder))  # two names, one protocol

    @field_validator("empty_policy")
    @classmethod
    def _policy_is_known(cls, value: str) -> str:
        if value not in POLICIES:
            raise UserError(f"unknown empty_policy '{value}'; {nearest_name(value, POLICIES)}")
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
        """Only these methods; a name that the suite does not list joins with its default configuration, a YAML file
        as the entry that it holds."""
        if not all(names):
            raise UserError("methods: an empty name; give names with commas between them")
        if not names:
            raise UserError("methods: no method is named")
        listed = {entry.title: entry for entry in self.methods}
        return self.model_copy(update={"methods": tuple(listed[n] if n in listed else _entry(n) for n in names)})

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

    def with_datasets(self, names: Sequence[str]) -> Suite:
        """Only these datasets of the suite; or, where it lists none of them, those added on this machine.

        Phantoms of an installed dataset that was not added join a suite of phantoms.

        Raises:
            UserError: an unknown name (the nearest one is offered), a dataset that is broken, or some of the suite
                beside some that were added.
        """
        listed = {entry.name: entry for entry in self.datasets}
        added = registrations() if any(name not in listed for name in names) else {}
        listed |= {name: self._phantoms(name, [*listed, *added]) for name in names if name not in {*listed, *added}}
        unlisted = [name for name in names if name not in listed]
        if not unlisted:
            return self.model_copy(update={"datasets": tuple(listed[name] for name in names)})
        if len(unlisted) < len(names):
            ours = next(name for name in names if name in listed)
            raise UserError(f"'{ours}' is a dataset of suite '{self.name}', '{unlisted[0]}' was added: run them apart")
        return self.with_added_datasets(names)

    def _phantoms(self, name: str, known: Sequence[str]) -> DatasetEntry:
        """As many phantoms of a dataset as the suite has of its first."""
        first = self.datasets[0]
        imitated = phantom_names() if first.source == "phantom" else []
        if name in imitated:
            return DatasetEntry(name=name, source="phantom", cases=first.cases)
        broken = {one.name: one for one in broken_datasets()}
        if name in broken and name not in known_datasets():
            raise UserError(f"dataset {broken[name]}")
        raise UserError(f"suite '{self.name}' has no dataset '{name}'; {nearest_name(name, {*known, *imitated})}")

    def with_added_datasets(self, names: Sequence[str]) -> Suite:
        """The methods and protocols of this suite on datasets that were added on this machine.

        Raises:
            UserError: one was not added.
        """
        entries = tuple(DatasetEntry(name=registration(name).name) for name in names)
        changes = {"name": f"data-{'-'.join(names)}", "title": "datasets of this machine", "datasets": entries}
        return self.model_copy(update=changes)

    def with_fold(self, fold: int) -> Suite:
        """This fold of every dataset."""
        entries = tuple(entry.model_copy(update={"fold": fold}) for entry in self.datasets)
        return self.model_copy(update={"datasets": entries})

    def with_protocols(self, names: Sequence[str]) -> Suite:
        """Only these protocols. Raises UserError with the nearest name."""
        return self.model_copy(update={"protocols": tuple(self.protocol(name) for name in names)})

    def protocol(self, name: str) -> Protocol:
        """The protocol of that name. Raises UserError with the nearest one."""
        known = {protocol.name: protocol for protocol in self.protocols}
        if name not in known:
            raise UserError(f"suite '{self.name}' has no protocol '{name}'; {nearest_name(name, known)}")
        return known[name]

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
        return suite.model_copy(update={"budget": BudgetEntry(**budget), "workers": workers})

    def with_seed(self, seed: int) -> Suite:
        """Other phantoms, splits, prompts and trainings."""
        return self.model_copy(update={"seed": seed})

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
        plain = self.model_dump(mode="json", exclude={"protocols"})
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


class _EveryKeyOnce(yaml.SafeLoader):
    """Of a key that stands twice YAML keeps the last and drops the first in silence; here it is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in keys and key_node.tag != "tag:yaml.org,2002:merge":
                problem = f"the key '{key}' stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            keys.append(key)
        return super().construct_mapping(node, deep)


def parse_suite(text: str, where: str) -> Suite:
    """Read a suite from YAML text; `where` names it in error messages."""
    try:
        content = yaml.load(text, Loader=_EveryKeyOnce)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise UserError(f"suite {where}: not valid YAML ({shorten(str(error))})") from error
    if not isinstance(content, dict):
        raise UserError(f"suite {where}: a mapping with name, datasets, methods, protocols, budget is needed")
    try:
        return Suite.model_validate(content)
    except UserError as error:
        raise UserError(f"suite {where}: {error}") from error
    except ValidationError as error:
        raise UserError(f"suite {where}: {_first_problem(error)}") from error


_KNOWN_KEYS = {
    "datasets": DatasetEntry.model_fields,
    "methods": MethodEntry.model_fields,
    "budget": BudgetEntry.model_fields,
}


def _first_problem(error: ValidationError, fields: Mapping[str, Any] = Suite.model_fields) -> str:
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt key explains the rest
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        top = str(problem["loc"][0])
        known = fields if len(problem["loc"]) == 1 else _KNOWN_KEYS.get(top, {})
        return f"unknown key '{path}'; {nearest_name(str(problem['loc'][-1]), known)}"
    if problem["type"] == "too_short":
        return f"{path}: at least one is needed"
    return f"{path}: {problem['msg']}, not {problem['input']!r}"
