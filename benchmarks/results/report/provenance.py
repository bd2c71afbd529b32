"""How the numbers were made: rules, data, methods, code and machines, as tables of text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.results.tables import Sheet

Unit = Mapping[str, Any]

RULES = (
    ("seed", "seed"),
    ("empty_policy", "empty-mask policy"),
    ("tolerances_mm", "tolerances (mm)"),
    ("metrics_version", "version of the metrics"),
    ("lesion_rule", "a lesion is found"),
)


@dataclass(frozen=True)
class Provenance:
    """What the last part of the page shows.

    Attributes:
        facts: name and value, of the suite as a whole.
        sheets: data sets, units, machines.
        settings: method → its settings as JSON.
        command: what makes the numbers again.
    """

    facts: tuple[tuple[str, str], ...]
    sheets: tuple[Sheet, ...]
    settings: Mapping[str, str]
    command: str


def provenance_of(rows: pd.DataFrame, units: Sequence[Unit], machines: Sequence[Mapping[str, Any]]) -> Provenance:
    """All that the descriptions of the units, the rows and the notes of the machines say."""
    facts = [(name, _distinct(units, key)) for key, name in RULES]
    for column, name in (("git_commit", "code that wrote the rows"), ("predicted_commit", "code that made the masks")):
        if column in rows:
            facts.append((name, ", ".join(str(value)[:12] for value in rows[column].dropna().unique())))
    if "git_dirty" in rows and rows["git_dirty"].astype(bool).any():
        facts.append(("changed code", "some rows were written by code with changes that were not committed"))
    suite = str(units[0].get("suite", "")) if units else ""
    settings = {str(unit["method"]): json.dumps(unit.get("config", {}), sort_keys=True) for unit in units}
    return Provenance(
        facts=tuple((name, value) for name, value in facts if value),
        sheets=(_data(units), _units(units), *_machines(machines)),
        settings=settings,
        command=_command(suite),
    )


def _command(suite: str) -> str:
    """How the run is called again. Data that were added or named with `--data` make a suite of their own."""
    if suite.startswith("data-"):
        name = suite.removeprefix("data-")
        return (
            f"tags-bench run --dataset {name}   # or --data DIR, as before; with the same methods, protocols and budget"
        )
    return f"tags-bench run --suite {suite} --all-datasets   # a suite of your own: the name of its file"


def _distinct(units: Sequence[Unit], key: str) -> str:
    return ", ".join(dict.fromkeys(_text(unit[key]) for unit in units if key in unit))


def _data(units: Sequence[Unit]) -> Sheet:
    lines: dict[tuple[str, str, int], tuple[str, ...]] = {}
    for unit in units:
        lines[(unit["dataset"], unit["target"]["name"], unit["fold"])] = (
            str(unit["dataset"]),
            str(unit["target"]["name"]),
            "synthetic" if unit["synthetic"] else "real",
            str(unit.get("dataset_version", "")),
            str(unit["fold"]),
            str(len(unit["cases"])),
            str(unit.get("cases_digest", "")),
            str(unit.get("prompts_digest", "")),
        )
    headings = (
        "data set",
        "target",
        "data",
        "version",
        "fold",
        "cases",
        "digest of the cases",
        "digest of the prompts",
    )
    return Sheet("Data sets", headings, tuple(lines.values()), ("fold", "cases"))


def _units(units: Sequence[Unit]) -> Sheet:
    targets: dict[str, set[str]] = {}
    for unit in units:
        targets.setdefault(str(unit["dataset"]), set()).add(str(unit["target"]["name"]))
    several = {dataset for dataset, names in targets.items() if len(names) > 1}
    headings = ("method", "data set", "fold", "code", "digest", "training", "training cases", "checkpoint", "since")
    cells = tuple(
        (
            str(unit["method"]),
            str(unit["dataset"]) + (f", {unit['target']['name']}" if unit["dataset"] in several else ""),
            str(unit["fold"]),
            f"{unit.get('method_name', unit['method'])} {unit.get('method_version', '')}".strip(),
            str(unit["unit"]),
            _budget(unit),
            str(len(unit.get("training_cases", ()))),
            str(unit.get("checkpoint", "")) or "–",
            str(unit.get("created_at", "")),
        )
        for unit in units
    )
    return Sheet("Units: what each method was, on each data set", headings, cells, ("fold", "training cases"))


def _budget(unit: Unit) -> str:
    if unit.get("untrained"):
        return "none (untrained)"
    budget = {key: value for key, value in (unit.get("budget") or {}).items() if value}
    return ", ".join(f"{key} {_text(value)}" for key, value in budget.items()) or "–"


def _machines(machines: Sequence[Mapping[str, Any]]) -> list[Sheet]:
    if not machines:
        return []
    headings = ("since", "processor", "cores", "memory", "GPUs", "system", "Python", "packages")
    cells = tuple(
        (
            str(one.get("created_at", "")),
            str(one.get("processor", "")) or "not known",
            str(one.get("cpus", "")),
            f"{one['memory_gb']} GB" if one.get("memory_gb") else "",
            ", ".join(map(str, one.get("gpus", ()))) or "none",
            str(one.get("platform", "")),
            str(one.get("python", "")),
            ", ".join(f"{name} {number}" for name, number in one.get("packages", {}).items()),
        )
        for one in machines
    )
    return [
        Sheet("Machines that gave the run command; workers of a cluster may be others", headings, cells, ("cores",))
    ]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
