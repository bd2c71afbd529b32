"""A cache of prepared volumes and masks on disk, so that a training crop costs a few pages and not a scan.

A volume is named by its content: SHA-256 of the image's bytes, the recipe, and the code that prepares; a mask by data
set, case and target, too, which seed the sample of its voxels. An entry is a folder with plain `.npy` files, read
through a memory map, and `entry.json`; no pickle. Intensities are int16 where they are whole numbers, float16 where
that keeps them within 0.25 HU (a bound that every entry is checked against), else float32. A mask is kept as the box
that holds it, with a sample of its voxels to draw training crops from.

Safe with any number of processes: an entry is written beside its place and moved there whole. Eviction of the
least recently used keeps the size in bounds; whoever has an entry open goes on reading it (POSIX). What cannot
be written (a full or read-only disk) is computed and used uncached, with one warning.
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache as once
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.common.content import sha256_of
from benchmarks.common.errors import UserError
from benchmarks.common.home import data_home
from benchmarks.common.identity import digest
from benchmarks.common.paths import user_path
from benchmarks.common.seeds import generator
from benchmarks.data.boxes import bounding_box
from benchmarks.data.cache_entries import SIDE_CAR, age_of, move_entry, open_entry, remove_entry, write_entry
from benchmarks.data.dataset import Case, target_mask
from benchmarks.data.intensities import CT, INTENSITIES_VERSION
from benchmarks.data.layouts.layout import check_case_headers
from benchmarks.data.preprocessing import Prepared, Preprocessing, Shape, crop, overlap, patch_origin, prepare
from benchmarks.data.target import Target
from benchmarks.data.volume import BoolArray, FloatArray, read_label

logger = logging.getLogger(__name__)

FLOAT16_TOLERANCE_HU = 0.25
FOREGROUND_SAMPLES = 10_000  # voxels of a mask kept to draw crops from
STALE_SECONDS = 24 * 3600.0  # what a killed writer left behind is removed after a day
CODE = ("cache.py", "cache_entries.py", "image_files.py", "preprocessing.py", "volume.py")
"""The code that makes an entry; made by other code it is another one."""
SLAB = 16  # planes of a crop between two releases of mapped pages

FOLDER_VARIABLE = "TAGS_BENCH_CACHE"
LIMIT_VARIABLE = "TAGS_BENCH_CACHE_GB"
DEFAULT_LIMIT_GB = 100.0


@dataclass(frozen=True)
class CachedMask:
    """The mask of a target on the network's grid, kept as the smallest box that holds it.

    Attributes:
        shape: of the whole grid.
        origin: of the box in it.
        box: bool, memory-mapped; of size zero if the mask is empty.
        foreground: int32 (N, 3), voxels of the mask on the whole grid: all of them, or a sample of 10 000.
        voxels: how many the mask has.
    """

    shape: Shape
    origin: Shape
    box: BoolArray
    foreground: NDArray[np.int32]
    voxels: int

    def crop(self, centre: ArrayLike, size: Shape) -> tuple[BoolArray, Shape]:
        """The same patch as `preprocessing.crop(array, centre, size, False)`."""
        local = np.asarray([round(float(c)) for c in np.asarray(centre)]) - self.origin
        patch, start = crop(self.box, local, size, False)
        x, y, z = (int(a + b) for a, b in zip(start, self.origin, strict=True))
        return patch, (x, y, z)

    @property
    def array(self) -> BoolArray:
        """The whole mask, in memory."""
        whole = np.zeros(self.shape, np.bool_)
        whole[tuple(slice(o, o + n) for o, n in zip(self.origin, self.box.shape, strict=True))] = self.box
        return whole


@dataclass(frozen=True)
class CachedVolume(Prepared):
    """A prepared volume whose `array` is a memory map of int16, float16 or float32: nothing is read until touched.

    Attributes:
        affine: of the volume it came from.
        low: the smallest value, to fill what lies outside of the scan.
        on_disk: False if it could not be cached and lies in memory.
    """

    affine: NDArray[np.float64]
    low: float
    case: Case
    recipe: Preprocessing
    cache: Cache = field(repr=False)
    on_disk: bool = True

    def crop(self, centre: ArrayLike, size: Shape, fill: float | None = None) -> tuple[FloatArray, Shape]:
        """A float32 patch and its origin, as `preprocessing.crop`; outside of the scan is `fill` or `low`.

        Pages of the file are let go of slab by slab. They stay in the system's page cache, but the process does
        not grow, over many crops, by everything that it ever touched.
        """
        origin, mapping = patch_origin(centre, size), _mapping(self.array)
        patch = np.full(size, self.low if fill is None else fill, np.float32)
        inside, outside = overlap(self.shape, size, origin)
        for start in range(inside[0].start, inside[0].stop, SLAB):
            stop = min(start + SLAB, inside[0].stop)
            patch[start - origin[0] : stop - origin[0], *outside[1:]] = self.array[start:stop, *inside[1:]]
            if mapping is not None:
                mapping.madvise(mmap.MADV_DONTNEED)
        return patch, origin

    def label_mask(self, target: Target) -> CachedMask:
        """The target on this grid, cached likewise. Raises UserError if the label map is unusable."""
        return self.cache.mask(self, target)


class Cache:
    """Prepared volumes below `root`, at most `limit_bytes` of them (no limit if None)."""

    def __init__(self, root: Path, limit_bytes: int | None = None) -> None:
        self.root, self.limit_bytes = root, limit_bytes
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "limit_bytes": self.limit_bytes, "_warned": False}

    def prepared(self, case: Case, recipe: Preprocessing) -> CachedVolume:
        """The image of a case, prepared. Only an image that is not cached yet is read.

        Raises:
            UserError: the image is unusable.
        """
        kind = [] if case.modality == CT else [case.modality, INTENSITIES_VERSION]
        key = digest(["image", sha256_of(case.image), asdict(recipe), _code(), *kind], 32)
        arrays, facts, on_disk = self._get(key, lambda: _prepare_image(case, recipe))
        return CachedVolume(
            array=arrays["image"],
            spacing=_triple(facts["spacing"]),
            native_shape=_triple(facts["native_shape"]),
            native_spacing=_triple(facts["native_spacing"]),
            affine=np.array(facts["affine"], np.float64),
            low=facts["low"],
            case=case,
            recipe=recipe,
            cache=self,
            on_disk=on_disk,
        )

    def mask(self, volume: CachedVolume, target: Target) -> CachedMask:
        """The mask of a target on the grid of a prepared volume; as `CachedVolume.label_mask`."""
        case = volume.case
        content = [sha256_of(case.image), sha256_of(case.label)]
        names = [case.dataset, case.case_id, target.name]  # they decide which voxels are drawn
        key = digest(["mask", content, volume.shape, sorted(target.labels), names, _code()], 32)
        arrays, facts, _ = self._get(key, lambda: _prepare_mask(volume, target))
        origin = _triple(facts["origin"])
        return CachedMask(volume.shape, origin, arrays["box"], arrays["foreground"], facts["voxels"])

    def size_bytes(self) -> int:
        """What all entries take on disk."""
        return sum(size for _, size, _ in self._entries())

    def clear(self) -> None:
        """Remove every entry."""
        for folder, _, _ in self._entries():
            remove_entry(folder)

    def _get(
        self, key: str, make: Callable[[], tuple[dict[str, NDArray[Any]], dict[str, Any]]]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any], bool]:
        """Arrays, facts, and whether they lie on disk; made and stored if they are not there."""
        folder = self.root / key
        found = open_entry(folder)
        if found is not None:
            return *found, True
        arrays, facts = make()
        if self._store(folder, arrays, facts):
            found = open_entry(folder)
            if found is not None:  # else evicted by another process, at once
                return *found, True
        return arrays, facts, False

    def _store(self, folder: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> bool:
        """Write an entry and make room for it; False, with one warning, if that cannot be."""
        needed = sum(array.nbytes for array in arrays.values())
        if self.limit_bytes is not None and needed > self.limit_bytes:
            self._warn(f"an entry of {needed:,} bytes exceeds the limit of {self.limit_bytes:,}")
            return False
        partial: Path | None = None
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._make_room(needed)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.root))
            write_entry(partial, arrays, facts)
            move_entry(partial, folder)
        except OSError as error:
            self._warn(str(error.strerror or error))
            return False
        finally:
            if partial is not None:
                shutil.rmtree(partial, ignore_errors=True)  # gone already if it was moved
        return True

    def _warn(self, reason: str) -> None:
        if not self._warned:
            logger.warning("%s: cannot cache prepared volumes (%s); going on without", self.root, reason)
        self._warned = True

    def _make_room(self, needed: int) -> None:
        """Remove the least recently used entries until `needed` more bytes fit, and what killed writers left."""
        for left in self.root.glob(".*-*"):
            if age_of(left) > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        if self.limit_bytes is None:
            return
        entries = sorted(self._entries(), key=lambda entry: entry[2])
        total = sum(size for _, size, _ in entries)
        for folder, size, _ in entries:
            if total + needed <= self.limit_bytes:
                return
            remove_entry(folder)
            total -= size

    def _entries(self) -> list[tuple[Path, int, float]]:
        """Folder, bytes and time of last use of every entry."""
        found = []
        for side_car in self.root.glob(f"*/{SIDE_CAR}"):
            try:
                size = sum(path.stat().st_size for path in side_car.parent.iterdir())
                found.append((side_car.parent, size, side_car.stat().st_mtime))
            except FileNotFoundError:  # another process removes it just now
                continue
        return found


def default_cache(root: Path | None = None) -> Cache:
    """The cache of this machine: `TAGS_BENCH_CACHE`, or `cache` in the data home; at most `TAGS_BENCH_CACHE_GB`.

    Args:
        root: another folder instead; its size is limited only if `TAGS_BENCH_CACHE_GB` is set.

    Raises:
        UserError: the limit is no positive number.
    """
    limit = cache_limit()
    if root is not None:
        return Cache(root, limit)
    setting = os.environ.get(FOLDER_VARIABLE)
    folder = user_path(setting) if setting else data_home() / "cache"
    return Cache(folder, int(DEFAULT_LIMIT_GB * 1e9) if limit is None else limit)


def cache_limit() -> int | None:
    """The bytes of `TAGS_BENCH_CACHE_GB`; None if it is not set.

    Raises:
        UserError: it is no positive number.
    """
    setting = os.environ.get(LIMIT_VARIABLE)
    if not setting:
        return None
    try:
        limit = float(setting)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise UserError(f"{LIMIT_VARIABLE}={setting}: a number of gigabytes above 0 is needed")
    return int(limit * 1e9)


def _prepare_image(case: Case, recipe: Preprocessing) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    volume = case.read_image()
    prepared = prepare(volume, recipe)
    image = compact(prepared.array, recipe.std)
    facts = {
        "spacing": prepared.spacing,
        "native_shape": prepared.native_shape,
        "native_spacing": prepared.native_spacing,
        "affine": volume.affine.tolist(),
        "low": float(image.min()),
        "recipe": asdict(recipe),
        "image": case.image.name,
    }
    return {"image": image}, facts


def compact(array: FloatArray, hu_per_unit: float) -> NDArray[Any]:
    """As int16 where that loses nothing, as float16 where no value moves by as much as 0.25 HU, else unchanged.

    float16 has 11 significant bits: a value in [2ᵉ, 2ᵉ⁺¹) moves by at most 2ᵉ⁻¹¹, and never by more than
    2⁻²⁵ near zero. A window of 300 HU with a deviation of 60 HU ends below 4 units: 2⁻¹⁰ · 60 = 0.06 HU.
    """
    largest = max(abs(float(array.min())), abs(float(array.max())))
    if largest < 2**15 and all(np.array_equal(plane, np.rint(plane)) for plane in array):
        return array.astype(np.int16)
    moved = max(2.0 ** (np.floor(np.log2(largest)) - 11), 2.0**-25) if largest > 0 else 0.0
    if largest < np.finfo(np.float16).max and moved * abs(hu_per_unit) < FLOAT16_TOLERANCE_HU:
        return array.astype(np.float16)
    return array


def _prepare_mask(volume: CachedVolume, target: Target) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    case = volume.case
    check_case_headers(case)
    mask = volume.label(target_mask(read_label(case.label), target))
    low, high = bounding_box(mask) or ((0, 0, 0), (0, 0, 0))
    box = np.ascontiguousarray(mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
    foreground = np.argwhere(box)
    voxels = len(foreground)
    if voxels > FOREGROUND_SAMPLES:
        random = generator("foreground", case.dataset, case.case_id, target.name)
        foreground = foreground[np.sort(random.choice(voxels, FOREGROUND_SAMPLES, replace=False))]
    facts = {"origin": low, "voxels": voxels, "labels": sorted(target.labels), "label": case.label.name}
    return {"box": box, "foreground": (foreground + low).astype(np.int32)}, facts


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    """The memory map behind an array; None if it lies in memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


@once
def _code() -> str:
    """A fingerprint of the code that prepares; no version number that one could forget to raise."""
    return digest([(files("benchmarks.data") / name).read_text("utf-8") for name in CODE])


def _triple(values: Any) -> tuple[Any, Any, Any]:
    x, y, z = values
    return x, y, z
