"""Made things, drawn as in a picture book, facing right; and the parts they share: wheels and windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from features.sketches.pens import Kind, Pen, Point, arc, box


def wheel(pen: Pen, y: float, x: float, radius: float) -> None:
    """A tyre with a hub."""
    with pen.part("wheel"):
        pen.disc(y, x, radius, colour=pen.palette.dark)
        outline, pen.outline = pen.outline, 0.0
        pen.stroke(arc(y, x, radius, radius, 0, 360), pen.palette.edge, 0.06)
        pen.disc(y, x, 0.48 * radius, colour=pen.palette.pale)
        pen.outline = outline


def pane(pen: Pen, points: Sequence[Point]) -> None:
    """A window."""
    with pen.part("window"):
        pen.fill(points, pen.palette.glass)


def car(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A car from the side: cabin with two windows above, body, two wheels below; the bonnet is at the right."""
    p = pen.palette
    roof, radius, rear = rng.uniform(-0.68, -0.52), rng.uniform(0.24, 0.29), rng.uniform(-0.92, -0.74)
    with pen.part("cabin"):
        pen.fill([(-0.02, rear), (roof, rear + 0.2), (roof, 0.2), (-0.02, 0.56)], p.main)
    with pen.part("body"):
        pen.fill(
            [(-0.06, -0.98), (-0.06, 0.5), (0.06, 0.94), (0.2, 1.0), (0.42, 1.0), (0.42, -1.0), (0.06, -1.0)], p.main
        )
    top, foot = roof + 0.12, -0.06
    pane(pen, [(foot, rear + 0.17), (top, rear + 0.28), (top, -0.26), (foot, -0.26)])
    pane(pen, [(foot, -0.12), (top, -0.12), (top, 0.16), (foot, 0.38)])
    with pen.part("light"):
        pen.disc(0.18, 0.9, 0.09, colour=p.pale)
    pen.stroke([(0.04, -0.19), (0.34, -0.19)], p.ink, 0.035)
    for x in (-0.56, 0.56):
        wheel(pen, 0.42, x, radius)


def bus(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A bus from the side: a long box with a row of windows and a door, two wheels below."""
    p = pen.palette
    count, roof = int(rng.integers(3, 5)), rng.uniform(-0.74, -0.64)
    with pen.part("body"):
        pen.fill([(roof + 0.08, -1.0), (roof, -0.92), (roof, 0.9), (roof + 0.12, 1.0), (0.5, 1.0), (0.5, -1.0)], p.main)
    with pen.part("band"):
        pen.fill(box(0.14, -0.98, 0.24, 0.98), p.second)
    pitch = 1.46 / count
    for k in range(count):
        x = -0.92 + k * pitch
        pane(pen, box(roof + 0.16, x, -0.04, x + pitch - 0.12))
    with pen.part("door"):
        pen.fill(box(roof + 0.16, 0.62, 0.46, 0.86), p.glass)
    for x in (-0.56, 0.36):
        wheel(pen, 0.5, x, rng.uniform(0.2, 0.25))


def bicycle(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A bicycle: two wheels with spokes, a frame, saddle and handlebar; it drives to the right."""
    p = pen.palette
    spokes, radius = rng.random() < 0.5, rng.uniform(0.4, 0.44)
    for x in (-0.56, 0.56):
        with pen.part("wheel"):
            pen.stroke(arc(0.32, x, radius, radius, 0, 360), p.edge, 0.09)
            for k in range(3 if spokes else 0):
                s, c = radius * math.sin(k * math.pi / 3), radius * math.cos(k * math.pi / 3)
                pen.stroke([(0.32 - s, x - c), (0.32 + s, x + c)], p.edge, 0.02)
    with pen.part("frame"):
        pen.stroke([(0.32, -0.56), (-0.2, -0.24), (-0.22, 0.38), (0.32, -0.06), (0.32, -0.56)], p.bold, 0.09)
        pen.stroke([(-0.36, -0.3), (-0.2, -0.24), (0.32, -0.06)], p.bold, 0.09)
        pen.stroke([(0.32, 0.56), (-0.22, 0.38), (-0.5, 0.3)], p.bold, 0.09)
    with pen.part("saddle"):
        pen.stroke([(-0.38, -0.46), (-0.38, -0.16)], p.edge, 0.12)
    with pen.part("handlebar"):
        pen.stroke([(-0.5, 0.24), (-0.52, 0.46), (-0.4, 0.54)], p.edge, 0.08)


def house(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A house from the front: walls, roof, windows, a door, sometimes a chimney."""
    p = pen.palette
    eaves, wide, side = rng.uniform(-0.26, -0.1), rng.uniform(0.68, 0.82), rng.choice((-1, 1))
    if rng.random() < 0.6:
        with pen.part("chimney"):
            pen.fill(box(-0.86, side * 0.5 - 0.12, -0.3, side * 0.5 + 0.12), p.accent)
    with pen.part("wall"):
        pen.fill(box(eaves, -wide, 0.92, wide), p.main)
    with pen.part("roof"):
        pen.fill([(eaves, -wide - 0.18), (-0.96, 0), (eaves, wide + 0.18)], p.second)
    with pen.part("door"):
        pen.fill(box(0.36, side * 0.32 - 0.16, 0.92, side * 0.32 + 0.16), p.accent)
    top = eaves + 0.14
    for x in (-0.38, 0.38):
        pane(pen, box(top, x - 0.17, top + 0.3, x + 0.17))
        pen.stroke([(top, x), (top + 0.3, x)], p.bold, 0.04)
    pane(pen, box(0.5, -side * 0.36 - 0.18, 0.76, -side * 0.36 + 0.18))


def boat(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A sailing boat: hull with portholes, mast, two sails; the large one is at the left."""
    p = pen.palette
    tip = rng.uniform(-1.0, -0.86)
    with pen.part("mast"):
        pen.stroke([(tip, 0.04), (0.5, 0.04)], p.edge, 0.08)
    with pen.part("sail"):
        pen.fill([(tip + 0.06, -0.04), (0.3, -0.04), (0.3, -0.84)], p.second)
    with pen.part("sail"):
        pen.fill([(tip + 0.2, 0.12), (0.3, 0.12), (0.3, 0.7)], p.accent)
    with pen.part("hull"):
        pen.fill([(0.44, -1.0), (0.44, 1.0), (0.7, 0.8), (0.92, 0.56), (0.92, -0.62), (0.7, -0.86)], p.main)
    for x in (-0.42, 0.0, 0.42):
        with pen.part("window"):
            pen.disc(0.66, x, 0.1, colour=p.glass)


def clock(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A round clock: rim, dial with marks, two hands."""
    p = pen.palette
    hour, minute, bells = rng.uniform(0, 360), rng.uniform(0, 360), rng.random() < 0.4
    minute = hour + 50 + 260 * minute / 360
    if bells:
        for side in (-1, 1):
            with pen.part("bell"):
                pen.disc(-0.76, side * 0.56, 0.24, 0.3, colour=p.second, turn=-side * 36)
    with pen.part("rim"):
        pen.disc(0, 0, 0.92, colour=p.main)
    with pen.part("dial"):
        pen.disc(0, 0, 0.74, colour=p.pale)
    for k in range(12):
        a = math.radians(30 * k)
        inner = 0.52 if k % 3 == 0 else 0.6
        pen.stroke([(inner * math.sin(a), inner * math.cos(a)), (0.66 * math.sin(a), 0.66 * math.cos(a))], p.dark, 0.04)
    for angle, reach, width in ((hour, 0.36, 0.12), (minute, 0.52, 0.09)):
        a = math.radians(angle)
        with pen.part("hand"):
            pen.stroke([(0, 0), (-reach * math.cos(a), reach * math.sin(a))], p.dark, width)


def umbrella(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """An open umbrella: a scalloped canopy in two colours over a shaft with a hooked handle."""
    p = pen.palette
    high = rng.uniform(0.74, 0.92)
    with pen.part("shaft"):
        pen.stroke([(-0.98, 0), (0.76, 0)], p.edge, 0.08)
    with pen.part("handle"):
        pen.stroke(arc(0.76, 0.18, 0.2, 0.18, 180, 350), p.edge, 0.11)
    with pen.part("canopy"):
        pen.fill([*arc(0, 0, high, 0.98, 0, 180), *scallops(4)], p.main)
        for k in (1, 3):
            x0, x1 = -0.98 + 0.49 * k - 0.49, -0.98 + 0.49 * k
            pen.fill(
                [
                    (-high, 0),
                    (-0.45 * high, x0 * 0.9),
                    (0, x0),
                    *arc(0, (x0 + x1) / 2, 0.13, 0.245, 180, 0),
                    (-0.45 * high, x1 * 0.9),
                ],
                p.second,
            )


def scallops(count: int) -> list[Point]:
    """The lower edge of a canopy, from left to right: arcs that open downwards."""
    half = 0.98 / count
    return [point for k in range(count) for point in arc(0, -0.98 + (2 * k + 1) * half, 0.13, half, 180, 0)]


def cup(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A cup: body, rim seen from above, a handle at the right, sometimes steam."""
    p = pen.palette
    foot, steam = rng.uniform(0.42, 0.6), rng.random() < 0.5
    if steam:
        for x in (-0.4, -0.05):
            with pen.part("steam"):
                pen.stroke([(-0.6, x), (-0.72, x + 0.12), (-0.84, x - 0.02), (-0.96, x + 0.1)], p.edge, 0.06)
    with pen.part("handle"):
        pen.stroke(arc(0.1, 0.52, 0.34, 0.36, -100, 100), p.bold, 0.15)
    with pen.part("body"):
        pen.fill([(-0.36, -0.82), *arc(0.8, -0.14, 0.12, foot, 180, 360), (-0.36, 0.54)], p.main)
    with pen.part("rim"):
        pen.disc(-0.36, -0.14, 0.18, 0.68, colour=p.second)
    with pen.part("band"):
        pen.fill([(0.2, -0.76), (0.36, -0.74), (0.36, 0.46), (0.2, 0.48)], p.accent)


def key(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A key: a ring, a long shaft, teeth at its end."""
    p = pen.palette
    radius, teeth = rng.uniform(0.28, 0.36), int(rng.integers(2, 4))
    with pen.part("ring"):
        pen.stroke(arc(0, -0.98 + radius, radius, radius, 0, 360), p.main, 0.17)
    with pen.part("shaft"):
        pen.stroke([(0, -0.98 + 2 * radius), (0, 0.96)], p.main, 0.15)
    for k in range(teeth):
        with pen.part("tooth"):
            pen.stroke([(0, 0.9 - 0.26 * k), (0.32 - 0.06 * (k % 2), 0.9 - 0.26 * k)], p.main, 0.13)


THINGS: dict[str, Kind] = {
    "car": Kind(car, poses=("left", "right"), hue=25),
    "bus": Kind(bus, poses=("left", "right"), hue=90),
    "bicycle": Kind(bicycle, poses=("left", "right")),
    "house": Kind(house, hue=75),
    "boat": Kind(boat, poses=("left", "right"), hue=250),
    "clock": Kind(clock),
    "umbrella": Kind(umbrella, spin=25),
    "cup": Kind(cup, poses=("left", "right")),
    "key": Kind(key, poses=("left", "right"), spin=60, hue=90, thin=True),
}
