"""Where to look when nobody says it: views over the whole body, and the parts of their answer worth a nearer look.

Coordinates are voxels of the model's grid, as in `tags.views`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tags.views import Answer, View, allowed_centres

MOST_PARTS = 16  # that are looked at, the heaviest first


def views_over(box: tuple[Sequence[int], Sequence[int]], step: float, side: int, overlap: float) -> list[View]:
    """Views of `side`³ voxels of `step`, from end to end of a box; neighbours share `overlap` of their side.

    Their centres are rounded, see `View`, so that an overlap may be up to a voxel smaller.
    """
    long = side * step
    axes: list[list[float]] = []
    for low, high in zip(*box, strict=True):
        room = high - low - long
        if room <= 0:
            middles = np.array([(low + high - 1) / 2])
        else:
            number = int(np.ceil(room / (long * (1 - overlap)))) + 1
            middles = np.linspace(low, low + room, number) + (long - 1) / 2
        axes.append(allowed_centres(middles, step, side).tolist())
    return [View((x, y, z), step, side) for x in axes[0] for y in axes[1] for z in axes[2]]


def parts_found(
    answer: Answer, shape: Sequence[int], step: float, threshold: float, share: float
) -> NDArray[np.float64]:
    """(N, 3): the likeliest place of each connected part of an answer that weighs enough, the heaviest first.

    A part weighs the sum of its probabilities. Likeliest is where they are highest after smoothing by one step: not a
    single bright voxel, and not the thickest spot of a part that has grown beyond the lesion.

    Args:
        shape: of the volume on the model's grid.
        step: between the places where the answer is read.
        share: of the heaviest part's weight that a part needs.
    """
    axes = [np.arange((n - 1) % step / 2, n, step, dtype=np.float64) for n in shape]
    probability = answer.read_at(axes)
    parts, number = ndimage.label(probability > threshold)
    if number == 0:
        return np.zeros((0, 3))
    names = np.arange(1, number + 1)
    weights = ndimage.sum_labels(probability, parts, names)
    heaviest = names[np.argsort(-weights, kind="stable")][:MOST_PARTS]
    chosen = [name for name in heaviest if weights[name - 1] >= share * weights.max()]
    places = ndimage.maximum_position(ndimage.gaussian_filter(probability, 1.0), parts, chosen)
    return np.array([[axis[i] for axis, i in zip(axes, place, strict=True)] for place in places])
