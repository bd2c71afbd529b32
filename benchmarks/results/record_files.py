"""The files that hold the rows of one unit: written whole, checked when read, and set aside when damaged.

    <unit>/rows/<host>-<pid>.jsonl   while the unit runs: one line for each case, on the disk before the next one
    <unit>/rows/unit.parquet         the finished unit, in one file
    <unit>/<case>.parquet            as earlier versions wrote it: a file for each case

A line begins with a hash of itself; the Parquet file carries CRCs of its pages and a hash of its values. Every
line names the generation of the Parquet file that it was written beside. The next Parquet file has the next
generation and holds all lines of the one before, so a line that was not removed in time counts no more.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pandas as pd

from benchmarks.common.errors import UserError
from benchmarks.common.files import atomically, flush, safe_name
from benchmarks.results.record_rows import checksum, faults_of, rows_due, upgraded

WHOLE = "unit.parquet"
_CHECKSUM, _GENERATION, _UNIT = b"tags-bench.checksum", b"tags-bench.generation", b"tags-bench.unit"
_LINE_HASH = 16  # hexadecimal digits


class Fault(NamedTuple):
    """Records that cannot be believed: the file, the case if it is only one of several, and why."""

    path: Path
    case: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}{f', case {self.case}' * bool(self.case)}: {self.reason}"


@dataclass(frozen=True)
class RowFiles:
    """Where the rows of one unit lie.

    Attributes:
        place: folder of the lines and of the Parquet file.
        earlier: folder of files for each case, or None.
    """

    place: Path
    earlier: Path | None = None

    @property
    def whole(self) -> Path:
        return self.place / WHOLE

    def lines(self) -> list[Path]:
        return sorted(self.place.glob("*.jsonl"))

    def cases(self) -> list[Path]:
        """Files for each case, of earlier versions."""
        found = self.earlier.glob("*.parquet") if self.earlier is not None else ()
        return sorted(path for path in found if not path.name.startswith("."))

    def marks(self) -> tuple[tuple[str, int, int], ...]:
        """What changes when a file does."""
        marks = []
        for path in (self.whole, *self.lines(), *self.cases()):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            marks.append((str(path), status.st_size, status.st_mtime_ns))
        return tuple(marks)


@dataclass(frozen=True)
class Contents:
    """What the files of a unit hold.

    Attributes:
        rows: of all cases that can be believed, the newest of each; in the order of the names of their files.
        faults: what cannot be believed.
        generation: the highest that a file or a line names; 0 without any.
        unit: the description that the Parquet file carries; empty without one.
    """

    rows: pd.DataFrame
    faults: tuple[Fault, ...] = ()
    generation: int = 0
    unit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cases(self) -> set[str]:
        return set(self.rows["case"]) if len(self.rows) else set()


class _Damaged(Exception):
    """A file is not what was written."""


def read_contents(files: RowFiles, unit: Mapping[str, Any]) -> Contents:
    """Read and check all rows of a unit.

    A writer may put lines into the one file meanwhile, after that was looked for: then they are read there.

    Args:
        unit: its description, with which the rows must agree; an empty one is not compared.

    Raises:
        UserError: a file cannot be read at all (no permission, a broken disk): that says nothing about its rows.
    """
    while True:
        loose = [*files.lines(), *files.cases()]
        try:
            contents = _read_once(files, unit)
        except UserError:
            if all(path.exists() for path in loose):
                raise
            continue
        if all(path.exists() for path in loose):
            return contents


def _read_once(files: RowFiles, unit: Mapping[str, Any]) -> Contents:
    due = rows_due(unit)
    frames: list[tuple[int, pd.DataFrame]] = []
    faults: list[Fault] = []
    for path in files.cases():
        rows, reason = _case_file(path, due, unit)
        if reason:
            faults.append(Fault(path, "", reason))
        else:
            frames.append((0, rows))
    generation = 0
    stated_unit: dict[str, Any] = {}
    if files.whole.exists():
        try:
            rows, metadata = _read_parquet(files.whole)
            generation, stated_unit = _stated(rows, metadata)
        except _Damaged as error:
            faults.append(Fault(files.whole, "", str(error)))
        else:
            rows, wrong = _believed(rows, files.whole, due, unit)
            faults += [Fault(files.whole, case, reason) for case, reason in wrong.items()]
            frames.append((1, rows))
    lines, from_lines = _read_lines(files.lines(), due, unit, since=generation)
    faults += from_lines
    frames.append((2, lines.rows))
    return Contents(_newest(frames), tuple(faults), max(generation, lines.generation), stated_unit)


def _believed(
    rows: pd.DataFrame, path: Path, due: int | None, unit: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows, in the form of this schema, of the cases that can be true; and what is wrong with the others."""
    rows = upgraded(rows, str(path))
    wrong = faults_of(rows, due, unit)
    return (rows[~rows["case"].astype(str).isin(wrong.keys())] if wrong and "case" in rows else rows), wrong


def _newest(frames: Iterable[tuple[int, pd.DataFrame]]) -> pd.DataFrame:
    """Of every case the rows of the highest place, cases in the order of their files' names."""
    placed = [rows.assign(_place=place) for place, rows in frames if len(rows)]
    if not placed:
        return pd.DataFrame()
    rows = pd.concat(placed, ignore_index=True) if len(placed) > 1 else placed[0]
    rows = rows[rows["_place"] == rows.groupby("case", observed=True)["_place"].transform("max")]
    names = {case: safe_name(str(case)) for case in rows["case"].unique()}
    order = rows["case"].map(names).sort_values(kind="stable").index
    return rows.drop(columns="_place").loc[order].reset_index(drop=True)


# -- Parquet --


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from error


def _read_parquet(path: Path) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _read_bytes(path)
    try:
        table = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
        return table.to_pandas(), dict(table.schema.metadata or {})
    except MemoryError:
        raise
    except Exception as error:  # a broken Parquet file fails in as many ways as there are in Arrow
        raise _Damaged(f"no readable Parquet file ({' '.join(str(error).split())[:80]})") from error


def _stated(rows: pd.DataFrame, metadata: Mapping[bytes, bytes]) -> tuple[int, dict[str, Any]]:
    """Generation and description that the file of a finished unit states, once its hash agrees."""
    try:
        stated = metadata[_CHECKSUM].decode()
        generation, unit = int(metadata[_GENERATION]), json.loads(metadata[_UNIT])
    except (KeyError, ValueError, RecursionError) as error:
        raise _Damaged("not as this tags-bench wrote it") from error
    if stated != checksum(rows):
        raise _Damaged("changed after it was written (its hash differs)")
    return generation, unit


def _case_file(path: Path, due: int | None, unit: Mapping[str, Any]) -> tuple[pd.DataFrame, str]:
    """The rows of one file for a case, as earlier versions wrote it, and what is wrong with it."""
    nothing = pd.DataFrame()
    try:
        rows, _ = _read_parquet(path)
    except _Damaged as error:
        return nothing, str(error)
    if rows.empty or "case" not in rows:
        return nothing, "no rows of a case"
    case = str(rows["case"].iloc[0])
    if path.stem not in (safe_name(case), _earlier_name(case)) or rows["case"].nunique() > 1:
        return nothing, f"not the file of its case '{case}'"
    rows, wrong = _believed(rows, path, due, unit)
    return rows, next(iter(wrong.values()), "")


def _earlier_name(text: str) -> str:
    name = quote(text, safe=" +@=,~()")
    return name.replace(".", "%2E") if name.startswith(".") else name


def write_whole(files: RowFiles, rows: pd.DataFrame, generation: int, unit: Mapping[str, Any]) -> None:
    """Write the file of a finished unit, and read it again before it takes its place.

    Raises:
        OSError: the disk gave back something else than was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(rows, preserve_index=False)
    own_metadata = {
        _CHECKSUM: checksum(table.to_pandas()).encode(),
        _GENERATION: str(generation).encode(),
        _UNIT: json.dumps(unit, sort_keys=True, default=_plain).encode(),
    }
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **own_metadata})
    with atomically(files.whole) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)
        try:
            _stated(*_read_parquet(partial))
        except _Damaged as error:
            raise OSError(f"{files.whole}: {error} when it was read back") from error


# -- lines --


def append_line(files: RowFiles, case_id: str, rows: Sequence[Mapping[str, Any]], generation: int) -> Path:
    """Add the rows of a case; they are on the disk when this returns.

    Raises:
        TypeError: a value that no record can hold.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    content = {
        "case": case_id,
        "generation": generation,
        "at": time.time_ns(),
        "columns": columns,
        "rows": [[row.get(column) for column in columns] for row in rows],
    }
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"), default=_plain)
    path = files.place / f"{safe_name(socket.gethostname())}-{os.getpid()}.jsonl"
    new = not path.exists()
    files.place.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if file.tell() and not _ends_a_line(path):
            file.write(b"\n")  # after half a line of a writer that was killed
        file.write(f"{_line_hash(text)} {text}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    if new:
        flush(files.place)
        flush(files.place.parent)
    return path


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _line_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_LINE_HASH]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no type that a record can hold")


def _read_lines(
    paths: Sequence[Path], due: int | None, unit: Mapping[str, Any], since: int
) -> tuple[Contents, list[Fault]]:
    """The rows of all lines of a generation and later ones, the newest of each case."""
    faults: list[Fault] = []
    generation = 0
    newest: dict[str, tuple[tuple[int, int], dict[str, Any], Path]] = {}
    for path in paths:
        *lines, tail = _read_bytes(path).split(b"\n")
        contents = [_line(line) for line in lines if line]
        broken = sum(content is None for content in contents)
        if broken:
            faults.append(Fault(path, "", f"{broken} of its lines not as they were written"))
        last = _line(tail)  # else a writer was killed in the middle of it: its case is simply not there
        for content in (*contents, last):
            if content is None or content["generation"] < since:
                continue
            generation = max(generation, content["generation"])
            age = (content["generation"], content["at"])
            if content["case"] not in newest or newest[content["case"]][0] < age:
                newest[content["case"]] = (age, content, path)
    tables: dict[tuple[str, ...], list[list[Any]]] = {}
    for _, content, _ in newest.values():
        tables.setdefault(tuple(content["columns"]), []).extend(content["rows"])
    if not tables:
        return Contents(pd.DataFrame()), faults
    frames = [pd.DataFrame(rows, columns=list(columns)) for columns, rows in tables.items()]
    together = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frames[0]
    rows, wrong = _believed(together, paths[0], due, unit)
    faults += [Fault(newest[case][2], case, reason) for case, reason in wrong.items() if case in newest]
    return Contents(rows, generation=generation), faults


def _line(text: bytes) -> dict[str, Any] | None:
    """What a line holds; None if it is not as it was written."""
    stated, _, content = text.partition(b" ")
    if hashlib.sha256(content).hexdigest()[:_LINE_HASH].encode() != stated:
        return None
    return dict(json.loads(content))


# -- what is to be kept, and what is not --


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing reads it and nothing is lost; returns the new name."""
    aside = _name_aside(path)
    os.rename(path, aside)
    return aside


def kept_copy(path: Path) -> Path:
    """A second name for a damaged file that is about to be replaced."""
    aside = _name_aside(path)
    shutil.copy2(path, aside)
    return aside


def _name_aside(path: Path) -> Path:
    for number in range(1, 10_000):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not aside.exists():
            return aside
    raise UserError(f"{path}: damaged for the ten-thousandth time; look at the disk")


def compact(files: RowFiles, contents: Contents, unit: Mapping[str, Any], target: RowFiles | None = None) -> None:
    """Put all rows into one file, in the place of `target` (by default the same), and set damaged ones aside.

    Nothing is removed before the new file is whole.
    """
    target = target or files
    damaged = {fault.path for fault in contents.faults}
    absorbed = {path for one in (files, target) for path in (*one.lines(), *one.cases())}
    for path in {files.whole, target.whole} & damaged:
        kept_copy(path)
    generation = max(contents.generation, generation_of(target)) + 1
    if len(contents.rows):
        write_whole(target, contents.rows, generation, unit)
    elif files.whole in damaged:
        files.whole.unlink()  # its copy stays
    for path in sorted(absorbed):
        if path in damaged:
            set_aside(path)
        else:
            path.unlink(missing_ok=True)


def generation_of(files: RowFiles) -> int:
    """Of the file of the finished unit; 0 if there is none, or none that can be read."""
    if not files.whole.exists():
        return 0
    try:
        return _stated(*_read_parquet(files.whole))[0]
    except _Damaged:  # `read_contents` says so, and lines count from the beginning
        return 0
