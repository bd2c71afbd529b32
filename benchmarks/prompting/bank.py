"""Frozen prompt banks: the first prompts of every case, made once, hashed, and replayed to every method.

A bank belongs to one (dataset, split, protocol, seed). It is plain JSON: anybody can read which click a case
got, check the SHA-256, and replay it without the label. Corrective clicks depend on what a method predicts
and cannot be frozen; they are seeded per (case, target, lesion, round) by `benchmarks.prompting.simulated_user`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import safe_name, write_json
from benchmarks.common.identity import digest
from benchmarks.data.dataset import Dataset, target_mask
from benchmarks.data.target import Target
from benchmarks.data.volume import BoolArray, read_grid, read_label, same_grid, voxel_size
from benchmarks.prompting.prompts import SIMULATED, Grid, Prompts, from_json, to_json
from benchmarks.prompting.protocol import PROTOCOL_VERSION, Protocol
from benchmarks.prompting.simulated_user import NoTarget
from benchmarks.prompting.tasks import tasks_of

BANK_VERSION = 1

_KEYS = frozenset({"version", "protocol_version", "dataset", "split", "protocol", "seed", "cases", "sha256"})
_OPTIONAL_KEYS = frozenset({"origin"})


@dataclass(frozen=True)
class StoredGrid:
    """Shape and affine of a volume that is not at hand."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        return voxel_size(self.affine)


@dataclass(frozen=True)
class BankItem:
    """What a bank needs to know of one target of one case: its mask (x, y, z) and the grid of the volume."""

    case_id: str
    target: Target
    mask: BoolArray
    grid: Grid


@dataclass(frozen=True)
class PromptBank:
    """First-round prompts of a split.

    Attributes:
        dataset, split, protocol, seed: what the prompts were made for; `split` names the part and the fold,
            such as "test-0".
        cases: case id → target name → {"grid", "voxels", "prompts"}; or {"grid", "lesions"}, a list of
            {"voxels", "prompts"}, if each lesion is a task of its own; or {"grid", "no_target": true}.
        origin: "simulated", or "given": people made the prompts, see `benchmarks.prompting.by_hand`.
    """

    dataset: str
    split: str
    protocol: Protocol
    seed: int
    cases: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(repr=False)
    origin: str = SIMULATED

    @classmethod
    def build(cls, dataset: str, split: str, protocol: Protocol, seed: int, items: Iterable[BankItem]) -> PromptBank:
        """Make the first prompts of every item; the same as a `SimulatedUser` gives on the spot."""
        cases: dict[str, dict[str, Any]] = {}
        for item in items:
            seed_parts = (seed, dataset, item.case_id, item.target.name)
            cases.setdefault(item.case_id, {})[item.target.name] = _entry(protocol, seed_parts, item)
        return cls(dataset, split, protocol, seed, cases)

    @classmethod
    def of_dataset(cls, dataset: Dataset, part: str, fold: int, protocol: Protocol, seed: int) -> PromptBank:
        """The bank of one part ("train", "validation" or "test") of a fold, all targets; reads labels only.

        Raises:
            UserError: a label is unusable or lies on another grid than its image.
        """
        return cls.build(dataset.name, f"{part}-{fold}", protocol, seed, bank_items(dataset, part, fold))

    @classmethod
    def frozen(cls, folder: Path, dataset: Dataset, part: str, fold: int, protocol: Protocol, seed: int) -> PromptBank:
        """The bank that lies in `folder`; built and stored there if there is none yet."""
        path = folder / file_name(dataset.name, f"{part}-{fold}", protocol, seed)
        if path.is_file():
            bank = cls.load(path)
            bank.require(dataset.name, f"{part}-{fold}", protocol, seed)
            return bank
        bank = cls.of_dataset(dataset, part, fold, protocol, seed)
        bank.save(path)
        return bank

    @classmethod
    def load(cls, path: Path) -> PromptBank:
        """Read a bank and verify its hash.

        Raises:
            UserError: no such file, not a bank, another version, or changed since it was made.
        """
        content = _read(path)
        stated = content.pop("sha256")
        if digest(content, length=64) != stated:
            raise UserError(f"{path}: changed after it was made (SHA-256 differs); rebuild the bank")
        for key, version in (("version", BANK_VERSION), ("protocol_version", PROTOCOL_VERSION)):
            if content[key] != version:
                raise UserError(f"{path}: {key} {content[key]!r} is not {version!r}; rebuild the bank")
        protocol = Protocol.from_mapping(content["protocol"])
        origin = content.get("origin", SIMULATED)
        return cls(content["dataset"], content["split"], protocol, content["seed"], content["cases"], origin)

    def save(self, path: Path) -> None:
        """Write the bank atomically."""
        write_json(path, {**self._content(), "sha256": self.digest})

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of the bank: identity and every prompt."""
        return digest(self._content(), length=64)

    def require(self, dataset: str, split: str, protocol: Protocol, seed: int) -> None:
        """Raise UserError if the bank was made for something else."""
        for name, due, found in (
            ("dataset", dataset, self.dataset),
            ("split", split, self.split),
            ("protocol", protocol, self.protocol),
            ("seed", seed, self.seed),
        ):
            if due != found:
                names = [value.name if isinstance(value, Protocol) else value for value in (found, due)]
                raise UserError(f"this prompt bank was made for {name} '{names[0]}', not for '{names[1]}'")

    def has_target(self, case_id: str, target: str) -> bool:
        """Whether there is a voxel of the target to prompt; always, for a protocol that does not look at the label.

        Raises:
            UserError: the bank does not know the case or the target.
        """
        return not self._entry(case_id, target).get("no_target", False)

    def prompts(self, case_id: str, target: str, grid: Grid | None = None, lesion: int | None = None) -> Prompts:
        """The first prompts of a target of a case.

        Args:
            grid: the volume on which they are used, to make sure that it is the one they were made on.
            lesion: which lesion (0 the largest), if each is a task of its own.

        Raises:
            UserError: the bank does not know the case, the target or the lesion, or the volume has another grid.
            NoTarget: the case holds nothing of the target.
        """
        entry = self._entry(case_id, target)
        stored = StoredGrid(tuple(entry["grid"]["shape"]), np.asarray(entry["grid"]["affine"], np.float64))
        if grid is not None and not _fits(stored, grid):
            raise UserError(f"{self.dataset}/{case_id}: the prompt bank was made on another grid than this volume's")
        if entry.get("no_target"):
            raise NoTarget(f"no voxel of '{target}' in the case")
        if lesion is None:
            return from_json(entry["prompts"], stored)
        lesions = entry.get("lesions", [])
        if lesion >= len(lesions):
            raise UserError(f"{self.dataset}/{case_id}: the prompt bank has {len(lesions)} lesions, the label has more")
        return from_json(lesions[lesion]["prompts"], stored)

    def _entry(self, case_id: str, target: str) -> Mapping[str, Any]:
        if case_id not in self.cases:
            raise UserError(f"the prompt bank has no case '{case_id}'; {nearest_name(case_id, self.cases)}")
        targets = self.cases[case_id]
        if target not in targets:
            raise UserError(f"the prompt bank has no target '{target}' in '{case_id}'; {nearest_name(target, targets)}")
        return targets[target]

    def _content(self) -> dict[str, Any]:
        return {
            "version": BANK_VERSION,
            "protocol_version": PROTOCOL_VERSION,
            "dataset": self.dataset,
            "split": self.split,
            "protocol": self.protocol.to_mapping(),
            "seed": self.seed,
            "cases": self.cases,
        } | ({"origin": self.origin} if self.origin != SIMULATED else {})


def file_name(dataset: str, split: str, protocol: Protocol, seed: int) -> str:
    """Where a bank lies in a folder of banks."""
    return f"{safe_name(f'{dataset}.{split}.{protocol.name}.{seed}')}.json"


def bank_items(dataset: Dataset, part: str, fold: int) -> Iterable[BankItem]:
    """What a bank of one part of a fold needs to know; reads labels, and of images the header only."""
    for case in dataset.split_cases(part, fold):
        shape, affine = read_grid(case.image)
        grid = StoredGrid(shape, affine)
        if not _fits(StoredGrid(*read_grid(case.label)), grid):
            raise UserError(f"{case.label}: label and image lie on different grids")
        label = read_label(case.label)
        for target in dataset.targets:
            yield BankItem(case.case_id, target, target_mask(label, target), grid)


def _entry(protocol: Protocol, seed_parts: tuple[object, ...], item: BankItem) -> dict[str, Any]:
    grid = StoredGrid(item.grid.shape, np.asarray(item.grid.affine, np.float64))
    stored = stored_grid(grid)
    if protocol.looks_at_label and not item.mask.any():
        return entry_without_target(grid)
    sessions = [
        stored_prompts(task.user.first(task.mask(), grid.spacing, item.target), grid)
        for task in tasks_of(protocol, seed_parts, item.mask)
    ]
    return {**stored, "lesions": sessions} if protocol.per == "each-lesion" else stored | sessions[0]


def entry_without_target(grid: Grid) -> dict[str, Any]:
    """The entry of a case without a voxel of the target."""
    return {**stored_grid(grid), "no_target": True}


def stored_grid(grid: Grid) -> dict[str, Any]:
    """The part of an entry that names the volume for which the prompts are."""
    return {"grid": {"shape": list(grid.shape), "affine": np.asarray(grid.affine, np.float64).tolist()}}


def stored_prompts(prompts: Prompts, grid: Grid) -> dict[str, Any]:
    """Prompts as a bank keeps them: world mm, and the voxels."""
    return {"voxels": _voxels(prompts), "prompts": to_json(prompts, grid)}


def _voxels(prompts: Prompts) -> dict[str, Any]:
    """The voxel indices on the RAS+ grid, for whoever does not want to invert an affine."""
    voxels: dict[str, Any] = {}
    if prompts.clicks:
        voxels["clicks"] = [list(click.position) for click in prompts.clicks]
    if prompts.box is not None:
        voxels["box"] = {"low": list(prompts.box.low), "high": list(prompts.box.high)}
    return voxels


def _fits(stored: Grid, grid: Grid) -> bool:
    return stored.shape == tuple(grid.shape) and same_grid(stored.affine, grid.affine, stored.shape)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such prompt bank")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a prompt bank ({error})") from error
    if not isinstance(content, dict) or set(content) - _OPTIONAL_KEYS != _KEYS:
        raise UserError(f"{path}: not a prompt bank (it needs exactly the keys {', '.join(sorted(_KEYS))})")
    return content
