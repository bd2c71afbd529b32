"""Records on disk: the source of truth.

One folder per unit. Every case is on the disk before the next one begins; a killed run leaves whole cases or
nothing, and the next run sees exactly what is missing. No command deletes a record before a new one has its place.

    records/<suite>/units.json                         the calls of `run`, and the units of each
    records/<suite>/<dataset>/<method>-<digest>/unit.json     what the unit is, in full
    records/<suite>/<dataset>/<method>-<digest>/rows/         its rows; see `record_files`
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.common.files import safe_name, write_json
from benchmarks.results.record_files import (
    Contents,
    Fault,
    RowFiles,
    append_line,
    compact,
    generation_of,
    read_contents,
    set_aside,
)
from benchmarks.results.record_index import Index, is_description, key_of, keys_of, now, read_unit_file
from benchmarks.results.record_rows import (
    FAILED,
    NO_TARGET,
    OK,
    SCHEMA_VERSION,
    SPACINGS,
    WEIGHTS,
    faults_of_case,
    upgraded,
    weights_in,
)

__all__ = [
    "FAILED",
    "NO_TARGET",
    "OK",
    "SCHEMA_VERSION",
    "SPACINGS",
    "WEIGHTS",
    "RecordStore",
    "key_of",
    "keys_of",
    "upgraded",
    "with_newest_patients",
]

logger = logging.getLogger(__name__)


class RecordStore:
    """The records of one output folder. One process writes them at a time; any number may read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._afresh: set[Path] = set()
        self._generations: dict[Path, int] = {}
        self._units: dict[Path, dict[str, Any]] = {}
        self._read: dict[Path, tuple[object, Contents]] = {}
        self._named: set[Fault] = set()

    def unit_folder(self, suite: str, dataset: str, method: str, digest: str) -> Path:
        """Where the records of a unit lie."""
        return self.root / safe_name(suite) / safe_name(dataset) / f"{safe_name(method)}-{digest}"

    # -- writing --

    def begin_unit(self, folder: Path, description: Mapping[str, Any], afresh: bool = False) -> None:
        """Create the folder of a unit and write down what it is, and since when it is there.

        With `afresh` all its cases are computed again; the records that it has stay, and count, until
        `complete_unit` finds the new ones complete.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "unit.json"
        created = now()
        if path.exists():
            try:
                created = str(read_unit_file(path).get("created_at", created))
            except UserError as error:
                logger.warning("%s; set aside as %s and written again", error, set_aside(path).name)
        unit = {"key": key_of(description), **description, "created_at": created}
        write_json(path, unit)
        self._units[folder] = unit
        if (folder / ".afresh").exists() and (afresh or not weights_in(self._begun_afresh(folder))):
            self._leave_afresh(folder, in_silence=afresh)
        if afresh:
            self._afresh.add(folder)

    def use_weights(self, folder: Path, weights: str) -> bool:
        """Say by which trained weights the rows of a unit come from now on; whether those that it has come by others.

        Then all its cases are computed again, as with `afresh`. What an attempt that was cut off has computed by the
        same weights is taken up; what it has by others is not. Rows that do not say by which they come are left alone.

        Args:
            weights: their digest; empty if the training does not say.
        """
        if folder in self._afresh:
            return False
        others = self._by_others(folder, weights)
        if (folder / ".afresh").exists() and not (others and weights_in(self._begun_afresh(folder)) == {weights}):
            self._leave_afresh(folder)
        if others:
            logger.warning(
                "%s: its rows come from an earlier training; all cases are computed with the new one", folder
            )
            self._afresh.add(folder)
        return others

    def _by_others(self, folder: Path, weights: str) -> bool:
        return bool(weights) and bool(weights_in(self._contents(folder).rows) - {weights})

    def _begun_afresh(self, folder: Path) -> pd.DataFrame:
        """The rows of a computation of all cases again that was not finished."""
        return read_contents(RowFiles(folder / ".afresh"), self._unit(folder)).rows

    def _leave_afresh(self, folder: Path, in_silence: bool = False) -> None:
        if not in_silence:
            logger.warning("%s: a run with --fresh was not finished; the records from before it count", folder)
        _move_aside(folder / ".afresh")

    def add_facts(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write down what is known of a unit only once it is complete, such as what its training cost."""
        unit = {**self._unit(folder), **facts}
        if unit != self._unit(folder):
            write_json(folder / "unit.json", unit)
            self._units[folder] = unit

    def set_current(self, suite: str, folders: Sequence[Path]) -> None:
        """Note the units of the latest call, in its order; they replace older ones of the same key."""
        Index(self._index(suite), begun=folders).add_call(folders)

    def write_case(self, folder: Path, case_id: str, rows: list[dict[str, Any]]) -> Path:
        """Write all rows of one case of one unit; they are on the disk when this returns.

        Raises:
            ValueError: rows that cannot be true: a mistake of the program.
        """
        wrong = faults_of_case(rows)
        if wrong:
            raise ValueError(f"{folder.name}, case {case_id}: {next(iter(wrong.values()))}")
        files = self._files(folder)
        if files.place not in self._generations:
            self._generations[files.place] = generation_of(files)
        return append_line(files, case_id, rows, self._generations[files.place])

    def complete_unit(self, folder: Path) -> None:
        """Put the rows of a unit into one file, if all its cases are there; else leave everything as it is."""
        files, unit = self._files(folder), self._unit(folder)
        contents = self._contents(folder)
        if not set(unit.get("cases", ())) <= contents.cases:
            return
        if folder in self._afresh:
            compact(files, contents, unit, target=_in_place(folder))
            self._afresh.discard(folder)
            shutil.rmtree(files.place)
            for before in folder.glob(".afresh.*"):
                shutil.rmtree(before)
        elif files.lines() or files.cases() or contents.faults:
            compact(files, contents, unit)
        self._forget(folder)

    def share_unit(self, source: Path, folder: Path, columns: Mapping[str, Any]) -> None:
        """Give a unit the rows of another one that gives the same numbers; `columns` are those that differ."""
        rows, files = self.read_unit(source).assign(**columns), _in_place(folder)
        there = self.read_unit(folder)
        if not rows.equals(there):
            compact(files, Contents(rows, self._contents(folder).faults, generation_of(files)), self._unit(folder))
        self._afresh.discard(folder)
        self._forget(folder)

    def finished(
        self, folder: Path, case_ids: Iterable[str], retry_failed: bool = False, weights: str = ""
    ) -> set[str]:
        """The cases that need no more work; with `retry_failed`, those with a failed row do.

        Reads and checks every row; what is damaged is named, set aside, and not among them.

        Args:
            weights: of the unit's training; none is finished where a row comes by others, see `use_weights`.
        """
        contents = self._contents(folder)
        if contents.faults:
            files = self._files(folder)
            for fault in contents.faults:
                logger.warning("%s; set aside, and computed again", fault)
            compact(files, contents, self._unit(folder))
            self._forget(folder)
            contents = self._contents(folder)
        if folder not in self._afresh and self._by_others(folder, weights):
            return set()
        done = contents.cases
        if retry_failed and done:
            done -= set(contents.rows.loc[contents.rows["status"] == FAILED, "case"])
        return done & set(case_ids)

    # -- reading --

    def read_unit(self, folder: Path) -> pd.DataFrame:
        """All rows of a unit that can be believed; what cannot is named once, and missing."""
        contents = self._contents(folder)
        for fault in contents.faults:
            if fault not in self._named:
                logger.warning("%s; its rows count as missing: run the suite again", fault)
                self._named.add(fault)
        return _of_patients(contents.rows.copy(), self._unit(folder))

    def suites(self) -> list[str]:
        """Names of the suites that have records here."""
        found = {path.parent.name for path in self.root.glob("*/units.json")}
        return sorted(found | {path.parents[2].name for path in self.root.glob("*/*/*/unit.json")})

    def read_suite(self, suite: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
        """The rows of the current units of a suite, and the descriptions of those units.

        Each description also says when the last call was that was about its unit (`called_at`), and whether that was
        the latest one (`latest_call`). Units of earlier calls may have had other settings: whoever makes a list of both
        must compare them. A case has one patient in all rows, see `with_newest_patients`.

        Raises:
            UserError: there are no records of that suite, or a unit is gone without a trace of what it was.
        """
        path = self._index(suite)
        if suite not in self.suites() and safe_name(suite) not in self.suites():
            have = ", ".join(self.suites()) or "none"
            raise UserError(f"{self.root}: no records of suite '{suite}' (have: {have}); run `tags-bench run` first")
        index = Index(path)
        frames, units = [], []
        for name, latest in index.current().items():
            folder = path.parent / name
            unit = self._described(folder, index.units.get(name))
            rows = self.read_unit(folder)
            if unit is not None:
                called = {"called_at": index.called_at(name), "latest_call": latest}
                units.append({"key": key_of(unit), **unit, **called})
            elif rows.empty:
                raise UserError(
                    f"{folder}: listed in units.json, and neither rows nor unit.json are left; run it again"
                )
            if not rows.empty:
                frames.append(rows)
        rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
        return with_newest_patients(rows, units), units

    def _described(self, folder: Path, noted: dict[str, Any] | None) -> dict[str, Any] | None:
        """The description of a unit from its `unit.json`, the index, or the file of its rows; None if all are lost."""
        try:
            return self._units.setdefault(folder, read_unit_file(folder / "unit.json"))
        except UserError as error:
            self._units[folder] = noted or {}
            inside = self._contents(folder).unit
            for unit, where in ((noted, "units.json"), (inside, "its rows")):
                if is_description(unit):
                    logger.warning("%s; taken from %s", error, where)
                    self._units[folder] = dict(unit or {})
                    self._forget(folder)
                    return self._units[folder]
            logger.warning("%s; its rows belong to an unknown unit: run the suite again", error)
            return None

    # -- where things are --

    def _index(self, suite: str) -> Path:
        return self.root / safe_name(suite) / "units.json"

    def _files(self, folder: Path) -> RowFiles:
        return RowFiles(folder / ".afresh") if folder in self._afresh else _in_place(folder)

    def _unit(self, folder: Path) -> dict[str, Any]:
        """The description of a unit; empty if it cannot be read."""
        if folder not in self._units:
            try:
                self._units[folder] = read_unit_file(folder / "unit.json")
            except UserError:
                return {}
        return self._units[folder]

    def _contents(self, folder: Path) -> Contents:
        """What the files of a unit hold; read again only where one has changed."""
        files = self._files(folder)
        marks = (files.place, files.marks())
        known = self._read.get(folder)
        if known is not None and known[0] == marks:
            return known[1]
        contents = read_contents(files, self._unit(folder))
        self._read[folder] = (marks, contents)
        return contents

    def _forget(self, folder: Path) -> None:
        """Read the files of a unit again when they are next asked for."""
        self._read.pop(folder, None)
        self._generations.pop(_in_place(folder).place, None)
        self._generations.pop(folder / ".afresh", None)


def _of_patients(rows: pd.DataFrame, unit: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with the patients that the cases have now: whose a case is can be corrected without a new number."""
    if rows.empty or "patients" not in unit or "patient" not in rows:
        return rows
    return rows.assign(patient=rows["case"].map(unit["patients"]).fillna(rows["case"]))


def with_newest_patients(rows: pd.DataFrame, units: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows of several units, every case of a data set with the patient that the newest unit with the case names.

    Units that the latest call was not about may have kept patients from before a correction.

    Args:
        units: in the order of their calls, the newest last.
    """
    newest: dict[tuple[str, str], str] = {}
    for unit in units:
        if "patients" in unit:
            newest |= {(unit["dataset"], case): unit["patients"].get(case, case) for case in unit["cases"]}
    if rows.empty or not newest or "patient" not in rows:
        return rows
    told = zip(rows["dataset"], rows["case"], rows["patient"], strict=True)
    return rows.assign(patient=[newest.get((dataset, case), patient) for dataset, case, patient in told])


def _in_place(folder: Path) -> RowFiles:
    return RowFiles(folder / "rows", earlier=folder)


def _move_aside(path: Path) -> None:
    number = 1
    while path.with_name(f"{path.name}.{number}").exists():
        number += 1
    os.rename(path, path.with_name(f"{path.name}.{number}"))
