"""Records on disk: atomic, resumable, one current unit per method and dataset."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.common.errors import UserError
from benchmarks.results.records import SCHEMA_VERSION, SPACINGS, RecordStore, upgraded


def row(case: str, status: str = "ok") -> dict[str, object]:
    return {"case": case, "status": status, "dice": 0.5}


def describe(store: RecordStore, digest: str, method: str = "ball") -> Path:
    folder = store.unit_folder("suite", "kits21", method, digest)
    store.begin_unit(
        folder, {"dataset": "kits21", "fold": 0, "method": method, "unit": digest, "target": {"name": "t"}}
    )
    return folder


def test_finished_cases_are_those_with_a_whole_file(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = describe(store, "a")
    store.write_case(folder, "one", [row("one"), row("one")])
    (folder / ".123.two.parquet").write_bytes(b"half written")
    assert store.finished(folder, ["one", "two"]) == {"one"}
    assert len(store.read_unit(folder)) == 2


def test_failed_cases_are_finished_unless_a_retry_is_asked_for(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = describe(store, "a")
    store.write_case(folder, "one", [row("one")])
    store.write_case(folder, "two", [row("two"), row("two", "failed")])
    assert store.finished(folder, ["one", "two"]) == {"one", "two"}
    assert store.finished(folder, ["one", "two"], retry_failed=True) == {"one"}


def test_a_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = describe(store, "a")
    with pytest.raises(Exception, match=r"Conversion|convert|expected|mixed|type"):
        store.write_case(folder, "one", [{"dice": 1.0}, {"dice": object()}])
    assert [path.name for path in folder.iterdir()] == ["unit.json"]


def test_the_current_unit_replaces_the_older_one_of_the_same_method(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    old, other = describe(store, "old"), describe(store, "x", method="region-growing")
    store.write_case(old, "one", [row("one")])
    store.write_case(other, "one", [row("one")])
    store.set_current("suite", [old, other])
    new = describe(store, "new")
    store.write_case(new, "one", [row("one"), row("one")])
    store.set_current("suite", [new])
    rows, units = store.read_suite("suite")
    assert sorted(unit["unit"] for unit in units) == ["new", "x"]
    assert len(rows) == 3


def test_units_come_back_in_the_order_of_the_plan(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folders = [describe(store, "a", method) for method in ("zeta", "alpha", "mean")]
    store.set_current("suite", folders)
    assert [unit["method"] for unit in store.read_suite("suite")[1]] == ["zeta", "alpha", "mean"]
    store.set_current("suite", [folders[2], folders[0]])
    assert [unit["method"] for unit in store.read_suite("suite")[1]] == ["alpha", "mean", "zeta"]


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden", "Fälle 1", "volume-0"])
def test_any_case_id_is_a_file_inside_the_folder(tmp_path: Path, name: str) -> None:
    store = RecordStore(tmp_path)
    folder = describe(store, "a")
    path = store.write_case(folder, name, [row(name)])
    assert path.parent == folder
    assert store.finished(folder, [name]) == {name}
    assert pd.read_parquet(path)["case"].tolist() == [name]


def test_an_unknown_suite_says_which_there_are(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.set_current("suite", [describe(store, "a")])
    with pytest.raises(UserError, match="have: suite"):
        store.read_suite("other")


def old_rows() -> pd.DataFrame:
    """As schema 1 wrote them: a measurement, a case without the target, and a method that failed."""
    return pd.DataFrame(
        {
            "schema_version": 1,
            "case": ["one", "two", "three"],
            "status": ["ok", "failed", "failed"],
            "reason": ["", "NoTarget: no voxel of 'liver-tumor' in the case", "RuntimeError: out of memory"],
            "dice": [0.7, 0.0, 0.0],
            "nsd@1mm": [0.6, 0.0, 0.0],
            "hd95_mm": [3.0, 500.0, 500.0],
            "diagonal_mm": [500.0, 500.0, 500.0],
        }
    )


def test_records_of_schema_1_are_read_in_the_form_of_today(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = describe(store, "a")
    for row_ in old_rows().to_dict("records"):
        store.write_case(folder, str(row_["case"]), [{str(key): value for key, value in row_.items()}])
    rows = store.read_unit(folder).set_index("case")
    assert rows["status"].to_dict() == {"one": "ok", "two": "no-target", "three": "failed"}
    assert rows.loc["two", ["dice", "nsd@1mm", "hd95_mm"]].isna().all()
    assert rows.loc["three", ["dice", "hd95_mm"]].tolist() == [0.0, 500.0]
    assert rows.loc["two", "diagonal_mm"] == 500.0
    assert rows[list(SPACINGS)].isna().all(axis=None)
    assert set(rows["prompt_origin"]) == {"simulated"}


def test_records_of_a_later_schema_are_refused_in_one_line() -> None:
    later = old_rows().assign(schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(UserError, match=rf"here: records of schema {SCHEMA_VERSION + 1}, this tags-bench reads up to"):
        upgraded(later, "here")


def test_records_of_today_are_left_as_they_are() -> None:
    rows = old_rows().assign(schema_version=SCHEMA_VERSION)
    assert upgraded(rows, "here") is rows
