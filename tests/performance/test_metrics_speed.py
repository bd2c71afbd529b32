"""How fast the metrics are beside surface-distance and MONAI: ratios measured in one process, one thread.

python tests/performance/test_metrics_speed.py        # the table as JSON
pytest -m bench tests/performance/test_metrics_speed.py -s
"""

from __future__ import annotations

import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from surface_distance import metrics as deepmind

from benchmarks.metrics import Reference, evaluate_mask
from benchmarks.seeds import generator
from benchmarks.volume import BoolArray

SHAPE = (512, 512, 400)
SPACING = (0.8, 0.8, 1.0)
SIZES_MM = (15.0, 30.0, 50.0)  # diameters
TOLERANCES = (1.0, 2.0, 5.0)

pytestmark = pytest.mark.bench


def tumour(diameter_mm: float, *, shift_mm: float = 0.0, seed: int = 0) -> BoolArray:
    """A lumpy ball in an otherwise empty 512 × 512 × 400 volume."""
    half = [int(diameter_mm / step) for step in SPACING]
    grids = np.meshgrid(*[np.arange(-h, h + 1) * s for h, s in zip(half, SPACING, strict=True)], indexing="ij")
    radius = np.sqrt(sum(grid**2 for grid in grids))
    lumps = ndimage.gaussian_filter(generator("lumps", seed).standard_normal(radius.shape), 4)
    ball = radius + lumps / lumps.std() * diameter_mm / 16 < diameter_mm / 2
    volume = np.zeros(SHAPE, bool)
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


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds (one thread): other load on the machine counts little."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def seconds_of_later_rounds(label: BoolArray, rounds: list[BoolArray]) -> float:
    """Median seconds of the second and later rounds of one session; each mask is new to the reference."""
    reference = Reference(label, SPACING, TOLERANCES)
    evaluate_mask(rounds[0], reference)
    return statistics.median(seconds(lambda mask=mask: evaluate_mask(mask, reference), 1) for mask in rounds[1:])


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


def measure(sizes_mm: Sequence[float] = SIZES_MM, monai: bool = True) -> list[dict[str, Any]]:
    """One row for each size and comparison: seconds of ours and theirs, ratio, the ratio aimed at, the one kept."""
    evaluate_mask(tumour(10), Reference(tumour(10), SPACING, TOLERANCES))  # the table of areas, once per process
    rows: list[dict[str, Any]] = []
    for size in sizes_mm:
        label = tumour(size)
        rounds = click_rounds(label, tumour(size, shift_mm=2.0, seed=1))
        rows += measure_one(label, rounds, f"{size:g} mm", monai)
    for row in rows:
        row["ratio"] = row["theirs_s"] / row["ours_s"]
        row["target_met"] = row["ratio"] >= row["target"]
    return rows


def measure_one(label: BoolArray, rounds: list[BoolArray], name: str, monai: bool) -> list[dict[str, Any]]:
    """The comparisons for one tumour."""
    ours = seconds(lambda: evaluate_mask(rounds[0], Reference(label, SPACING, TOLERANCES)), 9)
    later = statistics.median(seconds_of_later_rounds(label, rounds) for _ in range(9))
    theirs = seconds(lambda: with_deepmind(label, rounds[0]), 3)
    rows = [
        {"name": f"{name}: surface-distance / ours", "ours_s": ours, "theirs_s": theirs, "target": 10.0, "floor": 4.0},
        {"name": f"{name}: first / later round", "ours_s": later, "theirs_s": ours, "target": 1.7, "floor": 0.9},
    ]
    if monai:
        with_monai(label[:64, :64, :64], rounds[0][:64, :64, :64])  # imports
        theirs = seconds(lambda: with_monai(label, rounds[0]), 1)
        rows.append(
            {"name": f"{name}: MONAI / ours", "ours_s": ours, "theirs_s": theirs, "target": 50.0, "floor": 50.0}
        )
    return rows


def peak_bytes(work: Callable[[], object]) -> int:
    """Peak of the memory that the work allocates (NumPy reports its arrays to tracemalloc)."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_faster_than_the_others() -> None:
    """The floors are what must never be lost; the targets are printed with whether this machine meets them now."""
    rows = measure()
    print()
    for row in rows:
        verdict = f"target {row['target']:g}x {'met' if row['target_met'] else 'NOT met'}"
        print(f"{row['name']:<36} {row['theirs_s']:8.4f} s {row['ours_s']:8.4f} s {row['ratio']:7.1f}x  {verdict}")
    slow = [row["name"] for row in rows if row["ratio"] < row["floor"]]
    assert not slow, f"below the floor: {slow}"


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
    assert peak < 5 * label.nbytes  # bytes and no float64


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
