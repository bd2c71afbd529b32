"""First prompts as files that people read and write: a bank taken apart into JSON, and put together from JSON.

A folder has one file for each case and target, `<case>.<target>.json`, in the schema of docs/protocols.md (world mm);
where each lesion is a task of its own, one for each lesion, `<case>.<target>.lesion-1.json` the largest. What is
imported takes the place of the simulated user's first prompts in the next run of the suite, for every method, and
every row and table says that people gave them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import safe_name, write_json
from benchmarks.common.output import writable_folder
from benchmarks.data.dataset import Dataset
from benchmarks.data.layouts.layout import visible
from benchmarks.data.volume import read_orientation
from benchmarks.prompting.bank import (
    BankItem,
    PromptBank,
    bank_items,
    entry_without_target,
    stored_grid,
    stored_prompts,
)
from benchmarks.prompting.components import split_lesions
from benchmarks.prompting.formats import read_prompt_file
from benchmarks.prompting.prompts import GIVEN, NO_TARGET, SIMULATED, PromptKind, Prompts
from benchmarks.prompting.protocol import Protocol


def export_prompts(bank: PromptBank, folder: Path) -> list[Path]:
    """Write every prompt of a bank as a file of its own; cases without the target have none.

    Raises:
        UserError: the folder holds other files already, or cannot be written.
    """
    if any(writable_folder(folder).iterdir()):
        raise UserError(f"{folder}: not empty; give a new folder")
    written = []
    for case_id, targets in bank.cases.items():
        for target, entry in targets.items():
            for name, stored in _files_of(case_id, target, entry):
                write_json(folder / name, stored["prompts"])
                written.append(folder / name)
    return written


def import_prompts(folder: Path, dataset: Dataset, part: str, fold: int, protocol: Protocol, seed: int) -> PromptBank:
    """A bank from the files of a folder, for one part of a fold; reads labels to know which case has the target.

    Raises:
        UserError: a file is missing, or belongs to no case with the target; is no JSON; a prompt lies outside the
            volume, is of a kind that the protocol does not give, or there are more clicks than it gives.
    """
    if not protocol.looks_at_label:
        raise UserError(f"protocol '{protocol.name}' has no prompts to give by hand")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    left = _files_in(folder)
    cases: dict[str, dict[str, Any]] = {}
    for item in bank_items(dataset, part, fold):
        entry = entry_without_target(item.grid)
        if item.mask.any():
            orientation = read_orientation(dataset.cases[item.case_id].image)
            entry = _entry_from_files(item, protocol, left, folder, orientation)
        cases.setdefault(item.case_id, {})[item.target.name] = entry
    if left:
        raise UserError(
            f"{next(iter(left.values()))}: belongs to no case of {dataset.name} ({part}, fold {fold}) that has the "
            f"target ({len(left)} such files)"
        )
    return PromptBank(dataset.name, f"{part}-{fold}", protocol, seed, cases, GIVEN)


def save_given(bank: PromptBank, path: Path, replace: bool = False) -> None:
    """Put a bank where a run finds it. Simulated prompts give way, since they can be made again any time.

    Raises:
        UserError: other prompts that people gave lie there, and `replace` is not set.
    """
    if path.is_file() and not replace:
        there = PromptBank.load(path)
        if there.origin != SIMULATED and there.digest != bank.digest:
            raise UserError(f"{path}: other prompts that were given by hand lie there; export them, then replace them")
    bank.save(path)


def prompt_rows(bank: PromptBank, case_id: str | None = None) -> list[dict[str, Any]]:
    """One row for each prompt of a bank, or of one case: case, target, lesion, kind, world mm and voxel.

    Raises:
        UserError: the bank does not know the case; the nearest is offered.
    """
    if case_id is not None and case_id not in bank.cases:
        raise UserError(f"the prompt bank has no case '{case_id}'; {nearest_name(case_id, bank.cases)}")
    rows: list[dict[str, Any]] = []
    for case, targets in bank.cases.items():
        for target, entry in targets.items() if case_id in (None, case) else ():
            if entry.get("no_target"):
                rows.append({"case": case, "target": target, "lesion": "", "prompt": NO_TARGET, "mm": "", "voxel": ""})
            for lesion, stored in _prompts_of(entry):
                same = {"case": case, "target": target, "lesion": lesion}
                rows += [same | line for line in _lines(stored)]
    return rows


def _lines(stored: dict[str, Any]) -> Iterable[dict[str, Any]]:
    prompts, voxels = stored["prompts"], stored["voxels"]
    for place, click in enumerate(prompts.get("clicks", ())):
        sign = "click +" if click.get("positive", True) else "click -"
        yield {"prompt": sign, "mm": _listed(click["mm"]), "voxel": _listed(voxels["clicks"][place])}
    if "box" in prompts:
        ends = (_listed(prompts["box"][end]) for end in ("from_mm", "to_mm"))
        corners = (_listed(voxels["box"][end]) for end in ("low", "high"))
        yield {"prompt": "box", "mm": " to ".join(ends), "voxel": " to ".join(corners)}
    if "mask" in prompts:
        yield {"prompt": "mask", "mm": "", "voxel": f"{sum(prompts['mask']['runs'][1::2])} voxels"}
    if "text" in prompts:
        yield {"prompt": "text", "mm": "", "voxel": prompts["text"]}


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _prompts_of(entry: Any) -> list[tuple[int | str, dict[str, Any]]]:
    """Lesion (1 the largest; empty for the whole target) and the stored prompts, for each session of an entry."""
    if entry.get("no_target"):
        return []
    return list(enumerate(entry["lesions"], start=1)) if "lesions" in entry else [("", entry)]


def _files_of(case_id: str, target: str, entry: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(_name(case_id, target, lesion), stored) for lesion, stored in _prompts_of(entry)]


def _name(case_id: str, target: str, lesion: int | str) -> str:
    name = f"{case_id}.{target}" if lesion == "" else f"{case_id}.{target}.lesion-{lesion}"
    return f"{safe_name(name)}.json"


def _files_in(folder: Path) -> dict[str, Path]:
    """The prompt files of a folder by the name that they have in an export; Slicer's end in .mrk.json."""
    files: dict[str, Path] = {}
    for path in (path for path in visible(folder) if path.suffix == ".json"):
        name = path.name.removesuffix(".mrk.json") + ".json" if path.name.endswith(".mrk.json") else path.name
        if name in files:
            raise UserError(f"{path}: beside {files[name].name}; keep one of them")
        files[name] = path
    return files


def _entry_from_files(
    item: BankItem, protocol: Protocol, left: dict[str, Path], folder: Path, orientation: NDArray[np.float64]
) -> dict[str, Any]:
    """The entry of a case from its files, which are taken off the list."""
    lesions: list[int | str] = [""]
    if protocol.per == "each-lesion":
        lesions = list(range(1, len(split_lesions(item.mask)) + 1))
    sessions = []
    for lesion in lesions:
        name = _name(item.case_id, item.target.name, lesion)
        if name not in left:
            raise UserError(f"{folder}: no file '{name}'; every case with the target needs its prompts")
        sessions.append(stored_prompts(_read(left.pop(name), item, protocol, orientation), item.grid))
    grid = stored_grid(item.grid)
    return {**grid, "lesions": sessions} if protocol.per == "each-lesion" else grid | sessions[0]


def _read(path: Path, item: BankItem, protocol: Protocol, orientation: NDArray[np.float64]) -> Prompts:
    prompts = read_prompt_file(path, item.grid, orientation)
    due = protocol.first_needs
    if prompts.kinds != due:
        found, wanted = (", ".join(sorted(kinds)) for kinds in (prompts.kinds, due))
        raise UserError(f"{path}: gives {found}; protocol '{protocol.name}' gives {wanted}")
    most = protocol.clicks if protocol.per != "lesion" else protocol.clicks * len(split_lesions(item.mask))
    if PromptKind.CLICK in due and len(prompts.clicks) > most:
        raise UserError(f"{path}: {len(prompts.clicks)} clicks; protocol '{protocol.name}' gives at most {most} there")
    return prompts
