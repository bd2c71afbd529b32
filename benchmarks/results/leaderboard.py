"""Tables from records: one row per dataset, track and method; failed rows count as worst, and are shown.

`leaderboard_of` is the cheap table that every run prints. The other functions answer what a reviewer asks next:
are all rows there, is the difference more than chance, would other patients give another winner, does it hold for
small tumours, what does a further click buy, what if empty masks were counted otherwise, and who had seen the data.
`details` gathers them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pandas as pd

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.metrics import mean_under_policies, metrics_among, scores_by_size, summarise_curves
from benchmarks.metrics.lesions import size_bin_names
from benchmarks.metrics.registry import Place
from benchmarks.prompting.prompts import GIVEN
from benchmarks.prompting.protocol import NOISE_SIZES, TRACKS, Protocol
from benchmarks.results.published import as_table, load_published
from benchmarks.results.records import FAILED, SPACINGS
from benchmarks.results.records import NO_TARGET as NOT_ASKED
from benchmarks.results.statistics import (
    Scheme,
    Values,
    assert_complete,
    bootstrap_mean,
    case_table,
    comparisons,
    expected_rows,
    higher_is_better,
    judged,
    ranking,
    ranking_stability,
    robustness_curve,
    summary,
    with_failures_as_worst,
)

TIMINGS = ("seconds_open", "seconds_segment")
COSTS = (*TIMINGS, "peak_memory_mb")
LIST = ["dataset", "target", "track", "protocol"]
"""What makes one list of the leaderboard: only methods that were given the same are compared."""
GROUP = [*LIST, "method"]
CONFIDENCE_SEED = 20_26

MARGIN = 0.02
"""The smallest difference in a bounded metric, such as Dice, that is taken to matter; stated before any result."""
ALPHA = 0.05

DIAMETERS_MM = (10.0, 20.0, 40.0)
"""Inner edges of the size classes: diameter of the ball that has the volume of the whole target."""
LESION_NUMBERS = ("1 lesion", "2 to 5", "6 or more")
IN_PLANE_MM = (0.7, 0.9)
SLICE_MM = (1.5, 3.0, 5.0)
"""Inner edges of the spacing classes: pixel size in the plane of the slices, and distance between slices."""
NO_TARGET = "no target"
UNKNOWN = "unknown"

Units = Iterable[Mapping[str, Any]]


# -- the leaderboard --


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over cases at the last step of each protocol, one row per dataset, target, track, protocol, method.

    `dice_low` and `dice_high` bound the mean Dice with 95 % (bootstrap over patients). Failed rows count with
    their worst values; only the timings leave them out, because a failure has none. `cases` are those in which
    there was something to ask; `no_target` counts the others, which are the same for every method of a list. Where
    there is no other, the means are NaN.

    Raises:
        UserError: a Dice that is not finite, as an empty-mask policy that skips cases gives: a mean over the
            rest would reward what was skipped.
    """
    if rows.empty:
        return pd.DataFrame()
    final = last_steps(rows)
    counted = judged(final)
    _refuse_skipped(counted)
    metrics = mean_columns(final)
    in_means = set(counted.index)
    summaries = []
    for key, everything in final.groupby(GROUP, sort=False):
        group = everything[everything.index.isin(in_means)]
        means = {column: float(group[column].mean(skipna=column in TIMINGS)) for column in metrics}
        low = high = math.nan
        if len(group):
            interval = bootstrap_mean(group["dice"].to_numpy(), group["patient"].to_numpy(), seed=CONFIDENCE_SEED)
            low, high = interval.low, interval.high
        summaries.append(
            dict(zip(GROUP, key, strict=True))
            | {
                "unit": everything["unit"].iloc[0],
                "synthetic": bool(everything["synthetic"].any()),
                "cases": group["case"].nunique(),
                "failed": int((group["status"] == FAILED).sum()),
                "no_target": len(everything) - len(group),
            }
            | means
            | {"dice_low": low, "dice_high": high}
        )
    return pd.DataFrame(summaries)


def mean_columns(rows: pd.DataFrame, place: Place | None = None) -> list[str]:
    """What has a mean: the metrics that the rows have (only those shown at `place`, if one is given) and the costs."""
    return [metric.key for metric in metrics_among(rows, place)] + [column for column in COSTS if column in rows]


def metrics_of(board: pd.DataFrame) -> pd.DataFrame:
    """Every metric of each method, at every tolerance of the suite: LIST, method, floor, and a column for each mean."""
    if board.empty:
        return pd.DataFrame()
    return board[[*GROUP, "floor", *(metric.key for metric in metrics_among(board, "details"))]]


def last_steps(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the last step of every case and protocol."""
    return rows.loc[rows.groupby([*GROUP, "unit", "case"])["step"].idxmax()]


def _refuse_skipped(rows: pd.DataFrame) -> None:
    gaps = rows[~np.isfinite(rows["dice"])]
    if len(gaps):
        first = gaps.iloc[0]
        raise UserError(
            f"{first['method']} on {first['dataset']}/{first['case']}: no finite Dice ({len(gaps)} such rows) under "
            f"the empty-mask policy '{first['policy']}'; run the suite with one that counts every case"
        )


def leaderboard_of(rows: pd.DataFrame, units: Units) -> pd.DataFrame:
    """The leaderboard: `summarise` with what is known of the units, best Dice first in every list.

    Datasets keep the order of the records; tracks go from the least information given to the most.
    """
    board = summarise(rows)
    if board.empty:
        return board
    known = {unit["unit"]: unit for unit in units}
    for column, default in (("floor", False), ("contamination", "unknown"), ("checkpoint", "")):
        board[column] = [known.get(unit, {}).get(column, default) for unit in board["unit"]]
    board.loc[board["synthetic"], "contamination"] = "unseen"
    order = {name: place for place, name in enumerate(dict.fromkeys(rows["dataset"]))}
    board["_dataset"] = board["dataset"].map(order)
    board["_track"] = board["track"].map({track: place for place, track in enumerate(TRACKS)})
    board = board.sort_values(
        ["_dataset", "target", "_track", "protocol", "dice"],
        ascending=[True, True, True, True, False],
        kind="stable",
    )
    return board.drop(columns=["_dataset", "_track"]).reset_index(drop=True)


def notes_of(rows: pd.DataFrame, units: Units) -> list[str]:
    """What a reader of the leaderboard must know: failures with reasons, protocols left out, test cases."""
    skipped: dict[str, dict[str, None]] = {}
    for unit in units:
        for protocol in unit["skipped_protocols"]:
            skipped.setdefault(protocol, {})[unit["method"]] = None
    notes = [f"{protocol}: not applicable to {', '.join(methods)}" for protocol, methods in skipped.items()]
    if not rows.empty:
        notes += [*_notes_of_empty_cases(rows), *_notes_of_given_prompts(rows)]
        failed = rows[rows["status"] == FAILED].drop_duplicates(["method", "dataset", "case", "reason"])
        for (method, dataset, reason), group in failed.groupby(["method", "dataset", "reason"], sort=False):
            notes.append(f"failed: {method} on {dataset}, {_cases(group)}: {reason}")
    return notes


def _cases(rows: pd.DataFrame) -> str:
    """A few case ids, and how many there are."""
    cases = list(dict.fromkeys(rows["case"]))
    return cases[0] if len(cases) == 1 else f"{len(cases)} cases ({', '.join(cases[:3])}{' …' * (len(cases) > 3)})"


def _notes_of_empty_cases(rows: pd.DataFrame) -> list[str]:
    """Per dataset and target the cases that are in no mean of a protocol which looks for the target."""
    empty = rows[rows["status"] == NOT_ASKED]
    return [
        f"no target: {dataset}, {target}, {_cases(group)}: nothing to prompt, so not asked of any method and in no "
        f"mean of {', '.join(dict.fromkeys(group['protocol']))}"
        for (dataset, target), group in empty.groupby(["dataset", "target"], sort=False)
    ]


def _notes_of_given_prompts(rows: pd.DataFrame) -> list[str]:
    """Protocols whose first prompts were made by people and not by the simulated user."""
    if "prompt_origin" not in rows:
        return []
    given = rows[rows["prompt_origin"] == GIVEN]
    return [
        f"given prompts: {protocol} on {dataset} was prompted by people (bank {bank}), not by the simulated user"
        for dataset, protocol, bank in given[["dataset", "protocol", "prompt_bank"]].drop_duplicates().to_numpy()
    ]


def overall_of(board: pd.DataFrame) -> pd.DataFrame:
    """Over all datasets: for each track and protocol the mean of the mean Dice, and the mean rank.

    Every dataset (and target) weighs the same, whatever its number of cases. Ranks are taken among the methods
    that are on all lists of the track and protocol; the others follow without mean or rank.

    Returns:
        track, protocol, method, floor, lists (how many it is on), of (how many there are), dice, mean_rank,
        and one column "dice/<dataset>" (or "dice/<dataset>/<target>") with the mean Dice of each list.
    """
    tables = []
    for (track, protocol), rows in board.groupby(["track", "protocol"], sort=False) if len(board) else ():
        several = rows.groupby("dataset")["target"].nunique().gt(1)
        names = [
            f"dice/{dataset}/{target}" if several[dataset] else f"dice/{dataset}"
            for dataset, target in zip(rows["dataset"], rows["target"], strict=True)
        ]
        wide = rows.assign(_list=names).pivot(index="method", columns="_list", values="dice")
        wide = wide[list(dict.fromkeys(names))]
        everywhere = wide.notna().all(axis=1)
        ranks = wide[everywhere].round(12).rank(ascending=False, method="min")
        table = pd.DataFrame(
            {
                "track": track,
                "protocol": protocol,
                "method": wide.index,
                "floor": rows.groupby("method")["floor"].any().reindex(wide.index),
                "lists": wide.notna().sum(axis=1),
                "of": wide.shape[1],
                "dice": wide[everywhere].mean(axis=1).reindex(wide.index),
                "mean_rank": ranks.mean(axis=1).reindex(wide.index),
            }
        )
        tables.append(pd.concat([table, wide], axis=1).sort_values("dice", ascending=False, kind="stable"))
    tables.sort(key=lambda table: TRACKS.index(table["track"].iloc[0]))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


# -- whether all is there --


def check_complete(rows: pd.DataFrame, units: Units) -> pd.DataFrame:
    """Check that every unit has its cases × protocols × steps once and nothing else; returns the failed rows.

    Raises:
        UserError: a row is missing, comes twice or belongs to no unit; the first ones are named.
    """
    known = {str(unit["unit"]): unit for unit in units}
    strangers = rows[~rows["unit"].isin(list(known))] if len(rows) else rows
    if len(strangers):
        first = strangers.iloc[0]
        raise UserError(f"records: {len(strangers)} rows of no known unit, such as {first['method']} / {first['unit']}")
    by_unit = dict(iter(rows.groupby("unit"))) if len(rows) else {}
    failed = []
    for digest, unit in known.items():
        try:
            failed.append(assert_complete(by_unit.get(digest, pd.DataFrame()), _expected_of(unit)))
        except UserError as error:
            raise UserError(f"{error}; run the suite again: it computes only what is missing") from None
    return pd.concat(failed, ignore_index=True) if failed else rows


def completeness_of(rows: pd.DataFrame, units: Units) -> pd.DataFrame:
    """What `check_complete` has asserted, in numbers: a line for each unit, cases × steps due and rows found.

    Returns:
        dataset, target, method, cases, steps (of all its protocols together), due, found, failed, no_target.
    """
    told = []
    for unit in units:
        mine = rows[rows["unit"] == unit["unit"]] if len(rows) else rows
        steps = sum(Protocol.from_mapping(given).rounds for given in unit["protocols"])
        status = mine["status"].value_counts() if len(mine) else {}
        told.append(
            {
                "dataset": unit["dataset"],
                "target": unit["target"]["name"],
                "method": unit["method"],
                "cases": len(unit["cases"]),
                "steps": steps,
                "due": len(unit["cases"]) * steps,
                "found": len(mine),
                "failed": int(status.get(FAILED, 0)),
                "no_target": int(status.get(NOT_ASKED, 0)),
            }
        )
    return pd.DataFrame(told)


def _expected_of(unit: Mapping[str, Any]) -> pd.DataFrame:
    protocols = [Protocol.from_mapping(given) for given in unit["protocols"]]
    steps = {str(unit["method"]): {protocol.name: protocol.rounds for protocol in protocols}}
    dataset = str(unit["dataset"])
    return expected_rows(steps, {dataset: unit["cases"]}, {dataset: [unit["target"]["name"]]})


# -- within one list --


def comparisons_of(rows: pd.DataFrame, metric: str = "dice", margin: float | None = None) -> pd.DataFrame:
    """Every pair of methods in every list, at the last step: `statistics.comparisons` and a verdict in words.

    Holm's correction runs over the pairs of one list. The verdict follows the sign-flip test of the mean
    difference and the equivalence test within ± `margin`; see `verdict`. No margin stated means `MARGIN` for a
    metric between 0 and 1, and no equivalence test for a distance or a time.
    """
    stated = MARGIN if margin is None and higher_is_better(metric) else margin
    return _per_list(rows, lambda one: _judged(comparisons(one, metric, CONFIDENCE_SEED, stated)))


def _judged(pairs: pd.DataFrame) -> pd.DataFrame:
    return pairs.assign(verdict=[verdict(pair, len(pairs)) for pair in _records(pairs)])


def verdict(pair: Mapping[str, Any], pairs: int) -> str:
    """What a pair's tests say, in a few words.

    With few patients even the clearest result cannot reach the level: n patients have 2ⁿ sign patterns, of which
    two are the most extreme. Then no test is pretended.
    """
    if 2.0 ** (1 - pair["patients"]) * pairs > ALPHA:
        return f"too few patients ({pair['patients']}) to tell"
    same = bool(pair.get("equivalent", False))
    if pair["p_sign_flip_holm"] <= ALPHA:
        return f"{pair['better']} is better" + (f", by less than {pair['margin']:g}" if same else "")
    return f"the same within {pair['margin']:g}" if same else "undecided"


def rankings_of(rows: pd.DataFrame, metric: str = "dice", draws: int = 1000) -> pd.DataFrame:
    """The rank of each method in its list under three schemes, and how it fares when patients are drawn again.

    Returns:
        LIST, method, one column per scheme ("mean-then-rank" …); of mean-then-rank first (share of the draws in
        which the method has rank 1), rank_low and rank_high (95 % of the draws) and the share of each rank
        ("share_of_rank_1" …); kendall_tau and kendall_tau_case_ranks, means over the draws, one value for the list,
        of mean-then-rank and rank-then-mean.
    """
    schemes: tuple[Scheme, ...] = get_args(Scheme)

    def ranked(one: pd.DataFrame) -> pd.DataFrame:
        table, patients = case_table(one, metric)
        larger = higher_is_better(metric)
        told = pd.DataFrame({scheme: ranking(table, patients, larger, scheme) for scheme in schemes})
        drawn = ranking_stability(table, patients, larger, seed=CONFIDENCE_SEED, n=draws)
        by_case = ranking_stability(table, patients, larger, "rank-then-mean", CONFIDENCE_SEED, draws)
        told = told.assign(
            first=drawn.frequency[1],
            rank_low=drawn.low,
            rank_high=drawn.high,
            kendall_tau=drawn.kendall_tau.mean(),
            kendall_tau_case_ranks=by_case.kendall_tau.mean(),
        )
        told = told.join(drawn.frequency.add_prefix("share_of_rank_"))
        return told.sort_values("mean-then-rank", kind="stable").reset_index(names="method")

    return _per_list(rows, ranked)


def _per_list(
    rows: pd.DataFrame, table_of: Callable[[pd.DataFrame], pd.DataFrame], methods: int = 2, last: bool = True
) -> pd.DataFrame:
    """The tables of all lists with at least so many methods, one below the other, led by the columns `LIST`."""
    tables = []
    for key, one in _lists(judged(last_steps(rows) if last and len(rows) else rows)):
        if one["method"].nunique() >= methods:
            table = table_of(one)
            for place, (column, value) in enumerate(zip(LIST, key, strict=True)):
                table.insert(place, column, value)
            tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _best_first(rows: pd.DataFrame, metric: str) -> list[str]:
    """The methods of a list by their mean, failures at the worst value."""
    means = with_failures_as_worst(rows, metric).groupby("method", sort=False)[metric].mean()
    return [str(method) for method in means.sort_values(ascending=not higher_is_better(metric), kind="stable").index]


def _places(names: Sequence[str]) -> Callable[[pd.Series], pd.Series]:
    """A key that sorts a column into the order of these names."""
    return lambda column: column.map({name: place for place, name in enumerate(names)})


def _lists(rows: pd.DataFrame) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """Datasets in the order of the records, tracks from the least given to the most."""
    if rows.empty:
        return
    order = {name: place for place, name in enumerate(dict.fromkeys(rows["dataset"]))}
    groups: dict[Any, pd.DataFrame] = dict(iter(rows.groupby(LIST, sort=False)))
    for key in sorted(groups, key=lambda key: (order[key[0]], key[1], TRACKS.index(key[2]), key[3])):
        yield key, groups[key]


# -- by size, by click, by policy, by noise --


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
    told = [names[place] if value > 0 else rest for place, value in zip(places, values, strict=True)]
    return pd.Categorical(told, [*names, rest], ordered=True)


def _subgroups(rows: pd.DataFrame, metric: str, classes: Callable[[pd.DataFrame], pd.Categorical]) -> pd.DataFrame:
    def split(one: pd.DataFrame) -> pd.DataFrame:
        table = summary(one.assign(group=classes(one)), metric, CONFIDENCE_SEED, ["group"])
        table = table.sort_values("method", key=_places(_best_first(one, metric)), kind="stable")
        table["group"] = table["group"].astype(str)
        return table.drop(columns=["dataset", "target", "protocol", "step"])

    return _per_list(rows, split, methods=1)


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
        told = []
        for method in _best_first(one, "dice"):
            single = _lesion_rows(one[one["method"] == method], sizes)
            classes = _classes(single["diameter"].to_numpy(), edges, class_names(edges), UNKNOWN)
            for name in ["all", *class_names(edges)]:
                group = single if name == "all" else single[np.asarray(classes) == name]
                if len(group):
                    interval = bootstrap_mean(group["dice"], group["patient"].astype(str), CONFIDENCE_SEED)
                    told.append(
                        {"method": method, "group": name, "n": interval.values, "patients": interval.clusters,
                         "failed": int(group["failed"].sum()), "mean": interval.mean,
                         "low": interval.low, "high": interval.high}
                    )  # fmt: skip
        return pd.DataFrame(told)

    if rows.empty or "each_lesion_dice" not in rows:
        return pd.DataFrame()
    return _per_list(judged(rows[rows["each_lesion_dice"].notna()]), lesions, methods=1)


def _lesion_rows(rows: pd.DataFrame, sizes: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """One line for each lesion; those of a failed row, which may not even know how many there are, at Dice 0."""
    told = []
    for row in _records(rows):
        diameters, failed = sizes[row["case"]], row["status"] == FAILED
        dices = [0.0] * len(diameters) if failed else row["each_lesion_dice"]
        told += [
            {"patient": row["patient"], "diameter": float(mm), "dice": float(dice), "failed": failed}
            for mm, dice in zip(diameters, dices, strict=True)
        ]
    return pd.DataFrame(told, columns=["patient", "diameter", "dice", "failed"])


def lesions_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Lesions found by their own size, predictions that were true by theirs: LIST, method, and `scores_by_size`.

    Sums over all cases of the list at the last step; a lesion in a failed case was not found. Records made before
    predictions were counted by size have no precision.
    """
    counts = [f"lesions_{what}@{size}" for what in ("predicted", "matched") for size in size_bin_names()]
    rows = rows.assign(**{column: 0 for column in counts if column not in rows})

    def counted(one: pd.DataFrame) -> pd.DataFrame:
        told = []
        for method in _best_first(one, "dice"):
            group = one[one["method"] == method]
            told += [{"method": method, **scores} for scores in scores_by_size(_records(group))]
        return pd.DataFrame(told)

    return _per_list(rows, counted, methods=1)


def clicks_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Click curves of the iterative protocols: LIST, method, curves, dice@k, auc, noc@q, failures@q.

    Each case is one curve; a step is a round, which adds one click. Failed rows have Dice 0. See
    `benchmarks.metrics.clicks` for the definitions.
    """

    def curves(one: pd.DataFrame) -> pd.DataFrame:
        counted = with_failures_as_worst(one, "dice").sort_values("step")
        told = []
        for method, group in counted.groupby("method", sort=False):
            scores = [case["dice"].tolist() for _, case in group.groupby(["unit", "case"], sort=False)]
            told.append({"method": method} | summarise_curves(scores, budget=int(one["step"].max())))
        return pd.DataFrame(told).sort_values("auc", ascending=False, kind="stable")

    last = rows.groupby(LIST)["step"].transform("max") if len(rows) else rows
    return _per_list(rows[last > 1] if len(rows) else rows, curves, methods=1, last=False)


def rounds_of(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """The metric after each round of iterative protocols: LIST, method, step, n, patients, failed, mean, low, high."""

    def by_round(one: pd.DataFrame) -> pd.DataFrame:
        table = summary(one, metric, CONFIDENCE_SEED)
        table = table.sort_values("method", key=_places(_best_first(last_steps(one), metric)), kind="stable")
        return table.drop(columns=["dataset", "target", "protocol"])

    last = rows.groupby(LIST)["step"].transform("max") if len(rows) else rows
    return _per_list(rows[last > 1] if len(rows) else rows, by_round, methods=1, last=False)


def policies_of(rows: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Mean and rank of each method if empty masks were counted otherwise, from the stored rows alone.

    Returns:
        LIST, method, policy, mean, cases, skipped, rank. Only lists in which a mask was empty have rows: in
        the others every policy gives the same numbers.
    """

    def under_all(one: pd.DataFrame) -> pd.DataFrame:
        judged = one[["empty", "diagonal_mm", metric]]
        told = [
            {"method": method, **line}
            for method in _best_first(one, metric)
            for line in mean_under_policies(_records(judged[one["method"] == method]), metric)
        ]
        table = pd.DataFrame(told)
        means = table.groupby("policy")["mean"]
        ranks = means.rank(ascending=not higher_is_better(metric), method="min", na_option="bottom")
        return table.assign(rank=ranks.astype(int))

    rows = judged(rows)
    touched = rows.assign(_empty=rows["empty"] != "none") if len(rows) else rows
    affected = touched.groupby(LIST)["_empty"].transform("any") if len(rows) else rows
    return _per_list(rows[affected] if len(rows) else rows, under_all, methods=1)


def robustness_of(rows: pd.DataFrame, units: Units, metric: str = "dice") -> pd.DataFrame:
    """How a metric falls as the operator errs more, where a suite has one protocol at several sizes of an error.

    Returns:
        noise (which error), protocol (without it), method, dataset, target, level, n, patients, failed, mean,
        low, high and tolerated: the size of the error at which 0.05 is lost, infinite if never. Methods that can
        follow only some of the protocols are left out.
    """
    given = {p.name: p for unit in units for p in map(Protocol.from_mapping, unit["protocols"])}
    tables = []
    for noise in NOISE_SIZES:
        ladders: dict[str, dict[str, float]] = {}
        for name, protocol in given.items():
            level, calm = _without(protocol, noise)
            ladders.setdefault(calm.name, {})[name] = level
        for calm_name, levels in ladders.items():
            on_all = rows[rows["protocol"].isin(list(levels))]
            on_all = on_all[
                on_all.groupby(["dataset", "target", "method"])["protocol"].transform("nunique") == len(levels)
            ]
            if len(levels) > 1 and len(on_all):
                curve = robustness_curve(on_all, metric, levels, seed=CONFIDENCE_SEED)
                tables.append(curve.drop(columns=["protocol", "step"]).assign(noise=noise, protocol=calm_name))
    if not tables:
        return pd.DataFrame()
    first = ["noise", "protocol", "dataset", "target", "method", "level"]
    table = pd.concat(tables, ignore_index=True)
    return table[[*first, *(column for column in table if column not in first)]]


def _without(protocol: Protocol, noise: str) -> tuple[float, Protocol]:
    """The size of one error in a protocol, and the protocol free of it."""
    if noise == "box_jitter_mm":
        return protocol.box_jitter_mm, replace(protocol, box_jitter_mm=0.0)
    if noise == "mask_error_mm":
        made = protocol.kind == "mask"
        return (protocol.mask_error_mm, replace(protocol, mask_error_mm=0.0)) if made else (0.0, protocol)
    level = float(getattr(protocol.noise, noise))
    return level, replace(protocol, noise=replace(protocol.noise, **{noise: type(getattr(protocol.noise, noise))(0)}))


# -- what the numbers stand beside --


def contamination_of(units: Units) -> pd.DataFrame:
    """Method × dataset: had the released weights seen the data? From the model cards.

    "trained-on", "superset" (trained on a collection that holds the dataset), "unseen" or "unknown". Phantoms
    are generated here, so no released weights have seen them, whatever the dataset whose layout they copy.
    """
    told = [
        (unit["method"], unit["dataset"], "unseen" if unit["synthetic"] else unit["contamination"]) for unit in units
    ]
    table = pd.DataFrame(told, columns=["method", "dataset", "seen"]).drop_duplicates(["method", "dataset"])
    wide = table.pivot(index="method", columns="dataset", values="seen")
    return wide.reindex(index=pd.unique(table["method"]), columns=pd.unique(table["dataset"])).rename_axis(columns=None)


def published_of(units: Units) -> pd.DataFrame:
    """Numbers that papers print for the datasets shown, never to be mixed with measured ones; none for phantoms.

    Each row says "published" in `origin` and `title`, and carries value, protocol, citation and whether it was
    checked against its source ("verified") or written from memory ("recalled").
    """
    names = list(dict.fromkeys(unit["dataset"] for unit in units if not unit["synthetic"]))
    published = load_published()
    return as_table(tuple(result for name in names for result in published.select(dataset=name)))


def claims_of(units: Units) -> list[dict[str, Any]]:
    """What papers claim in words, for runs on real data; empty for phantoms."""
    if all(unit["synthetic"] for unit in units):
        return []
    published = load_published()
    return [
        {**claim.model_dump(), "standing": claim.standing, "citation": published.papers[claim.paper].citation}
        for claim in published.claims
    ]


NOT_BESIDE_PHANTOMS = (
    "published numbers are not shown beside phantoms: they were measured on patients, and none of them can be "
    "compared with a number on generated data"
)


def details(
    rows: pd.DataFrame,
    units: Units,
    metric: str = "dice",
    margin: float | None = None,
    only: Sequence[str] = (),
) -> dict[str, pd.DataFrame]:
    """The tables beside the leaderboard, by name; takes seconds where the leaderboard takes a moment.

    Args:
        margin: the smallest difference that matters, for the equivalence test; see `comparisons_of`.
        only: names of the tables wanted; all if empty.

    Raises:
        UserError: the records are not complete, so that nothing can be compared; an unknown metric or table.
    """
    units = list(units)
    check_complete(rows, units)
    judged(rows)
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "completeness": lambda: completeness_of(rows, units),
        "overall": lambda: overall_of(leaderboard_of(rows, units)),
        "metrics": lambda: metrics_of(leaderboard_of(rows, units)),
        "contamination": lambda: contamination_of(units).reset_index(),
        "rankings": lambda: rankings_of(rows, metric),
        "comparisons": lambda: comparisons_of(rows, metric, margin),
        "sizes": lambda: sizes_of(rows, metric),
        "numbers": lambda: numbers_of(rows, metric),
        "in-plane": lambda: in_plane_of(rows, metric),
        "slices": lambda: slices_of(rows, metric),
        "each-lesion": lambda: each_lesion_of(rows),
        "lesions": lambda: lesions_of(rows),
        "clicks": lambda: clicks_of(rows),
        "rounds": lambda: rounds_of(rows, metric),
        "policies": lambda: policies_of(rows, metric),
        "robustness": lambda: robustness_of(rows, units, metric),
        "published": lambda: published_of(units),
        "claims": lambda: pd.DataFrame(claims_of(units)),
    }
    for name in only:
        if name not in makers:
            raise UserError(f"no table '{name}' beside the leaderboard; {nearest_name(name, makers)}")
    return {name: make() for name, make in makers.items() if not only or name in only}


def as_json(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as plain values for JSON: no value (NaN) is None, the infinite is "inf" or "-inf"."""
    return [{key: _plain(value) for key, value in row.items()} for row in _records(table)]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return list(value) if isinstance(value, tuple) else value


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
