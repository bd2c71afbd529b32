"""What stands in a suite: datasets, methods and budget, as entries of its YAML; and how the YAML is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import readable
from benchmarks.common.paths import user_path, whole_path
from benchmarks.common.validation import one_line_errors
from benchmarks.contestants import Budget, Environment
from benchmarks.data.registry import folder_of

ALL_FOLDS = "all"


class EveryKeyOnce(yaml.SafeLoader):
    """Of a key that stands twice YAML keeps the last and drops the first in silence; here it is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in keys:
                problem = f"the key '{key}' stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            keys.append(key)
        return super().construct_mapping(node, deep)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DatasetEntry(Strict):
    """One dataset of a suite.

    `source` is "phantom" (synthetic data written in the official layout), a folder, or empty: then the dataset is the
    one that `tags-bench data add` listed under this name on this machine. For a folder in MSD or
    nnU-Net raw layout that the catalogue does not know, `target`, `organ` and `lesion` name what to segment.
    `fold` is a number or "all"; a suite may also list `folds`, and then has an entry for each. `splits` replaces the
    dataset's own, see `benchmarks.data.split_files`. With `train_on`, an entry like this one, every case is tested, by
    methods that learn from the training cases of that other dataset.
    """

    name: str
    source: str = ""
    cases: int = Field(default=14, ge=3, description="number of phantoms; ignored for real data")
    fold: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    splits: str | None = None
    train_on: DatasetEntry | None = None
    target: int | str | None = None
    organ: str = ""
    lesion: str = ""

    @property
    def fold_number(self) -> int:
        """The fold; the first one where all are asked for."""
        return 0 if self.fold == ALL_FOLDS else int(self.fold)

    @model_validator(mode="after")
    def _says_nothing_with_blanks(self) -> Self:
        for key in ("name", "splits", "target"):
            value = getattr(self, key)
            if isinstance(value, str) and not value.strip():
                raise UserError(f"dataset '{self.name}': `{key}` must not be empty")
        return self

    @model_validator(mode="after")
    def _learns_from_one_fold(self) -> Self:
        if self.train_on is not None and (self.train_on.fold == ALL_FOLDS or self.train_on.train_on is not None):
            raise UserError(f"dataset '{self.name}': `train_on` names one fold of one dataset")
        return self


def _environment(value: Any) -> Environment | None:
    return value if value is None or isinstance(value, Environment) else Environment.from_mapping(value)


class MethodBudget(Strict):
    """What one method may spend on training, where it is not what the others may; it then stands in a list of its own.

    Processors and GPUs are those of the suite.
    """

    minutes: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_limited(self) -> Self:
        """Without a limit of its own a method would not be trained at all."""
        if self.minutes is None and self.steps is None:
            raise UserError(
                "budget of a method: give minutes or steps of training, such as {minutes: 5}, or leave it out"
            )
        return self


class MethodEntry(Strict):
    """One method of a suite.

    `config` overrides single settings and `label` names the variant in the tables. A method with an official
    `checkpoint` in its configuration is evaluated as released; `fine_tune` trains it on the training split first.
    `repeat` n > 0 trains from other random numbers (initial weights, crops, prompts) than the suite's seed gives.
    `untrained` evaluates the weights that a training by the bench begins with.
    `zoo` evaluates the weights that come with the method, on phantoms of the data sets for which it brings some, or
    with `fine_tune` trains from them; elsewhere the method is trained from nothing.
    `datasets` names those of the suite that it is run on, where that is not all of them.
    `joint` trains it once, on the training cases of all these datasets in turn; see `benchmarks.execution.joint`.
    `budget` replaces the suite's minutes and steps, for a method's published schedule; `repeats` the suite's number of
    trainings. `environment` is where its processes run, in place of what the method says of itself.

    With `kind: masks` it is no installed method: masks made elsewhere are scored, from one `folder` (or one for each
    dataset, by name); `value` says which value of the files means the target, where they hold more than one.
    """

    name: str
    kind: Literal["method", "masks"] = "method"
    folder: str | dict[str, str] = ""
    value: int | None = Field(default=None, ge=1)
    environment: Annotated[Environment | None, BeforeValidator(_environment)] = None
    config: dict[str, Any] = Field(default_factory=dict)
    label: str = ""
    fine_tune: bool = False
    repeat: int = Field(default=0, ge=0)
    untrained: bool = False
    zoo: bool = False
    joint: bool = False
    datasets: tuple[str, ...] = Field(default=(), min_length=1)
    budget: MethodBudget | None = None
    repeats: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _says_where_masks_are(self) -> Self:
        if self.kind == "masks" and not self.folder:
            raise UserError(f"masks '{self.name}': `folder` says where they are")
        of_training = (self.fine_tune, self.untrained, self.joint, self.repeat, self.budget, self.repeats)
        if self.kind == "masks" and any((self.config, self.environment, *of_training)):
            raise UserError(f"masks '{self.name}': only `folder`, `value` and `label` have an effect there")
        if self.kind == "method" and (self.folder or self.value is not None):
            raise UserError(f"method '{self.name}': `folder` and `value` belong to `kind: masks`")
        return self

    @model_validator(mode="after")
    def _label_can_be_seen(self) -> Self:
        if self.label and not self.label.strip():
            raise UserError(f"method '{self.name}': `label` must not be blank")
        return self

    @property
    def title(self) -> str:
        return (self.label or self.name) + " (joint)" * self.joint + " (untrained)" * self.untrained

    def meets(self, dataset: str) -> bool:
        """Whether it is evaluated on that dataset of the suite."""
        return not self.datasets or dataset in self.datasets

    @staticmethod
    def from_file(path: Path) -> MethodEntry:
        """Read one entry from a YAML file, such as the `best.yaml` of a sweep. Raises UserError."""
        try:
            content = yaml.load(path.read_text(encoding="utf-8"), Loader=EveryKeyOnce)  # noqa: S506 - a SafeLoader
            return MethodEntry.model_validate(content)
        except ValidationError as error:
            raise UserError(f"method file {path}: {first_problem(error, MethodEntry.model_fields)}") from error
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"method file {path}: cannot be read ({' '.join(str(error).split())})") from error


@one_line_errors("budget")
class BudgetEntry(Strict):
    """What every method may spend on training, on one worker; see `benchmarks.contestants.Budget`."""

    minutes: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    cpus: int = Field(default=1, ge=1)
    gpus: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _is_limited(self) -> Self:
        if self.minutes is None and self.steps is None:
            raise UserError("budget: give minutes or steps of training, such as {minutes: 5}")
        if self.gpus > 1 and not self.gpus.is_integer():
            raise UserError(f"budget: {self.gpus:g} GPUs: a worker has a share of one, or whole ones")
        return self

    def budget(self, own: MethodBudget | None = None) -> Budget:
        """For the training of a method, with minutes and steps of its own where it has them."""
        spent = own or self
        return Budget(spent.minutes, spent.steps, self.cpus, self.gpus)


@dataclass(frozen=True)
class OwnData:
    """Scans of the user's own, in place of the datasets of a suite.

    Attributes:
        source: a folder in a known layout, or a CSV table of pairs.
        name: of the dataset; by default that of the folder or table.
        target: the label to segment, value or name; needed where there is more than one.
        organ, lesion: plain words for methods that read text.
        splits: a word of `benchmarks.data.split_files`, or "patient".
    """

    source: Path
    name: str = ""
    target: int | str | None = None
    organ: str = ""
    lesion: str = ""
    splits: str | None = None

    @readable()
    def entry(self) -> DatasetEntry:
        """The entry of a suite.

        Raises:
            UserError: nothing lies there, it cannot be read, or the name is that of other data on this machine.
        """
        source = user_path(self.source)
        if not source.exists():
            raise UserError(f"own data {self.source}: no such folder or table")
        listed = folder_of(self.name)
        if listed not in (None, whole_path(source)):
            raise UserError(f"own data {self.source}: '{self.name}' was added for {listed}; choose another name")
        whole = source.resolve()
        name = self.name or (whole.stem if whole.is_file() else whole.name)
        return DatasetEntry(
            name=name,
            source=str(self.source),
            target=self.target,
            organ=self.organ,
            lesion=self.lesion,
            splits=self.splits,
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


KNOWN_KEYS = {
    "datasets": DatasetEntry.model_fields,
    "methods": MethodEntry.model_fields,
    "budget": BudgetEntry.model_fields,
}


def first_problem(error: ValidationError, fields: Mapping[str, Any]) -> str:
    """The first mistake in a line, with the nearest known key for a misspelt one."""
    problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt key explains the rest
    path = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        top = str(problem["loc"][0])
        known = fields if len(problem["loc"]) == 1 else KNOWN_KEYS.get(top, {})
        return f"unknown key '{path}'; {nearest_name(str(problem['loc'][-1]), known)}"
    if problem["type"] == "too_short":
        return f"{path}: at least one is needed"
    if problem["type"] == "string_too_short":
        return f"{path}: must not be empty"
    return f"{path}: {problem['msg']}, not {problem['input']!r}"
