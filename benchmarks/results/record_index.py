"""Which units of a suite count: `units.json`, a list of the calls of `run` and what each of them was about.

Every unit is described twice, in its own `unit.json` and in the index, so that either can be made again from the
other. What is damaged is named, set aside and made again; it is never thrown away.

A unit's *key* names its place (data set, fold, target, method); its *digest* stands for what decides its numbers.
A later unit of the same key takes the place of the earlier one, whose records stay on the disk; so does one that tests
a case again in another fold, because a case counts once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from benchmarks.common.errors import UserError
from benchmarks.common.files import read_json, write_json
from benchmarks.results.record_files import set_aside

logger = logging.getLogger(__name__)

INDEX_VERSION = 2
Call = dict[str, Any]
"""One call of `run`: "at" (when, UTC), "units" (folders below the suite's, in the order of the plan)."""
Place = TypeVar("Place", bound=Hashable)


def key_of(unit: Mapping[str, Any]) -> str:
    """Where a unit belongs: data set, fold, target and title, whatever its settings."""
    return "|".join(str(part) for part in (unit["dataset"], unit["fold"], unit["target"]["name"], unit["method"]))


def keys_of(rows: pd.DataFrame) -> pd.Series:
    """The key of the unit of every row."""
    dataset, fold, target, method = (rows[column].astype(str) for column in ("dataset", "fold", "target", "method"))
    return dataset + "|" + fold + "|" + target + "|" + method


def now() -> str:
    """This moment, for `created_at`."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def read_unit_file(path: Path) -> dict[str, Any]:
    """The description in a `unit.json`.

    Raises:
        UserError: it is missing, damaged, or describes no unit.
    """
    unit = read_json(path)
    if not is_description(unit):
        raise UserError(f"{path}: describes no unit of a run")
    return dict(unit)


def is_description(unit: Any) -> bool:
    """Whether a value describes a unit: what the tables read is there, and of the right type."""
    try:
        Description.model_validate(unit, strict=True)
    except ValidationError:
        return False
    return True


class Name(BaseModel):
    """A target, as far as its name goes."""

    name: str


class Training(BaseModel):
    """What a unit's training cost, as far as tables show it."""

    minutes: float | None = None
    parameters: float | None = None
    queued_share: float | None = None


class LearnedFrom(BaseModel):
    """Another dataset that was learned from."""

    tested: str
    trained_on: str
    fold: int
    training_cases: int
    synthetic_training: bool


class Description(BaseModel):
    """What is read of `unit.json`; other keys may stand there."""

    dataset: str
    method: str
    unit: str
    fold: int
    target: Name
    protocols: list[dict[str, Any]]
    cases: list[str]
    synthetic: bool
    contamination: str
    skipped_protocols: list[str]
    floor: bool = False
    untrained: bool = False
    workers: int = 0
    cases_digest: str = ""
    prompts_digest: str = ""
    dataset_version: str = ""
    modality: str = "CT"
    intensities: str = ""
    created_at: str = ""
    protocol_names: list[str] = []
    prompt_banks: dict[str, str] = {}
    knows: list[str] = []
    budget: dict[str, Any] = {}
    config: dict[str, Any] = {}
    checkpoint: str = ""
    predictions: str = ""
    log: str = ""
    training: Training = Training()
    external: LearnedFrom | None = None
    rehearsal: bool = False


class Index:
    """The calls of `run` on one suite.

    Attributes:
        calls: the oldest first.
        units: folder (relative to the suite's) → description, as of the call that used it last.
        made_again: why it could not be read as it was; empty if it could.
    """

    def __init__(self, path: Path, begun: Collection[Path] = ()) -> None:
        """Read the index; where it is missing or damaged, make it again from the units that lie beside it.

        Args:
            begun: units that have just been created, and say nothing about an earlier call.
        """
        self.path = path
        self.calls: list[Call] = []
        self.units: dict[str, dict[str, Any]] = {}
        self.made_again = ""
        there = [folder for folder in _unit_folders(path.parent) if folder not in begun]
        if path.exists():
            try:
                self._take(read_json(path))
            except UserError as error:
                self.made_again = str(error)
            if not self.calls and there and not self.made_again:
                self.made_again = f"{path}: lists no unit"
        elif there:
            self.made_again = f"{path}: missing"
        if self.made_again:
            self._make_again(there)
            logger.warning("%s; made again from the %d units beside it", self.made_again, len(self.units))

    def _take(self, content: Any) -> None:
        if isinstance(content, (list, dict)) and not (isinstance(content, dict) and "calls" in content):
            self._take_pairs(content)
            return
        try:
            calls = [{"at": str(call["at"]), "units": [str(one) for one in call["units"]]} for call in content["calls"]]
            units = {str(folder): dict(unit) for folder, unit in content["units"].items() if is_description(unit)}
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(f"{self.path}: no index of units") from error
        self.calls, self.units = calls, units

    def _take_pairs(self, content: Any) -> None:
        """The index of earlier versions: pairs of key and folder."""
        try:
            folders = list(dict(content).values())
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.path}: no index of units") from error
        if not all(isinstance(folder, str) for folder in folders):
            raise UserError(f"{self.path}: no index of units")
        self.calls = [{"at": "", "units": folders}] if folders else []

    def _make_again(self, there: Iterable[Path]) -> None:
        dated = []
        for folder in there:
            try:
                unit = read_unit_file(folder / "unit.json")
            except UserError:
                continue  # whoever reads the units says so
            dated.append((str(unit.get("created_at", "")), (folder / "unit.json").stat().st_mtime, folder, unit))
        for at, _, folder, unit in sorted(dated, key=lambda one: one[:2]):
            name = str(folder.relative_to(self.path.parent))
            self.calls.append({"at": at, "units": [name]})
            self.units[name] = unit

    def add_call(self, folders: Sequence[Path]) -> None:
        """Note what the latest call is about, and write the index; a damaged one is set aside.

        What earlier calls computed and nobody sees any more is said in a line.
        """
        before = [unit for folder in self.current() if (unit := self._unit(folder))]
        names = [str(folder.relative_to(self.path.parent)) for folder in folders]
        self.calls = [call for call in self.calls if call["units"] != names]
        self.calls.append({"at": now(), "units": names})
        for folder, name in zip(folders, names, strict=True):
            self.units[name] = read_unit_file(folder / "unit.json")
        if self.made_again and self.path.exists():
            logger.warning("%s: set aside as %s", self.path, set_aside(self.path).name)
        write_json(self.path, {"version": INDEX_VERSION, "calls": self.calls, "units": self.units})
        after = [unit for folder in self.current() if (unit := self._unit(folder))]
        for line in no_longer_shown(before, after):
            logger.warning("%s: %s", self.path.parent.name, line)

    def current(self) -> dict[str, bool]:
        """Folder → whether the latest call was about it; the units that count, in the order of the plans."""
        folders = [folder for call in self.calls for folder in call["units"]]
        counting = those_that_count((folder, self._unit(folder)) for folder in folders)
        latest = set(self.calls[-1]["units"]) if self.calls else set()
        return {folder: folder in latest for folder in counting}

    def called_at(self, folder: str) -> str:
        """When the last call was that was about a unit; empty if the index is of a version that did not say."""
        return max((call["at"] for call in self.calls if folder in call["units"]), default="")

    def _unit(self, folder: str) -> Mapping[str, Any]:
        """The description of a unit; empty if it is lost."""
        if folder in self.units:
            return self.units[folder]
        try:
            return read_unit_file(self.path.parent / folder / "unit.json")
        except UserError:
            return {}


def those_that_count(units: Iterable[tuple[Place, Mapping[str, Any]]]) -> list[Place]:
    """Which units count: of every key the newest; of several folds that test a case again the newest, too.

    The others would count that case twice. A unit that is lost has no description, and is a key of its own.

    Args:
        units: where each is and its description, of all calls, the oldest first.
    """
    newest: dict[Hashable, Place] = {}
    tested: dict[Hashable, dict[Hashable, set[str]]] = {}  # data set, target and method → key → cases
    for place, unit in units:
        key: Hashable = key_of(unit) if unit else place  # whoever reads it says what is wrong
        folds, cases = tested.setdefault(_without_fold(unit) if unit else key, {}), set(unit.get("cases", ()))
        for again in [other for other, theirs in folds.items() if other == key or theirs & cases]:
            newest.pop(again, None)  # the same key, too: the later plan gives it its place
            folds.pop(again)
        newest[key], folds[key] = place, cases
    return list(newest.values())


def no_longer_shown(before: Iterable[Mapping[str, Any]], after: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lines on what earlier calls computed that the newest units do not cover: whole folds, protocols of a unit.

    Args:
        before: descriptions of the units that counted until now.
        after: of those that count from now on.
    """
    now_there = {key_of(unit): unit for unit in after}
    methods: dict[str, list[str]] = {}
    for unit in before:
        where = f"of {unit['dataset']}, fold {unit['fold']}"
        newer = now_there.get(key_of(unit))
        if newer is None:
            what = f"cases {where} are tested again in another fold, which takes its place"
        elif hidden := [name for name in _protocols(unit) if name not in _protocols(newer)]:
            what = f"protocols {', '.join(hidden)} {where} are not in this call, which takes an earlier one's place"
        else:
            continue
        methods.setdefault(what, []).append(str(unit["method"]))
    return [
        f"{what}: earlier results are kept and no longer shown ({', '.join(dict.fromkeys(names))})"
        for what, names in methods.items()
    ]


def _protocols(unit: Mapping[str, Any]) -> Collection[str]:
    return unit.get("protocol_names") or ()


def _without_fold(unit: Mapping[str, Any]) -> str:
    return "|".join(str(part) for part in (unit["dataset"], unit["target"]["name"], unit["method"]))


def _unit_folders(suite: Path) -> list[Path]:
    """Folders below a suite's that hold a unit, or what is left of one."""
    found = [path for path in suite.glob("*/*") if path.is_dir() and not path.name.startswith(".")]
    return sorted(path for path in found if any(path.glob("unit.json*")) or any(path.rglob("*.parquet")))
