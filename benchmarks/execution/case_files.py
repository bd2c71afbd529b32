"""Where the files of evaluated cases lie, and on what machine a suite was run: noted by a run, for the report.

Records hold no path, so that they are the same everywhere; these notes lie beside the data of the output folder, and
losing them costs the pictures of a report and nothing else. What lies inside the output folder is noted relative to
it, so that a folder that was moved or copied still finds its phantoms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.environment import manifest
from benchmarks.common.errors import UserError
from benchmarks.common.files import read_json, safe_name, write_json
from benchmarks.execution.datasets import Folders
from benchmarks.execution.plan import Unit

WHEN = "created_at"
KEPT_MACHINES = 20  # notes of the machines of one suite; the newest stay


@dataclass(frozen=True)
class CaseFiles:
    """The two files of a case."""

    image: Path
    label: Path


def note_case_files(units: Iterable[Unit], folders: Folders) -> None:
    """Write down where the cases of these units lie, a file for each set of cases."""
    noted: dict[str, dict[str, list[str]]] = {}
    for unit in units:
        noted.setdefault(
            unit.cases_digest,
            {case.case_id: [_noted(case.image, folders), _noted(case.label, folders)] for case in unit.cases},
        )
    for digest, files in noted.items():
        write_json(_note(folders, digest), files)


def case_files(unit: Mapping[str, Any], folders: Folders) -> dict[str, CaseFiles]:
    """Case id → files of a unit, as its run noted them; empty if it noted none."""
    path = _note(folders, str(unit.get("cases_digest", "")))
    if not path.is_file():
        return {}
    content = read_json(path)
    try:
        return {str(case): CaseFiles(*(folders.out / one for one in pair)) for case, pair in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: does not say where cases lie; delete it, and run the suite again") from error


def note_machine(suite: str, folders: Folders) -> None:
    """Add this machine and its software to those that the suite was run with, unless the last one was the same."""
    path = _machines(suite, folders)
    known = machines_of(suite, folders)
    current = manifest() | {"memory_gb": _memory_gb(), "processor": _processor(), "gpus": _gpus()}
    if not known or {**known[-1], WHEN: ""} != {**current, WHEN: ""}:
        write_json(path, [*known, current][-KEPT_MACHINES:])


def machines_of(suite: str, folders: Folders) -> list[dict[str, Any]]:
    """What `note_machine` has noted, the oldest first; a note that is damaged counts as none."""
    path = _machines(suite, folders)
    try:
        content = read_json(path) if path.is_file() else []
    except UserError:
        return []
    return [one for one in content if isinstance(one, dict)] if isinstance(content, list) else []


def _note(folders: Folders, digest: str) -> Path:
    return folders.data / "cases" / f"{safe_name(digest)}.json"


def _machines(suite: str, folders: Folders) -> Path:
    return folders.data / "machines" / f"{safe_name(suite)}.json"


def _noted(path: Path, folders: Folders) -> str:
    """Relative to the output folder, if it lies inside; an absolute path joined to another one stays itself."""
    absolute, out = path.absolute(), folders.out.absolute()
    return str(absolute.relative_to(out) if absolute.is_relative_to(out) else absolute)


def _memory_gb() -> int:
    import psutil

    return round(psutil.virtual_memory().total / 1e9)


def _processor() -> str:
    """The name of the processor as Linux tells it; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else ""


def _gpus() -> list[str]:
    """Names of the GPUs as their driver tells them, without loading torch."""
    found = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for one in found for line in one.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
