"""The answer says what the leaderboard, the pooled table and the tests say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.results.comparability import with_lists
from benchmarks.results.leaderboard import comparisons_of, leaderboard_of, overall_of, rankings_of
from benchmarks.results.leaderboard.comparisons import verdict
from benchmarks.results.leaderboard.lists import row_dicts
from benchmarks.results.report.answers import Answer, answer_of_list, answer_over_all, certainty_of, cost_text
from tests.results.boards import by_hand, study


def answered(dice: Mapping[str, Sequence[float | None]]) -> Answer:
    rows, units = by_hand(dice)
    rows = with_lists(rows, units)
    answer = answer_of_list(row_dicts(leaderboard_of(rows, units)), row_dicts(comparisons_of(rows)))
    assert answer is not None
    return answer


def test_the_winner_its_lead_and_the_p_of_it() -> None:
    chance = np.random.default_rng(0)
    best = chance.uniform(0.6, 0.9, 24)
    answer = answered({"b": best - chance.uniform(0.05, 0.15, 24), "a": best, "c": best / 4})
    assert (answer.winner["method"], answer.rival, answer.certainty) == ("a", "b", "sure")
    assert answer.dice.startswith(f"{best.mean():.3f}"[:4])
    assert answer.p == "< 0.001"
    assert answer.verdict == "a is better"


def test_the_lead_has_its_sign_whichever_comes_first_in_the_table_of_pairs() -> None:
    """Pairs are in alphabetical order, so `z` as the winner has a negative difference there."""
    base = np.linspace(0.4, 0.8, 30)
    answer = answered({"a": base, "z": base + 0.1 + 0.02 * np.sin(np.arange(30))})
    assert answer.ahead.startswith("+0.1")
    low, high = (float(end) for end in answer.ahead[answer.ahead.index("[") + 1 : -1].split(","))
    assert 0 < low < high < 0.2


def test_few_patients_give_no_p() -> None:
    answer = answered({"a": [0.9, 0.8, 0.7], "b": [0.5, 0.4, 0.3]})
    assert (answer.certainty, answer.p) == ("few", "")
    assert "†" in answer.verdict


def test_one_method_has_no_rival_and_no_record_no_answer() -> None:
    assert answered({"a": [0.5, 0.6]}).certainty == "alone"
    assert answer_of_list([], []) is None
    assert answer_over_all([], []) is None


@pytest.mark.parametrize(
    ("pair", "certainty"),
    [
        ({"p_sign_flip_holm": 0.01}, "sure"),
        ({"p_sign_flip_holm": 0.01, "equivalent": True, "margin": 0.02}, "small"),
        ({"p_sign_flip_holm": 0.6, "equivalent": True, "margin": 0.02}, "same"),
        ({"p_sign_flip_holm": 0.6}, "open"),
        ({"p_sign_flip_holm": 0.75, "patients": 3}, "few"),  # the least that three patients can have, times three
        ({"p_sign_flip_holm": 1.0, "both_failed": True}, "failed"),
    ],
)
def test_every_verdict_has_its_sign(pair: dict[str, Any], certainty: str) -> None:
    assert certainty_of(verdict({"patients": 40, "better": "a", "equivalent": False} | pair, 3)) == certainty


def test_over_all_datasets_the_lead_is_that_of_the_pooled_table() -> None:
    """The lead is the mean of each dataset's mean difference, and its interval Welch's for three strata."""
    rows, units = study(methods=3, cases=30)
    rows = rows[rows["status"] == "ok"].query("case != 'case_03'")
    units = [unit | {"cases": [case for case in unit["cases"] if case != "case_03"]} for unit in units]
    board = leaderboard_of(rows, units)
    table = overall_of(board, rows).query("protocol == 'centre-click'")
    answer = answer_over_all(row_dicts(table), row_dicts(board.query("protocol == 'centre-click'")))
    assert answer is not None
    best, rival = answer.winner["method"], answer.rival
    wide = rows.query("protocol == 'centre-click'").pivot(index=["dataset", "case"], columns="method", values="dice")
    groups = (wide[best] - wide[rival]).groupby("dataset", sort=False)
    mean = groups.mean().mean()
    parts = groups.var() / groups.size() / 9
    freedom = parts.sum() ** 2 / (parts**2 / (groups.size() - 1)).sum()
    reach = stats.t.ppf(0.975, freedom) * parts.sum() ** 0.5
    row = table.set_index("method").loc[rival]
    assert [row["behind"], row["behind_low"], row["behind_high"]] == pytest.approx([mean, mean - reach, mean + reach])
    assert pd.isna(table.set_index("method").loc[best, "behind"])
    assert answer.ahead.startswith(f"{mean:+.3f}"[:5])
    assert answer.cost == "2.00 s a scan, 0.50 s a prompt, 0.1 GB"


def test_nobody_is_credited_with_a_lead_while_cases_are_missing() -> None:
    """The best so far has five of thirty cases; the lead that could be measured is another method's."""
    rows, units = study(methods=3, cases=30)
    best = units[0]["method"]
    begun = rows[(rows["method"] != best) | (rows["case"] < "case_05")]
    board = leaderboard_of(begun, units)
    table = overall_of(board, begun).query("protocol == 'centre-click'")
    answer = answer_over_all(row_dicts(table), row_dicts(board.query("protocol == 'centre-click'")))
    assert answer is not None
    assert answer.winner["method"] == best
    assert (answer.rival, answer.ahead, answer.p) == ("", "", "")
    assert answer.said == "not tested"
    in_list = answer_of_list(row_dicts(board.query("protocol == 'centre-click' and dataset == 'kits21'")), ())
    assert in_list is not None
    assert in_list.said == "not tested"
    assert table["behind"].isna().all()
    assert set(table["against_best"].fillna("")) == {""}
    assert table["low"].notna().any()  # intervals are of each method's own cases


def test_mean_ranks_are_those_of_the_cases() -> None:
    rows, units = by_hand({"a": [0.9, 0.5, 0.5], "b": [0.8, 0.6, 0.5], "c": [0.1, 0.2, 0.3]})
    ranks = rankings_of(with_lists(rows, units)).set_index("method")["mean_case_rank"]
    assert ranks.to_dict() == pytest.approx({"a": 4.5 / 3, "b": 4.5 / 3, "c": 3.0})


def test_costs_over_several_lists_are_a_range() -> None:
    slow, fast = {"seconds_open": 2.0, "seconds_segment": 0.5}, {"seconds_open": 1.0, "seconds_segment": 0.5}
    assert cost_text(slow, fast) == "1.00 to 2.00 s a scan, 0.50 s a prompt"
