"""Which rows may stand in one list: those from the same cases and prompts, by the same rules, with the same budget.

Units say under which conditions they were made. What most methods share is the reference; a list of its own, with a
line that says what differs, takes whatever was made otherwise. Nothing is left out, and nothing is compared across
lists.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.prompting.protocol import Protocol

DIFFERS = "differs"
"""The column that says what a row's list differs in from the reference; empty for the reference itself."""

RULES = {
    "synthetic": "data",
    "seed": "seed",
    "empty_policy": "empty-mask policy",
    "tolerances_mm": "tolerances",
    "lesion_rule": "lesion rule",
    "metrics_version": "metrics version",
}
"""Parts of a unit's description that must be the same in every data set, and how they are called."""

FILES = {"dataset_version": "dataset version", "cases": "cases", "prompts": "prompts", "protocol": "protocol"}
"""What must be the same within a data set."""

WORDS, ITS_TRAINING = "words", "its training"
"""Where a method knows from what is to be segmented, beside the prompts: it reads organ and lesion in words from the
target, or its weights were trained on this target alone. Words are an advantage at a prompt only to weights that serve
several targets; of those that serve one, the training has said more."""

Unit = Mapping[str, Any]
Place = tuple[str, str, str, str]  # dataset, target, protocol, method
Conditions = dict[str, Hashable]


def with_lists(rows: pd.DataFrame, units: Iterable[Unit]) -> pd.DataFrame:
    """The rows with the column `DIFFERS`."""
    if rows.empty or DIFFERS in rows:
        return rows
    texts = differences(described(rows, units))
    places = zip(rows["dataset"], rows["target"], rows["protocol"], rows["method"], strict=True)
    return rows.assign(**{DIFFERS: [texts.get(place, "") for place in places]})


def differences(units: Sequence[Unit]) -> dict[Place, str]:
    """For each dataset, target, protocol and method: what differs from the reference, in a line; mostly nothing."""
    conditions = _conditions(units)
    rules = _most_common(_only(one, RULES) for one in conditions.values())
    budgets = _most_common(one["budget"] for one in conditions.values() if one["budget"])
    lists: dict[tuple[str, str, str], list[Place]] = {}
    for place in conditions:
        lists.setdefault(place[:3], []).append(place)
    texts: dict[Place, str] = {}
    for places in lists.values():
        alike = [place for place in places if _only(conditions[place], RULES) == rules]
        files = _most_common(_only(conditions[place], FILES) for place in alike or places)
        seen: dict[str, list[Conditions]] = {}
        for place in places:
            mine = conditions[place]
            text = _text(mine, dict(rules or ()), dict(files or ()), budgets)
            same = seen.setdefault(text, [])
            if mine not in same:
                same.append(mine)
            turn = _turn(mine, same)
            texts[place] = f"{text} ({turn})" if text and turn > 1 else text
    return texts


def mixed_rules(folds: Sequence[Unit]) -> str:
    """What the folds of one row of the leaderboard should share and do not, with every value; empty if nothing.

    Such a row has the same mixture as the others of its call, so that it stands in one list with them.
    """
    found = []
    for key, title in RULES.items():
        values = list(dict.fromkeys(_frozen(unit.get(key)) for unit in folds))
        if len(values) > 1:
            found.append(f"{title} ({' and '.join(_said(key, value) for value in values)})")
    budgets = [dict(budget) for budget in dict.fromkeys(map(_budget, folds)) if budget]
    amounts = {key: list(dict.fromkeys(one.get(key) for one in budgets)) for budget in budgets for key in budget}
    unequal = [f"{key} {' and '.join(map(_amount, values))}" for key, values in amounts.items() if len(values) > 1]
    if unequal:
        found.append(f"training budget ({', '.join(unequal)})")
    return ", ".join(found)


def _turn(mine: Conditions, same: list[Conditions]) -> int:
    """Of conditions that differ from the reference in the same words, but from each other too: which one it is.

    Whether a method was trained makes no difference of its own: one without training fits every budget.
    """
    distinct: list[Conditions] = []
    for one in same:
        if not any(_compatible(one, other) for other in distinct):
            distinct.append(one)
    return 1 + next(i for i, other in enumerate(distinct) if _compatible(mine, other))


def _compatible(one: Conditions, other: Conditions) -> bool:
    budgets = {one["budget"], other["budget"]} - {()}
    alike = (*RULES, *FILES, "words")
    return len(budgets) < 2 and _only(one, alike) == _only(other, alike)


def described(rows: pd.DataFrame, units: Iterable[Unit]) -> list[Unit]:
    """The units; what older descriptions do not say is taken from their rows."""
    units = list(units)
    if "lesion_rule" not in rows or all("lesion_rule" in unit for unit in units):
        return units
    rules = rows.groupby("unit")["lesion_rule"].first()
    return [{"lesion_rule": rules.get(unit["unit"]), **unit} for unit in units]


def _conditions(units: Sequence[Unit]) -> dict[Place, Conditions]:
    """The conditions of a method on a list; over several folds, those of each."""
    complete: dict[tuple[str, str], dict[str, bool]] = {}
    for unit in units:
        target = (str(unit["dataset"]), str(unit["target"]["name"]))
        has = complete.setdefault(target, {"cases_digest": True, "prompts_digest": True})
        for name in has:
            has[name] = has[name] and bool(unit.get(name))
    folds: dict[Place, dict[int, Conditions]] = {}
    for unit in units:
        target = (str(unit["dataset"]), str(unit["target"]["name"]))
        for protocol in unit["protocols"]:
            name = _name(protocol, unit)
            place = (*target, name, str(unit["method"]))
            folds.setdefault(place, {})[int(unit["fold"])] = _of_unit(unit, protocol, name, complete[target])
    return {place: _merged(parts) for place, parts in folds.items()}


def _of_unit(unit: Unit, protocol: Mapping[str, Any], name: str, complete: Mapping[str, bool]) -> Conditions:
    cases: Hashable = unit["cases_digest"] if complete["cases_digest"] else tuple(sorted(map(str, unit["cases"])))
    prompts = unit["prompts_digest"] if complete["prompts_digest"] else unit.get("prompt_banks", {}).get(name, "")
    rules: Conditions = {key: _frozen(unit.get(key)) for key in RULES}
    return rules | {
        "dataset_version": _frozen(unit.get("dataset_version")),
        "cases": cases,
        "prompts": prompts,
        "protocol": json.dumps(protocol, sort_keys=True),
        "budget": _budget(unit),
        "words": _reads_unequal_words(unit, protocol),
    }


def _budget(unit: Unit) -> tuple[tuple[str, Any], ...]:
    """What a training was given, its workers included; empty without one."""
    budget = {} if unit.get("untrained") else unit.get("budget") or {}
    return tuple(sorted({**budget, "workers": unit.get("workers", 1)}.items())) if budget else ()


def _reads_unequal_words(unit: Unit, protocol: Mapping[str, Any]) -> bool:
    """Whether the method reads words that others at the same prompt are not given; untrained, it cannot use them."""
    knows = () if unit.get("untrained") else unit.get("knows") or ()
    prompted = Protocol.from_mapping(protocol).track not in ("automatic", "text")
    return prompted and not protocol.get("text") and WORDS in knows and ITS_TRAINING not in knows


def _name(protocol: Mapping[str, Any], unit: Unit) -> str:
    """The name of a protocol, as the rows have it."""
    names = unit.get("protocol_names")
    return str(names[unit["protocols"].index(protocol)]) if names else Protocol.from_mapping(protocol).name


def _merged(folds: Mapping[int, Conditions]) -> Conditions:
    """One fold as it is; of several, every value of every fold."""
    if len(folds) == 1:
        return next(iter(folds.values()))
    ordered = [folds[fold] for fold in sorted(folds)]
    merged: Conditions = {}
    for key in ordered[0]:
        values = [one[key] for one in ordered]
        merged[key] = values[0] if len(set(values)) == 1 else tuple(values)
    return merged


def _only(conditions: Conditions, keys: Iterable[str]) -> tuple[tuple[str, Hashable], ...]:
    return tuple((key, conditions[key]) for key in keys)


def _most_common(values: Iterable[Any]) -> Any:
    """The most common value, of equally common ones the first; None if there is none."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None


def _frozen(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def _text(mine: Conditions, rules: Mapping[str, Hashable], files: Mapping[str, Hashable], budget: Any) -> str:
    parts = [
        f"other {title}: {_said(key, mine[key])} instead of {_said(key, rules[key])}"
        for key, title in RULES.items()
        if mine[key] != rules[key]
    ]
    other_files = [title for key, title in FILES.items() if mine[key] != files[key]]
    if "prompts" in other_files and (mine["seed"] != rules["seed"] or "cases" in other_files):
        other_files.remove("prompts")  # they follow from these
    parts += [f"other {title}" for title in other_files]
    if mine["budget"] and mine["budget"] != budget:
        parts.append(f"other training budget: {_budget_said(mine['budget'], budget)}")
    if mine["words"]:
        parts.append("reads the target's words, which this protocol gives to nobody else")
    return "; ".join(parts)


def _said(key: str, value: Any) -> str:
    if key == "synthetic":
        return "synthetic" if value else "real"
    if key == "tolerances_mm" and isinstance(value, tuple):
        return ", ".join(f"{one:g}" if isinstance(one, int | float) else str(one) for one in value) + " mm"
    return "not recorded" if value is None else str(value)


def _budget_said(mine: Any, reference: Any) -> str:
    try:
        ours, theirs = dict(mine), dict(reference)
    except (TypeError, ValueError):  # of several folds
        return "not that of the others"
    keys = [key for key in dict.fromkeys((*ours, *theirs)) if ours.get(key) != theirs.get(key)]
    return ", ".join(f"{key} {_amount(ours.get(key))} instead of {_amount(theirs.get(key))}" for key in keys)


def _amount(value: Any) -> str:
    return "unlimited" if value is None else f"{value:g}"
