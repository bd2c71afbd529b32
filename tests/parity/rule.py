"""The golden files: weight rule, input rule, prompts, recorded tensors, comparison (golden/RULE.md).

Nothing of a particular golden set is written here: salt, seeds, shapes, prompts and sampled indices come from
the npz. Another set is used by pointing `TAGS_BENCH_GOLDEN` at its folder.
"""

from __future__ import annotations

import csv
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SHIPPED = Path(__file__).parents[1] / "golden"
TOLERANCES = {"universal_swinunetr": 5e-4, "universal_unet": 5e-3}
DEFAULT_TOLERANCE = 1e-4


def golden_folder() -> Path:
    """The folder of the golden set under test."""
    return Path(os.environ.get("TAGS_BENCH_GOLDEN", SHIPPED))


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@dataclass(frozen=True)
class Row:
    """One tensor of the official layout."""

    key: str
    shape: tuple[int, ...]
    dtype: str
    kind: str  # the rule's class: matrix, norm, bias, embed, unit, var or keep


FORMULAS: dict[str, Callable[[NDArray[np.float64], tuple[int, ...]], NDArray[np.float64]]] = {
    "unit": lambda x, shape: x,
    "bias": lambda x, shape: 0.1 * x,
    "embed": lambda x, shape: 0.1 * x,
    "var": lambda x, shape: 1 + 0.1 * np.abs(x),
    "norm": lambda x, shape: 1 + 0.1 * x,
    "matrix": lambda x, shape: x * min(0.05, 1 / np.sqrt(np.prod(shape[1:]))),
}


def rule_tensor(row: Row, salt: str) -> torch.Tensor:
    """The weight of one row: a function of its key and the set's salt alone (section 1 of the rule)."""
    if row.kind == "keep":
        return torch.from_numpy(constant_tensor(row))
    rng = generator(zlib.crc32((row.key + salt).encode()))
    x = rng.standard_normal(int(np.prod(row.shape)), dtype=np.float64).reshape(row.shape)
    return torch.from_numpy(np.asarray(FORMULAS[row.kind](x, row.shape)).astype(np.float32))


def constant_tensor(row: Row) -> NDArray[Any]:
    """The constants that upstream's constructors make (section 1.1 of the rule)."""
    if row.key.endswith("num_batches_tracked"):
        return np.zeros((), np.int64)
    if row.key.endswith("relative_position_index"):
        return relative_position_index(round(row.shape[0] ** (1 / 3)))
    if row.key.endswith("attn_mask"):
        return shifted_window_mask()
    raise NotImplementedError(f"the rule has no constant for {row.key}")


def relative_position_index(window: int) -> NDArray[np.int64]:
    """Row of the bias table for every pair of tokens of a cubic window."""
    coordinates = np.stack(np.meshgrid(*[np.arange(window)] * 3, indexing="ij"), -1).reshape(-1, 3)
    difference = coordinates[:, None] - coordinates[None] + window - 1
    span = 2 * window - 1
    return (difference @ np.array([span**2, span, 1])).astype(np.int64)


def shifted_window_mask(grid: int = 32, window: int = 8, shift: int = 4) -> NDArray[np.float32]:
    """0 between tokens of a window that were neighbours before the cyclic shift, −100 elsewhere."""
    segment = np.zeros(grid, np.int64)
    segment[grid - window : grid - shift] = 1
    segment[grid - shift :] = 2
    label = segment[:, None, None] * 9 + segment[None, :, None] * 3 + segment[None, None, :]
    count = grid // window
    windows = label.reshape(count, window, count, window, count, window).transpose(0, 2, 4, 1, 3, 5)
    tokens = windows.reshape(count**3, window**3)
    return np.where(tokens[:, :, None] == tokens[:, None, :], 0, -100).astype(np.float32)


def rule_array(rule: str, seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The input of section 2. A shape written inside the rule is drawn and repeated to `shape`."""
    inner = re.search(r"\(([\d, ]+)\)", rule)
    drawn = tuple(int(n) for n in re.findall(r"\d+", inner.group(1))) if inner else shape
    rng = generator(seed)
    values = rng.random(drawn) if rule.startswith("uniform") else rng.standard_normal(drawn)
    return np.broadcast_to(values.astype(np.float32), shape).copy()


@dataclass(frozen=True)
class Golden:
    """One model's golden data."""

    name: str
    folder: Path

    @classmethod
    def read(cls, name: str) -> Golden:
        """The golden data of `name` in the set under test."""
        return cls(name, golden_folder())

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        with np.load(self.folder / f"{self.name}.npz") as file:
            return {key: file[key] for key in file.files}

    @cached_property
    def meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = json.loads(str(self.arrays["meta"]))
        return meta

    @cached_property
    def rows(self) -> list[Row]:
        """The official layout. A fact of the model: a set without a layout uses the shipped one."""
        path = self.folder / f"{self.name}.keys.tsv"
        path = path if path.is_file() else SHIPPED / path.name
        with path.open(newline="") as file:
            return [
                Row(r["key"], _shape(r["shape"]), r["dtype"], r["class"]) for r in csv.DictReader(file, delimiter="\t")
            ]

    def state_dict(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """The rule's weights of the rows under `prefix`, which is hashed but not kept."""
        return {
            row.key.removeprefix(prefix): rule_tensor(row, self.meta.get("salt", ""))
            for row in self.rows
            if row.key.startswith(prefix)
        }

    def image(self) -> torch.Tensor:
        """The tensor given to the image encoder."""
        meta = self.meta
        return torch.from_numpy(rule_array(meta["input_rule"], meta["input_seed"], tuple(meta["input_shape"])))

    def tensors(self, case: str | None = None) -> list[str]:
        """Names of the recorded tensors, of one case only if given."""
        names = [key.removesuffix("/val") for key in self.arrays if key.endswith("/val")]
        return names if case is None else [name for name in names if name.split(".")[0] == case]

    def cases(self) -> list[str]:
        """Names of the prompt cases: those with recorded prompt tokens, in the file's order."""
        return [name.removesuffix(".sparse") for name in self.tensors() if name.endswith(".sparse")]

    def prompts(self) -> dict[str, NDArray[Any]]:
        """All prompt arrays, such as "a.points"."""
        return {key.removeprefix("prompt/"): value for key, value in self.arrays.items() if key.startswith("prompt/")}

    def prompt(self, name: str) -> torch.Tensor | None:
        """The prompt array of that name as a tensor; None if the set has none."""
        array = self.arrays.get(f"prompt/{name}")
        return None if array is None else torch.from_numpy(np.array(array))

    @property
    def tolerance(self) -> float:
        """Largest difference allowed, in standard deviations of the recorded tensor."""
        return TOLERANCES.get(self.name, DEFAULT_TOLERANCE)

    def error(self, tensor: str, ours: torch.Tensor) -> float:
        """Largest difference at the recorded positions, in standard deviations (section 2, tolerance)."""
        shape = tuple(int(n) for n in self.arrays[f"{tensor}/shape"])
        assert tuple(ours.shape) == shape, f"{tensor}: shape {tuple(ours.shape)}, recorded {shape}"
        index, value = self.arrays[f"{tensor}/idx"], self.arrays[f"{tensor}/val"].astype(np.float64)
        got = ours.detach().reshape(-1)[torch.from_numpy(index)].double().cpu().numpy()
        unit = float(self.arrays[f"{tensor}/stats"][1]) if int(np.prod(shape)) > 1 else max(abs(float(value[0])), 0.1)
        return float(np.abs(got - value).max() / unit)

    def check(self, tensor: str, ours: torch.Tensor) -> float:
        """Assert that our tensor is the recorded one; gives the error in standard deviations."""
        error = self.error(tensor, ours)
        assert error <= self.tolerance, f"{self.name} {tensor}: off by {error:.2e} std, allowed {self.tolerance:.0e}"
        return error


def _shape(text: str) -> tuple[int, ...]:
    return () if text == "scalar" else tuple(int(n) for n in text.split(","))


def unchecked(golden: Golden, checked: set[str]) -> Iterator[str]:
    """Recorded tensors that a test has not compared; a parity test must leave none."""
    return (name for name in golden.tensors() if name not in checked)
