"""The body of a phantom: skin, fat, muscle, bones, vessels, bowel, and the organs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.data.synthetic.abdomen import Kind
from benchmarks.data.synthetic.canvas import Box, Canvas, Floats, ellipsoid, tube, waves


def paint_body(canvas: Canvas, body: tuple[float, float], random: np.random.Generator) -> Floats:
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


def paint_neighbours(
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


def paint_organ(
    organ: str,
    canvas: Canvas,
    cavity: Floats,
    body: tuple[float, float],
    hu: float,
    random: np.random.Generator,
) -> Floats:
    """Paint the organ of interest ("kidney", "pancreas", "liver") with its inner structure; returns its coverage."""
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
