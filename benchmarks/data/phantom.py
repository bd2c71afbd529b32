"""Synthetic abdominal CT, written in the official layouts and read back by the loaders of the real data.

They exist to exercise the whole road and to rank methods roughly; they are not anatomy. A slim body (about
20 cm wide) holds skin, fat, muscle wall, ribs, spine, vessels, bowel, stomach, spleen, liver, kidneys and
pancreas. The organ of interest carries irregular lesions 10 to 40 HU apart from it, and sometimes a benign
cyst that is not the target. Edges are soft (partial volume), slices are averaged from finer ones, organs are
textured, noise is correlated. Everything follows from the seed.

Shapes are signed distances in mm (negative inside), with x to the right, y to the front and z to the head of
the patient, from the middle of the body.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from benchmarks.common.errors import UserError, nearest_name
from benchmarks.common.files import write_json
from benchmarks.common.seeds import generator
from benchmarks.data.boxes import bounding_box
from benchmarks.data.layouts.layout import SYNTHETIC_MANIFEST, SYNTHETIC_NOTICE
from benchmarks.data.volume import write_nifti

GENERATOR_VERSION = "1"
AIR, PADDING = -1000.0, -1024
FINE_SLICES = 2  # finer slices averaged into one
NOTICE = """These scans are SYNTHETIC: computed phantoms, not patients. They imitate the files of {title}, so
that the software can be tried and tested. No number measured on them says anything about real scans.
Made by tags-bench, phantom generator {version}, seed {seed}. No restriction on use.
"""

Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]
Floats = NDArray[Any]  # float32


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


KINDS = {
    "kits21": Kind("KiTS21", (120, 150), (210, 290), (10, 45), 0.3, (0.75, 0.2, 0.05), False, 0.5, 3),
    "msd-pancreas": Kind("MSD Task07", (90, 115), (130, 170), (10, 36), 0.1, (0.85, 0.15), True, 0.3, 1),
    "lits17": Kind("LiTS17", (95, 120), (130, 180), (10, 60), 0.2, (0.35, 0.25, 0.2, 0.2), True, 0.4, 1),
}


@dataclass(frozen=True)
class Phantom:
    """One synthetic scan: int16 HU and uint8 labels (x, y, z) in RAS+, spacing in mm, and what was put in."""

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    spacing: Point
    truth: dict[str, Any]


def synthesise(name: str, root: Path, seed: int, cases: int = 14, scale: float = 1.0) -> Path:
    """Write phantoms in the layout of dataset `name` into a folder of `root` and return that folder.

    Its name carries the parameters (`folder_name`), so runs with other parameters leave each other's data
    alone. The folder appears whole or not at all. If it is there nothing is computed.

    Args:
        name: "kits21", "msd-pancreas" or "lits17".
        cases: at least one.
        scale: voxels per mm relative to the standard (about 90 × 90 × 36 voxels of 2.3 × 2.3 × 4 mm).

    Raises:
        UserError: unknown name, or the folder holds something else than phantoms.
    """
    if name not in KINDS:
        raise UserError(f"no phantoms for dataset '{name}'; {nearest_name(name, KINDS)}")
    if cases < 1 or not 0.2 <= scale <= 4:
        raise UserError(f"phantoms need at least 1 case and a scale from 0.2 to 4, not {cases} and {scale}")
    folder = root / folder_name(name, seed, cases, scale)
    wanted = {"generator": GENERATOR_VERSION, "dataset": name, "seed": seed, "cases": cases, "scale": scale}
    if _parameters(folder) == wanted:
        return folder
    if folder.exists() and _parameters(folder) is None:
        raise UserError(f"{folder}: exists and holds no phantoms; choose another folder or remove it")
    try:
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=root))
    except OSError as error:
        raise UserError(f"{root}: not writable ({error.strerror})") from error
    try:
        truths = {}
        for index in range(cases):
            phantom = draw(name, seed, index, scale)
            truths[_write_case(name, partial, index, phantom, cases)] = phantom.truth
        _write_descriptions(name, partial, wanted, truths)
        _move_into_place(partial, folder, wanted)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already if it was moved
    return folder


def folder_name(name: str, seed: int, cases: int, scale: float = 1.0) -> str:
    """Where phantoms of these parameters lie: `kits21-14-2026` has 14 cases of seed 2026."""
    return f"{name}-{cases}-{seed}" + ("" if scale == 1 else f"-{scale:g}x")


def draw(name: str, seed: int, index: int, scale: float = 1.0) -> Phantom:
    """The phantom of one case, from the seed, the dataset and the index alone."""
    kind = KINDS[name]
    random = generator("phantom", GENERATOR_VERSION, name, seed, index)
    in_plane = float(random.uniform(2.1, 2.45)) / scale
    slices = float(random.uniform(3.0, 5.0)) / scale
    body = (float(random.uniform(86, 97)), float(random.uniform(66, 74)))
    extent = float(random.uniform(118, 142))
    columns = math.ceil((2 * body[0] + 12) / in_plane)
    shape = (columns, columns, max(3, round(extent / slices)))
    spacing = (round(in_plane, 4), round(in_plane, 4), round(slices, 4))
    canvas = Canvas(shape, spacing)
    cavity = _paint_body(canvas, body, random)
    _paint_neighbours(canvas, cavity, body, kind, random)
    organ_hu = float(random.uniform(*kind.organ_hu))
    organ = _paint_organ(name, canvas, cavity, body, organ_hu, random)
    growths = _place_growths(kind, canvas, organ, organ_hu, random)
    for growth in growths:
        _paint_growth(canvas, growth, organ if kind.within else cavity, random)
    return _expose(canvas, organ, growths, organ_hu, kind, random)


class Canvas:
    """HU on a grid with finer slices than the scan, and its axes in mm."""

    def __init__(self, shape: tuple[int, int, int], spacing: Point) -> None:
        self.spacing = spacing
        self.shape = (shape[0], shape[1], shape[2] * FINE_SLICES)
        steps = (spacing[0], spacing[1], spacing[2] / FINE_SLICES)
        self.axes = [
            ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(self.shape, steps, strict=True)
        ]
        self.hu = np.full(self.shape, AIR, np.float32)
        self.edge = max(spacing[0], 1.0)  # mm over which a sharp surface fades: one voxel

    def box(self, centre: Sequence[float], reach: float | Sequence[float]) -> Box:
        """The voxels within `reach` mm of `centre` along each axis."""
        reaches = reach if isinstance(reach, Sequence) else (reach,) * 3
        x, y, z = (
            slice(*np.searchsorted(axis, (c - r, c + r))) for axis, c, r in zip(self.axes, centre, reaches, strict=True)
        )
        return x, y, z

    def grid(self, box: Box | None = None) -> tuple[Floats, Floats, Floats]:
        """Coordinates in mm of a box (or of all), shaped to broadcast."""
        x, y, z = (axis[part] for axis, part in zip(self.axes, box or (slice(None),) * 3, strict=True))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def paint(self, coverage: Floats, hu: float | Floats, box: Box | None = None) -> None:
        """Lay a tissue over what is there, in proportion to its coverage."""
        view = self.hu if box is None else self.hu[box]
        view += coverage * (hu - view)

    def soft(self, distance: Floats, width: float | None = None) -> Floats:
        """Coverage from a signed distance: a ramp over `width` mm, one voxel by default."""
        return (0.5 - distance / np.float32(width or self.edge)).clip(0, 1)

    def to_scan(self, values: Floats) -> Floats:
        """Average the finer slices."""
        x, y, z = values.shape
        return np.asarray(values.reshape(x, y, z // FINE_SLICES, FINE_SLICES).mean(axis=3))


@dataclass
class Growth:
    """A lesion or a cyst: where, how large, how bright; its coverage once painted."""

    centre: Point
    diameter: float
    hu: float
    contrast: float
    lesion: bool
    margin: float
    irregularity: float
    box: Box | None = None
    coverage: Floats = field(default_factory=lambda: np.empty(0, np.float32))


def ellipsoid(grid: tuple[Floats, Floats, Floats], centre: Sequence[float], radii: Sequence[float]) -> Floats:
    """Signed distance to an ellipsoid, to first order."""
    offsets = [axis - np.float32(c) for axis, c in zip(grid, centre, strict=True)]
    first = sum((o / np.float32(r)) ** 2 for o, r in zip(offsets, radii, strict=True))
    second = sum((o / np.float32(r * r)) ** 2 for o, r in zip(offsets, radii, strict=True))
    level = np.sqrt(first)
    return np.asarray(level * (level - 1) / np.sqrt(second + 1e-9), np.float32)


def tube(grid: tuple[Floats, Floats, Floats], points: ArrayLike, radii: ArrayLike) -> Floats:
    """Signed distance to a tube of varying radius through the points, as a chain of balls."""
    corners = np.asarray(points, float)
    known = np.arange(len(corners))
    where = np.linspace(0, len(corners) - 1, 5 * len(corners))
    path = np.stack([np.interp(where, known, axis) for axis in corners.T], axis=1)
    widths = np.interp(where, known, np.asarray(radii, float))
    distance: Floats | None = None
    for (cx, cy, cz), width in zip(path.astype(np.float32), widths.astype(np.float32), strict=True):
        ball = np.sqrt((grid[0] - cx) ** 2 + (grid[1] - cy) ** 2 + (grid[2] - cz) ** 2) - width
        distance = ball if distance is None else np.minimum(distance, ball)
    assert distance is not None
    return distance


def waves(
    grid: tuple[Floats, Floats, Floats], wavelength: float, random: np.random.Generator, count: int = 6
) -> Floats:
    """Smooth noise of unit deviation: plane waves of random direction and phase."""
    total = np.float32(0)
    for _ in range(count):
        direction = random.normal(size=3)
        direction *= 2 * math.pi / (wavelength * random.uniform(0.7, 1.5) * np.linalg.norm(direction))
        dx, dy, dz = direction.astype(np.float32)
        phase = np.float32(random.uniform(0, 2 * math.pi))
        total = total + np.cos(grid[0] * dx + grid[1] * dy + (grid[2] * dz + phase))
    return np.asarray(total * np.float32(math.sqrt(2 / count)), np.float32)


def _paint_body(canvas: Canvas, body: tuple[float, float], random: np.random.Generator) -> Floats:
    """Table, skin, fat, muscle wall, ribs and spine; returns the coverage of the abdominal cavity."""
    x, y, z = canvas.grid()
    swell = 1 + 0.03 * np.cos(z / 60 + random.uniform(0, 6))
    radius = np.sqrt(x**2 + y**2) + np.float32(1e-3)
    level = ((np.abs(x) / body[0]) ** 2.3 + (np.abs(y) / body[1]) ** 2.3) ** np.float32(1 / 2.3) / swell
    depth = radius / np.maximum(level, 1e-3) - radius  # mm below the skin, along the radius
    angle = np.arctan2(x, y)  # 0 in front
    fat = random.uniform(5, 13) * (1 + 0.35 * np.cos(2 * angle + random.uniform(-0.4, 0.4)))
    wall = random.uniform(7, 10)
    table = np.abs(y + (body[1] + 9) - 0.002 * x**2)
    canvas.paint(canvas.soft(table - 2.5) * (np.abs(x) < 0.8 * body[0]), -250)
    canvas.paint(canvas.soft(-depth), random.uniform(10, 40))
    canvas.paint(canvas.soft(2.0 - depth), random.uniform(-112, -98))
    canvas.paint(canvas.soft(2 + fat - depth), random.uniform(50, 62))
    cavity = canvas.soft(2 + fat + wall - depth)
    canvas.paint(cavity, random.uniform(-105, -90) + 8 * waves((x, y, z), 22, random, 4))
    _paint_ribs(canvas, depth - (2 + fat + 0.5 * wall), angle * (0.5 * sum(body)), random)
    back = -body[1] + 2 + float(np.mean(fat)) + wall
    _paint_spine(canvas, back, random)
    return cavity


def _paint_ribs(canvas: Canvas, depth: Floats, arc: Floats, random: np.random.Generator) -> None:
    """Bands that run obliquely through the wall, so that a slice cuts each one somewhere else."""
    z = canvas.grid()[2]
    period = random.uniform(24, 29)
    along = (z - 0.45 * np.abs(arc) + random.uniform(0, period)) % period - period / 2
    distance = np.sqrt((along / 1.4) ** 2 + depth**2) - 3.2
    side = canvas.soft(55 - np.abs(arc), 15) * canvas.soft(-20 - z, 20)
    canvas.paint(canvas.soft(distance) * side, random.uniform(380, 520))
    canvas.paint(canvas.soft(distance + 1.8) * side, random.uniform(120, 200))


def _paint_spine(canvas: Canvas, back: float, random: np.random.Generator) -> None:
    """Vertebral bodies with discs between them, the canal, the spinous process, muscles on both sides."""
    middle = back + 20
    muscle = random.uniform(48, 60)
    for side in (-1, 1):
        for centre, radii in (
            ((side * 20, back + 2, 0), (15, 10, 400)),
            ((side * 24, middle + 2, -30), (9, 9, 70)),
        ):
            box = canvas.box(centre, tuple(r + 4 for r in radii))
            canvas.paint(canvas.soft(ellipsoid(canvas.grid(box), centre, radii)), muscle, box)
    box = canvas.box((0, middle, 0), (26, 30, 400))
    x, y, z = canvas.grid(box)
    disc = np.abs((z + random.uniform(0, 28)) % 28 - 14) - 3.5  # negative within a disc
    bone = np.sqrt((x / 1.2) ** 2 + (y - middle) ** 2) - 13
    canvas.paint(canvas.soft(bone) * np.ones_like(z), random.uniform(350, 480), box)
    inner = np.maximum(bone + 2.2, 2.0 - disc)
    canvas.paint(canvas.soft(inner), random.uniform(140, 200), box)
    canvas.paint(canvas.soft(np.maximum(bone + 1, disc)), random.uniform(70, 95), box)
    process = np.maximum(np.abs(x) - 3, np.abs(y - (back + 0)) - 8) + 0 * z
    canvas.paint(canvas.soft(process), 320, box)
    arch = np.abs(np.sqrt(x**2 + (y - (middle - 18)) ** 2) - 9) - 2 + 0 * z
    canvas.paint(canvas.soft(arch), 380, box)
    canal = np.sqrt(x**2 + (y - (middle - 18)) ** 2) - 7.5 + 0 * z
    canvas.paint(canvas.soft(canal), 20, box)


def _paint_neighbours(
    canvas: Canvas, cavity: Floats, body: tuple[float, float], kind: Kind, random: np.random.Generator
) -> None:
    """Everything in the cavity but the organ of interest, much of it at much the same HU."""
    soft_tissue = 0.5 * sum(kind.organ_hu)
    _paint_bowel(canvas, cavity, body, soft_tissue, random)
    for name, hu in (("stomach", random.uniform(25, 55)), ("spleen", soft_tissue + random.uniform(-12, 18))):
        for centre, radii in _jittered(ORGANS[name], random):
            box = canvas.box(centre, tuple(r * 1.2 + 4 for r in radii))
            distance = ellipsoid(canvas.grid(box), centre, radii)
            if name == "stomach":
                canvas.paint(canvas.soft(distance - 2.5) * cavity[box], soft_tissue - 15, box)
            canvas.paint(canvas.soft(distance) * cavity[box], hu, box)
    for name in ("liver", "kidney", "pancreas"):
        distance, box = _organ_distance(name, canvas, body, random)
        hu = soft_tissue + random.uniform(-15, 15) + (25 if name == "kidney" else 0)
        canvas.paint(canvas.soft(distance) * cavity[box], hu, box)
    spine_front = -body[1] + 56
    for x, radius, hu in ((-8.0, 7.0, random.uniform(*kind.aorta_hu)), (15.0, 7.5, soft_tissue + 15)):
        path = [(x + random.uniform(-2, 2), spine_front + random.uniform(-2, 2), z) for z in (-90.0, 0.0, 90.0)]
        box = canvas.box((x, spine_front, 0), (radius + 7, radius + 7, 400))
        grid = canvas.grid(box)
        cx = np.interp(grid[2], [-90, 0, 90], [p[0] for p in path])
        cy = np.interp(grid[2], [-90, 0, 90], [p[1] for p in path])
        distance = np.sqrt((grid[0] - cx) ** 2 + (grid[1] - cy) ** 2).astype(np.float32) - radius
        canvas.paint(canvas.soft(distance), hu, box)
    gall = (random.uniform(22, 30), random.uniform(20, 28), random.uniform(-22, -12))
    box = canvas.box(gall, 18)
    canvas.paint(canvas.soft(ellipsoid(canvas.grid(box), gall, (9, 9, 14))) * cavity[box], 12, box)


def _paint_bowel(
    canvas: Canvas, cavity: Floats, body: tuple[float, float], wall_hu: float, random: np.random.Generator
) -> None:
    for _ in range(int(random.integers(18, 26))):
        turn, out = random.uniform(-2.2, 2.2), random.uniform(0.2, 0.62)
        start = np.array([body[0] * out * math.sin(turn), body[1] * out * math.cos(turn), random.uniform(-65, 30)])
        points = [start + step for step in np.cumsum(random.normal(0, 11, size=(4, 3)), axis=0)]
        radius = random.uniform(5, 11)
        middle = tuple(np.mean(points, axis=0))
        reach = tuple(np.ptp(points, axis=0) / 2 + radius + 14)
        box = canvas.box(middle, reach)
        if min(part.stop - part.start for part in box) < 1:
            continue
        grid = canvas.grid(box)
        distance = tube(grid, points, (radius,) * len(points))
        canvas.paint(canvas.soft(distance) * cavity[box], wall_hu - random.uniform(0, 30), box)
        content = random.choice([15.0, 35.0, wall_hu, 180.0], p=[0.4, 0.3, 0.2, 0.1])
        canvas.paint(canvas.soft(distance + 2.5) * cavity[box], content, box)
        if random.random() < 0.35:  # gas rises to the front of a patient who lies on the back
            level = grid[1] - np.float32(middle[1] + random.uniform(0, 6))
            canvas.paint(canvas.soft(np.maximum(distance + 2.5, -level)) * cavity[box], -800, box)


Ellipsoids = Sequence[tuple[Sequence[float], Sequence[float]]]  # centre and radii

ORGANS: dict[str, Ellipsoids] = {
    "stomach": [((-30, 22, 24), (24, 18, 24))],
    "spleen": [((-53, -20, 20), (13, 23, 27))],
    "liver": [((36, 6, 12), (33, 40, 46)), ((4, 26, 22), (36, 17, 24))],
}


def _jittered(shapes: Ellipsoids, random: np.random.Generator) -> Ellipsoids:
    """The shapes of one organ moved together by up to 4 mm and stretched by up to a tenth."""
    shift = random.uniform(-4, 4, size=3)
    stretch = random.uniform(0.9, 1.1, size=3)
    return [([float(c) for c in centre + shift], [float(r) for r in radii * stretch]) for centre, radii in shapes]


def _organ_distance(
    name: str, canvas: Canvas, body: tuple[float, float], random: np.random.Generator
) -> tuple[Floats, Box]:
    """Signed distance to the liver, both kidneys, or the pancreas, in a box around it."""
    if name == "liver":
        lobes = _jittered(ORGANS["liver"], random)
        box = canvas.box((26, 10, 15), (80, 60, 72))
        grid = canvas.grid(box)
        right, left = (ellipsoid(grid, *lobe) for lobe in lobes)
        blend = (0.5 + (left - right) / 20).clip(0, 1)  # the lobes run into each other over a centimetre
        distance = left + (right - left) * blend - 10 * blend * (1 - blend)
        return distance + 2.0 * waves(grid, 45, random), box
    if name == "kidney":
        box = canvas.box((0, -body[1] + 36, -8), (74, 34, 60))
        grid = canvas.grid(box)
        sides = []
        for side in (-1, 1):
            (centre, radii), *_ = _jittered([((side * 40, -body[1] + 37, -8 - 3 * side), (18, 16, 34))], random)
            bean = ellipsoid(grid, centre, radii)
            hilum = ellipsoid(grid, (centre[0] - side * 13, centre[1] + 4, centre[2]), (11, 8, 15))
            sides.append(np.maximum(bean, -hilum))
        return np.minimum(*sides) + 0.8 * waves(grid, 25, random), box
    shift = random.uniform(-4, 4, size=3)
    course = [(20, 0, -24), (17, 3, -10), (4, 12, -2), (-14, 11, 4), (-32, 2, 9), (-46, -6, 13)]
    points = [np.add(point, shift + random.uniform(-3, 3, size=3)) for point in course]
    widths = np.multiply((11, 12, 8.5, 8.5, 8, 6.5), random.uniform(0.9, 1.2))
    box = canvas.box((-12, 3, -4), (60, 34, 46))
    grid = canvas.grid(box)
    return tube(grid, points, widths) + 1.3 * waves(grid, 11, random, 8), box


def _paint_organ(
    name: str,
    canvas: Canvas,
    cavity: Floats,
    body: tuple[float, float],
    hu: float,
    random: np.random.Generator,
) -> Floats:
    """Paint the organ of interest, its inner structure included; returns its coverage."""
    organ = {"kits21": "kidney", "msd-pancreas": "pancreas", "lits17": "liver"}[name]
    distance, box = _organ_distance(organ, canvas, body, random)
    inside = canvas.soft(distance) * cavity[box]
    grid = canvas.grid(box)
    values: float | Floats = hu
    if organ == "kidney":  # the cortex is brighter, and reaches inwards between the pyramids
        cortex = canvas.soft(-distance - 6 - 2.5 * waves(grid, 14, random), 4)
        values = hu - 12 + 24 * cortex
    canvas.paint(inside, values, box)
    if organ == "liver":
        _paint_liver_vessels(canvas, inside, box, hu, random)
    if organ == "pancreas":  # fat between the lobules
        canvas.paint(inside * canvas.soft(1.9 - waves(grid, 9, random), 0.6) * 0.5, -40, box)
    coverage = np.zeros(canvas.shape, np.float32)
    coverage[box] = inside
    return coverage


def _paint_liver_vessels(canvas: Canvas, inside: Floats, box: Box, hu: float, random: np.random.Generator) -> None:
    grid = canvas.grid(box)
    root = np.array([14.0, -2.0, 6.0])
    brightness = hu + random.uniform(25, 45)
    for _ in range(int(random.integers(5, 8))):
        heading = random.normal((0.8, 0.3, 0.3), 1.0)
        heading *= 16 / np.linalg.norm(heading)
        points = [root]
        for _ in range(3):
            heading = heading + random.normal(0, 6, size=3)
            points.append(points[-1] + heading)
        branch = tube(grid, points, (3.5, 2.8, 2.0, 1.4))
        canvas.paint(canvas.soft(branch) * inside, brightness, box)


def _place_growths(
    kind: Kind, canvas: Canvas, organ: Floats, organ_hu: float, random: np.random.Generator
) -> list[Growth]:
    """Choose lesions and cysts inside the organ, apart from each other."""
    inside = organ > 0.9
    steps = (canvas.spacing[0], canvas.spacing[1], canvas.spacing[2] / FINE_SLICES)
    low_corner, high_corner = bounding_box(inside) or ((0, 0, 0), inside.shape)
    near = tuple(slice(max(a - 1, 0), b + 1) for a, b in zip(low_corner, high_corner, strict=True))
    deep = ndimage.distance_transform_edt(inside[near], sampling=steps)[inside[near]]
    candidates = np.argwhere(inside)
    sign = 1 if random.random() < kind.hyperdense else -1
    count = 1 + int(random.choice(len(kind.lesions), p=kind.lesions))
    low, high = kind.diameter
    diameters = [float(np.exp(random.uniform(math.log(low), math.log(high))))]
    diameters += [float(np.exp(random.uniform(math.log(4), math.log(18)))) for _ in range(count - 1)]
    lesions = [(diameter, True) for diameter in diameters]
    cysts = [(float(random.uniform(8, 22)), False)] if random.random() < kind.cyst else []
    growths: list[Growth] = []
    for diameter, lesion in lesions + cysts:
        for attempt in range(40):
            size = diameter * (1 - 0.015 * attempt)  # a crowded organ gets smaller ones
            enough = deep >= min(0.35 * size, 0.9 * deep.max())
            voxel = candidates[enough][int(random.integers(int(enough.sum())))]
            x, y, z = (float(axis[i]) for axis, i in zip(canvas.axes, voxel, strict=True))
            if all(math.dist((x, y, z), other.centre) > 0.65 * (size + other.diameter) for other in growths):
                growths.append(_growth((x, y, z), size, lesion, sign, organ_hu, random))
                break
    return growths


def _growth(
    centre: Point, size: float, lesion: bool, sign: int, organ_hu: float, random: np.random.Generator
) -> Growth:
    if lesion:
        contrast = sign * float(random.uniform(12, 38))
        margin, irregularity = float(random.uniform(2, 5)), float(random.uniform(0.12, 0.28))
        return Growth(centre, size, organ_hu + contrast, contrast, True, margin, irregularity)
    hu = float(random.choice([random.uniform(5, 20), random.uniform(35, 65)]))  # clear, or with old blood
    return Growth(centre, size, hu, hu - organ_hu, False, 0.0, 0.03)


def _paint_growth(canvas: Canvas, growth: Growth, bounds: Floats, random: np.random.Generator) -> None:
    """A ball whose radius varies smoothly with the direction; soft margin for lesions, sharp for cysts."""
    radius = growth.diameter / 2
    box = canvas.box(growth.centre, radius * 1.7 + 6)
    offsets = [axis - np.float32(c) for axis, c in zip(canvas.grid(box), growth.centre, strict=True)]
    distance = np.sqrt(offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2) + np.float32(1e-3)
    direction = tuple(offset / distance for offset in offsets)
    surface = np.exp(growth.irregularity * waves(direction, 2.2, random, 10))
    width = math.hypot(canvas.edge, min(growth.margin, radius))
    coverage = canvas.soft(distance - radius * surface, width) * bounds[box]
    if growth.lesion and growth.diameter > 22:  # a softer core that stays within the stated contrast
        core = canvas.soft(distance - 0.45 * radius * surface, 4)
        canvas.paint(coverage, growth.hu + 3 - 9 * core, box)
    else:
        canvas.paint(coverage, growth.hu, box)
    growth.box, growth.coverage = box, coverage


def _expose(
    canvas: Canvas,
    organ: Floats,
    growths: list[Growth],
    organ_hu: float,
    kind: Kind,
    random: np.random.Generator,
) -> Phantom:
    """Average the slices, add texture and noise, cut off the scanner's circle, draw the labels."""
    hu = canvas.to_scan(canvas.hu)
    organ = canvas.to_scan(organ)
    label = (organ > 0.5).astype(np.uint8)
    spacing = canvas.spacing
    hu += 4.0 * organ * _correlated(hu.shape, tuple(6.0 / s for s in spacing), random)
    found = []
    for growth in sorted(growths, key=lambda one: one.lesion):  # lesions are drawn over cysts
        coverage = np.zeros(canvas.shape, np.float32)
        assert growth.box is not None
        coverage[growth.box] = growth.coverage
        share = canvas.to_scan(coverage)
        mask = share > 0.5
        mask.flat[share.argmax()] = True  # an annotator marks at least the voxel that shows it best
        label[mask] = 2 if growth.lesion else kind.cyst_label
        found.append((growth, mask, share))
    texture = _correlated(hu.shape, tuple(4.0 / s for s in spacing), random)
    for growth, _, share in found:
        hu += (3.5 if growth.lesion else 0.0) * share * texture
    noise = float(random.uniform(9, 14))
    hu += noise * _correlated(hu.shape, (0.7, 0.7, 0.35), random)
    x, y, _ = canvas.grid()
    circle = np.broadcast_to(x**2 + y**2 > (0.5 * hu.shape[0] * spacing[0]) ** 2, hu.shape)
    image = np.rint(hu).clip(PADDING, 3071).astype(np.int16)
    image[circle] = PADDING
    growth_truth = [
        {
            "what": "lesion" if growth.lesion else "cyst",
            "diameter_mm": round(growth.diameter, 2),
            "contrast_hu": round(growth.contrast, 2),
            "centre_mm": [round(c, 2) for c in growth.centre],
            "voxels": int((mask & (label == (2 if growth.lesion else kind.cyst_label))).sum()),
        }
        for growth, mask, _ in found
    ]
    truth = {"organ_hu": round(organ_hu, 2), "noise_hu": round(noise, 2), "growths": growth_truth[::-1]}
    return Phantom(image, label, spacing, truth)


def _correlated(shape: tuple[int, ...], sigma: Sequence[float], random: np.random.Generator) -> Floats:
    """Gaussian noise of unit deviation, correlated over `sigma` voxels."""
    noise = ndimage.gaussian_filter(random.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return np.asarray(noise / noise.std())


LITS_ORIENTATIONS = ("LPS", "RAS", "LAS", "RPS", "RAI", "LPI")


def _write_case(name: str, folder: Path, index: int, phantom: Phantom, cases: int) -> str:
    """Write image and label as the official files would lie; returns the case id."""
    if name == "kits21":  # slices first, the affine without offset
        case_id = f"case_{index:05d}"
        place = folder / "data" / case_id
        paths = place / "imaging.nii.gz", place / "aggregated_MAJ_seg.nii.gz"
        codes = "IPL"
        origin = tuple(-s * (n - 1) for s, n in zip(phantom.spacing, phantom.image.shape, strict=True))
    elif name == "msd-pancreas":
        case_id = f"pancreas_{index + 1:03d}"
        place = folder / "Task07_Pancreas"
        paths = place / "imagesTr" / f"{case_id}.nii.gz", place / "labelsTr" / f"{case_id}.nii.gz"
        codes, origin = "RAS", (0.0, 0.0, -350.0 + 7 * index)
    else:
        case_id = f"volume-{index}"
        place = folder / ("Training Batch 1" if index < (cases + 1) // 2 else "Training Batch 2")
        paths = place / f"volume-{index}.nii", place / f"segmentation-{index}.nii"
        codes = LITS_ORIENTATIONS[index % len(LITS_ORIENTATIONS)]
        origin = (-110.0 + index, -180.5, 1200.0 - 31 * index)
    affine = np.diag([*phantom.spacing, 1.0])
    affine[:3, 3] = origin
    orientation = nib.orientations.axcodes2ornt(codes)
    write_nifti(phantom.image, affine, paths[0], orientation)
    write_nifti(phantom.label, affine, paths[1], orientation)
    return case_id


def _write_descriptions(name: str, folder: Path, parameters: dict[str, Any], truths: dict[str, dict[str, Any]]) -> None:
    kind = KINDS[name]
    if name == "msd-pancreas":
        pairs = [
            {"image": f"./imagesTr/{case_id}.nii.gz", "label": f"./labelsTr/{case_id}.nii.gz"}
            for case_id in sorted(truths)
        ]
        description = {
            "name": "Pancreas",
            "description": "SYNTHETIC phantoms in the layout of MSD Task07",
            "licence": "synthetic, no restriction",
            "tensorImageSize": "3D",
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "pancreas", "2": "cancer"},
            "numTraining": len(pairs),
            "numTest": 0,
            "training": pairs,
            "test": [],
        }
        write_json(folder / "Task07_Pancreas" / "dataset.json", description)
    notice = NOTICE.format(title=kind.title, version=GENERATOR_VERSION, seed=parameters["seed"])
    (folder / SYNTHETIC_NOTICE).write_text(notice, "utf-8")
    write_json(folder / SYNTHETIC_MANIFEST, {**parameters, "kind": asdict(kind), "truth": truths})


def _parameters(folder: Path) -> dict[str, Any] | None:
    """The parameters of the phantoms in a folder; None if it holds none."""
    try:
        content = json.loads((folder / SYNTHETIC_MANIFEST).read_text("utf-8"))
        return {key: content[key] for key in ("generator", "dataset", "seed", "cases", "scale")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _move_into_place(partial: Path, folder: Path, wanted: dict[str, Any]) -> None:
    """Rename the finished folder; phantoms of an older generator give way, a rival's equal ones stay."""
    partial.chmod(0o755)  # mkdtemp makes it private
    if folder.exists() and _parameters(folder) is not None:
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        os.replace(folder, old)
        shutil.rmtree(old)
    try:
        os.replace(partial, folder)
    except OSError as error:
        if _parameters(folder) != wanted:
            raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
