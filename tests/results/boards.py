"""Records and units for the tests of the leaderboard, and how they are shown."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from benchmarks.metrics import Reference, evaluate_mask, failed_values, is_metric
from benchmarks.prompting.protocol import Protocol
from benchmarks.results import leaderboard as lb
from benchmarks.results.tables import Page, details_page, leaderboard_page, print_page

SPACING = (10.0, 10.0, 10.0)  # so that a voxel is a small lesion and a mask costs nothing
TARGETS = {"kits21": "kidney-tumor", "msd-pancreas": "pancreas-tumor", "lits17": "liver-tumor"}
SEVEN = Protocol(kind="iterative", rounds=7)


def unit_of(method: str, dataset: str, protocols: Sequence[Protocol], cases: int, **changes: Any) -> dict[str, Any]:
    return {
        "unit": f"{method}@{dataset}",
        "method": method,
        "dataset": dataset,
        "synthetic": False,
        "floor": False,
        "fold": 0,
        "target": {"name": TARGETS.get(dataset, "tumor")},
        "protocols": [protocol.to_mapping() for protocol in protocols],
        "skipped_protocols": [],
        "cases": [f"case_{i:02}" for i in range(cases)],
        "contamination": "unseen",
        "checkpoint": "",
    } | changes


def row_of(
    unit: Mapping[str, Any], case: int, protocol: Protocol, step: int, dice: float | None, **more: Any
) -> dict[str, Any]:
    """A record as evaluation writes it: a real row of metrics, with the Dice put in; None is a failure."""
    truth = np.zeros((6, 6, 6), bool)
    truth[1:3, 1 : 2 + case % 4, 1] = True
    reference = Reference(truth, SPACING)
    values = failed_values(reference) if dice is None else evaluate_mask(truth, reference) | {"dice": dice}
    return {
        **values,
        "unit": unit["unit"],
        "method": unit["method"],
        "dataset": unit["dataset"],
        "synthetic": unit["synthetic"],
        "case": f"case_{case:02}",
        "patient": f"patient_{case:02}",
        "target": unit["target"]["name"],
        "protocol": protocol.name,
        "track": protocol.track,
        "step": step,
        "status": "failed" if dice is None else "ok",
        "reason": "ValueError: no" if dice is None else "",
        "seconds_open": math.nan if dice is None else 2.0,
        "seconds_segment": math.nan if dice is None else 0.5,
        "peak_memory_mb": 100.0,
    } | more


def by_hand(dice: Mapping[str, Sequence[float | None]], **changes: Any) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Records of one list (kits21, centre click) and their units; None is a failed case."""
    click = Protocol(kind="centre-click")
    units = [unit_of(method, "kits21", [click], len(values), **changes) for method, values in dice.items()]
    rows = [row_of(unit, case, click, 1, value) for unit in units for case, value in enumerate(dice[unit["method"]])]
    return pd.DataFrame(rows), units


def one_stops_early(cases: int = 10) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Two rounds; "slow" takes 9 s, and its user is content after the first. "fast" takes 1 s and is asked twice."""
    twice = Protocol(kind="iterative", rounds=2)
    units = [unit_of(method, "kits21", [twice], cases) for method in ("fast", "slow")]
    rows = []
    for unit in units:
        slow = unit["method"] == "slow"
        for case in range(cases):
            rows.append(row_of(unit, case, twice, 1, 0.9, carried=False, seconds_segment=9.0 if slow else 1.0))
            rows.append(row_of(unit, case, twice, 2, 0.9, carried=slow, seconds_segment=0.0 if slow else 1.0))
    return pd.DataFrame(rows), units


def study(methods: int, cases: int, synthetic: bool = False) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    names = ["tags-vit-b", "3dsam-adapter-tiny", "nnunet", "sam-med3d-turbo", "ball"]
    names += [f"method-{i}" for i in range(methods - len(names))]
    protocols = (Protocol(kind="none"), Protocol(kind="centre-click"), SEVEN)
    chance = np.random.default_rng(0)
    units, rows = [], []
    for dataset in TARGETS:
        difficulty = chance.normal(0, 0.1, cases)
        templates = [
            row_of(unit_of("m", dataset, protocols, cases), case, protocols[0], 1, 0.5) for case in range(cases)
        ]
        for place, name in enumerate(names[:methods]):
            seen = ("trained-on", "superset", "unseen", "unknown")[place % 4]
            floor = name in ("ball", "3dsam-adapter-tiny")
            unit = unit_of(name, dataset, protocols, cases, contamination=seen, floor=floor, synthetic=synthetic)
            units.append(unit)
            for case in range(cases):
                for protocol in protocols:
                    for step in range(1, protocol.rounds + 1):
                        dice = 0.8 - 0.03 * place + 0.02 * step + difficulty[case] + chance.normal(0, 0.03)
                        rows.append(
                            templates[case]
                            | {key: unit[key] for key in ("unit", "method", "synthetic")}
                            | {"protocol": protocol.name, "track": protocol.track, "step": step}
                            | {"dice": float(np.clip(dice, 0, 1)), "hd95_mm": float(chance.uniform(1, 300))}
                        )
    frame = pd.DataFrame(rows)
    lost = (frame["method"] == "nnunet") & (frame["case"] == "case_03")
    frame.loc[lost, ["status", "reason", "dice"]] = ["failed", "RuntimeError: out of memory", 0.0]
    return frame, units


def printed(show: Any, *words: Any, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    show(*words, console)
    return console.export_text()


def page_of(rows: pd.DataFrame, units: Any, notes: Sequence[str] = (), overall_only: bool = False) -> Page:
    board = lb.leaderboard_of(rows, units)
    return leaderboard_page(board, lb.overall_of(board, rows), notes, overall_only)


def show_leaderboard(board: pd.DataFrame, console: Console) -> None:
    """The lists alone, without what is over all datasets."""
    print_page(leaderboard_page(board, pd.DataFrame()), console)


def show_all(rows: pd.DataFrame, units: Any, console: Console) -> None:
    print_page(page_of(rows, units), console)


def show_details(rows: pd.DataFrame, units: Any, console: Console, **choice: Any) -> None:
    print_page(details_page(rows, units, **choice), console)


def with_empty_case(rows: pd.DataFrame, case: str, methods: Sequence[str]) -> pd.DataFrame:
    """As evaluation writes it: the same rows, no metric, status "no-target"."""
    rows = rows.copy()
    mine = (rows["case"] == case) & rows["method"].isin(list(methods))
    rows.loc[mine, ["status", "reason"]] = ["no-target", "no voxel of 'kidney-tumor' in the case"]
    rows.loc[mine, [column for column in rows if is_metric(str(column))]] = math.nan
    rows.loc[mine, ["seconds_open", "seconds_segment"]] = math.nan
    return rows
