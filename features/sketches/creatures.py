"""Living things, drawn as in a picture book, facing right; and the parts they share: eyes, legs, petals, leaves."""

from __future__ import annotations

import math

import numpy as np

from features.sketches.pens import RGB, Kind, Pen, Point, arc
from features.sketches.shapes import winding


def eye(pen: Pen, y: float, x: float, radius: float, look: float = 0.0) -> None:
    """A pale ball with a dark pupil that looks to the right by `look` radii."""
    with pen.part("eye"):
        pen.disc(y, x, radius, colour=pen.palette.pale)
        outline, pen.outline = pen.outline, 0.0
        pen.disc(y, x + look * radius, 0.56 * radius, colour=pen.palette.dark)
        pen.outline = outline


def legs(pen: Pen, places: list[Point], length: float, colour: RGB, width: float) -> None:
    """Upright legs that hang from `places`."""
    for y, x in places:
        with pen.part("leg"):
            pen.stroke([(y, x), (y + length, x)], colour, width)


def dog(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """The head of a dog in profile: hanging ear, long snout, nose, eye."""
    p = pen.palette
    snout, ear = rng.uniform(-0.06, 0.1), rng.uniform(0.75, 1.0)
    with pen.part("neck"):
        pen.fill([(0.1, -0.72), (0.98, -0.8), (0.98, 0.12), (0.2, 0.3)], p.main)
    with pen.part("snout"):
        pen.fill(
            [
                (-0.28, 0.1),
                (-0.06 + snout, 0.55),
                (-0.06 + snout, 0.92),
                (0.08 + snout, 1.0),
                (0.32, 0.93),
                (0.46, 0.6),
                (0.5, 0.1),
            ],
            p.main,
        )
    with pen.part("head"):
        pen.disc(-0.14, -0.16, 0.62, 0.6, colour=p.main)
    if pen.outline:
        outline, pen.outline = pen.outline, 0.0
        pen.disc(0.12, 0.12, 0.28, 0.36, colour=p.main)
        pen.outline = outline
    with pen.part("nose"):
        pen.disc(0.0 + snout, 0.9, 0.15, 0.17, colour=p.dark)
    with pen.part("mouth"):
        pen.stroke([(0.3, 0.86), (0.34, 0.55), (0.26, 0.34)], p.ink, 0.06)
    eye(pen, -0.24, 0.16, 0.15, 0.25)
    with pen.part("ear"):
        pen.fill(
            [
                (-0.68, -0.4),
                (-0.5, -0.12),
                (-0.1, -0.16),
                (0.3 * ear, -0.28),
                (0.5 * ear, -0.52),
                (0.4 * ear, -0.82),
                (-0.1, -0.9),
                (-0.5, -0.74),
            ],
            p.second,
        )


def cat(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """The face of a cat from the front: pointed ears, wide eyes, small nose, whiskers."""
    p = pen.palette
    tip, wide = rng.uniform(0.72, 0.84), rng.uniform(0.84, 0.94)
    for side in (-1, 1):
        with pen.part("ear"):
            pen.fill([(-0.2, side * 0.84), (-0.98, side * tip), (-0.52, side * 0.14)], p.main)
            pen.fill([(-0.42, side * 0.68), (-0.76, side * tip * 0.92), (-0.5, side * 0.4)], p.second)
    with pen.part("head"):
        pen.disc(0.16, 0, 0.76, wide, colour=p.main)
    if rng.random() < 0.4:
        for x in (-0.2, 0.0, 0.2):
            pen.stroke([(-0.5, x), (-0.28, x * 0.9)], p.trim, 0.07)
    for side in (-1, 1):
        eye(pen, 0.04, side * 0.36, 0.19)
    with pen.part("nose"):
        pen.fill([(0.3, -0.13), (0.3, 0.13), (0.44, 0)], p.dark)
    with pen.part("mouth"):
        pen.stroke([(0.6, -0.22), (0.62, -0.08), (0.46, 0), (0.62, 0.08), (0.6, 0.22)], p.ink, 0.05)
    for side in (-1, 1):
        with pen.part("whiskers"):
            for rise in (-0.1, 0.1):
                pen.stroke([(0.44 + rise * 0.5, side * 0.5), (0.42 + rise * 1.8, side * 1.12)], p.edge, 0.03)


def face(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A human face with hair, from the front or in profile."""
    if pose == "front":
        front(pen, rng)
    else:
        profile(pen, rng)


def front(pen: Pen, rng: np.random.Generator) -> None:
    """A face that looks at you."""
    p = pen.palette
    smile, long = rng.uniform(0.02, 0.16), rng.random() < 0.5
    with pen.part("hair"):
        pen.disc(-0.16, 0, 0.8, 0.84, colour=p.second)
        if long:
            pen.fill([(-0.2, -0.84), (0.75, -0.8), (0.75, 0.8), (-0.2, 0.84)], p.second)
    for side in () if long else (-1, 1):
        with pen.part("ear"):
            pen.disc(0.12, side * 0.7, 0.18, 0.13, colour=p.main)
    with pen.part("head"):
        pen.fill([*arc(0.1, 0, 0.85, 0.66, 180, 360), *arc(0.1, 0, 0.5, 0.66, 0, 180)], p.main)
    for side in (-1, 1):
        eye(pen, 0.05, side * 0.28, 0.14)
        with pen.part("brow"):
            pen.stroke([(-0.2, side * 0.4), (-0.23, side * 0.16)], p.ink, 0.06)
    with pen.part("nose"):
        pen.stroke([(0.16, 0.0), (0.36, -0.08), (0.36, 0.06)], p.ink, 0.05)
    with pen.part("mouth"):
        pen.stroke(arc(0.56 - smile, 0, smile + 0.08, 0.28, 180, 360), p.ink, 0.09)


def profile(pen: Pen, rng: np.random.Generator) -> None:
    """A face that looks to the right."""
    p = pen.palette
    nose, chin = rng.uniform(0.86, 0.98), rng.uniform(0.4, 0.5)
    with pen.part("neck"):
        pen.fill([(0.4, -0.42), (1.0, -0.48), (1.0, 0.2), (0.6, 0.16)], p.main)
    with pen.part("hair"):
        pen.disc(-0.2, -0.2, 0.76, 0.74, colour=p.second)
        if rng.random() < 0.5:
            pen.fill([(-0.2, -0.94), (0.7, -0.86), (0.7, -0.3), (0.0, -0.1)], p.second)
    with pen.part("head"):
        pen.fill(
            [(-0.56, -0.1), (-0.62, 0.36), (-0.4, 0.58), (-0.1, 0.6), (0.2, nose), (0.27, 0.62), (0.42, 0.66),
             (0.55, 0.6), (0.8, chin + 0.1), (0.86, chin - 0.2), (0.68, -0.2), (0.2, -0.36), (-0.3, -0.22)],
            p.main,
        )  # fmt: skip
    with pen.part("ear"):
        pen.disc(0.12, -0.2, 0.19, 0.13, colour=p.main)
        pen.stroke(arc(0.12, -0.2, 0.1, 0.06, -60, 200), p.ink, 0.04)
    eye(pen, -0.1, 0.36, 0.13, 0.35)
    with pen.part("brow"):
        pen.stroke([(-0.3, 0.22), (-0.34, 0.5)], p.ink, 0.06)
    with pen.part("mouth"):
        pen.stroke([(0.46, 0.62), (0.5, 0.36)], p.ink, 0.08)


def fish(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A fish from the side: body, tail, fins, eye, sometimes bands."""
    p = pen.palette
    high, bands = rng.uniform(0.42, 0.58), rng.random() < 0.5
    with pen.part("tail"):
        pen.fill([(0, -0.42), (-0.5, -1.0), (-0.05, -0.84), (0.45, -1.0)], p.second)
    with pen.part("fin"):
        pen.fill([(-high * 0.7, -0.3), (-high - 0.3, -0.12), (-high * 0.9, 0.4)], p.second)
    with pen.part("body"):
        pen.fill([*arc(0, 0.2, high, 0.8, -130, 130), (0, -0.72)], p.main)
    if bands:
        for x in (-0.2, 0.12):
            y = high * math.sqrt(1 - ((x - 0.2) / 0.8) ** 2) * 0.88
            with pen.part("band"):
                pen.stroke([(-y, x), (0, x + 0.06), (y, x)], p.accent, 0.12)
    with pen.part("fin"):
        pen.fill([(0.08, 0.24), (0.14, -0.14), (0.34, -0.1)], p.second)
    with pen.part("gill"):
        pen.stroke(arc(0, 0.3, 0.28, 0.12, -70, 70), p.ink, 0.05)
    eye(pen, -0.12, 0.66, 0.14, 0.2)


def bird(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A bird from the side: beak, round head, wing, tail, two legs."""
    p = pen.palette
    lift, plump = rng.uniform(-0.35, 0.05), rng.uniform(0.46, 0.54)
    legs(pen, [(0.5, -0.1), (0.5, 0.14)], 0.44, p.edge, 0.06)
    for x in (-0.1, 0.14):
        pen.stroke([(0.94, x), (0.94, x + 0.14)], p.edge, 0.05)
    with pen.part("tail"):
        pen.fill([(-0.02, -0.5), (0.02 + lift, -1.05), (0.22 + lift, -1.0), (0.34, -0.4)], p.second)
    with pen.part("beak"):
        pen.fill([(-0.58, 0.74), (-0.42, 1.06), (-0.32, 0.72)], p.accent)
    with pen.part("body"):
        pen.disc(0.14, 0.0, plump, 0.66, colour=p.main, turn=18)
    with pen.part("head"):
        pen.disc(-0.46, 0.5, 0.34, colour=p.main)
    outline, pen.outline = pen.outline, 0.0
    pen.disc(-0.18, 0.36, 0.26, 0.3, colour=p.main)
    pen.outline = outline
    with pen.part("wing"):
        pen.fill([*arc(0.06, -0.08, 0.26, 0.38, -20, 160), (0.3, -0.7), (0.36, -0.2)], p.second)
    eye(pen, -0.5, 0.56, 0.12, 0.2)


def butterfly(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A butterfly from above: four wings with spots, a body, feelers."""
    p = pen.palette
    up, low = rng.uniform(0.5, 0.6), rng.uniform(0.36, 0.46)
    for side in (-1, 1):
        with pen.part("feeler"):
            pen.stroke([(-0.4, 0), (-0.72, side * 0.16), (-0.92, side * 0.34)], p.edge, 0.04)
        with pen.part("wing"):
            pen.disc(0.42, side * 0.46, low, 0.4, colour=p.second, turn=-side * 30)
        with pen.part("wing"):
            pen.disc(-0.26, side * 0.54, up, 0.46, colour=p.main, turn=-side * 40)
        with pen.part("spot"):
            pen.disc(-0.3, side * 0.6, 0.18, colour=p.accent)
    with pen.part("body"):
        pen.disc(0.06, 0, 0.62, 0.11, colour=p.dark)


def snail(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A snail: a wound shell on a long foot, two eyes on stalks."""
    p = pen.palette
    with pen.part("foot"):
        pen.fill(
            [(0.85, -1.0), (0.55, -0.5), (0.5, 0.3), (0.0, 0.5), (-0.12, 0.72), (0.05, 0.95), (0.5, 0.9), (0.85, 0.72)],
            p.second,
        )
    for x, y in ((0.58, -0.56), (0.92, -0.5)):
        with pen.part("feeler"):
            pen.stroke([(0.0, 0.74), (y, x)], p.edge, 0.07)
            pen.disc(y, x, 0.09, colour=p.edge)
    with pen.part("shell"):
        pen.disc(0.05, -0.2, 0.64, colour=p.main)
        with pen.part("spiral"):
            pen.stroke(winding(0.05, -0.2, 0.54, rng.uniform(1.9, 2.5)), p.ink, 0.09)


def ladybird(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A ladybird from above: two wings with dots, a head, six legs."""
    p = pen.palette
    for side in (-1, 1):
        for y, lean in ((-0.34, -0.24), (0.12, 0.0), (0.5, 0.22)):
            with pen.part("leg"):
                pen.stroke([(y, side * 0.5), (y + lean, side * 0.96)], p.edge, 0.08)
    with pen.part("head"):
        pen.disc(-0.66, 0, 0.3, 0.4, colour=p.dark)
    with pen.part("wings"):
        pen.disc(0.14, 0, 0.8, 0.72, colour=p.main)
        pen.stroke([(-0.62, 0), (0.92, 0)], p.ink, 0.08)
    for y, x in ((-0.24, 0.34), (0.2, 0.44), (0.56, 0.26))[: int(rng.integers(2, 4))]:
        for side in (-1, 1):
            with pen.part("spot"):
                pen.disc(y, side * x, 0.14, colour=p.ink)


def flower(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A flower: petals around a heart, mostly on a stem with leaves."""
    p = pen.palette
    count, stem = int(rng.integers(5, 9)), rng.random() < 0.7
    y, reach = (-0.3, 0.42) if stem else (0.0, 0.58)
    if stem:
        with pen.part("stem"):
            pen.stroke([(y, 0), (0.5, 0.03), (1.0, 0)], p.trim, 0.1)
        for side in (-1, 1)[: int(rng.integers(1, 3))]:
            with pen.part("leaf"):
                pen.disc(0.66, side * 0.3, 0.13, 0.3, colour=p.second, turn=side * 32)
    slim = min(0.3, 2.6 / count * 0.5) * reach / 0.5
    for k in range(count):
        turn = 360 * k / count + 90
        a = math.radians(turn)
        with pen.part("petal"):
            pen.disc(y - reach * math.sin(a), reach * math.cos(a), slim, 0.68 * reach, colour=p.main, turn=turn)
    with pen.part("heart"):
        pen.disc(y, 0, 0.42 * reach, colour=p.accent)


def tree(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A tree: a trunk under a round crown or under the tiers of a fir."""
    p = pen.palette
    with pen.part("trunk"):
        pen.fill([(0.0, -0.12), (1.0, -0.18), (1.0, 0.18), (0.0, 0.12)], p.second)
    with pen.part("crown"):
        if rng.random() < 0.5:
            for y, half in ((0.6, 0.78), (0.14, 0.62), (-0.3, 0.46)):
                pen.fill([(y, -half), (y - 0.68, 0), (y, half)], p.main)
        else:
            crown(pen, rng)


def crown(pen: Pen, rng: np.random.Generator) -> None:
    """The crown of a round tree: one outline around several balls of leaves, some fruit."""
    p = pen.palette
    count, grow = int(rng.integers(7, 10)), rng.uniform(0.94, 1.06)
    angles = [2 * math.pi * k / count for k in range(count)]
    balls = [(-0.26 - 0.44 * math.sin(a), 0.5 * math.cos(a)) for a in angles]
    outline = pen.outline
    for pen.outline in (1.6 * outline, 0.0):
        for y, x in balls:
            pen.disc(y, x * grow, 0.3, 0.32, colour=p.main)
    pen.disc(-0.26, 0, 0.5, 0.58, colour=p.main)
    for y, x in ((-0.5, -0.3), (-0.3, 0.36), (-0.04, -0.12), (-0.62, 0.14))[: int(rng.integers(0, 5))]:
        pen.disc(y, x, 0.09, colour=p.accent)
    pen.outline = outline


def mushroom(pen: Pen, rng: np.random.Generator, pose: str | None) -> None:
    """A mushroom: a thick stem under a cap with spots."""
    p = pen.palette
    high, base = rng.uniform(0.8, 1.0), rng.uniform(0.28, 0.38)
    with pen.part("stem"):
        pen.fill([(0.0, -0.24), *arc(0.72, 0, 0.26, base, 180, 360), (0.0, 0.24)], p.accent)
    with pen.part("cap"):
        pen.fill([*arc(0.1, 0, high, 0.98, 0, 180), *arc(0.1, 0, 0.16, 0.98, 180, 360)], p.main)
    for y, x, r in ((-0.42, 0.0, 0.2), (-0.12, -0.56, 0.16), (-0.14, 0.54, 0.17), (-0.02, -0.04, 0.11)):
        with pen.part("spot"):
            pen.disc(y * high, x, r, colour=p.glass)


CREATURES: dict[str, Kind] = {
    "dog": Kind(dog, poses=("left", "right"), hue=65),
    "cat": Kind(cat, hue=60),
    "face": Kind(face, poses=("left", "right", "front"), hue=55),
    "fish": Kind(fish, poses=("left", "right"), hue=40),
    "bird": Kind(bird, poses=("left", "right"), hue=240),
    "butterfly": Kind(butterfly, spin=30),
    "snail": Kind(snail, poses=("left", "right"), hue=70),
    "ladybird": Kind(ladybird, spin=30, hue=28),
    "flower": Kind(flower, hue=350),
    "tree": Kind(tree, hue=142),
    "mushroom": Kind(mushroom, hue=28),
}
