"""Elementary shapes: what the early and middle layers of a vision network are said to look for."""

from __future__ import annotations

import math

import numpy as np

from features.sketches.pens import RGB, Kind, Pen, Point, arc, box


def line(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """One straight line, or two side by side."""
    width, gap = rng.uniform(0.12, 0.26), rng.uniform(0.2, 0.34)
    for offset in (0.0,) if rng.random() < 0.7 else (-gap, gap):
        with pen.part("line"):
            pen.stroke([(offset, -1.0), (offset, 1.0)], pen.palette.main, width)


def curve(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """An arc of 90 to 170 degrees, opening downwards before it is turned."""
    half, radius, width = rng.uniform(45, 85), rng.uniform(0.85, 1.0), rng.uniform(0.12, 0.26)
    radius *= 0.9 / math.sin(math.radians(half))
    lift = radius * (1 + math.cos(math.radians(half))) / 2
    rounds = (1.0,) if rng.random() < 0.7 else (1.0, 0.64)
    for part in rounds:
        with pen.part("curve"):
            pen.stroke(arc(lift, 0, radius * part, radius * part, 90 - half, 90 + half), pen.palette.main, width)


def corner(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """Two straight lines that meet at 50 to 110 degrees, at the left before it is turned."""
    half, width = math.radians(rng.uniform(25, 55)), rng.uniform(0.12, 0.26)
    y, x = 1.5 * math.sin(half), 1.5 * math.cos(half)
    grow = 1.9 / max(2 * y, x)
    with pen.part("corner"):
        pen.stroke([(-y * grow, x * grow / 2), (0, -x * grow / 2), (y * grow, x * grow / 2)], pen.palette.main, width)


def circle(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A ring, a disc, or two rings around each other."""
    form, width = rng.integers(3), rng.uniform(0.12, 0.26)
    with pen.part("circle"):
        if form == 0:
            pen.disc(0, 0, 0.9, colour=pen.palette.main)
        else:
            pen.stroke(arc(0, 0, 0.9, 0.9, 0, 360), pen.palette.main, width)
        if form == 2:
            pen.stroke(arc(0, 0, 0.5, 0.5, 0, 360), pen.palette.main, width)


def triangle(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A triangle, filled or drawn with a line."""
    apex = rng.uniform(-0.35, 0.35)
    points = [(-0.9, apex), (0.75, 0.98), (0.75, -0.98)]
    with pen.part("triangle"):
        if rng.random() < 0.5:
            pen.fill(points, pen.palette.main)
        else:
            pen.stroke([*points, points[0]], pen.palette.main, rng.uniform(0.13, 0.24))


def cross(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """Two bars that cross at a right angle."""
    half, short = rng.uniform(0.09, 0.24), rng.uniform(0.75, 1.0)
    with pen.part("bar"):
        pen.fill(box(-half, -1, half, 1), pen.palette.main)
    with pen.part("bar"):
        pen.fill(box(-short, -half, short, half), pen.palette.main)
        if pen.outline:
            pen.fill(box(-half, -half, half, half), pen.palette.main)


def star(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A star with five to seven points."""
    count, inner = int(rng.integers(5, 8)), rng.uniform(0.38, 0.52)
    angles = [math.pi * k / count for k in range(2 * count)]
    points = [(-math.cos(a) * r, math.sin(a) * r) for a, r in zip(angles, [1.0, inner] * count, strict=True)]
    with pen.part("star"):
        pen.fill(points, pen.palette.main)


def spiral(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A spiral of two to three turns; the pose says to which side it unwinds."""
    with pen.part("spiral"):
        pen.stroke(winding(0, 0, 0.98, rng.uniform(2.0, 3.0)), pen.palette.bold, rng.uniform(0.1, 0.16))


def winding(y: float, x: float, radius: float, turns: float) -> list[Point]:
    """The points of a spiral from its centre outwards."""
    steps = round(20 * turns)
    angles = [2 * math.pi * turns * k / steps for k in range(steps + 1)]
    return [(y - radius * k / steps * math.sin(a), x + radius * k / steps * math.cos(a)) for k, a in enumerate(angles)]


def stripes(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """Five or more parallel stripes in a round or square patch, horizontal before they are turned."""
    count, disc, duty = int(rng.integers(5, 9)) * (2 if pen.broad else 1), rng.random() < 0.5, rng.uniform(0.4, 0.6)
    with pen.part("stripes"):
        window(pen, disc, pen.palette.second)
        bands(pen, disc, -1.0, count, 2.0 / count, duty, pen.palette.main)


def window(pen: Pen, disc: bool, colour: RGB) -> None:
    """The round or square patch that a texture fills."""
    if disc:
        pen.disc(0, 0, 1.0, colour=colour)
    else:
        pen.fill(box(-1, -1, 1, 1), colour)


def bands(pen: Pen, disc: bool, top: float, count: int, pitch: float, duty: float, colour: RGB) -> None:
    """Horizontal bands from `top` down, clipped to the round or square patch."""
    for k in range(count):
        y0 = top + (k + (1 - duty) / 2) * pitch
        y1 = y0 + duty * pitch
        a0, a1 = (math.sqrt(max(0.0, 1 - y * y)) if disc else 1.0 for y in (y0, y1))
        pen.fill([(y0, -a0), (y0, a0), (y1, a1), (y1, -a1)], colour)


def checks(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A chessboard of four to seven fields a side."""
    count = int(rng.integers(4, 8)) + (3 if pen.broad else 0)
    with pen.part("checks"):
        window(pen, False, pen.palette.second)
        tiles(pen, count, count, -1.0, 2.0 / count, pen.palette.main)


def tiles(pen: Pen, rows: int, columns: int, top: float, side: float, colour: RGB) -> None:
    """Every second field of a chessboard whose first row begins at `top`."""
    for row in range(rows):
        for column in range(row % 2, columns, 2):
            y, x = top + row * side, -1 + column * side
            pen.fill(box(y, x, y + side, x + side), colour)


def dots(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A field of dots, in rows or in staggered rows, on the ground or on a patch."""
    count, staggered, patch = int(rng.integers(3, 6)) + (3 if pen.broad else 0), rng.random() < 0.5, rng.random() < 0.5
    pitch, size = 2.0 / count, rng.uniform(0.5, 0.72)
    with pen.part("dots"):
        if patch:
            window(pen, False, pen.palette.second)
        for row in range(count):
            shift = 0.25 * pitch * (1 if row % 2 else -1) if staggered else 0.0
            for column in range(count):
                y, x = -1 + (row + 0.5) * pitch, -1 + (column + 0.5) * pitch + shift * 0.8
                pen.disc(y, x, pitch * size / 2 * (0.8 if staggered else 1.0), colour=pen.palette.main)


def frequency(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A boundary between a fine texture above and an even area below, before it is turned.

    After the high-low frequency detectors of Schubert et al., *High/Low Frequency Detectors*, Distill 2021.
    """
    disc, form, fine = rng.random() < 0.4, rng.integers(3), rng.uniform(0.1, 0.15) * (0.55 if pen.broad else 1.0)
    with pen.part("low"):
        window(pen, disc, pen.palette.second)
    with pen.part("high"):
        if form == 0:
            count = round(1 / fine / 1.5)
            bands(pen, disc, -1.0, count, 1.0 / count, 0.5, pen.palette.main)
        elif form == 1:
            upright(pen, disc, round(2 / fine / 1.5), pen.palette.main)
        else:
            speckles(pen, rng, disc, 0.6 * fine, pen.palette.main)


def upright(pen: Pen, disc: bool, count: int, colour: RGB) -> None:
    """Vertical bands in the upper half of the patch."""
    pitch = 2.0 / count
    for k in range(count):
        x0 = -1 + (k + 0.25) * pitch
        x1 = x0 + 0.5 * pitch
        a0, a1 = (math.sqrt(max(0.0, 1 - x * x)) if disc else 1.0 for x in (x0, x1))
        pen.fill([(-a0, x0), (-a1, x1), (0, x1), (0, x0)], colour)


def speckles(pen: Pen, rng: np.random.Generator, disc: bool, radius: float, colour: RGB) -> None:
    """Small squares at jittered places in the upper half of the patch."""
    rows = round(0.36 / radius)
    jitter = rng.uniform(-0.25, 0.25, (rows, 2 * rows, 2)).tolist()
    for row in range(rows):
        for column in range(2 * rows):
            dy, dx = jitter[row][column]
            y, x = -1 + (row + 0.5 + dy) / rows, -1 + (column + 0.5 + dx) / rows
            if not disc or math.hypot(y, x) < 0.92:
                pen.fill(box(y - radius, x - radius, y + radius, x + radius), colour)


def contrast(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """Two even areas of different colour that meet at a straight border."""
    disc = rng.random() < 0.5
    with pen.part("below"):
        window(pen, disc, pen.palette.second)
    with pen.part("above"):
        pen.fill(arc(0, 0, 1, 1, 0, 180) if disc else box(-1, -1, 0, 1), pen.palette.main)


SHAPES: dict[str, Kind] = {
    "line": Kind(line, spin=180, period=180, thin=True),
    "curve": Kind(curve, spin=180, thin=True),
    "corner": Kind(corner, spin=180, thin=True),
    "circle": Kind(circle, period=0, thin=True),
    "triangle": Kind(triangle, spin=180, thin=True),
    "cross": Kind(cross, spin=45, period=90, thin=True),
    "star": Kind(star, spin=180, period=0),
    "spiral": Kind(spiral, poses=("left", "right"), spin=180, period=0),
    "stripes": Kind(stripes, spin=180, period=180, field=True),
    "checks": Kind(checks, spin=45, period=90, field=True),
    "dots": Kind(dots, spin=45, period=90, field=True),
    "high-low frequency": Kind(frequency, spin=180, field=True),
    "colour contrast": Kind(contrast, spin=180, field=True, coloured=True),
}
