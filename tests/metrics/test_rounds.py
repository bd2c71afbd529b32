"""What a reference remembers between predictions never changes a number."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import benchmarks.metrics.surface as surface_module
from benchmarks.common.seeds import generator
from benchmarks.data.boxes import bounding_box, slices
from benchmarks.metrics import Reference, evaluate_mask
from benchmarks.metrics.crop import BoolArray, crop
from benchmarks.metrics.near_field import Changes
from benchmarks.metrics.surface import ReferenceSurface
from benchmarks.metrics.surfels import surface_of

SPACINGS = ((1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (3.0, 0.8, 1.3))


def blob(random: np.random.Generator, shape: tuple[int, int, int], share: float) -> BoolArray:
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), 3)
    mask: BoolArray = smooth > np.quantile(smooth, 1 - share)
    return mask


def corrected(mask: BoolArray, label: BoolArray, random: np.random.Generator) -> BoolArray:
    """The next round: the label in one box, noise in another, now and then a speck, a shift or no change."""
    changed = mask.copy()
    for source in (label, random.random(mask.shape) < 0.5):
        low = [int(random.integers(size)) for size in mask.shape]
        window = tuple(slice(start, start + int(random.integers(1, 12))) for start in low)
        changed[window] = source[window]
    kind = random.integers(5)
    if kind == 0:
        changed[tuple(random.integers(size) for size in mask.shape)] ^= True
    elif kind == 1:
        changed = np.roll(changed, int(random.integers(-3, 4)), int(random.integers(3)))
    elif kind == 2:
        changed = mask.copy()
    changed[tuple(size // 2 for size in mask.shape)] = True
    return changed


@pytest.mark.parametrize("seed", range(24))
def test_a_session_gives_what_each_round_alone_would(seed: int) -> None:
    random = generator("sessions", seed)
    shape = tuple(random.integers(12, 48, 3).tolist())
    spacing = SPACINGS[seed % 3]
    label = blob(random, shape, random.uniform(0.02, 0.3))
    kept = Reference(label, spacing)
    mask = blob(random, shape, random.uniform(0.02, 0.3))
    for _ in range(8):
        assert evaluate_mask(mask, kept) == evaluate_mask(mask, Reference(label, spacing))
        mask = corrected(mask, label, random)


def test_only_what_a_change_comes_near_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this a wrong answer of `Changes.within`, 'everything', would pass all other tests."""
    grid = np.indices((60, 60, 60)) - 29.5
    radius = np.sqrt((grid**2).sum(axis=0))
    reference = ReferenceSurface(_part(radius < 20), (1.0, 1.0, 1.0))
    reference.pair(_part(radius < 17))
    asked: list[int] = []
    original = surface_module._distances_to
    monkeypatch.setattr(
        surface_module,
        "_distances_to",
        lambda target, corners: asked.append(corners.shape[1]) or original(target, corners),
    )
    dented = radius < 17
    dented[:14] = False
    reference.pair(_part(dented))
    assert 0 < asked[0] < 0.25 * len(reference.surface.areas)
    reference.pair(_part(dented))
    assert asked[1] == 0


@pytest.mark.parametrize("seed", range(30))
def test_changes_are_never_overlooked(seed: int) -> None:
    """Against the plain answer: is the border different anywhere in the ball round a corner?"""
    random = generator("changes", seed)
    shape = tuple(random.integers(6, 20, 3).tolist())
    spacing = SPACINGS[seed % 3]
    before = blob(random, shape, 0.2)
    after = corrected(before, blob(random, shape, 0.2), random)
    if not before.any():
        pytest.skip("nothing to begin with")
    old, new = _part(before), _part(after)
    changes = Changes.between(old, new)
    assert changes is not None
    changed = _corners(old) ^ _corners(new)
    corners = np.stack(np.meshgrid(*[np.arange(size + 1) for size in shape], indexing="ij")).reshape(3, -1)
    distances = random.uniform(0, 6, corners.shape[1])
    said = changes.within(distances, corners.astype(np.int32), spacing)
    points = np.array(sorted(changed)).reshape(-1, 3)
    for index in range(0, corners.shape[1], 7):
        away = np.sqrt((((points - corners[:, index]) * spacing) ** 2).sum(axis=1))
        if (away <= distances[index]).any():
            assert said[index]


@pytest.mark.parametrize("order", ["C", "F", "strided", "odd"])
def test_the_box_is_right_in_every_memory_order(order: str) -> None:
    random = generator("boxes", order)
    for _ in range(40):
        shape = random.integers(1, 20, 3)
        mask = random.random(shape) < random.choice([0.0, 0.01, 0.3])
        mask = mask[:, :, : 1 + mask.shape[2] // 2] if order == "odd" else np.repeat(mask, 8, axis=2)
        if order == "F":
            mask = np.asfortranarray(mask)
        elif order == "strided":
            mask = mask[::-1, :, ::2]
        box = bounding_box(mask)
        found = None if box is None else slices(*box)
        assert found == (ndimage.find_objects(mask.astype(np.int8)) or [None])[0]


def _part(mask: BoolArray):  # type: ignore[no-untyped-def]
    part = crop(mask)
    assert part is not None
    return part


def _corners(part) -> set[tuple[int, ...]]:  # type: ignore[no-untyped-def]
    return set(map(tuple, surface_of(part, (1.0, 1.0, 1.0)).corners.T.tolist()))
