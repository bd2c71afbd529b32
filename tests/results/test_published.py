"""Published numbers: whole tables, honest labels, and the arithmetic that supports them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.common.errors import UserError
from benchmarks.results.published import Published, as_table, load_published

GOOD = """
papers: {p: {title: T, citation: C, url: https://example.org}}
claims: []
tables:
  - {paper: p, where: Table 1, protocol: one click, track: clicks, metrics: [dice], checked: false,
     columns: [{dataset: kits21, target: kidney-tumor}], rows: {A: [[50]]}}
"""


@pytest.fixture(scope="module")
def published() -> Published:
    return load_published()


def test_every_number_is_labelled_and_carries_citation_and_protocol(published: Published) -> None:
    assert len(published.results) > 90
    for result in published.results:
        assert "(published" in result.title
        assert ("recalled" in result.title) == (result.standing == "recalled")
        assert result.citation
        assert result.protocol
        assert result.value == pytest.approx(result.percent / 100)


def test_no_number_stands_twice(published: Published) -> None:
    table = as_table(published.results)
    keys = ["paper", "method", "dataset", "target", "metric", "protocol"]
    assert not table.duplicated(keys).any()
    assert (table["origin"] == "published").all()


def test_what_was_written_from_memory_says_so(published: Published) -> None:
    standing = as_table(published.results).groupby("paper")["standing"].unique()
    assert standing["3dsam-adapter"].tolist() == ["recalled"]
    assert standing["universal"].tolist() == ["recalled"]
    assert standing["sam-med2d"].tolist() == ["verified"]


def test_the_adapter_table_reproduces_the_gains_of_its_abstract(published: Published) -> None:
    """Best other against one click, in relative per cent: 8.25, 29.87, 10.11."""

    def gain(dataset: str, metric: str) -> float:
        rows = [r for r in published.of_dataset(dataset) if (r.metric, r.paper) == (metric, "3dsam-adapter")]
        automatic = max(r.percent for r in rows if r.track == "automatic")
        one_click = next(r.percent for r in rows if r.method == "3DSAM-adapter, 1 click")
        return 100 * (one_click / automatic - 1)

    assert gain("kits21", "nsd@5mm") == pytest.approx(8.25, abs=0.006)
    assert gain("msd-pancreas", "dice") == pytest.approx(29.87, abs=0.006)
    assert gain("msd-colon", "dice") == pytest.approx(10.11, abs=0.006)


def test_the_claims_of_tags_are_words_without_invented_values(published: Published) -> None:
    claims = [claim for claim in published.claims if claim.method == "TAGS"]
    assert ["46.88" in claim.text or "13 %" in claim.text for claim in claims] == [True, True]
    assert claims[0].against == ("nnU-Net",)
    assert len(claims[1].against) == 6
    assert not [result for result in published.results if result.paper == "tags"]


def test_selection(published: Published) -> None:
    wanted = ("kidney-tumor", "dice", "automatic")
    rows = [row for row in published.of_dataset("kits21") if (row.target, row.metric, row.track) == wanted]
    assert {row.method for row in rows} >= {"nnU-Net", "Swin-UNETR"}
    assert next(row for row in rows if row.method == "nnU-Net").value == pytest.approx(0.7307)
    assert published.of_dataset("nowhere") == ()
    assert as_table(()).empty
    assert "origin" in as_table(()).columns


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[50]]", "[[50, 60]]", "'A' needs 1 cells of 1 values"),
        ("[[50]]", "[[50], [60]]", "'A' needs 1 cells of 1 values"),
        ("[[50]]", "[[500]]", "not a percentage"),
        ("paper: p", "paper: q", "unknown paper 'q'"),
        ("checked: false", "cheked: false", "checked: Field required"),
        ("track: clicks", "track: magic", "track"),
        ("claims: []", "claims: [", "unreadable"),
    ],
)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(GOOD)
    assert len(load_published(path).results) == 1
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        load_published(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unreadable"):
        load_published(tmp_path / "none.yaml")
