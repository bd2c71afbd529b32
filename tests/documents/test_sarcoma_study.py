"""The table on real tumours in the document on TAGS is made of the cases that lie beside the study."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.documents.scripts import ROOT, script

page = script("sarcoma_study")
PATIENTS = [f"sts_{number:03d}" for number in range(1, 25)]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def made(seeds: tuple[int, ...]) -> pd.DataFrame:
    """TAGS 0.1 above region growing in every patient, and above the ball by luck."""
    random = np.random.default_rng(5)
    rows = []
    for seed in seeds:
        for case in PATIENTS:
            dice = {"region-growing": random.uniform(0.3, 0.8), "ball": random.uniform(0.2, 0.9)}
            dice["tags-tiny"] = dice["region-growing"] + 0.1 + random.normal(0, 0.01)
            for method, value in dice.items():
                rows.append((seed, method, "centre-click", 1, 0, case, "ok", value))
            rows.append((seed, "tags-tiny", "mask-error-2mm", 1, 0, case, "ok", 0.9 + random.normal(0, 0.01)))
    return pd.DataFrame(rows, columns=page.COLUMNS)


@pytest.fixture(autouse=True)
def two_lists(monkeypatch):
    chosen = ("one centre click", "the label with its border moved by 2 mm")
    monkeypatch.setattr(page, "LISTS", {key: page.LISTS[key] for key in chosen})


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[+-]?\d\.\d{3}", cell)]


def on_log_odds(patients: pd.Series) -> list[float]:
    """A mean and its interval over patients: Student's t on the log-odds of the mean."""
    mean = patients.mean()
    reach = stats.t.ppf(0.975, 23) * patients.std() / np.sqrt(24) / (mean * (1 - mean))
    odds = np.log(mean / (1 - mean))
    return [mean, *(1 / (1 + np.exp(-(odds + side * reach))) for side in (-1, 1))]


@pytest.mark.parametrize("seeds", [(2026,), (2026, 2027)])
def test_intervals_are_over_patients_whatever_the_number_of_seeds(seeds) -> None:
    rows = made(seeds)
    first, second, mask = cells(page.table_of(rows))
    wide = rows[rows["protocol"] == "centre-click"].pivot_table(index="case", columns="method", values="dice")
    better = "ball" if wide["ball"].mean() > wide["region-growing"].mean() else "region growing"
    assert first[0] == "one centre click"
    assert first[3].startswith(better)
    assert second[:3] == ["", "", ""]
    assert mask[3:] == ["", "", ""]
    others = {line[3].split(" 0.")[0]: line for line in (first, second)}
    for name, method in (("region growing", "region-growing"), ("ball", "ball")):
        paired = wide["tags-tiny"] - wide[method]
        reach = stats.t.ppf(0.975, 23) * paired.std() / np.sqrt(24)
        expected = [paired.mean(), paired.mean() - reach, paired.mean() + reach]
        assert numbers(others[name][4]) == pytest.approx(expected, abs=6e-4)
        assert numbers(others[name][3]) == pytest.approx(on_log_odds(wide[method]), abs=6e-4)
    assert others["region growing"][5] == "TAGS is better"
    assert numbers(first[1]) == pytest.approx(on_log_odds(wide["tags-tiny"]), abs=6e-4)
    masks = rows[rows["protocol"] == "mask-error-2mm"].groupby("case")["dice"].mean()
    assert numbers(mask[1]) == pytest.approx(on_log_odds(masks), abs=6e-4)


def test_tags_without_the_mirror_is_shown_and_is_no_contestant() -> None:
    rows = made((2026,))
    ours = rows[rows["method"] == "tags-tiny"]
    plain = ours.assign(method="tags-tiny-unmirrored", dice=ours["dice"] - 0.02)
    before, after = cells(page.table_of(rows)), cells(page.table_of(pd.concat([rows, plain])))
    click, mask = (
        ours.loc[ours["protocol"] == name, "dice"].mean() - 0.02 for name in ("centre-click", "mask-error-2mm")
    )
    assert [line[2] for line in after] == [f"{click:.3f}", "", f"{mask:.3f}"]
    assert [line[:2] + line[3:] for line in after] == [line[:2] + line[3:] for line in before]


def test_the_ball_in_a_box_is_called_an_ellipsoid_in_the_verdict_too(monkeypatch) -> None:
    monkeypatch.setattr(page, "LISTS", {"box": ("box", 1)})
    rows = made((2026,))
    rows = rows[(rows["protocol"] == "centre-click") & (rows["method"] != "region-growing")].assign(protocol="box")
    rows.loc[rows["method"] == "ball", "dice"] = 0.95
    (line,) = cells(page.table_of(rows))
    assert line[3].startswith("the ellipsoid in it 0.950")
    assert line[5] == "the ellipsoid in it is better"


@pytest.mark.parametrize("protocol", ["centre-click", "mask-error-2mm"])
def test_a_list_that_lacks_a_case_or_has_one_twice_is_no_table(protocol: str) -> None:
    rows = made((2026, 2027))
    (one,) = rows.index[
        (rows["seed"] == 2027)
        & (rows["case"] == "sts_007")
        & (rows["method"] == "tags-tiny")
        & (rows["protocol"] == protocol)
    ]
    with pytest.raises(ValueError, match="tags-tiny has 47 rows, not each of 48"):
        page.table_of(rows.drop(index=one))
    with pytest.raises(ValueError, match="tags-tiny has 49 rows"):
        page.table_of(pd.concat([rows, rows.loc[[one]]]))


def test_a_seed_joins_and_one_that_is_measured_again_is_replaced() -> None:
    first, second = made((2027,)), made((2026,))
    both = page.with_measured(first, second, page.PARTS)
    assert both.groupby("seed").size().to_dict() == {2026: len(second), 2027: len(first)}
    pd.testing.assert_frame_equal(page.with_measured(both, second, page.PARTS), both)
    changed = page.with_measured(both, second.assign(dice=0.5), page.PARTS)
    assert set(changed[changed["seed"] == 2026]["dice"]) == {0.5}
    assert page.table_of(changed) != page.table_of(both)


def test_one_method_measured_again_leaves_the_others_as_they_were() -> None:
    both = page.with_measured(made((2026,)), made((2027,)), page.PARTS)
    again = both[(both["seed"] == 2027) & (both["method"] == "tags-tiny")].assign(dice=0.5)
    changed = page.with_measured(both, again, page.PARTS)
    assert len(changed) == len(both)
    differ = changed["dice"] != both["dice"]
    assert set(map(tuple, changed.loc[differ, ["seed", "method"]].to_numpy())) == {(2027, "tags-tiny")}
    assert differ.sum() == len(again)


def test_the_page_shows_what_the_cases_say(monkeypatch) -> None:
    monkeypatch.undo()
    text = page.PAGE.read_text("utf-8")
    shown = text.partition(page.BEGIN)[2].partition(page.END)[0].strip()
    assert shown == page.table_of(pd.read_csv(page.CASES))


def test_the_first_page_shows_what_the_cases_say_too(monkeypatch) -> None:
    """Every number on real scans, in its order, and who is behind: means of the cases, verdicts of the table."""
    monkeypatch.undo()
    cases = pd.read_csv(page.CASES)
    (paragraph,) = re.findall(r"^On \*\*real\*\* scans.*?\n\n", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    text = " ".join(paragraph.split()).partition("TAGS was tuned")[0]
    click, later = text.split("After five clicks")
    five, nothing = later.split("With no prompt")
    for words, protocol, step, methods in (
        (click, "centre-click", 1, ["tags-tiny", "sam-med3d-tiny", "3dsam-adapter-tiny", "region-growing"]),
        (five, "iterative-5", 5, ["tags-tiny", "region-growing", "sam-med3d-tiny"]),
        (nothing, "automatic", 1, ["tags-tiny", "nnunet-small", "nnunet-small-mirrored"]),
    ):
        rows = cases[(cases["protocol"] == protocol) & (cases["step"] == step)]
        means = rows.groupby("method")["dice"].mean()
        assert re.findall(r"0\.\d+", words) == [f"{means[method]:.3f}" for method in methods]
    table = cells(page.table_of(cases))
    starts = [place for place, line in enumerate(table) if line[0]]
    lists = {table[start][0]: table[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)}

    def verdicts(given: str, names: list[str]) -> set[str]:
        return {line[5] for line in lists[given] if line[3].split(" 0.")[0] in names}

    assert verdicts("one centre click", ["SAM-Med3D, tiny", "3DSAM-adapter, tiny"]) == {"TAGS is better"}
    assert verdicts("one centre click", ["region growing"]) == {"undecided"}
    assert verdicts("nothing", ["nnU-Net, small plans"]) == {"TAGS is better"}
    assert verdicts("nothing", ["nnU-Net, small plans, in the mirror, too"]) == {"undecided"}
    assert {line[5] for line in lists["five rounds"]} == {"TAGS is better"}
    assert "(both worse), region growing 0.684 (undecided" in click
    assert "better than all" in five
    assert re.search(r"nnU-Net 0\.\d+ \(worse\) or, looking in the mirror as well, 0\.\d+ \(undecided\)", nothing)
