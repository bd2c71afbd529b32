"""What a reader of the leaderboard must know beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.prompting.prompts import GIVEN
from benchmarks.results.comparability import described, mixed_rules
from benchmarks.results.leaderboard.completeness import missing_cases
from benchmarks.results.leaderboard.lists import Units
from benchmarks.results.records import FAILED, NO_TARGET

MOST_QUEUED = 0.2  # of the minutes of a training: with more, another table of the same budget had more training


def notes_of(rows: pd.DataFrame, units: Units) -> list[str]:
    """What a reader of the leaderboard must know: failures with reasons, protocols left out, test cases."""
    units = list(units)
    skipped: dict[str, dict[str, None]] = {}
    for unit in units:
        for protocol in unit["skipped_protocols"]:
            skipped.setdefault(protocol, {})[unit["method"]] = None
    notes = _notes_of_external_validation(units) + _notes_of_missing_cases(rows, units)
    notes += [f"{protocol}: not applicable to {', '.join(methods)}" for protocol, methods in skipped.items()]
    said = {unit["dataset"]: unit.get("intensities", "") for unit in units}
    notes += [f"{dataset} is {words}" for dataset, words in said.items() if words]
    notes += _notes_of_busy_machines(units) + _notes_of_training_cases(units) + _notes_of_mixed_folds(rows, units)
    elsewhere = dict.fromkeys(str(unit["method"]) for unit in units if unit.get("made_elsewhere"))
    if elsewhere:
        notes.append(
            f"made elsewhere: {', '.join(elsewhere)}: masks that the bench did not ask for; what their maker was "
            "given and has spent is not known here, so they are in lists of their own"
        )
    if not rows.empty:
        notes += [*_notes_of_empty_cases(rows), *_notes_of_given_prompts(rows)]
        failed = rows[rows["status"] == FAILED].drop_duplicates(["method", "dataset", "case", "reason"])
        for (method, dataset, reason), group in failed.groupby(["method", "dataset", "reason"], sort=False):
            notes.append(f"failed: {method} on {dataset}, {_cases(group)}: {reason}")
    return notes


def _notes_of_busy_machines(units: Units) -> list[str]:
    """Budgets in minutes in which a training had no processor for a good part of the time, a line for each method."""
    shares: dict[str, list[float]] = {}
    for unit in units:
        if (unit.get("budget") or {}).get("minutes") is not None:
            shares.setdefault(str(unit["method"]), []).append((unit.get("training") or {}).get("queued_share") or 0.0)
    return [
        f"busy machine: {method}: {sum(share > MOST_QUEUED for share in found)} of {len(found)} trainings waited for a "
        f"processor, for up to {max(found):.0%} of their minutes"
        for method, found in shares.items()
        if max(found) > MOST_QUEUED
    ]


def _notes_of_training_cases(units: Units) -> list[str]:
    """Trainings on other cases than most of the trainings that are tested beside them, a line for each method."""
    learned: dict[tuple[str, str, int], dict[str, frozenset[str]]] = {}
    for unit in units:
        if unit.get("budget") and not unit.get("untrained"):
            place = (str(unit["dataset"]), str(unit["target"]["name"]), int(unit["fold"]))
            learned.setdefault(place, {})[str(unit["method"])] = frozenset(unit.get("training_cases") or ())
    notes = []
    for (dataset, _, fold), methods in learned.items():
        usual, _ = Counter(methods.values()).most_common(1)[0]
        notes += [
            f"other training cases: {method} learned from {len(cases)} cases for {dataset}, fold {fold}, of which "
            f"{len(cases & usual)} are among the {len(usual)} that others learned from"
            for method, cases in methods.items()
            if cases != usual
        ]
    return list(dict.fromkeys(notes))


def _notes_of_mixed_folds(rows: pd.DataFrame, units: Units) -> list[str]:
    """Folds that are one row and were made by other rules or budgets, with other settings, or by other versions."""
    folds: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for unit in described(rows, units):
        place = (str(unit["method"]), str(unit["dataset"]), str(unit["target"]["name"]))
        folds.setdefault(place, []).append(unit)
    unlike: dict[tuple[str, str], dict[str, None]] = {}
    notes = []
    for (method, dataset, _), mine in folds.items():
        if rules := mixed_rules(mine):
            unlike.setdefault((dataset, rules), {})[method] = None
        if len({_made_with(unit) for unit in mine}) > 1:
            notes.append(
                f"mixed folds: {method} on {dataset} has other settings, or another version, in some folds than in "
                "others"
            )
    by_rules = [
        f"mixed folds: {', '.join(methods)} on {dataset}: the folds of one row differ in {rules}"
        for (dataset, rules), methods in unlike.items()
    ]
    return by_rules + list(dict.fromkeys(notes))


def _made_with(unit: Mapping[str, Any]) -> str:
    """The settings and the version of a unit's method."""
    return json.dumps([unit.get("config"), unit.get("method_version")], sort_keys=True, default=str)


def _cases(rows: pd.DataFrame) -> str:
    """A few case ids, and how many there are."""
    cases = list(dict.fromkeys(rows["case"]))
    return cases[0] if len(cases) == 1 else f"{len(cases)} cases ({', '.join(cases[:3])}{' …' * (len(cases) > 3)})"


def _notes_of_external_validation(units: Units) -> list[str]:
    """Datasets that were tested whole by methods that had learned from another one, a line each."""
    found = {str(unit["dataset"]): (unit["external"], len(unit["cases"])) for unit in units if unit.get("external")}
    return [
        f"external validation: {dataset}: what learns was trained on {_learned(said)}, and all {cases} cases of "
        f"{said['tested']} were tested"
        for dataset, (said, cases) in found.items()
    ]


def _learned(said: Mapping[str, Any]) -> str:
    kind = "SYNTHETIC phantoms" if said["synthetic_training"] else "cases"
    return f"{said['training_cases']} {kind} of {said['trained_on']} (fold {said['fold']})"


def _notes_of_missing_cases(rows: pd.DataFrame, units: Units) -> list[str]:
    """What a run that is not finished lacks, a line for each method and dataset, those without any row among them."""
    lost: dict[tuple[str, str, str], int] = {}
    for (dataset, target, _, method), cases in missing_cases(rows, units).items():
        key = (method, dataset, target)
        lost[key] = max(lost.get(key, 0), cases)
    return [
        f"not finished: {method} on {dataset}, {target}: {cases} case{'s' if cases > 1 else ''} missing"
        for (method, dataset, target), cases in lost.items()
    ]


def _notes_of_empty_cases(rows: pd.DataFrame) -> list[str]:
    """Per dataset and target the cases that are in no mean of a protocol which looks for the target."""
    empty = rows[rows["status"] == NO_TARGET]
    return [
        f"{NO_TARGET}: {dataset}, {target}, {_cases(group)}: nothing to prompt, so in no "
        f"mean of {', '.join(dict.fromkeys(group['protocol']))}"
        for (dataset, target), group in empty.groupby(["dataset", "target"], sort=False)
    ]


def _notes_of_given_prompts(rows: pd.DataFrame) -> list[str]:
    """Protocols whose first prompts were made by people and not by the simulated user."""
    if "prompt_origin" not in rows:
        return []
    by_people = rows[rows["prompt_origin"] == GIVEN]
    return [
        f"given prompts: {protocol} on {dataset} was prompted by people (bank {bank}), not by the simulated user"
        for dataset, protocol, bank in by_people[["dataset", "protocol", "prompt_bank"]].drop_duplicates().to_numpy()
    ]
