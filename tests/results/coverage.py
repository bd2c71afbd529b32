"""Studies whose true mean is known in closed form: how often does an interval hold it?

Several lesions a patient, alike within the patient, and the patients with many lesions are the harder ones; as Dice is
(bounded, most of it high, a tail to 0), as a distance is (from 0 on, a long tail upwards), and as the difference of two
methods is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.results.statistics import Scale

Ends = tuple[float, float]
LESIONS = (1, 1, 2, 3, 5)  # of a patient, each as likely as the others
FEW, MANY = (6.0, 1.5), (4.0, 2.0)  # Beta of the patients with up to two lesions, and with more
LESION = (20.0, 2.0)  # Beta of the factor of one lesion
ALIKE = (20.0, 2.0)
MISSED = 0.04


@dataclass(frozen=True)
class Kind:
    """One kind of data: how a study is drawn, its true mean, and the scale of its interval."""

    name: str
    scale: Scale
    truth: float
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]


def percentile_bootstrap(values: np.ndarray, owner: np.ndarray, chance: np.random.Generator, draws: int = 500) -> Ends:
    """The usual interval, to compare with: whole patients are drawn again."""
    sums, counts = np.bincount(owner, values), np.bincount(owner).astype(float)
    times = chance.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws).astype(float)
    low, high = np.quantile((times @ sums) / (times @ counts), [0.025, 0.975])
    return float(low), float(high)


def coverage(kind: Kind, patients: int, studies: int, interval: Callable[..., Ends], seed: int = 0) -> float:
    """The share of studies whose interval holds the true mean."""
    chance = np.random.default_rng([seed, patients])
    held = 0
    for _ in range(studies):
        low, high = interval(*kind.draw(chance, patients))
        held += low <= kind.truth <= high
    return held / studies


def _mean(shape: tuple[float, float]) -> float:
    return shape[0] / (shape[0] + shape[1])


def _weighted(few: float, many: float) -> float:
    """The mean over lesions, where a patient counts as often as it has lesions."""
    return sum(size * (few if size <= 2 else many) for size in LESIONS) / sum(LESIONS)


def _patients(chance: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    sizes = chance.choice(LESIONS, patients)
    effects = np.where(sizes <= 2, chance.beta(*FEW, patients), chance.beta(*MANY, patients))
    return effects, np.repeat(np.arange(patients), sizes)


def _dice(chance: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    effects, owner = _patients(chance, patients)
    return effects[owner] * chance.beta(*LESION, owner.size) * (chance.random(owner.size) >= MISSED), owner


def _alike_but_for_failures(chance: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    _, owner = _patients(chance, patients)
    effects = chance.beta(*ALIKE, patients) * (chance.random(patients) >= 0.1)
    return effects[owner] * chance.beta(*LESION, owner.size), owner


def _distance(chance: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    _, owner = _patients(chance, patients)
    return np.exp(chance.normal(1.6, 0.6, patients)[owner] + chance.normal(0, 0.4, owner.size)), owner


def _difference(chance: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray]:
    effects, owner = _patients(chance, patients)
    shared = chance.beta(*LESION, owner.size)
    one = effects[owner] * shared * (chance.random(owner.size) >= MISSED)
    other = effects[owner] * shared * chance.beta(30, 2, patients)[owner] * (chance.random(owner.size) >= 2 * MISSED)
    return one - other, owner


_HIT = _weighted(_mean(FEW), _mean(MANY)) * _mean(LESION)
DICE = Kind("Dice", "share", _HIT * (1 - MISSED), _dice)
KINDS = (
    DICE,
    Kind("Dice, alike but 1 patient in 10 fails", "share", 0.9 * _mean(ALIKE) * _mean(LESION), _alike_but_for_failures),
    Kind("distance", "positive", math.exp(1.6 + (0.6**2 + 0.4**2) / 2), _distance),
    Kind(
        "difference of Dice",
        "difference",
        _HIT * ((1 - MISSED) - _mean((30, 2)) * (1 - 2 * MISSED)),
        _difference,
    ),
)
