"""How fast the metrics are beside surface-distance and MONAI: ratios measured in one process, one thread.

The tools take turns, so that other load on the machine falls on all of them. The ratio is the median of those of
CPU seconds measured one after the other; that of wall-clock seconds is printed beside.

python tests/performance/test_metrics_speed.py        # the table as JSON
pytest -m bench tests/performance/test_metrics_speed.py -s
"""

from __future__ import annotations

import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from surface_distance import metrics as deepmind
from threadpoolctl import threadpool_limits

from benchmarks.common.seeds import generator
from benchmarks.data.volume import BoolArray
from benchmarks.metrics import Reference, evaluate_mask

SHAPE = (512, 512, 400)
SPACING = (0.8, 0.8, 1.0)
SIZES_MM = (10.0, 30.0, 50.0, 80.0)  # diameters
TOLERANCES = (1.0, 2.0, 5.0)

pytestmark = pytest.mark.bench


def tumour(diameter_mm: float, *, shift_mm: float = 0.0, seed: int = 0) -> BoolArray:
    """A lumpy ball in an otherwise empty 512 × 512 × 400 volume."""
    half = [int(diameter_mm / step) for step in SPACING]
    grids = np.meshgrid(*[np.arange(-h, h + 1) * s for h, s in zip(half, SPACING, strict=True)], indexing="ij")
    radius = np.sqrt(sum(grid**2 for grid in grids))
    lumps = ndimage.gaussian_filter(generator("lumps", seed).standard_normal(radius.shape), 4)
    ball = radius + lumps / lumps.std() * diameter_mm / 16 < diameter_mm / 2
    volume = np.full(SHAPE, False)  # written, as a mask from a file is: untouched zeros would cost nothing to read
    low = [int(0.4 * size) + int(shift_mm / step) - h for size, step, h in zip(SHAPE, SPACING, half, strict=True)]
    volume[tuple(slice(start, start + size) for start, size in zip(low, ball.shape, strict=True))] = ball
    return volume


def click_rounds(label: BoolArray, first: BoolArray, count: int = 4) -> list[BoolArray]:
    """Masks of a click session: each round corrects the first mask in one more slab of slices, as a click does."""
    inside = np.flatnonzero((label | first).any(axis=(0, 1)))
    ends = np.linspace(inside[0], inside[-1] + 1, count + 1).astype(int)
    masks = [first]
    for end in ends[1:-1]:
        mask = first.copy()
        mask[:, :, :end] = label[:, :, :end]
        masks.append(mask)
    return masks


@dataclass(frozen=True)
class Times:
    """Median seconds of one piece of work."""

    cpu: float
    wall: float

    @classmethod
    def of(cls, measured: Sequence[Times]) -> Times:
        return cls(statistics.median(t.cpu for t in measured), statistics.median(t.wall for t in measured))


def timed(work: Callable[[], object]) -> Times:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Times(time.process_time() - cpu, time.perf_counter() - wall)


def session(label: BoolArray, rounds: Sequence[BoolArray]) -> list[Times]:
    """Of each round of one click session; the first includes what the reference needs."""
    kept: list[Reference] = []

    def first() -> None:
        kept.append(Reference(label, SPACING, TOLERANCES))
        evaluate_mask(rounds[0], kept[0])

    return [timed(first)] + [timed(lambda mask=mask: evaluate_mask(mask, kept[0])) for mask in rounds[1:]]


def with_deepmind(label: BoolArray, prediction: BoolArray) -> dict[str, float]:
    """The same figures from surface-distance, its surface pair computed once."""
    pair = deepmind.compute_surface_distances(label, prediction, SPACING)
    values = {f"nsd@{t:g}mm": deepmind.compute_surface_dice_at_tolerance(pair, t) for t in TOLERANCES}
    values["hd95_mm"] = deepmind.compute_robust_hausdorff(pair, 95)
    values["hd_mm"] = deepmind.compute_robust_hausdorff(pair, 100)
    values["msd_mm"] = float(np.mean(deepmind.compute_average_surface_distance(pair)))
    values["dice"] = deepmind.compute_dice_coefficient(label, prediction)
    return values


def with_monai(label: BoolArray, prediction: BoolArray) -> None:
    """The same figures from MONAI, one call for each metric, as its users write it."""
    import torch
    from monai import metrics

    torch.set_num_threads(1)
    truth = torch.from_numpy(label)[None, None]
    guess = torch.from_numpy(prediction)[None, None]
    metrics.compute_dice(guess, truth, include_background=True)
    metrics.compute_iou(guess, truth, include_background=True)
    for tolerance in TOLERANCES:
        metrics.compute_surface_dice(
            guess, truth, [tolerance], include_background=True, spacing=SPACING, use_subvoxels=True
        )
    metrics.compute_hausdorff_distance(guess, truth, include_background=True, spacing=SPACING)
    metrics.compute_hausdorff_distance(guess, truth, include_background=True, percentile=95, spacing=SPACING)
    metrics.compute_average_surface_distance(guess, truth, include_background=True, symmetric=True, spacing=SPACING)


def measure(sizes_mm: Sequence[float] = SIZES_MM, repeats: int = 5, monai: bool = True) -> list[dict[str, Any]]:
    """One row for each size and comparison: milliseconds of ours and theirs, the ratio, the ratio aimed at."""
    with threadpool_limits(1):  # BLAS threads that wait for work would count as CPU seconds
        return _measure(sizes_mm, repeats, monai)


def _measure(sizes_mm: Sequence[float], repeats: int, monai: bool) -> list[dict[str, Any]]:
    evaluate_mask(tumour(10), Reference(tumour(10), SPACING, TOLERANCES))  # the table of areas, once per process
    rows: list[dict[str, Any]] = []
    for size in sizes_mm:
        rows += measure_one(size, repeats, monai and size == max(sizes_mm))
    return rows


def measure_one(size_mm: float, repeats: int, monai: bool) -> list[dict[str, Any]]:
    """The comparisons for one tumour. MONAI's seconds hardly depend on its size, so the largest is our worst."""
    label = tumour(size_mm)
    others = [tumour(size_mm, shift_mm=2.0 - 0.5 * turn, seed=1 + turn) for turn in range(4)]
    corrected = click_rounds(label, others[0])
    ours: list[Times] = []
    theirs: list[Times] = []
    sessions: dict[str, list[list[Times]]] = {"corrections": [], "new masks": []}
    for _ in range(repeats):
        theirs.append(timed(lambda: with_deepmind(label, others[0])))
        ours.append(Times.of([session(label, others[:1])[0] for _ in range(3)]))
        for _ in range(3):
            sessions["corrections"].append(session(label, corrected))
            sessions["new masks"].append(session(label, others))
    name = f"{size_mm:g} mm"
    rows = [_row(f"{name}: surface-distance / ours", theirs, ours, 10.0)]
    for kind, target in (("corrections", 1.7), ("new masks", None)):
        first = [times[0] for times in sessions[kind]]
        later = [Times.of(times[1:]) for times in sessions[kind]]
        rows.append(_row(f"{name}: first / later round, {kind}", first, later, target))
    if monai:
        with_monai(label[:64, :64, :64], others[0][:64, :64, :64])  # imports
        slow = timed(lambda: with_monai(label, others[0]))
        rows.append(_row(f"{name}: MONAI / ours", [slow], [Times.of(ours)], 50.0))
    return rows


def _row(name: str, slow: Sequence[Times], fast: Sequence[Times], target: float | None) -> dict[str, Any]:
    """Medians of both, and of the ratios of those measured one after the other, under the same load."""
    pairs = list(zip(slow, fast, strict=True))
    return {
        "name": name,
        "slow_ms": 1000 * Times.of(slow).cpu,
        "fast_ms": 1000 * Times.of(fast).cpu,
        "ratio": statistics.median(a.cpu / b.cpu for a, b in pairs),
        "wall_ratio": statistics.median(a.wall / b.wall for a, b in pairs),
        "target": target,
    }


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak of the memory that the work allocates (NumPy reports its arrays to tracemalloc)."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_faster_than_the_others() -> None:
    rows = measure()
    print()
    for row in rows:
        target = f"target {row['target']:g}x" if row["target"] else ""
        print(
            f"{row['name']:<40} {row['slow_ms']:9.1f} ms {row['fast_ms']:8.1f} ms {row['ratio']:7.1f}x"
            f"  (wall clock {row['wall_ratio']:.1f}x)  {target}"
        )
    slow = [row["name"] for row in rows if row["target"] and row["ratio"] < row["target"]]
    assert not slow, f"below the target: {slow}"


def test_memory_follows_the_tumour_and_not_the_volume() -> None:
    label, prediction = tumour(50.0), tumour(50.0, shift_mm=3.0, seed=1)
    peak = peak_bytes(lambda: evaluate_mask(prediction, Reference(label, SPACING, TOLERANCES)))
    print(f"\npeak {peak / 2**20:.1f} MiB beside masks of {label.nbytes / 2**20:.0f} MiB each")
    assert peak < label.nbytes / 2  # a full-volume float64 would be 8 ×


def test_a_speck_at_the_other_end_costs_no_volume() -> None:
    label, prediction = tumour(50.0), tumour(50.0, shift_mm=3.0, seed=1)
    prediction[-2:, -2:, -2:] = True
    reference = Reference(label, SPACING, TOLERANCES)
    peak = peak_bytes(lambda: evaluate_mask(prediction, reference))
    print(f"\npeak {peak / 2**20:.1f} MiB with a speck far away")
    assert peak < 2 * label.nbytes  # bytes and no float64


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
