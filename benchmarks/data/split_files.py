"""Splits that a user brings: folders of the challenge, a column of a table, nnU-Net's list, or one centre left out.

A word says which (`splits` of a suite's dataset, `--splits`):

- `folders`: what lies in imagesTs and labelsTs is tested, what lies in imagesTr and labelsTr trains;
- `TABLE.csv`: its columns `case` and `split` (train, validation or test);
- `TABLE.csv:COLUMN`: one fold for each value of that column, which is tested while the others train; a centre, a
  scanner, a year;
- `FILE.json`: nnU-Net's `splits_final.json`, whose "val" cases are tested, or what `data splits --out` wrote.

A column `patient` of a table says whose scans they are, where the dataset does not.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.errors import UserError, nearest_name, shorten
from benchmarks.common.paths import user_path
from benchmarks.data.dataset import Dataset, Split
from benchmarks.data.layouts.layout import own_patient, volume_stem
from benchmarks.data.splits import FRACTIONS, PARTS, patient_split

FOLDERS = "folders"
WORDS = {
    "train": "train", "training": "train", "tr": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test", "ts": "test",
}  # fmt: skip


def is_split_file(word: str | None) -> bool:
    """Whether a word names a split that is read here."""
    return word is not None and (word == FOLDERS or word.lower().endswith(".json") or _table(word) is not None)


def absolute(word: str | None) -> str | None:
    """The same word with the whole path of its file, so that it means the same from any folder."""
    if word is None or word == FOLDERS or not is_split_file(word):
        return word
    table = _table(word)
    path, column = (user_path(word), "") if table is None else table
    return f"{path.resolve()}:{column}" if column else str(path.resolve())


def with_splits(dataset: Dataset, word: str) -> Dataset:
    """The dataset with the splits that the word names; a case without a part is listed in `excluded`.

    Raises:
        UserError: no such file, column or case, a patient on both sides of a fold, or a column `patient` that
            contradicts the dataset.
    """
    table = _table(word)
    if word == FOLDERS:
        folds, source = [_by_folder(dataset)], "by folder: imagesTs and labelsTs are tested"
    elif table is None:
        folds, source = _from_json(dataset, user_path(word))
    else:
        path, column = table
        rows = _rows(path)
        _refuse_unknown(dataset, rows, path)
        dataset = _with_patients(dataset, rows, path)
        if column:
            folds, source = _one_left_out(dataset, rows, column, path)
        else:
            folds, source = [_by_column(rows, dataset, path)], f"column 'split' of {path.name}"
    for fold in folds:
        _refuse_shared_patients(dataset, fold, word)
    used = {case_id for fold in folds for part in PARTS for case_id in getattr(fold, part)}
    left_out = {case_id: f"in no part of the split {word}" for case_id in dataset.cases if case_id not in used}
    return replace(dataset, splits=tuple(folds), split_source=source, excluded={**dataset.excluded, **left_out})


def _table(word: str) -> tuple[Path, str] | None:
    """A table and a column of it ("" for `split`); None if the word is something else."""
    match = re.fullmatch(r"(.+\.csv)(?::(.+))?", word, re.IGNORECASE)
    return None if match is None else (user_path(match[1]), match[2] or "")


def _by_folder(dataset: Dataset) -> Split:
    test = {case_id for case_id, case in dataset.cases.items() if case.image.parent.name == "imagesTs"}
    if not test:
        raise UserError(f"dataset '{dataset.name}': the split '{FOLDERS}' needs scans in imagesTs and labelsTs")
    rest = [case_id for case_id in dataset.cases if case_id not in test]
    patients = {case_id: case.patient for case_id, case in dataset.cases.items()}
    return _learning(rest, patients, test)


def _learning(rest: list[str], patients: Mapping[str, str], test: Iterable[str]) -> Split:
    """These tests; of the patients of the rest a tenth validates, by the rule of `splits`, and the others train."""
    tested = tuple(sorted(test))
    if not rest:
        return Split((), (), tested)
    inner = patient_split(rest, patients, fractions=(1 - FRACTIONS[1], FRACTIONS[1], 0.0))
    return Split(inner.train, inner.validation, tested)


def _from_json(dataset: Dataset, path: Path) -> tuple[list[Split], str]:
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"split file {path}: not readable as JSON ({shorten(str(error))})") from error
    ours = content.get("folds") if isinstance(content, dict) else None
    listed = content if isinstance(content, list) else ours
    if not isinstance(listed, list) or not listed:
        raise UserError(f"split file {path}: neither nnU-Net's list of folds nor what `tags-bench data splits` writes")
    parts = {part: part for part in PARTS} if ours else {"train": "train", "validation": "", "test": "val"}
    folds = [
        Split(**{part: _listed(dataset, fold, key, path) if key else () for part, key in parts.items()})
        for fold in listed
    ]
    return folds, f"{len(folds)} folds of {path.name}"


def _listed(dataset: Dataset, fold: Any, key: str, path: Path) -> tuple[str, ...]:
    cases = fold.get(key) if isinstance(fold, dict) else None
    if not isinstance(cases, list):
        raise UserError(f"split file {path}: a fold without a list '{key}'")
    _refuse_unknown(dataset, map(str, cases), path)
    return tuple(sorted({str(case_id) for case_id in cases} & dataset.cases.keys()))


def _rows(path: Path) -> dict[str, dict[str, str]]:
    """Case id → its line; the id is the column `case`, or the name of the file in the column `image`."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"split table {path}: not readable as a CSV table ({shorten(str(error))})") from error
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, start=2):
        image = Path((line.get("image") or "").strip())
        case_id = (line.get("case") or "").strip() or volume_stem(image) or image.name
        if not case_id:
            raise UserError(f"split table {path}, line {number}: no case; a column 'case' is needed")
        if case_id in rows:
            raise UserError(f"split table {path}: case '{case_id}' stands in two lines")
        rows[case_id] = {key: (value or "").strip() for key, value in line.items() if isinstance(key, str)}
    if not rows:
        raise UserError(f"split table {path}: no line")
    return rows


def _column(rows: Mapping[str, Mapping[str, str]], column: str, path: Path) -> dict[str, str]:
    known = next(iter(rows.values()))
    if column not in known:
        raise UserError(f"split table {path}: no column '{column}'; {nearest_name(column, known)}")
    return {case_id: row[column] for case_id, row in rows.items()}


def _with_patients(dataset: Dataset, rows: Mapping[str, Mapping[str, str]], path: Path) -> Dataset:
    """The dataset with the patients of the column `patient`, where it names none of its own.

    Names may differ (those of an import are numbers, for example): what counts is which cases are of one patient.

    Raises:
        UserError: two cases are of one patient by the dataset, and of two by the column, or the other way round.
    """
    named = {case_id: rows[case_id]["patient"] for case_id in dataset.cases if rows.get(case_id, {}).get("patient")}
    if all(case.patient in ("", own_patient(case_id)) for case_id, case in dataset.cases.items()):
        cases = {i: replace(case, patient=named.get(i, case.patient)) for i, case in dataset.cases.items()}
        return replace(dataset, cases=cases)
    first: dict[tuple[str, str], str] = {}
    for case_id, patient in named.items():
        own = dataset.cases[case_id].patient
        found = first.setdefault(("dataset", own), case_id), first.setdefault(("column", patient), case_id)
        if found[0] != found[1]:
            other = next(one for one in found if one != case_id)
            raise UserError(
                f"split table {path}: by its column 'patient' or by dataset '{dataset.name}' itself '{other}' and "
                f"'{case_id}' are of one patient, and not by the other; make them agree"
            )
    return dataset


def _by_column(rows: Mapping[str, Mapping[str, str]], dataset: Dataset, path: Path) -> Split:
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    for case_id, word in _column(rows, "split", path).items():
        if word.lower() not in WORDS:
            known = ", ".join(PARTS)
            raise UserError(f"split table {path}, case '{case_id}': '{shorten(word, 40)}' is none of {known}")
        if case_id in dataset.cases:
            parts[WORDS[word.lower()]].append(case_id)
    return Split(**{part: tuple(sorted(ids)) for part, ids in parts.items()})


def _one_left_out(
    dataset: Dataset, rows: Mapping[str, Mapping[str, str]], column: str, path: Path
) -> tuple[list[Split], str]:
    """A fold for each value: its cases are tested; of the others a tenth of the patients validates."""
    found = _column(rows, column, path)
    values = {case_id: found[case_id] for case_id in dataset.cases if found.get(case_id)}
    known = sorted(set(values.values()))
    if len(known) < 2:
        raise UserError(f"split table {path}: the column '{column}' has one value only; nothing can be left out")
    patients = {case_id: case.patient or case_id for case_id, case in dataset.cases.items()}
    folds = []
    for value in known:
        test = sorted(case_id for case_id, own in values.items() if own == value)
        tested = {patients[case_id] for case_id in test}
        rest = [case_id for case_id in values if patients[case_id] not in tested]
        folds.append(_learning(rest, patients, test))
    shown = ", ".join(f"{number} {value}" for number, value in enumerate(known))
    return folds, f"leave one {column} out: {shown}"


def _refuse_unknown(dataset: Dataset, cases: Iterable[str], path: Path) -> None:
    for case_id in cases:
        if case_id not in dataset.cases and case_id not in dataset.excluded:
            hint = nearest_name(case_id, list(dataset.cases))
            raise UserError(f"{path}: dataset '{dataset.name}' has no case '{shorten(case_id, 80)}'; {hint}")


def _refuse_shared_patients(dataset: Dataset, fold: Split, word: str) -> None:
    """No patient may be in two parts: neither tested nor chosen by after having been learned from."""
    seen: set[str] = set()
    for part in (fold.train, fold.validation, fold.test):
        patients = {dataset.cases[case_id].patient or case_id: case_id for case_id in part}
        for patient in sorted(patients.keys() & seen):
            raise UserError(
                f"dataset '{dataset.name}': the split {word} has the patient of '{patients[patient]}' on both sides"
            )
        seen |= patients.keys()
    if not fold.test:
        raise UserError(f"dataset '{dataset.name}': the split {word} leaves no case to test")
