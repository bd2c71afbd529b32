"""Ablations: the suite of variants, and the table against numbers worked out by hand and SciPy's permutation test."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from benchmarks.common.errors import UserError
from benchmarks.contestants import Target, method, methods
from benchmarks.data.dataset import Case
from benchmarks.execution.ablation import Variant, ablation_suite, ablation_table, check_metric
from benchmarks.execution.evaluate import Evaluation, failed_case
from benchmarks.execution.members import members
from benchmarks.execution.suite import MethodEntry, load_suite
from benchmarks.prompting.protocol import Protocol
from benchmarks.results.statistics import higher_is_better
from benchmarks.results.tables import ablation_page, print_page, render
from tests.results.boards import one_stops_early, row_of, unit_of
from tests.results.patients import flipped_p, interval_of, owners

CLICK = Protocol(kind="centre-click")
WHOLE = (0.9, 0.8, 0.7, 0.6, 0.75, 0.65, 0.85, 0.5)


def rows_of(dice: dict[str, Sequence[float | None]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            row_of(unit_of(title, "kits21", [CLICK], len(values)), case, CLICK, 1, value)
            for title, values in dice.items()
            for case, value in enumerate(values)
        ]
    )


def test_the_variants_of_tags_and_the_floors() -> None:
    suite = load_suite("phantom").with_methods(["tags-tiny"])
    suite = suite.model_copy(update={"methods": (MethodEntry(name="tags-tiny", config={"dim": 64}),)})
    wider, variants = ablation_suite(suite, repeats=2)
    assert variants[0] == Variant("tags-tiny", "whole", ("tags-tiny", "tags-tiny (repeat 2)"))
    parts = [one.name for one in variants if one.kind == "without"]
    assert parts == [f"without {part}" for part in method("tags-tiny").ablations]
    assert {one.name for one in variants if one.kind == "floor"} == {"ball", "region-growing"}
    entries = {entry.title: entry for entry in wider.methods}
    assert len(entries) == 2 * (1 + len(parts)) + 2
    assert entries["without adapters (repeat 2)"].config == {"dim": 64, "adapters": False}
    assert entries["without adapters (repeat 2)"].repeat == 1
    assert entries["tags-tiny"].repeat == 0
    assert wider.datasets == suite.datasets
    assert wider.protocols == suite.protocols
    assert wider.budget == suite.budget
    assert wider.name != suite.name


def test_every_metric_of_the_rows_can_be_asked_for_before_the_work_and_no_other() -> None:
    """`higher_is_better` knows a direction for columns of tables, too, such as "auc" and "nsd@3mm"."""
    suite = load_suite("ablation").model_copy(update={"tolerances_mm": (1.0, 2.5)})
    target = Target("t", "", "", (1,))
    asked = Evaluation((target,), (CLICK,), 1, suite.tolerances_mm, suite.empty_policy, None, {})
    missing = Path("missing.nii.gz")
    (row,) = failed_case(Case("made-up", "1", missing, missing), asked, ValueError("no file"))
    measured = set()
    for name in (name for name, value in row.items() if isinstance(value, float)):
        with suppress(UserError):  # whether more of it is better is not known
            higher_is_better(name)
            measured.add(name)
    assert {"dice", "hd95_mm", "nsd@1mm", "nsd@2.5mm", "seconds_segment"} <= measured
    for name in measured:
        check_metric(name, suite)
    for name in ("nsd@3mm", "auc", "dice@3", "noc", "seconds", "joules"):
        with pytest.raises(UserError, match=f"no metric '{name}' in suite 'ablation'"):
            check_metric(name, suite)


def test_repeats_are_those_of_the_ablation_and_no_others() -> None:
    suite = load_suite("phantom").with_methods(["tags-tiny"]).model_copy(update={"repeats": 2})
    for repeats in (1, 2):
        wider, variants = ablation_suite(suite, repeats)
        assert {one.title for one in members(wider)} == {title for one in variants for title in one.titles}


def test_every_announced_switch_is_a_setting_with_another_value() -> None:
    announced = [(one, part, switch) for one in methods().values() for part, switch in one.ablations.items()]
    assert len(announced) >= 6
    for one, part, switch in announced:
        assert one.configured(switch) != one.configured(), f"{one.name}: '{part}' changes nothing"


def test_a_method_without_parts_and_two_methods_are_refused() -> None:
    suite = load_suite("phantom")
    with pytest.raises(UserError, match=r"announces no part to switch off; these do: .*tags-tiny"):
        ablation_suite(suite.with_methods(["ball"]))
    with pytest.raises(UserError, match="exactly one method, not 2"):
        ablation_suite(suite.with_methods(["ball", "tags-tiny"]))


def test_differences_intervals_and_tests_by_hand() -> None:
    chance = np.random.default_rng(3)
    worse = np.array(WHOLE) - chance.uniform(0.05, 0.2, 8)
    other = np.array(WHOLE) + chance.normal(0, 0.1, 8)
    variants = [
        Variant("net", "whole", ("net",)),
        Variant("without a", "without", ("without a",)),
        Variant("ball", "floor", ("ball",)),
    ]
    table = ablation_table(rows_of({"net": WHOLE, "without a": worse.tolist(), "ball": other.tolist()}), variants)
    assert list(table["variant"]) == ["net", "without a", "ball"]
    assert table["mean"].tolist() == pytest.approx([np.mean(WHOLE), worse.mean(), other.mean()])
    assert table["difference"].isna().tolist() == [True, False, False]
    p = []
    for place, values in ((1, worse), (2, other)):
        difference = values - np.array(WHOLE)
        assert table.loc[place, "difference"] == pytest.approx(difference.mean())
        expected = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
        p.append(expected.pvalue)
        interval = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
        assert table.loc[place, "difference_low"] == pytest.approx(interval.low)
        assert table.loc[place, "difference_high"] == pytest.approx(interval.high)
    small, large = sorted(p)
    holm = {small: min(1, 2 * small), large: max(min(1, 2 * small), large)}
    assert table["p"].tolist()[1:] == pytest.approx([holm[value] for value in p])
    assert table.loc[1, "verdict"] == "worse"


def test_a_case_counts_with_its_mean_over_the_repeats_and_a_failure_with_zero() -> None:
    first, second = np.array(WHOLE), np.array(WHOLE) - 0.2
    variants = [
        Variant("net", "whole", ("net", "net (repeat 2)")),
        Variant("without a", "without", ("without a", "without a (repeat 2)")),
    ]
    failing: list[float | None] = [*first[:-1], None]
    told: dict[str, Sequence[float | None]] = {"net": first.tolist(), "net (repeat 2)": second.tolist()}
    told |= {"without a": failing, "without a (repeat 2)": second.tolist()}
    table = ablation_table(rows_of(told), variants)
    assert table.loc[0, "cases"] == 8
    assert table.loc[0, "mean"] == pytest.approx(np.mean([first, second]))
    assert table.loc[0, "lowest"] == pytest.approx(second.mean())
    assert table.loc[0, "highest"] == pytest.approx(first.mean())
    assert table.loc[1, "difference"] == pytest.approx(-WHOLE[-1] / 2 / 8)


def test_a_variant_that_stops_early_is_not_called_faster() -> None:
    rows, _ = one_stops_early()
    variants = [Variant("fast", "whole", ("fast",)), Variant("slow", "without", ("slow",))]
    assert ablation_table(rows, variants, "seconds_segment")["mean"].tolist() == [1.0, 9.0]


def test_means_differences_and_tests_are_on_the_patients_of_each_data_set() -> None:
    """Patients of 1, 2 or 5 cases; those of two data sets have the same names and are not the same."""
    owner, chance = owners(6), np.random.default_rng(5)
    patients = np.concatenate([owner, 6 + owner])
    whole = chance.normal(0.6, 0.1, 12)[patients] + chance.normal(0, 0.01, len(patients))
    part = whole - chance.normal(0.03, 0.05, 12)[patients] + chance.normal(0, 0.01, len(patients))
    rows = [
        row_of(unit_of(title, dataset, [CLICK], 16), case, CLICK, 1, dice, patient=f"patient {owner[case]}")
        for title, values in (("net", whole), ("without a", part))
        for dataset, mine in (("kits21", values[:16]), ("lits17", values[16:]))
        for case, dice in enumerate(mine.tolist())
    ]
    variants = [Variant("net", "whole", ("net",)), Variant("without a", "without", ("without a",))]
    table = ablation_table(pd.DataFrame(rows), variants)
    assert table[["cases", "patients"]].to_numpy().tolist() == [[32, 12]] * 2
    for values, told in zip((whole, part), table.to_dict("records"), strict=True):
        assert told["mean"] == pytest.approx(values.mean())
        assert [told["low"], told["high"]] == pytest.approx(interval_of(values, patients, share=True))
    told = table.to_dict("records")[1]
    assert told["difference"] == pytest.approx((part - whole).mean())
    assert [told["difference_low"], told["difference_high"]] == pytest.approx(interval_of(part - whole, patients))
    assert told["p"] == pytest.approx(flipped_p(part - whole, patients))


def test_the_printed_table_names_floors_and_fits_100_columns() -> None:
    variants = [
        Variant("tags-tiny", "whole", ("a", "b")),
        Variant("without multi-prompt fusion", "without", ("c", "d")),
        Variant("region-growing", "floor", ("e",)),
    ]
    table = ablation_table(rows_of({name: WHOLE[::-1] if name in "cd" else WHOLE for name in "abcde"}), variants)
    stream = io.StringIO()
    print_page(ablation_page(table, "dice", True), Console(file=stream, width=100))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 100
    assert "SYNTHETIC" in text
    assert "region-growing (floor)" in text
    assert "mean over 2 trainings" in text
    assert "A positive difference says that the variant is better" in text
    distances = render(ablation_page(table, "hd95_mm", True), "markdown")
    assert "A negative difference says that the variant is better" in distances
