"""Synthetic abdominal CT: what differs between the phantoms of one dataset and another.

They exist to exercise the whole road and to rank methods roughly; they are not anatomy. A slim body (about 20 cm
wide) holds skin, fat, muscle wall, ribs, spine, vessels, bowel, stomach, spleen, liver, kidneys and pancreas. The organ
of interest carries irregular lesions 20 to 80 HU apart from it, as tumours are after contrast medium, and sometimes a
benign cyst that is not the target. The lesions' shapes depart from a ball about as those of real ones do: the best
ball around the inmost point has a Dice of 0.80 in the kidney, 0.71 in the liver and 0.63 in the pancreas (lesions of 9,
3 and 3 patients).
Everything follows from the seed. These are descriptions only; `scan.py` draws, `writing.py` writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GENERATOR_VERSION = "3"


@dataclass(frozen=True)
class Kind:
    """What differs between the phantoms of one dataset and another; HU and mm.

    Attributes:
        organ_hu: range of the organ's mean; the phase of contrast.
        aorta_hu: range of the arterial enhancement.
        diameter: range of the largest lesion, drawn log-uniformly.
        hyperdense: share of cases whose lesions are brighter than the organ.
        lesions: probabilities of one, two, three … lesions.
        within: lesions stop at the organ's surface (a kidney's may bulge out).
        cyst: probability of a benign look-alike, and its label value.
        contrast: range of the HU between a lesion and its organ, as in the venous phase.
        elongation: range of a lesion's longest axis over the diameter of its volume; the shortest is the inverse.
    """

    title: str
    organ_hu: tuple[float, float]
    aorta_hu: tuple[float, float]
    diameter: tuple[float, float]
    hyperdense: float
    lesions: tuple[float, ...]
    within: bool
    cyst: float
    cyst_label: int
    contrast: tuple[float, float]
    elongation: tuple[float, float]


@dataclass(frozen=True)
class CaseFiles:
    """Where a case lies as the official files would, and how its axes run there.

    Attributes:
        codes: orientation of the stored axes, such as "IPL".
        origin: mm, of the RAS+ affine.
    """

    case_id: str
    image: Path
    label: Path
    codes: str
    origin: tuple[float, float, float]


@dataclass(frozen=True)
class Abdomen:
    """The phantoms of one dataset.

    Attributes:
        dataset: name, part of every seed.
        organ: of interest: "kidney", "pancreas" or "liver".
        kind: how organ and lesions look.
        place: (folder, index, cases, shape, spacing in mm) → the files of the case with that index.
        describe: called with the folder and the case ids in the end, for files beside the cases.
    """

    dataset: str
    organ: str
    kind: Kind
    place: Callable[[Path, int, int, tuple[int, int, int], tuple[float, float, float]], CaseFiles]
    describe: Callable[[Path, list[str]], None] | None = None
