"""The metric by size, number of lesions and spacing; lesions by their own size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from benchmarks.metrics import scores_by_size
from benchmarks.results.leaderboard.lists import best_first, in_order_of, per_list, row_dicts
from benchmarks.results.records import FAILED, NO_TARGET, SPACINGS
from benchmarks.results.statistics import mean_interval, summary, with_target
from benchmarks.results.statistics.intervals import Values

DIAMETERS_MM = (10.0, 20.0, 40.0)
"""Inner edges of the size classes: diameter of the ball that has the volume of the whole target."""

LESION_NUMBERS = ("1 lesion", "2 to 5", "6 or more")

IN_PLANE_MM = (0.7, 0.9)

SLICE_MM = (1.5, 3.0, 5.0)
"""Inner edges of the spacing classes: pixel size in the plane of the slices, and distance between slices."""

UNKNOWN = "unknown"


def sizes_of(rows: pd.DataFrame, metric: str = "dice", edges: Sequence[float] = DIAMETERS_MM) -> pd.DataFrame:
    """The metric by the size of the target: LIST, method, group, n, patients, failed, mean, low, high.

    The size is the diameter (mm) of the ball that has the volume of the whole target in a case. A case without
    a voxel of it is in the group `NO_TARGET`.
    """

    def by_size(one: pd.DataFrame) -> pd.Categorical:
        volumes = _of_case(one, "volume_mm3_reference")
        return _classes(np.cbrt(6 / np.pi * volumes), edges, class_names(edges), NO_TARGET)

    return _subgroups(rows, metric, by_size)


def numbers_of(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """The metric by the number of lesions of a case; the columns of `sizes_of`."""

    def by_number(one: pd.DataFrame) -> pd.Categorical:
        return _classes(_of_case(one, "lesions_reference"), (2, 6), LESION_NUMBERS, NO_TARGET)

    return _subgroups(rows, metric, by_number)


def in_plane_of(rows: pd.DataFrame, metric: str = "dice", edges: Sequence[float] = IN_PLANE_MM) -> pd.DataFrame:
    """The metric by the pixel size (mm) in the plane of the slices; the columns of `sizes_of`.

    A case whose spacing is not in the records is in the group `UNKNOWN`.
    """

    def by_pixel(one: pd.DataFrame) -> pd.Categorical:
        return _classes(_grid_of_case(one)[0], edges, class_names(edges), UNKNOWN)

    return _subgroups(rows, metric, by_pixel)


def slices_of(rows: pd.DataFrame, metric: str = "dice", edges: Sequence[float] = SLICE_MM) -> pd.DataFrame:
    """The metric by the distance (mm) between slices; the columns of `sizes_of`, groups as in `in_plane_of`."""

    def by_distance(one: pd.DataFrame) -> pd.Categorical:
        return _classes(_grid_of_case(one)[1], edges, class_names(edges), UNKNOWN)

    return _subgroups(rows, metric, by_distance)


def class_names(edges: Sequence[float]) -> list[str]:
    """The classes in mm between inner edges, in rising order, the lower edge inclusive."""
    return [f"< {edges[0]:g} mm", *(f"{a:g} to {b:g} mm" for a, b in pairwise(edges)), f">= {edges[-1]:g} mm"]


def _of_case(rows: pd.DataFrame, column: str) -> Values:
    """What is known of a case, the largest of all rows: one that could not read the label says 0, or nothing."""
    if column not in rows:
        return np.full(len(rows), math.nan)
    return rows.groupby("case")[column].transform("max").to_numpy(np.float64)


def _grid_of_case(rows: pd.DataFrame) -> tuple[Values, Values]:
    """Pixel size in the plane, and distance between slices, in mm.

    The slices are stacked along the axis whose spacing is the odd one out; which one it is differs between
    scanners and files, so the order of the axes does not tell.
    """
    spacing = np.sort(np.stack([_of_case(rows, column) for column in SPACINGS], axis=1), axis=1)
    fine, middle, coarse = spacing.T
    with np.errstate(invalid="ignore"):
        thick = coarse * fine >= middle**2  # the coarse one is farther from the middle one than the fine one is
    return np.where(thick, np.sqrt(fine * middle), np.sqrt(middle * coarse)), np.where(thick, coarse, fine)


def _classes(values: Values, edges: Sequence[float], names: Sequence[str], rest: str) -> pd.Categorical:
    places = np.searchsorted(np.asarray(edges) - 1e-6, values, side="right")
    chosen = [names[place] if value > 0 else rest for place, value in zip(places, values, strict=True)]
    return pd.Categorical(chosen, [*names, rest], ordered=True)


def _subgroups(rows: pd.DataFrame, metric: str, classes: Callable[[pd.DataFrame], pd.Categorical]) -> pd.DataFrame:
    def split(one: pd.DataFrame) -> pd.DataFrame:
        table = summary(one.assign(group=classes(one)), metric, ["group"])
        table = table.sort_values("method", key=in_order_of(best_first(one, metric)), kind="stable")
        table["group"] = table["group"].astype(str)
        return table.drop(columns=["dataset", "target", "protocol", "step"])

    return per_list(rows, split, methods=1)


def each_lesion_of(rows: pd.DataFrame, edges: Sequence[float] = DIAMETERS_MM) -> pd.DataFrame:
    """Dice of lesions that were tasks of their own (`per: each-lesion`), by the lesion's own diameter.

    Returns:
        LIST, method, group ("all" and the size classes), n (lesions), patients, failed (lesions of failed rows,
        at Dice 0), mean, low, high; at the last step, the interval over patients.
    """

    def lesions(one: pd.DataFrame) -> pd.DataFrame:
        sizes = {
            str(case): max(map(list, group), key=len) for case, group in one.groupby("case")["each_lesion_diameter_mm"]
        }
        lines = []
        for method in best_first(one, "dice"):
            single = _lesion_rows(one[one["method"] == method], sizes)
            classes = _classes(single["diameter"].to_numpy(), edges, class_names(edges), UNKNOWN)
            for name in ["all", *class_names(edges)]:
                group = single if name == "all" else single[np.asarray(classes) == name]
                if len(group):
                    interval = mean_interval(group["dice"], group["patient"].astype(str), "share")
                    lines.append(
                        {"method": method, "group": name, "n": interval.values, "patients": interval.clusters,
                         "failed": int(group["failed"].sum()), "mean": interval.mean,
                         "low": interval.low, "high": interval.high}
                    )  # fmt: skip
        return pd.DataFrame(lines)

    if rows.empty or "each_lesion_dice" not in rows:
        return pd.DataFrame()
    return per_list(with_target(rows[rows["each_lesion_dice"].notna()]), lesions, methods=1)


def _lesion_rows(rows: pd.DataFrame, sizes: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """One line for each lesion; those of a failed row, which may not even know how many there are, at Dice 0."""
    lines = []
    for row in row_dicts(rows):
        diameters, failed = sizes[row["case"]], row["status"] == FAILED
        dices = [0.0] * len(diameters) if failed else row["each_lesion_dice"]
        lines += [
            {"patient": row["patient"], "diameter": float(mm), "dice": float(dice), "failed": failed}
            for mm, dice in zip(diameters, dices, strict=True)
        ]
    return pd.DataFrame(lines, columns=["patient", "diameter", "dice", "failed"])


def lesion_sizes_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Lesions found by their own size, predictions that were true by theirs: LIST, method, and `scores_by_size`.

    Sums over all cases of the list at the last step; a lesion in a failed case was not found. Records made before
    predictions were counted by size have no precision.
    """

    def counted(one: pd.DataFrame) -> pd.DataFrame:
        lines = []
        for method in best_first(one, "dice"):
            group = one[one["method"] == method]
            lines += [{"method": method, **scores} for scores in scores_by_size(row_dicts(group))]
        return pd.DataFrame(lines)

    return per_list(rows, counted, methods=1)
