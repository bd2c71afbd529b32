"""Many scans of one method from a table: a row of a CSV file is one scan with its prompts and its mask."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.common.errors import (
    MachineFault,
    UserError,
    is_fault_of_files,
    is_out_of_memory,
    nearest_name,
    one_line,
    shorten,
)
from benchmarks.common.paths import user_path
from benchmarks.execution.predict import Contestant, Order, predict_scan
from benchmarks.prompting.given import GivenBox, GivenPrompts, Point, parse_box, parse_point

NEEDED = ("scan", "mask")
CLICKS = ("click", "click_mm", "negative_click", "negative_click_mm")
COLUMNS = (*NEEDED, *CLICKS, "box", "box_mm", "space", "prompts", "text", "organ", "lesion", "modality", "preview")

OK, FAILED, THERE = "ok", "failed", "was there"


@dataclass(frozen=True)
class TableRow:
    """A line of the table: what to segment, and in which words."""

    line: int
    order: Order
    organ: str = ""
    lesion: str = ""

    def with_modality(self, modality: str | None) -> TableRow:
        """The row with a modality, unless it names one itself."""
        return replace(self, order=replace(self.order, modality=self.order.modality or modality))


def read_table(path: Path) -> list[TableRow]:
    """The rows of a CSV file; paths are relative to its folder, several clicks in a field are separated by `;`.

    Raises:
        UserError: unreadable, an unknown column, a field of another form, or two rows that write one file.
    """
    path = user_path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [str(name).strip() for name in reader.fieldnames or []]
            for name in columns:
                if name not in COLUMNS:
                    raise UserError(f"{path}: unknown column '{shorten(name)}'; {nearest_name(name, COLUMNS)}")
            for name in NEEDED:
                if name not in columns:
                    raise UserError(f"{path}: no column '{name}'; a table needs scan and mask")
            reader.fieldnames = columns
            rows = [_row(path, number, entry) for number, entry in enumerate(reader, start=2)]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not readable as a CSV table ({shorten(str(error))})") from error
    if not rows:
        raise UserError(f"{path}: no row in it")
    _check_outputs(path, rows)
    return rows


def _row(table: Path, line: int, entry: Mapping[Any, Any]) -> TableRow:
    where = f"{table}, line {line}"
    if None in entry:
        raise UserError(f"{where}: more fields than columns; put fields that hold commas in quotes")
    values = {name: (entry.get(name) or "").strip() for name in COLUMNS}
    for name in NEEDED:
        if not values[name]:
            raise UserError(f"{where}: {name} is empty")

    def place(name: str) -> Path | None:
        return table.parent / user_path(values[name]) if values[name] else None

    points = []
    for column in CLICKS:
        unit, positive = ("mm" if column.endswith("_mm") else "voxel"), not column.startswith("negative")
        for words in filter(None, (part.strip() for part in values[column].split(";"))):
            points.append(Point(parse_point(words, f"{where}, {column}"), unit, positive))  # type: ignore[arg-type]
    given = GivenPrompts(
        place("prompts"), tuple(points), _box(values, where), values["text"] or None, values["space"].upper() or "RAS"
    )
    scan, mask = place("scan"), place("mask")
    assert scan is not None
    assert mask is not None
    order = Order(scan, mask, given, place("preview"), values["modality"] or None)
    return TableRow(line, order, values["organ"], values["lesion"])


def _box(values: Mapping[str, str], where: str) -> GivenBox | None:
    if values["box"] and values["box_mm"]:
        raise UserError(f"{where}: give one of box and box_mm")
    if values["box"]:
        return GivenBox(parse_box(values["box"], f"{where}, box"))
    return GivenBox(parse_box(values["box_mm"], f"{where}, box_mm"), "mm") if values["box_mm"] else None


def _check_outputs(table: Path, rows: Sequence[TableRow]) -> None:
    """No row may write what another one reads or writes."""
    inputs = {file.resolve() for row in rows for file in (row.order.scan, row.order.prompts.file) if file is not None}
    written: dict[Path, int] = {table.resolve(): 1}
    for row in rows:
        for file in (row.order.mask, row.order.preview):
            if file is None:
                continue
            if file.resolve() in inputs:
                raise UserError(f"{table}, line {row.line}: {file} is read by a row, and would be replaced")
            if written.setdefault(file.resolve(), row.line) != row.line or file == table:
                other = written[file.resolve()]
                raise UserError(f"{table}, line {row.line}: {file} is written by line {other} already")


def predict_rows(
    rows: Sequence[TableRow],
    contestant: Contestant,
    overwrite: bool = False,
    progress: Callable[[dict[str, Any]], Any] | None = None,
) -> list[dict[str, Any]]:
    """Segment the scan of every row; a row that fails says why, and stops no other.

    Args:
        overwrite: make masks again that are there; by default they are left as they are.
        progress: called with every row when it is done.

    Returns:
        for each row line, scan, mask, status ("ok", "failed" or "was there"), reason, voxels, millilitres, seconds.

    Raises:
        MachineFault, OSError: the machine, and no row, is at fault.
    """
    results = []
    for row in rows:
        result: dict[str, Any] = {"line": row.line, "scan": str(row.order.scan), "mask": str(row.order.mask)}
        result |= {"status": OK, "reason": "", "voxels": None, "millilitres": None, "seconds": None}
        if row.order.mask.is_file() and not overwrite:
            result["status"] = THERE
        else:
            result |= _one(replace(row, order=replace(row.order, overwrite=overwrite)), contestant)
        results.append(result)
        if progress is not None:
            progress(result)
    return results


def _one(row: TableRow, contestant: Contestant) -> dict[str, Any]:
    try:
        figures = predict_scan(row.order, contestant.looking_for(row.organ, row.lesion))
    except UserError as error:
        if is_fault_of_files(error):
            raise
        return {"status": FAILED, "reason": str(error)}
    except Exception as error:
        if isinstance(error, MachineFault) or is_out_of_memory(error) or is_fault_of_files(error):
            raise
        return {"status": FAILED, "reason": one_line(error)}
    seconds = figures["seconds_open"] + figures["seconds_segment"]
    return {key: figures[key] for key in ("voxels", "millilitres")} | {
        "seconds": seconds,
        "reason": "; ".join(figures["notes"]),
    }
