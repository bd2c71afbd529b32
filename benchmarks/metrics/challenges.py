"""Figures of public challenges, by their own definitions, from the scores that this bench has anyway."""

from __future__ import annotations

import math
from collections.abc import Sequence

CVPR25_STEPS = 6
"""A box, then five clicks."""

CVPR25_TOLERANCE_MM = 2.0
CVPR25_POOR_DICE = 0.2


def cvpr25_figures(dice: Sequence[float], surface_dice: Sequence[float]) -> dict[str, float]:
    """The four figures of one target in the CVPR 2025 interactive 3D challenge.

    Source: `CVPR25_iter_eval.py` of JunMa11/CVPR-MedSegFMCompetition, commit 748e862. The area is that of the
    trapezoids under the five steps with clicks, without the box, and is not divided by anything: a perfect method has
    4. A mask whose Dice is 0.2 or less has surface Dice 0. Of several targets in one scan the challenge takes the mean
    of Dice at each step first; that mean, not a target's own Dice, then decides whether the surface Dice counts.

    Args:
        dice: after the box and after each of the five clicks.
        surface_dice: the same at a tolerance of 2 mm (`nsd@2mm`).

    Returns:
        dsc_auc, nsd_auc (0 to 4), dsc_final, nsd_final (0 to 1).
    """
    for scores in (dice, surface_dice):
        if len(scores) != CVPR25_STEPS or any(math.isnan(score) for score in scores):
            raise ValueError(f"six scores are due, a box and five clicks, none of them NaN; not {list(scores)}")
    surface = [
        float(score) if quality > CVPR25_POOR_DICE else 0.0 for quality, score in zip(dice, surface_dice, strict=True)
    ]
    return {
        "dsc_auc": _area(dice[1:]),
        "nsd_auc": _area(surface[1:]),
        "dsc_final": float(dice[-1]),
        "nsd_final": surface[-1],
    }


def _area(scores: Sequence[float]) -> float:
    return math.fsum(scores) - (scores[0] + scores[-1]) / 2
