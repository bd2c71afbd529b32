"""Many scans from a table: every row gets its mask or its reason, and nothing is written over."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from benchmarks.common.errors import UserError
from benchmarks.execution.predict import without_run
from benchmarks.execution.predict_table import TableRow, predict_rows, read_table
from benchmarks.prompting.given import GivenBox, GivenPrompts, Point


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for number in range(3):
        array = np.random.default_rng(number).integers(-900, 900, (20, 18, 10)).astype(np.int16)
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / f"scan_{number}.nii.gz")
    return tmp_path


def table(folder: Path, *lines: str, columns: str = "scan,mask,click") -> Path:
    path = folder / "cases.csv"
    path.write_text("\n".join([columns, *lines]), encoding="utf-8-sig")
    return path


def voxels(path: Path) -> int:
    return int(np.count_nonzero(nib.load(path).dataobj))


def test_every_column_is_read(scans: Path) -> None:
    columns = "scan,mask,click,click_mm,negative_click,negative_click_mm,space,text,organ,lesion,modality,preview"
    line = 'scan_0.nii.gz,out/a.nrrd,"1,2,3; 4,5,6","-1,2.5,3","7,8,9","0,0,0",lps,a tumour,liver,metastasis,MR,a.png'
    (row,) = read_table(table(scans, line, columns=columns))
    points = (
        Point((1, 2, 3)), Point((4, 5, 6)), Point((-1, 2.5, 3), "mm"), Point((7, 8, 9), "voxel", False),
        Point((0, 0, 0), "mm", False),
    )  # fmt: skip
    assert row.order.prompts == GivenPrompts(None, points, None, "a tumour", "LPS")
    assert (row.order.scan, row.order.mask) == (scans / "scan_0.nii.gz", scans / "out" / "a.nrrd")
    assert (row.order.preview, row.order.modality) == (scans / "a.png", "MR")
    assert (row.organ, row.lesion, row.line) == ("liver", "metastasis", 2)
    assert row.with_modality("PET").order.modality == "MR"
    columns = "scan,mask,box,box_mm,prompts"
    boxed, drawn = read_table(
        table(scans, 'a.nii,b.nii,"1,2,3,4,5,6",,p.json', 'a.nii,c.nii,,"0,0,0,1,1,1",', columns=columns)
    )
    assert boxed.order.prompts == GivenPrompts(scans / "p.json", (), GivenBox(((1, 2, 3), (4, 5, 6))))
    assert drawn.order.prompts.box == GivenBox(((0, 0, 0), (1, 1, 1)), "mm")
    assert drawn.with_modality("PET").order.modality == "PET"


def test_a_row_that_fails_stops_no_other_and_says_why(scans: Path) -> None:
    path = table(
        scans,
        'scan_0.nii.gz,a.nii.gz,"9,9,5"',
        'scan_1.nii.gz,b.nii.gz,"99,9,5"',
        'nowhere.nii.gz,c.nii.gz,"9,9,5"',
        'scan_2.nii.gz,d.nrrd,"0,0,0"',
    )
    seen: list[Any] = []
    rows = predict_rows(read_table(path), without_run("ball"), progress=seen.append)
    assert [row["status"] for row in rows] == ["ok", "failed", "failed", "ok"]
    assert "lies outside the scan" in rows[1]["reason"]
    assert "no such file" in rows[2]["reason"]
    assert rows[0]["voxels"] == voxels(scans / "a.nii.gz") > rows[3]["voxels"] > 0  # cut off at the corner
    assert rows[0]["millilitres"] == pytest.approx(rows[0]["voxels"] * 2 / 1000)
    assert seen == rows
    assert not (scans / "b.nii.gz").exists()


def test_what_is_there_is_left_and_made_again_only_when_asked(scans: Path) -> None:
    path = table(scans, 'scan_0.nii.gz,a.nii.gz,"9,9,5"')
    predict_rows(read_table(path), without_run("ball"))
    before = (scans / "a.nii.gz").stat().st_mtime_ns
    (row,) = predict_rows(read_table(path), without_run("ball"))
    assert (row["status"], row["voxels"]) == ("was there", None)
    assert (scans / "a.nii.gz").stat().st_mtime_ns == before
    (row,) = predict_rows(read_table(path), without_run("ball"), overwrite=True)
    assert row["status"] == "ok"
    assert (scans / "a.nii.gz").stat().st_mtime_ns > before
    path = table(scans, 'scan_0.nii.gz,scan_1.nii.gz,"9,9,5"')
    (row,) = predict_rows(read_table(path), without_run("ball"), overwrite=True)
    assert (row["status"], "is no mask of 0 and 1" in row["reason"]) == ("failed", True)


def test_a_full_disk_is_no_case_that_failed(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("benchmarks.data.mask_files.write_mask", full)
    rows = read_table(table(scans, 'scan_0.nii.gz,a.nii.gz,"9,9,5"', 'scan_1.nii.gz,b.nii.gz,"9,9,5"'))
    with pytest.raises(UserError, match=r"a\.nii\.gz: cannot be written .No space left"):
        predict_rows(rows, without_run("ball"))


def test_a_method_that_breaks_is_the_reason_of_its_row(scans: Path) -> None:
    contestant = without_run("mock-crash")
    (row,) = predict_rows([TableRow(2, read_table(table(scans, "scan_0.nii.gz,a.nii.gz,"))[0].order)], contestant)
    assert row["status"] == "failed"
    assert row["reason"]


@pytest.mark.parametrize(
    ("columns", "lines", "message"),
    [
        ("scan,mask,clik", ["a.nii,b.nii,1"], "unknown column 'clik'; did you mean 'click'"),
        ("scan,click", ["a.nii,1"], "no column 'mask'"),
        ("scan,mask", [], "no row in it"),
        ("scan,mask", ["a.nii,"], "line 2: mask is empty"),
        ("scan,mask,click", ['a.nii,b.nii,"1,2"'], "line 2, click 1,2: the form is X,Y,Z"),
        ("scan,mask,click", ["a.nii,b.nii,1,2,3"], "line 2: more fields than columns; put fields .* in quotes"),
        ("scan,mask,box,box_mm", ['a.nii,b.nii,"1,1,1,2,2,2","1,1,1,2,2,2"'], "line 2: give one of box and box_mm"),
        ("scan,mask", ["a.nii,b.nii", "c.nii,./b.nii"], "line 3: .*b.nii is written by line 2 already"),
        ("scan,mask", ["a.nii,c.nii", "c.nii,d.nii"], "line 2: .*c.nii is read by a row, and would be replaced"),
        ("scan,mask,preview", ["a.nii,b.nii,x.png", "c.nii,d.nii,x.png"], "line 3: .*x.png is written by line 2"),
        ("scan,mask", ["a.nii,cases.csv"], "line 2: .*cases.csv is written by line 1"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(scans: Path, columns: str, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_table(table(scans, *lines, columns=columns))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not readable as a CSV table"):
        read_table(scans / "nowhere.csv")
