"""Records on disk: whole, checked, resumable, and never deleted before there are better ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.common.errors import UserError
from benchmarks.metrics import Reference, evaluate_mask, failed_values
from benchmarks.results import record_files
from benchmarks.results.record_rows import checksum
from benchmarks.results.records import (
    SCHEMA_VERSION,
    SPACINGS,
    RecordStore,
    key_of,
    keys_of,
    upgraded,
    with_newest_patients,
)

CASES = ["one", "two", "three"]


def row(case: str, status: str = "ok", step: int = 1, **changed: Any) -> dict[str, Any]:
    """A row of a method that found 40 of 80 voxels and 20 others: Dice 80 / 140, IoU 40 / 100."""
    counts = {"voxels_reference": 80, "voxels_prediction": 60, "voxels_intersection": 40}
    worst = {"dice": 0.0, "iou": 0.0, "voxels_prediction": 0, "voxels_intersection": 0}
    told = {
        "schema_version": SCHEMA_VERSION, "unit": "a", "dataset": "kits21", "fold": 0, "method": "ball", "case": case,
        "patient": case, "target": "t", "protocol": "iterative", "step": step, "status": status, "reason": "",
        "dice": 80 / 140, "iou": 40 / 100, "nsd@1mm": 0.25, "hd95_mm": 12.5, **counts,
    }  # fmt: skip
    return told | (worst if status == "failed" else {}) | changed


def rows_of(case: str, **changed: Any) -> list[dict[str, Any]]:
    return [row(case, step=step, **changed) for step in (1, 2)]


def description(digest: str = "a", method: str = "ball", **more: Any) -> dict[str, Any]:
    told = {"dataset": "kits21", "fold": 0, "method": method, "unit": digest, "target": {"name": "t"}, "cases": CASES}
    told |= {"protocols": [{"kind": "iterative", "rounds": 2}], "skipped_protocols": []}
    return {**told, "synthetic": False, "contamination": "unseen", **more}


def describe(store: RecordStore, digest: str = "a", method: str = "ball", **more: Any) -> Path:
    folder = store.unit_folder("suite", "kits21", method, digest)
    store.begin_unit(folder, description(digest, method, **more))
    return folder


def filled(store: RecordStore, cases: list[str] = CASES, **options: Any) -> Path:
    folder = describe(store, **options)
    unit = {key: options[key] for key in ("method",) if key in options} | {"unit": options.get("digest", "a")}
    for case in cases:
        store.write_case(folder, case, rows_of(case, **unit))
    return folder


def write_as_before(folder: Path, case: str, rows: list[dict[str, Any]]) -> Path:
    """A file for each case, as the bench wrote it before rows had hashes."""
    path = folder / f"{case}.parquet"
    pd.DataFrame(rows).to_parquet(path, index=False)
    return path


# -- writing and resuming --


def test_finished_cases_are_those_that_were_written_whole(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store, ["one"])
    assert store.finished(folder, CASES) == {"one"}
    assert RecordStore(tmp_path).finished(folder, CASES) == {"one"}
    assert store.read_unit(folder)[["case", "step", "dice"]].to_dict("list") == {
        "case": ["one", "one"], "step": [1, 2], "dice": [80 / 140] * 2,
    }  # fmt: skip


def test_half_a_line_of_a_killed_writer_is_no_record_and_no_obstacle(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store, ["one", "two"])
    (lines,) = (folder / "rows").glob("*.jsonl")
    whole = lines.read_bytes()
    for length in range(whole.index(b"\n") + 1, len(whole) - 1, 97):
        lines.write_bytes(whole[:length])
        assert RecordStore(tmp_path).finished(folder, CASES) == {"one"}
        store.write_case(folder, "three", rows_of("three"))
        assert RecordStore(tmp_path).read_unit(folder)["case"].unique().tolist() == ["one", "three"]
    assert not list(folder.rglob("*.damaged-*")), "a writer that was killed has damaged nothing"


def test_failed_cases_are_finished_unless_a_retry_is_asked_for(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store, ["one", "three"])
    store.write_case(folder, "two", [row("two"), row("two", "failed", step=2)])
    for _ in range(2):
        assert store.finished(folder, CASES) == set(CASES)
        assert store.finished(folder, CASES, retry_failed=True) == {"one", "three"}
        store.complete_unit(folder)
    store.write_case(folder, "two", rows_of("two"))
    assert store.finished(folder, CASES, retry_failed=True) == set(CASES)
    store.complete_unit(folder)
    assert set(RecordStore(tmp_path).read_unit(folder)["status"]) == {"ok"}


def test_a_write_that_fails_leaves_no_record(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = describe(store)
    with pytest.raises(TypeError, match="object is no type that a record can hold"):
        store.write_case(folder, "one", [row("one"), row("one", step=2, reason=object())])
    assert [path.name for path in folder.iterdir()] == ["unit.json"]
    with pytest.raises(ValueError, match="a Dice that its voxel counts contradict"):
        store.write_case(folder, "one", [row("one", dice=0.6)])


def test_a_finished_unit_is_one_file_that_says_the_same(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store)
    lesions = {"each_lesion_dice": [0.5, 0.25], "carried": False, "seconds": float("nan")}
    store.write_case(folder, "two", rows_of("two", **lesions))
    before = store.read_unit(folder)
    store.complete_unit(folder)
    assert [path.name for path in sorted(folder.rglob("*")) if path.is_file()] == ["unit.parquet", "unit.json"]
    after = RecordStore(tmp_path).read_unit(folder)
    assert after["case"].drop_duplicates().tolist() == sorted(CASES)
    two = after["case"] == "two"
    assert [list(value) for value in after.loc[two, "each_lesion_dice"]] == [[0.5, 0.25]] * 2
    plain = [column for column in before if column != "each_lesion_dice"]
    pd.testing.assert_frame_equal(before[plain], after[plain], check_exact=True)
    marks = (folder / "rows" / "unit.parquet").stat().st_mtime_ns
    store.complete_unit(folder)
    assert (folder / "rows" / "unit.parquet").stat().st_mtime_ns == marks, "nothing to do, yet written again"


def test_a_unit_is_put_together_only_when_all_its_cases_are_there(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store, ["one", "two"])
    store.complete_unit(folder)
    assert not (folder / "rows" / "unit.parquet").exists()
    assert store.finished(folder, CASES) == {"one", "two"}


@pytest.mark.parametrize("when", ["before the new file", "after the new file", "between two removals"])
def test_a_kill_while_a_unit_is_put_together_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store)
    for case in CASES:
        write_as_before(folder, case, rows_of(case, reason="older"))
    store.write_case(folder, "one", rows_of("one", reason="newer"))
    expected = store.read_unit(folder)
    assert expected.loc[expected["case"] == "one", "reason"].tolist() == ["newer", "newer"]
    removed: list[Path] = []
    unlink = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if when != "between two removals" or removed:
            raise KeyboardInterrupt
        removed.append(path)
        unlink(path, missing_ok)

    def killed_writer(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        if when == "before the new file":
            patch.setattr(record_files, "write_whole", killed_writer)
        with pytest.raises(KeyboardInterrupt):
            store.complete_unit(folder)
    again = RecordStore(tmp_path)
    pd.testing.assert_frame_equal(again.read_unit(folder), expected)
    assert again.finished(folder, CASES) == set(CASES)
    again.complete_unit(folder)
    pd.testing.assert_frame_equal(RecordStore(tmp_path).read_unit(folder), expected)


def test_what_is_read_back_wrong_never_takes_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store)
    expected = store.read_unit(folder)
    monkeypatch.setattr(record_files, "_read_bytes", lambda path: path.read_bytes().replace(b"ball", b"bell"))
    with pytest.raises(OSError, match="when it was read back"):
        store.complete_unit(folder)
    monkeypatch.undo()
    pd.testing.assert_frame_equal(RecordStore(tmp_path).read_unit(folder), expected)


# -- computing all again --


def test_computing_all_again_replaces_the_records_once_the_new_ones_are_complete(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store)
    store.complete_unit(folder)
    again = RecordStore(tmp_path)
    again.begin_unit(folder, description(), afresh=True)
    assert again.finished(folder, CASES) == set()
    for case in CASES:
        assert set(RecordStore(tmp_path).read_unit(folder)["reason"]) == {""}, "the old ones count until the end"
        again.write_case(folder, case, rows_of(case, reason="new"))
    again.complete_unit(folder)
    for reader in (again, RecordStore(tmp_path)):
        rows = reader.read_unit(folder)
        assert set(rows["reason"]) == {"new"}
        assert len(rows) == 6
    assert sorted(path.name for path in folder.iterdir()) == ["rows", "unit.json"]


def test_computing_all_again_that_was_killed_leaves_the_old_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = filled(RecordStore(tmp_path))
    again = RecordStore(tmp_path)
    again.begin_unit(folder, description(), afresh=True)
    again.write_case(folder, "one", rows_of("one", reason="new"))
    again.complete_unit(folder)  # not complete
    third = RecordStore(tmp_path)
    third.begin_unit(folder, description())
    assert "a run with --fresh was not finished" in caplog.text
    assert third.finished(folder, CASES) == set(CASES)
    assert set(third.read_unit(folder)["reason"]) == {""}


# -- rows of one training --


def test_a_unit_has_the_rows_of_one_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cut off after two cases, trained anew, cut off again after one, and then to the end."""
    folder = describe(store := RecordStore(tmp_path))
    assert not store.use_weights(folder, "first")
    for case in ("one", "two"):
        store.write_case(folder, case, rows_of(case, weights="first"))
    assert RecordStore(tmp_path).finished(folder, CASES, weights="first") == {"one", "two"}
    assert RecordStore(tmp_path).finished(folder, CASES, weights="second") == set()
    for there, then in ((set(), "three"), ({"three"}, "one"), ({"one", "three"}, "two")):
        caplog.clear()
        store = RecordStore(tmp_path)
        store.begin_unit(folder, description())
        assert store.use_weights(folder, "second")
        assert f"{folder}: its rows come from an earlier training" in caplog.text
        assert "--fresh" not in caplog.text
        assert store.finished(folder, CASES) == there
        assert set(RecordStore(tmp_path).read_unit(folder)["weights"]) == {"first"}, "they count until the end"
        store.write_case(folder, then, rows_of(then, weights="second"))
        store.complete_unit(folder)
    rows = RecordStore(tmp_path).read_unit(folder)
    assert set(rows["weights"]) == {"second"}
    assert len(rows) == 6
    assert sorted(path.name for path in folder.iterdir()) == ["rows", "unit.json"]
    store = RecordStore(tmp_path)
    store.begin_unit(folder, description())
    assert not store.use_weights(folder, "second")
    assert store.finished(folder, CASES, weights="second") == set(CASES)


def test_what_was_begun_by_a_training_that_is_gone_as_well_is_left(tmp_path: Path) -> None:
    folder = describe(store := RecordStore(tmp_path))
    store.write_case(folder, "one", rows_of("one", weights="first"))
    for weights in ("second", "third"):
        store = RecordStore(tmp_path)
        store.begin_unit(folder, description())
        assert store.use_weights(folder, weights)
        assert store.finished(folder, CASES) == set()
        store.write_case(folder, "one", rows_of("one", weights=weights))
    store = RecordStore(tmp_path)
    store.begin_unit(folder, description())
    assert not store.use_weights(folder, "first")  # brought back: what it has computed counts
    assert store.finished(folder, CASES) == {"one"}
    assert not (folder / ".afresh").exists()


def test_a_run_with_fresh_that_was_cut_off_after_its_training_is_taken_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = describe(store := RecordStore(tmp_path))
    for case in CASES:
        store.write_case(folder, case, rows_of(case, weights="first"))
    store.complete_unit(folder)
    fresh = RecordStore(tmp_path)
    fresh.begin_unit(folder, description(), afresh=True)
    assert not fresh.use_weights(folder, "second")
    fresh.write_case(folder, "one", rows_of("one", weights="second"))
    for weights, taken_up in (("second", True), ("first", False)):
        plain = RecordStore(tmp_path)
        plain.begin_unit(folder, description())
        assert plain.use_weights(folder, weights) == taken_up
        assert plain.finished(folder, CASES) == ({"one"} if taken_up else set(CASES))
    assert "a run with --fresh was not finished" in caplog.text


@pytest.mark.parametrize(
    ("rows", "training"), [({}, "second"), ({"weights": ""}, "second"), ({"weights": "first"}, "")]
)
def test_rows_and_trainings_that_do_not_say_by_which_weights_are_taken_as_they_are(
    tmp_path: Path, rows: dict[str, str], training: str
) -> None:
    folder = describe(store := RecordStore(tmp_path))
    store.write_case(folder, "one", rows_of("one", **rows))
    assert not store.use_weights(folder, training)
    assert store.finished(folder, CASES, weights=training) == {"one"}
    store.write_case(folder, "two", rows_of("two", **({"weights": training} if training else {})))
    store.write_case(folder, "three", rows_of("three"))
    assert not store.use_weights(folder, training)
    store.complete_unit(folder)
    assert RecordStore(tmp_path).finished(folder, CASES, weights=training) == set(CASES)


# -- what is damaged --

Damage = Callable[[Path], None]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x40
    path.write_bytes(data)


def _edit(path: Path, **changed: Any) -> None:
    rows = pd.read_parquet(path)
    rows.assign(**changed).to_parquet(path, index=False)


DAMAGES: dict[str, Damage] = {
    "truncated": _cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no records at all\n"),
    "one bit": _flip,
}
EDITS: dict[str, Damage] = {
    "a Dice above one": lambda path: _edit(path, dice=1.7),
    "a Dice against the counts": lambda path: _edit(path, dice=0.99),
    "an NSD below zero": lambda path: _edit(path, **{"nsd@1mm": -0.1}),
    "a distance without end": lambda path: _edit(path, hd95_mm=float("inf")),
    "an IoU against the counts": lambda path: _edit(path, iou=0.5),
    "an unknown status": lambda path: _edit(path, status="fine"),
    "more in common than there is": lambda path: _edit(path, voxels_intersection=70),
    "another method": lambda path: _edit(path, method="region-growing"),
    "a row less": lambda path: pd.read_parquet(path).iloc[1:].to_parquet(path, index=False),
    "a row twice": lambda path: pd.read_parquet(path).iloc[[0, 0]].to_parquet(path, index=False),
    "no Dice": lambda path: pd.read_parquet(path).drop(columns="dice").to_parquet(path, index=False),
    "something else": lambda path: pd.DataFrame({"a": [1]}).to_parquet(path, index=False),
}


@pytest.mark.parametrize("damage", [*DAMAGES.values(), *EDITS.values()], ids=[*DAMAGES, *EDITS])
@pytest.mark.parametrize("layout", ["whole", "by case"])
def test_a_damaged_file_is_named_set_aside_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Damage, layout: str
) -> None:
    store = RecordStore(tmp_path)
    if layout == "whole":
        folder = filled(store)
        store.complete_unit(folder)
        path, lost = folder / "rows" / "unit.parquet", set(CASES)
    else:
        folder = describe(store)
        path, *_ = [write_as_before(folder, case, rows_of(case)) for case in CASES]
        lost = {"one"}
        if damage is _flip:
            pytest.skip("files of earlier versions carry no hash")
    damage(path)
    damaged = path.read_bytes()

    reader = RecordStore(tmp_path)  # as `leaderboard` reads: it names, and changes nothing
    rows = reader.read_unit(folder)
    assert (set(rows["case"]) if len(rows) else set()) == set(CASES) - lost
    assert caplog.text.count(str(path)) == 1
    assert path.read_bytes() == damaged

    writer = RecordStore(tmp_path)
    assert writer.finished(folder, CASES) == set(CASES) - lost
    assert path.with_name(f"{path.name}.damaged-1").read_bytes() == damaged, "set aside, not thrown away"
    for case in lost:
        writer.write_case(folder, case, rows_of(case))
    writer.complete_unit(folder)
    caplog.clear()
    assert RecordStore(tmp_path).finished(folder, CASES) == set(CASES)
    assert caplog.text == ""


@pytest.mark.parametrize("damage", [_flip, lambda path: path.write_bytes(b"\0" * 50 + path.read_bytes()[50:])])
def test_a_damaged_line_costs_its_case_only(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Damage) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store)
    (path,) = (folder / "rows").glob("*.jsonl")
    damage(path)
    damaged = path.read_bytes()
    again = RecordStore(tmp_path)
    done = again.finished(folder, CASES)
    assert len(done) == 2
    assert "1 of its lines not as they were written" in caplog.text
    assert path.with_name(f"{path.name}.damaged-1").read_bytes() == damaged
    assert RecordStore(tmp_path).finished(folder, CASES) == done


def test_a_changed_value_that_could_be_true_is_seen_by_its_hash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = RecordStore(tmp_path)
    folder = filled(store)
    store.complete_unit(folder)
    path = folder / "rows" / "unit.parquet"
    table = pq.ParquetFile(path).read()
    place = table.schema.get_field_index("hd95_mm")
    better = pa.array([1.0] * len(table))
    pq.write_table(table.set_column(place, table.schema.field(place), better), path, write_page_checksum=True)
    assert RecordStore(tmp_path).read_unit(folder).empty
    assert "changed after it was written" in caplog.text


def test_lines_that_a_kill_left_behind_stay_older_than_what_was_put_together_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store)
    store.complete_unit(folder)
    store.write_case(folder, "one", rows_of("one", reason="second"))
    (lines,) = (folder / "rows").glob("*.jsonl")
    left = lines.read_bytes()
    store.complete_unit(folder)
    _cut(folder / "rows" / "unit.parquet")
    lines.write_bytes(left)
    again = RecordStore(tmp_path)
    assert again.finished(folder, CASES) == {"one"}
    again.write_case(folder, "one", rows_of("one", reason="third"))
    for case in CASES[1:]:
        again.write_case(folder, case, rows_of(case))
    again.complete_unit(folder)
    lines.write_bytes(left)
    rows = RecordStore(tmp_path).read_unit(folder)
    assert set(rows.loc[rows["case"] == "one", "reason"]) == {"third"}


@pytest.mark.parametrize("name", ["one (copy).parquet", "four.parquet", "notes.parquet"])
def test_a_file_that_is_not_the_file_of_its_case(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    store = RecordStore(tmp_path)
    folder = describe(store)
    for case in CASES:
        write_as_before(folder, case, rows_of(case))
    shutil.copy(folder / "one.parquet", folder / name)
    assert len(store.read_unit(folder)) == 6
    assert f"{folder / name}: not the file of its case 'one'" in caplog.text
    assert store.finished(folder, CASES) == set(CASES)
    assert [path.name for path in folder.glob("*.damaged-*")] == [f"{name}.damaged-1"]


def test_a_file_of_another_unit_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RecordStore(tmp_path)
    folder = describe(store)
    write_as_before(folder, "one", rows_of("one", unit="b"))
    assert store.read_unit(folder).empty
    assert "rows of another unit" in caplog.text


def test_a_disk_that_cannot_be_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store)
    store.complete_unit(folder)

    def broken(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(UserError, match=r"unit\.parquet: cannot be read \(Input/output error\)"):
        RecordStore(tmp_path).finished(folder, CASES)
    monkeypatch.undo()
    assert not list(folder.rglob("*.damaged-*"))


def test_the_rows_of_the_metrics_are_believed(tmp_path: Path) -> None:
    """Real rows of every kind: an overlap, empty masks, a failure."""
    import numpy as np

    store = RecordStore(tmp_path)
    folder = describe(store, protocols=[{"kind": "none"}])
    empty, cube, moved = np.zeros((3, 12, 12, 12), bool)
    cube[2:6, 2:6, 2:6] = moved[3:7, 3:7, 3:7] = True
    spacing = (1.0, 1.0, 2.0)
    kinds = {
        "one": evaluate_mask(moved, Reference(cube, spacing)),
        "two": evaluate_mask(empty, Reference(cube, spacing)),
        "three": evaluate_mask(moved, Reference(empty, spacing)),
        "four": evaluate_mask(empty, Reference(empty, spacing)),
        "five": failed_values(Reference(cube, spacing)),
    }
    for case, values in kinds.items():
        store.write_case(folder, case, [row(case, protocol="none", **values)])
    assert store.finished(folder, kinds) == set(kinds)


def test_a_checksum_depends_on_values_only(tmp_path: Path) -> None:
    rows = pd.DataFrame({"a": [1, 2], "b": [0.1, float("nan")], "c": ["x", None], "d": [[1.0], []], "e": [True, False]})
    rows.to_parquet(tmp_path / "a.parquet", compression="gzip")
    assert checksum(pd.read_parquet(tmp_path / "a.parquet")) == checksum(rows) == checksum(rows[[*"edcba"]])
    for column, value in (("a", 3), ("b", 0.2), ("c", "y"), ("e", False)):
        changed = rows.copy()
        changed.loc[0, column] = value
        assert checksum(changed) != checksum(rows)


@pytest.mark.parametrize("listed", ["before", "after"])
def test_rows_that_move_into_one_file_while_they_are_read_are_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str
) -> None:
    """After the reader has found no Parquet file and before it opens the lines the writer finishes the unit."""
    store = RecordStore(tmp_path)
    folder = filled(store)
    read_lines = record_files._read_lines

    def finish_and_read(paths: list[Path], *words: Any, **more: Any) -> Any:
        monkeypatch.setattr(record_files, "_read_lines", read_lines)
        store.complete_unit(folder)
        assert not any(path.exists() for path in paths)
        return read_lines(paths if listed == "before" else [], *words, **more)

    monkeypatch.setattr(record_files, "_read_lines", finish_and_read)
    rows = RecordStore(tmp_path).read_unit(folder)
    assert sorted(set(rows["case"])) == sorted(CASES)


# -- which units count --


def test_the_current_unit_replaces_the_older_one_of_the_same_method(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    old, other = filled(store, digest="old"), filled(store, digest="x", method="region-growing")
    store.set_current("suite", [old, other])
    new = filled(store, digest="new")
    store.set_current("suite", [new])
    rows, units = store.read_suite("suite")
    assert {unit["unit"]: unit["latest_call"] for unit in units} == {"x": False, "new": True}
    assert sorted(rows["unit"].unique()) == ["new", "x"]
    assert keys_of(rows).unique().tolist() == [key_of(unit) for unit in units]
    assert len(store.read_unit(old)) == 6, "its records stay"


def test_a_case_that_another_fold_tests_again_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RecordStore(tmp_path)

    def fold(number: int, *cases: str, method: str = "ball") -> Path:
        digest = "-".join(cases)
        folder = describe(store, digest, method, fold=number, cases=[*cases])
        for case in cases:
            store.write_case(folder, case, rows_of(case, method=method, fold=number, unit=digest))
        return folder

    store.set_current("suite", [fold(0, "one", "two"), fold(0, "one", "two", method="mean"), fold(2, "three")])
    assert caplog.text == ""
    store.set_current("suite", [fold(1, "two", "four")])
    rows, units = RecordStore(tmp_path).read_suite("suite")
    assert [unit["key"] for unit in units] == ["kits21|0|t|mean", "kits21|2|t|ball", "kits21|1|t|ball"]
    assert sorted(set(rows.loc[rows["method"] == "ball", "case"])) == ["four", "three", "two"]
    assert not rows.duplicated(["method", "case", "protocol", "step"]).any()
    (line,) = caplog.messages
    assert line == (
        "suite: cases of kits21, fold 0 are tested again in another fold, which takes its place: earlier results are "
        "kept and no longer shown (ball)"
    )
    store.set_current("suite", [fold(0, "five", "six")])
    assert len(RecordStore(tmp_path).read_suite("suite")[1]) == 4, "these are other cases"


def test_protocols_that_a_later_call_leaves_out_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RecordStore(tmp_path)
    both = [filled(store, digest="old", method=name, protocol_names=["box", "none"]) for name in ("ball", "mean")]
    store.set_current("suite", both)
    later = [filled(store, digest="new", method=name, protocol_names=["none", "mask"]) for name in ("ball", "mean")]
    store.set_current("suite", later)
    (line,) = caplog.messages
    assert line == (
        "suite: protocols box of kits21, fold 0 are not in this call, which takes an earlier one's place: "
        "earlier results are kept and no longer shown (ball, mean)"
    )


def test_a_corrected_patient_counts_without_a_new_number(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store, patients={"one": "p", "two": "p"})
    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    rows, _ = store.read_suite("suite")
    assert rows.groupby("case")["patient"].first().to_dict() == {"one": "p", "two": "p", "three": "three"}
    describe(store, patients={"two": "q"})
    assert set(store.read_unit(folder)["patient"]) == {"one", "q", "three"}
    rows, _ = store.read_suite("suite")
    assert rows.groupby("case")["patient"].first().to_dict() == {"one": "one", "two": "q", "three": "three"}
    assert before == {path: path.read_bytes() for path in folder.rglob("*.parquet")}


def test_a_corrected_patient_counts_for_methods_of_earlier_calls(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    ball, mean = (filled(store, method=name, patients={"one": "p", "three": "p"}) for name in ("ball", "mean"))
    store.set_current("suite", [ball, mean])
    describe(store, method="ball", patients={"one": "q"}, cases=["one", "two"])
    store.set_current("suite", [ball])
    rows, units = RecordStore(tmp_path).read_suite("suite")
    for read in (rows, with_newest_patients(rows.iloc[::-1], units)):
        for method in ("ball", "mean"):
            mine = read[read["method"] == method].groupby("case")["patient"].unique()
            assert mine.map(list).to_dict() == {"one": ["q"], "two": ["two"], "three": ["p"]}


def test_a_unit_says_when_it_was_called_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RecordStore(tmp_path)
    ball, mean = (filled(store, method=name) for name in ("ball", "mean"))
    for at, folders in (("2026-01-01", [ball, mean]), ("2026-01-02", [mean]), ("2026-01-03", [ball])):
        monkeypatch.setattr("benchmarks.results.record_index.now", lambda at=at: at)
        store.set_current("suite", folders)
    _, units = RecordStore(tmp_path).read_suite("suite")
    assert {unit["method"]: unit["called_at"] for unit in units} == {"ball": "2026-01-03", "mean": "2026-01-02"}


def test_a_first_call_warns_of_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RecordStore(tmp_path)
    store.set_current("suite", [filled(store), describe(store, method="region-growing")])
    assert len(RecordStore(tmp_path).read_suite("suite")[1]) == 2
    assert caplog.text == ""


def test_units_come_back_in_the_order_of_the_plan(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    folders = [describe(store, "a", method) for method in ("zeta", "alpha", "mean")]
    store.set_current("suite", folders)
    assert [unit["method"] for unit in store.read_suite("suite")[1]] == ["zeta", "alpha", "mean"]
    store.set_current("suite", [folders[2], folders[0]])
    assert [unit["method"] for unit in store.read_suite("suite")[1]] == ["alpha", "mean", "zeta"]


def test_a_unit_keeps_the_day_on_which_it_was_first_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RecordStore(tmp_path)
    folder = describe(store)
    first = json.loads((folder / "unit.json").read_text())
    assert first["key"] == "kits21|0|t|ball"
    monkeypatch.setattr("benchmarks.results.records.now", lambda: "2099-01-01T00:00:00Z")
    describe(RecordStore(tmp_path))
    assert json.loads((folder / "unit.json").read_text()) == first


def test_equal_units_under_two_labels_share_their_rows(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    first, second = filled(store), describe(store, method="the same again")
    store.complete_unit(first)
    for _ in range(2):
        store.share_unit(first, second, {"method": "the same again"})
    store.set_current("suite", [first, second])
    rows, units = RecordStore(tmp_path).read_suite("suite")
    assert [unit["unit"] for unit in units] == ["a", "a"]
    assert rows.groupby("method").size().to_dict() == {"ball": 6, "the same again": 6}


BROKEN_JSON = [
    "",
    "{",
    "[]",
    "{}",
    "null",
    "[" * 100_000,
    '{"fold": ' + "9" * 400 + "}",
    '"text"',
    "[1]",
    '{"calls": 3}',
]


@pytest.mark.parametrize("text", [*BROKEN_JSON, None], ids=range(len(BROKEN_JSON) + 1))
def test_a_damaged_index_is_made_again_from_the_units(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    store = RecordStore(tmp_path)
    folders = [filled(store), filled(store, method="region-growing")]
    store.set_current("suite", folders)
    index = tmp_path / "suite" / "units.json"
    index.unlink() if text is None else index.write_text(text)
    for _ in range(2):
        caplog.clear()
        rows, units = RecordStore(tmp_path).read_suite("suite")
        assert sorted(unit["method"] for unit in units) == ["ball", "region-growing"]
        assert len(rows) == 12
        assert caplog.text.count(f"{index}") == 1
        assert "made again from the 2 units beside it" in caplog.text
    RecordStore(tmp_path).set_current("suite", folders[:1])
    if text is not None:
        assert index.with_name("units.json.damaged-1").read_text() == text
    caplog.clear()
    assert len(RecordStore(tmp_path).read_suite("suite")[1]) == 2
    assert caplog.text == ""


@pytest.mark.parametrize("text", [*BROKEN_JSON, None], ids=range(len(BROKEN_JSON) + 1))
@pytest.mark.parametrize("source", ["the index", "its rows"])
def test_a_damaged_description_is_taken_from_elsewhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None, source: str
) -> None:
    store = RecordStore(tmp_path)
    folder = filled(store)
    store.complete_unit(folder)
    store.set_current("suite", [folder])
    if source == "its rows":
        index = tmp_path / "suite" / "units.json"
        index.write_text(json.dumps([["kits21|0|ball|t", str(folder.relative_to(index.parent))]]))  # as it was
    expected = json.loads((folder / "unit.json").read_text())
    path = folder / "unit.json"
    path.unlink() if text is None else path.write_text(text)
    rows, (unit,) = RecordStore(tmp_path).read_suite("suite")
    assert {key: unit[key] for key in expected} == expected
    assert len(rows) == 6
    assert str(path) in caplog.text
    describe(RecordStore(tmp_path))  # the next run
    assert json.loads(path.read_text())["unit"] == "a"
    if text is not None:
        assert path.with_name("unit.json.damaged-1").read_text() == text


def test_rows_of_a_unit_that_nothing_describes_are_not_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from benchmarks.results.leaderboard import check_complete

    store = RecordStore(tmp_path)
    folder = describe(store)
    for case in CASES:
        write_as_before(folder, case, rows_of(case))
    index = tmp_path / "suite" / "units.json"
    index.write_text(json.dumps([["kits21|0|ball|t", str(folder.relative_to(index.parent))]]))
    (folder / "unit.json").unlink()
    rows, units = RecordStore(tmp_path).read_suite("suite")
    assert (len(rows), units) == (6, [])
    assert f"{folder / 'unit.json'}: cannot be read" in caplog.text
    with pytest.raises(UserError, match="6 rows of no known unit, such as ball"):
        check_complete(rows, units)


def test_a_unit_that_is_gone_is_missing_and_not_forgotten(tmp_path: Path) -> None:
    from benchmarks.results.leaderboard import check_complete

    store = RecordStore(tmp_path)
    folders = [filled(store), filled(store, method="region-growing")]
    store.set_current("suite", folders)
    shutil.rmtree(folders[1])
    rows, units = RecordStore(tmp_path).read_suite("suite")
    assert [unit["method"] for unit in units] == ["ball", "region-growing"]
    with pytest.raises(UserError, match="6 rows are missing"):
        check_complete(rows, units)
    (tmp_path / "suite" / "units.json").write_text(json.dumps({"k": "kits21/ball-a", "l": "kits21/region-growing-a"}))
    with pytest.raises(
        UserError, match=r"region-growing-a: listed in units\.json, and neither rows nor unit\.json are left"
    ):
        RecordStore(tmp_path).read_suite("suite")


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden", "Fälle 1", "volume-0", "x" * 300, "nul\0", "."])
def test_any_name_stays_inside_the_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "records"
    store = RecordStore(root)
    folder = store.unit_folder(name, name, name, "a")
    store.begin_unit(folder, description(method=name, cases=[name], dataset=name))
    store.write_case(folder, name, rows_of(name, method=name, dataset=name))
    store.complete_unit(folder)
    store.set_current(name, [folder])
    assert [path.name for path in tmp_path.iterdir()] == ["records"]
    rows, (unit,) = RecordStore(root).read_suite(name)
    assert (unit["method"], set(rows["case"])) == (name, {name})


def test_an_unknown_suite_says_which_there_are(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.set_current("suite", [describe(store)])
    with pytest.raises(UserError, match="have: suite"):
        store.read_suite("other")


# -- earlier versions --


def old_rows() -> pd.DataFrame:
    """As schema 1 wrote them: a measurement, a case without the target, and a method that failed."""
    return pd.DataFrame(
        {
            "schema_version": 1,
            "dataset": "kits21",
            "method": "ball",
            "target": "t",
            "protocol": "none",
            "step": 1,
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
    folder = describe(store, protocols=[{"kind": "none"}])
    for row_ in old_rows().to_dict("records"):
        write_as_before(folder, str(row_["case"]), [{str(key): value for key, value in row_.items()}])
    for _ in range(2):
        rows = RecordStore(tmp_path).read_unit(folder).set_index("case")
        assert rows["status"].to_dict() == {"one": "ok", "two": "no-target", "three": "failed"}
        assert rows.loc["two", ["dice", "nsd@1mm", "hd95_mm"]].isna().all()
        assert rows.loc["three", ["dice", "hd95_mm"]].tolist() == [0.0, 500.0]
        assert rows.loc["two", "diagonal_mm"] == 500.0
        assert rows[list(SPACINGS)].isna().all(axis=None)
        assert set(rows["prompt_origin"]) == {"simulated"}
        store.complete_unit(folder)
    assert not list(folder.glob("*.parquet"))


def test_records_of_a_later_schema_are_refused_in_one_line_and_not_taken_for_damaged(tmp_path: Path) -> None:
    later = old_rows().assign(schema_version=SCHEMA_VERSION + 1)
    message = rf"records of schema {SCHEMA_VERSION + 1}, this tags-bench reads up to"
    with pytest.raises(UserError, match=f"here: {message}"):
        upgraded(later, "here")
    store = RecordStore(tmp_path)
    folder = describe(store)
    later.iloc[:1].to_parquet(folder / "one.parquet", index=False)
    with pytest.raises(UserError, match=message):
        store.finished(folder, CASES)
    assert (folder / "one.parquet").exists()


def test_records_of_today_are_left_as_they_are() -> None:
    rows = old_rows().assign(schema_version=SCHEMA_VERSION)
    assert upgraded(rows, "here") is rows


def test_a_line_is_on_the_disk_before_the_next_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(handle), fsync(handle)))
    store = RecordStore(tmp_path)
    folder = describe(store)
    for case in CASES:
        synced.clear()
        store.write_case(folder, case, rows_of(case))
        assert synced
