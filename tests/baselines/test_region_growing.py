"""Region growing on spheres whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.region_growing.method import region_growing
from benchmarks.common.errors import UserError
from benchmarks.contestants import Session, Target
from benchmarks.data.volume import Volume
from benchmarks.prompting.prompts import Click, Prompts

SPACING = (1.0, 1.0, 2.0)
SHAPE = (70, 60, 30)
CENTRE = (36, 30, 15)
TARGET = Target(name="t", organ="", lesion="tumor", labels=(1,))


def sphere(radius_mm: float, centre: tuple[int, int, int] = CENTRE) -> np.ndarray:
    mm = np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(SHAPE, SPACING, strict=True)], indexing="ij"))
    return np.linalg.norm(mm - (np.array(centre) * SPACING)[:, None, None, None], axis=0) <= radius_mm


def scan(lesion: np.ndarray, contrast: float, noise: float, seed: int = 0) -> Volume:
    values = np.full(SHAPE, 100.0) + contrast * lesion
    values += np.random.default_rng(seed).normal(0, noise, SHAPE)
    return Volume(values.astype(np.float32), np.diag([*SPACING, 1.0]))


def opened(volume: Volume, **config: float) -> Session:
    return region_growing.build(config).open(volume, TARGET)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_homogeneous_sphere_in_noise_is_recovered(seed: int) -> None:
    lesion = sphere(14.0)
    mask = opened(scan(lesion, contrast=-50, noise=10, seed=seed)).segment(Prompts(clicks=(Click(CENTRE),)))
    assert dice(mask, lesion) > 0.85


def test_noise_free_sphere_is_recovered_up_to_its_smoothed_border() -> None:
    lesion = sphere(14.0)
    mask = opened(scan(lesion, contrast=60, noise=0)).segment(Prompts(clicks=(Click((40, 32, 16)),)))
    assert dice(mask, lesion) > 0.85
    assert not mask[~sphere(17.0)].any()


def test_region_is_connected_to_the_click_and_clicks_add_up() -> None:
    left, right = sphere(8.0, (18, 30, 15)), sphere(8.0, (52, 30, 15))
    session = opened(scan(left | right, contrast=60, noise=3))
    one = session.segment(Prompts(clicks=(Click((18, 30, 15)),)))
    assert dice(one, left) > 0.8
    assert not one[40:].any()
    both = session.segment(Prompts(clicks=(Click((18, 30, 15)), Click((52, 30, 15)))))
    assert dice(both, left | right) > 0.8


def test_it_cannot_flood_beyond_its_reach() -> None:
    mask = opened(scan(np.zeros(SHAPE, bool), 0, 0), reach_mm=12.0).segment(Prompts(clicks=(Click(CENTRE),)))
    assert np.array_equal(mask, sphere(12.0))  # a body of one value: the whole ball, and nothing outside it


def test_negative_click_takes_what_is_nearer_to_it() -> None:
    session = opened(scan(np.zeros(SHAPE, bool), 0, 0), reach_mm=12.0)
    mask = session.segment(Prompts(clicks=(Click(CENTRE), Click((42, 30, 15), positive=False))))
    expected = sphere(12.0)
    expected[39:] = False
    assert np.array_equal(mask, expected)


def test_a_click_that_grows_nothing_still_gives_its_voxel() -> None:
    volume = scan(np.zeros(SHAPE, bool), 0, 0)
    volume.array[CENTRE] = 240.0  # one bright voxel that the mean of its surroundings does not admit
    mask = opened(volume, smoothing_mm=0.05, multiplier=0.5, iterations=0).segment(Prompts(clicks=(Click(CENTRE),)))
    assert np.argwhere(mask).tolist() == [list(CENTRE)]


def test_wrong_input_is_a_user_error() -> None:
    session = opened(scan(np.zeros(SHAPE, bool), 0, 0))
    with pytest.raises(UserError, match="outside the volume"):
        session.segment(Prompts(clicks=(Click((0, 0, 30)),)))
    with pytest.raises(UserError, match="positive click"):
        session.segment(Prompts())
    with pytest.raises(UserError, match="positive numbers"):
        region_growing.build({"reach_mm": -1.0})
    with pytest.raises(UserError, match="reach_mm"):
        region_growing.build({"reach": 1.0})
