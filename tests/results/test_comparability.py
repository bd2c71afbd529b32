"""One list holds only rows that agree in their conditions; what differs stands apart and says in a line why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.common.errors import UserError
from benchmarks.prompting.protocol import Protocol
from benchmarks.results import leaderboard as lb
from benchmarks.results.comparability import differences
from benchmarks.results.figures import all_figures, rows_on
from benchmarks.results.leaderboard.completeness import missing_cases
from benchmarks.results.tables import details_page, render
from tests.results.boards import page_of, printed, row_of, show_all, unit_of, with_empty_case

CLICK = Protocol("centre-click")
BUDGET = {"minutes": 1.0, "steps": None, "cpus": 1, "gpus": 0.0}


def described(method: str, dataset: str = "kits21", cases: int = 8, **changes: Any) -> dict[str, Any]:
    """A unit's description as a run writes it."""
    conditions = {
        "seed": 2026,
        "empty_policy": "worst-value/1",
        "tolerances_mm": [1.0, 2.0, 5.0],
        "lesion_rule": "one-to-one, IoU >= 0.1",
        "metrics_version": "2",
        "dataset_version": "1",
        "cases_digest": f"files of {dataset}",
        "prompts_digest": f"prompts of {dataset}",
        "budget": {},
        "workers": 0,
    }
    return unit_of(method, dataset, [CLICK], cases, **conditions) | {"unit": f"{method}@{dataset}@{changes}"} | changes


def rows_of(units: list[dict[str, Any]], dice: float = 0.7) -> pd.DataFrame:
    chance = np.random.default_rng(0)
    return pd.DataFrame(
        [
            row_of(unit, case, CLICK, 1, dice + float(chance.normal(0, 0.05)))
            for unit in units
            for case in range(len(unit["cases"]))
        ]
    )


def text_of(units: list[dict[str, Any]], method: str) -> str:
    return next(text for place, text in differences(units).items() if place[3] == method)


def test_two_runs_with_other_seeds_are_two_lists_and_nothing_is_compared() -> None:
    units = [described("ball"), described("region-growing", seed=7, cases_digest="others", prompts_digest="others")]
    rows = rows_of(units)
    board = lb.leaderboard_of(rows, units)
    assert board[["method", "differs"]].to_numpy().tolist() == [
        ["ball", ""],
        ["region-growing", "other seed: 7 instead of 2026; other cases"],
    ]
    page = page_of(rows, units)
    assert [sheet.title.startswith("costs") for sheet in page.sheets] == [False, False, True]
    assert "other seed: 7 instead of 2026" in page.sheets[1].title
    assert any(note.startswith("other …: made under other conditions") for note in page.notes)
    tables = lb.details(rows, units, only=["comparisons", "rankings", "sizes"])
    assert tables["comparisons"].empty
    assert tables["rankings"].empty
    for form in ("terminal", "markdown", "latex", "svg"):
        text = render(details_page(rows, units, only=["comparisons"]), form, width=200)  # type: ignore[arg-type]
        assert "no list has two methods" in text.replace("&#160;", " ")
    assert set(tables["sizes"]["differs"]) == set(board["differs"])
    assert len(details_page(rows, units, only=["sizes"]).sheets) == 2


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 7}, "other seed: 7 instead of 2026"),
        ({"empty_policy": "skip-any-empty/1"}, "other empty-mask policy: skip-any-empty/1 instead of worst-value/1"),
        ({"tolerances_mm": [3.0]}, "other tolerances: 3 mm instead of 1, 2, 5 mm"),
        ({"lesion_rule": "any"}, "other lesion rule: any instead of one-to-one, IoU >= 0.1"),
        ({"metrics_version": "1"}, "other metrics version: 1 instead of 2"),
        ({"synthetic": True}, "other data: synthetic instead of real"),
        ({"dataset_version": "2"}, "other dataset version"),
        ({"cases_digest": "x"}, "other cases"),
        ({"prompts_digest": "x"}, "other prompts"),
        ({"budget": BUDGET | {"minutes": 2.0}, "workers": 1}, "other training budget: minutes 2 instead of 1"),
        (
            {"budget": BUDGET | {"minutes": None, "steps": 60}, "workers": 1},
            "other training budget: minutes unlimited instead of 1, steps 60 instead of unlimited",
        ),
        ({"budget": BUDGET, "workers": 2}, "other training budget: workers 2 instead of 1"),
    ],
)
def test_whatever_differs_is_said(change: dict[str, Any], text: str) -> None:
    trained = {"budget": BUDGET, "workers": 1}
    units = [described("a", **trained), described("b", **trained), described("c", **trained | change)]
    assert text_of(units, "a") == text_of(units, "b") == ""
    assert text_of(units, "c") == text


def test_protocols_of_one_name_and_other_settings_are_two_lists() -> None:
    strict, lenient = (Protocol("iterative", rounds=3, stop_dice=stop).to_mapping() for stop in (0.9, 0.8))
    units = [
        described(name, protocols=[protocol], protocol_names=["rounds"])
        for name, protocol in (("a", strict), ("b", strict), ("c", lenient))
    ]
    assert text_of(units, "a") == text_of(units, "b") == ""
    assert text_of(units, "c") == "other protocol"


@pytest.mark.parametrize(
    ("protocol", "knows", "apart"),
    [
        (CLICK, ["words"], True),
        (CLICK, ["words", "its training"], False),  # trained on this target alone: words say no more
        (CLICK, ["its training"], False),
        (CLICK, [], False),
        (Protocol("centre-click", text=True), ["words"], False),  # everybody is given them
        (Protocol("none"), ["words"], False),  # without a prompt words or a training must say what is wanted
        (Protocol("text"), ["words"], False),
    ],
)
def test_words_that_others_are_not_given_make_a_list_of_their_own(
    protocol: Protocol, knows: list[str], apart: bool
) -> None:
    asked = {"protocols": [protocol.to_mapping()]}
    units = [described("a", **asked), described("b", **asked), described("reader", **asked, knows=knows)]
    expected = "reads the target's words, which this protocol gives to nobody else" if apart else ""
    assert [text_of(units, name) for name in ("a", "b", "reader")] == ["", "", expected]


def test_an_untrained_method_stays_beside_itself_trained() -> None:
    units = [
        described("a", knows=["words", "its training"]),
        described("b"),
        described("c", knows=["words"], untrained=True),
    ]
    assert [text_of(units, name) for name in "abc"] == ["", "", ""]


def test_the_costs_say_what_a_method_knows() -> None:
    units = [described("a"), described("b", knows=["words", "its training"])]
    costs = page_of(rows_of(units), units).sheets[-1]
    assert costs.headings[1] == "knows"
    assert {row[0]: row[1] for row in costs.rows} == {"a": "–", "b": "w t"}


@pytest.mark.parametrize(("budget", "notes"), [({"minutes": 10}, 1), ({"steps": 600}, 0)])
def test_minutes_of_a_busy_machine_are_said(budget: dict[str, Any], notes: int) -> None:
    shares = {"a": (0.45, 0.1), "b": (0.05, None)}
    units = [
        described(method, dataset, budget=budget, training={"minutes": 10.0, "queued_share": share})
        for method, both in shares.items()
        for dataset, share in zip(("kits21", "lits17"), both, strict=True)
    ]
    said = "busy machine: a: 1 of 2 trainings waited for a processor, for up to 45% of their minutes"
    assert [note for note in lb.notes_of(rows_of(units), units) if "busy" in note] == [said] * notes


def test_trainings_on_other_cases_are_said() -> None:
    few, many = [f"t{number}" for number in range(4)], [f"t{number}" for number in range(2, 30)]
    learned = {"a": few, "b": few, "c": many, "ball": []}
    units = [
        described(name, budget=BUDGET if cases else {}, training_cases=cases, fold=0) for name, cases in learned.items()
    ]
    (said,) = [note for note in lb.notes_of(rows_of(units), units) if "training" in note]
    assert said.startswith("other training cases: c learned from 28 cases for kits21, fold 0, ")
    assert said.endswith("of which 2 are among the 4 that others learned from")
    assert not any("training" in note for note in lb.notes_of(rows_of(units[:2]), units[:2]))


def test_folds_of_one_row_with_other_settings_are_said() -> None:
    units = [
        described(method, fold=fold, config={"width": width}, cases_digest=f"fold {fold}")
        for method, widths in {"a": (8, 64), "b": (8, 8)}.items()
        for fold, width in enumerate(widths)
    ]
    notes = [note for note in lb.notes_of(rows_of(units), units) if "mixed" in note]
    assert notes == ["mixed folds: a on kits21 has other settings, or another version, in some folds than in others"]


@pytest.mark.parametrize(
    ("later", "differs"),
    [
        ({"metrics_version": "3"}, "metrics version (2 and 3)"),
        ({"seed": 7}, "seed (2026 and 7)"),
        ({"tolerances_mm": [3.0]}, "tolerances (1, 2, 5 mm and 3 mm)"),
        ({"budget": BUDGET | {"minutes": 60}}, "training budget (minutes 1 and 60)"),
        ({"workers": 2}, "training budget (workers 1 and 2)"),
        (
            {"synthetic": True, "budget": BUDGET | {"minutes": None, "steps": 60}},
            "data (real and synthetic), training budget (minutes 1 and unlimited, steps unlimited and 60)",
        ),
        ({}, ""),
    ],
)
def test_folds_of_one_row_under_other_rules_are_said(later: dict[str, Any], differs: str) -> None:
    """Every method has the same mixture, so no list says that a row differs from the others."""
    units = [
        described(method, fold=fold, cases_digest=f"fold {fold}", **{"budget": BUDGET, "workers": 1} | changes)
        for method in "ab"
        for fold, changes in enumerate(({}, later))
    ]
    rows = rows_of(units)
    assert set(lb.leaderboard_of(rows, units)["differs"]) == {""}
    notes = [note for note in lb.notes_of(rows, units) if "mixed" in note]
    assert notes == [f"mixed folds: a, b on kits21: the folds of one row differ in {differs}"] * bool(differs)


def test_two_targets_of_a_dataset_are_no_folds_of_one_row() -> None:
    units = [described("a", target={"name": name}, seed=seed) for name, seed in (("tumour", 7), ("cyst", 8))]
    assert not any("mixed" in note for note in lb.notes_of(rows_of(units), units))


def test_what_most_methods_share_is_the_reference_wherever_it_stands() -> None:
    units = [described("a", seed=7), described("b"), described("c")]
    assert [text_of(units, name) for name in "abc"] == ["other seed: 7 instead of 2026", "", ""]
    board = lb.leaderboard_of(rows_of(units), units)
    assert board["differs"].tolist() == ["", "", "other seed: 7 instead of 2026"]  # the reference comes first


def test_a_method_without_training_fits_every_budget() -> None:
    units = [
        described("net", budget=BUDGET, workers=1),
        described("ball"),
        described("other", budget=BUDGET, workers=1),
    ]
    assert {text_of(units, unit["method"]) for unit in units} == {""}


def test_what_differs_from_the_reference_in_the_same_words_can_still_differ() -> None:
    units = [described(name) for name in "ab"]
    units += [described(name, cases_digest=name) for name in "cd"]
    assert [text_of(units, name) for name in "abcd"] == ["", "", "other cases", "other cases (2)"]
    twins = [*units[:2], described("c", cases_digest="x"), described("d", cases_digest="x")]
    assert [text_of(twins, name) for name in "cd"] == ["other cases", "other cases"]


def test_older_descriptions_are_compared_by_what_they_have() -> None:
    units = [described(name) for name in "abc"]
    for name in ("cases_digest", "prompts_digest", "lesion_rule"):
        del units[0][name]
    units[0]["prompt_banks"] = {"centre-click": "p"}
    units[1]["prompt_banks"] = {"centre-click": "p"}
    units[2]["prompt_banks"] = {"centre-click": "q"}
    rows = rows_of(units)
    assert lb.leaderboard_of(rows, units).set_index("method")["differs"].to_dict() == {
        "a": "",
        "b": "",
        "c": "other prompts",
    }
    units[2]["cases"] = units[2]["cases"][:4]
    assert text_of([unit | {"lesion_rule": "r"} for unit in units], "c") == "other cases"


def test_the_folds_of_a_method_are_one_row_of_one_list() -> None:
    units = [
        described(name, cases_digest=f"fold {fold}", fold=fold)
        | {"cases": [f"case_{4 * fold + i:02}" for i in range(4)]}
        for name in "ab"
        for fold in (0, 1)
    ]
    assert set(differences(units).values()) == {""}
    partial = units[:3]
    assert text_of(partial, "b") == "other cases"


def test_tables_over_all_datasets_do_not_mix_conditions() -> None:
    """On each dataset two of three methods agree, but not on the same seed: the majority over all decides."""
    units = [
        described(name, dataset, seed=seed)
        for dataset, seeds in (("kits21", (1, 1, 2)), ("lits17", (2, 1, 1)), ("msd-pancreas", (1, 1, 1)))
        for name, seed in zip("abc", seeds, strict=True)
    ]
    rows = rows_of(units)
    overall = lb.overall_of(lb.leaderboard_of(rows, units), rows)
    reference = overall[overall["differs"] == ""].set_index("method")
    assert reference["dice"].notna().to_dict() == {"a": False, "b": True, "c": False}
    assert set(overall["differs"]) == {"", "other seed: 2 instead of 1"}


def test_a_case_without_target_under_another_seed_is_no_contradiction() -> None:
    units = [described("a"), described("b", seed=7, cases_digest="x")]
    rows = rows_of(units)
    empty = (rows["method"] == "b") & (rows["case"] == "case_00")
    rows.loc[empty, "status"] = "no-target"
    assert lb.leaderboard_of(rows, units)["no_target"].tolist() == [0, 1]
    assert len(lb.details(rows, units, only=["sizes"])["sizes"])


def test_figures_draw_each_list_with_the_cases_that_have_a_target_in_it(tmp_path: Path) -> None:
    """Labels of another version, in which one case has no target: two lists, of which none contradicts itself."""
    units = [described("a"), described("b"), described("c", cases_digest="older")]
    rows = with_empty_case(rows_of(units), "case_00", ["c"])
    board = lb.leaderboard_of(rows, units)
    drawn = rows_on(board, rows)
    assert drawn.groupby("method").size().to_dict() == {"a": 8, "b": 8, "c": 7}
    assert drawn.groupby("differs")["method"].unique().map(sorted).tolist() == [["a", "b"], ["c"]]
    means = drawn.groupby("method")["dice"].mean()
    assert means.to_dict() == pytest.approx(board.set_index("method")["dice"].to_dict())
    curves = {"robustness": pd.DataFrame(), "rounds": pd.DataFrame()}
    paths = all_figures(rows, board, curves, tmp_path)
    assert sorted(path.name.split("-")[0] for path in paths) == ["boxes", "boxes", "costs", "costs", "means", "means"]
    with pytest.raises(UserError, match=r"case_00 .* has no target for some methods but counts for a"):
        rows_on(board, with_empty_case(rows, "case_00", ["b", "c"]))  # in one list, it would be a contradiction


# -- runs that are not finished --


def test_missing_cases_are_counted_and_marked() -> None:
    units = [described("a"), described("b")]
    rows = rows_of(units)
    rows = rows[~((rows["method"] == "b") & (rows["case"] == "case_05"))]
    assert missing_cases(rows, units) == {("kits21", "kidney-tumor", "centre-click", "b"): 1}
    board = lb.leaderboard_of(rows, units).set_index("method")
    assert board["missing"].to_dict() == {"a": 0, "b": 1}
    shown = printed(show_all, rows, units)
    lists = shown[: shown.index("costs, ")]
    lines = {line.split()[0]: line.split()[-1] for line in lists.splitlines() if line.startswith(("a ", "b "))}
    assert lines == {"a": "8/8", "b": "7/8‡"}
    assert "‡ not finished" in shown
    assert "‡" not in printed(show_all, rows_of(units), units)
    notes = lb.notes_of(rows, [*units, described("c")])
    assert notes[0] == "not finished: b on kits21, kidney-tumor: 1 case missing"
    assert notes[1] == "not finished: c on kits21, kidney-tumor: 8 cases missing"


def test_a_case_with_a_step_missing_is_not_finished() -> None:
    three = Protocol("iterative", rounds=3)
    unit = described("a", cases=2) | {"protocols": [three.to_mapping()]}
    rows = pd.DataFrame([row_of(unit, case, three, step, 0.5) for case in (0, 1) for step in (1, 2, 3)])
    assert missing_cases(rows, [unit]) == {}
    assert list(missing_cases(rows.iloc[:-1], [unit]).values()) == [1]


def test_two_labels_of_one_digest_are_two_methods() -> None:
    units = [described(name) | {"unit": "same"} for name in ("a", "b")]
    units[1]["floor"] = True
    rows = rows_of(units)
    assert lb.check_complete(rows, units).empty
    assert lb.completeness_of(rows, units)["found"].tolist() == [8, 8]
    assert lb.leaderboard_of(rows, units).set_index("method")["floor"].to_dict() == {"a": False, "b": True}
