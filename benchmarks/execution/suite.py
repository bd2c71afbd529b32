"""A suite: datasets × methods × simulated users × metrics × budget, read from YAML."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.validation import one_line_errors
from benchmarks.contestants import Budget
from benchmarks.metrics import DEFAULT_POLICY, POLICIES
from benchmarks.prompting.protocol import Protocol

SUITE_FOLDER = files("benchmarks") / "suites"


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
    """

    name: str
    config: dict[str, Any] = Field(default_factory=dict)
    label: str = ""
    fine_tune: bool = False
    repeat: int = Field(default=0, ge=0)

    @property
    def title(self) -> str:
        return self.label or self.name


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
    workers: int = Field(default=1, ge=1, description="Ray Train workers for a method that the bench trains")
    save_predictions: bool = True
    part: Literal["test", "validation"] = "test"

    @field_validator("methods", mode="before")
    @classmethod
    def _names_are_methods(cls, value: Any) -> Any:
        return [{"name": item} if isinstance(item, str) else item for item in value]

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

    def with_methods(self, names: list[str]) -> Suite:
        """Only these methods; a name that the suite does not list joins with its default configuration."""
        if not all(names):
            raise UserError("--methods: an empty name; give names with commas between them")
        if not names:
            raise UserError("--methods: no method is named")
        listed = {entry.title: entry for entry in self.methods}
        return self.model_copy(update={"methods": tuple(listed.get(n, MethodEntry(name=n)) for n in names)})

    def with_checkpoints(self, files: Mapping[str, Path]) -> Suite:
        """The official files of some methods, by the names of the methods; others keep theirs."""
        titles = [entry.title for entry in self.methods]
        for name in files:
            if name not in titles:
                raise UserError(f"--checkpoint {name}=…: not among the methods; {nearest_name(name, titles)}")
        changed = [
            entry.model_copy(update={"config": {**entry.config, "checkpoint": str(files[entry.title])}})
            if entry.title in files
            else entry
            for entry in self.methods
        ]
        return self.model_copy(update={"methods": tuple(changed)})

    def with_datasets(self, names: list[str]) -> Suite:
        """Only these datasets. Raises UserError with the nearest name."""
        listed = {entry.name: entry for entry in self.datasets}
        for name in names:
            if name not in listed:
                raise UserError(f"suite '{self.name}' has no dataset '{name}'; {nearest_name(name, listed)}")
        return self.model_copy(update={"datasets": tuple(listed[name] for name in names)})


def embedded_suites() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in SUITE_FOLDER.iterdir() if entry.name.endswith(".yaml"))


def load_suite(name_or_file: str) -> Suite:
    """Read a suite by embedded name or from a YAML file.

    Raises:
        UserError: unknown name, unreadable file, unknown key (the nearest known one is offered), bad value.
    """
    if name_or_file.endswith((".yaml", ".yml")):
        path = Path(name_or_file)
        if not path.is_file():
            raise UserError(f"suite file {path} does not exist")
        try:
            text, where = path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"suite file {path}: not readable as UTF-8 ({error})") from error
    else:
        if name_or_file not in embedded_suites():
            raise UserError(f"unknown suite '{name_or_file}'; {nearest_name(name_or_file, embedded_suites())}")
        text, where = (SUITE_FOLDER / f"{name_or_file}.yaml").read_text(encoding="utf-8"), name_or_file
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
    except yaml.YAMLError as error:
        raise UserError(f"suite {where}: not valid YAML ({' '.join(str(error).split())})") from error
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


def _first_problem(error: ValidationError) -> str:
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt key explains the rest
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        top = str(problem["loc"][0])
        known = Suite.model_fields if len(problem["loc"]) == 1 else _KNOWN_KEYS.get(top, {})
        return f"unknown key '{path}'; {nearest_name(str(problem['loc'][-1]), known)}"
    if problem["type"] == "too_short":
        return f"{path}: at least one is needed"
    return f"{path}: {problem['msg']}, not {problem['input']!r}"
