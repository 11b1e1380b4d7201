"""What stands behind, in front of and around a sketch: grounds, lighting, clutter, covers, textures.

Arrays are float32, (h, w, 3) for colours and (h, w, 1) for factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

from features.sketches.pens import Pen, Tone, arc, box

Array = np.ndarray


@lru_cache(maxsize=4)
def axes(size: int) -> tuple[Array, Array]:
    """The coordinates y (h, 1) and x (1, w) of the pixel centres, in [-1, 1]."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    return line[:, None], line[None, :]


def slope(size: int, angle: float) -> Array:
    """A ramp (h, w) from about -1 to 1 that rises towards `angle` degrees, counter-clockwise from the right."""
    y, x = axes(size)
    return x * np.float32(math.cos(math.radians(angle))) - y * np.float32(math.sin(math.radians(angle)))


def clouds(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Smooth noise (h, w) in [-1, 1] with about `cells` features a side."""
    coarse = Image.fromarray(rng.random((cells + 1, cells + 1), dtype=np.float32) * 2 - 1)
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC, box=(0.5, 0.5, cells + 0.5, cells + 0.5)))


def _flat(tone: Tone) -> Array:
    return np.array(tone.rgb, dtype=np.float32) / 255


def _mixed(first: Array, second: Array, mix: Array) -> Array:
    mixed: Array = first * (1 - mix) + second * mix
    return mixed


def _near(rng: np.random.Generator, tone: Tone, spread: float) -> Tone:
    lift, hue = rng.uniform(-spread, spread), rng.uniform(-40, 40)
    return Tone(min(0.98, max(0.1, tone.lightness + lift)), tone.chroma, tone.hue + hue)


def plain(rng: np.random.Generator, size: int, tone: Tone) -> Array:
    """One colour."""
    return np.broadcast_to(_flat(tone), (size, size, 3)).copy()


def gradient(rng: np.random.Generator, size: int, tone: Tone) -> Array:
    """A ramp from one colour to one near it."""
    mix = (slope(size, rng.uniform(0, 360))[..., None] + 1) / 2
    return _mixed(_flat(tone), _flat(_near(rng, tone, 0.12)), mix)


def cloudy(rng: np.random.Generator, size: int, tone: Tone) -> Array:
    """Smooth noise between two near colours."""
    mix = (clouds(rng, size, int(rng.integers(3, 12)))[..., None] + 1) / 2
    return _mixed(_flat(tone), _flat(_near(rng, tone, 0.12)), mix)


def grainy(rng: np.random.Generator, size: int, tone: Tone) -> Array:
    """Fine noise, as of coarse paper."""
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(rng.uniform(0.02, 0.05))
    grounded: Array = _flat(tone) + grain
    return grounded


def striped(rng: np.random.Generator, size: int, tone: Tone) -> Array:
    """Faint stripes, too faint to be taken for the class `stripes`."""
    waves = np.sin(slope(size, rng.uniform(0, 360)) * np.float32(rng.uniform(8, 40)) + rng.uniform(0, 6))
    grounded: Array = _flat(tone) + waves[..., None].astype(np.float32) * np.float32(rng.uniform(0.012, 0.03))
    return grounded


def landscape(rng: np.random.Generator, size: int, tone: Tone) -> Array:
    """A sky over a ground with a waving horizon."""
    y, x = axes(size)
    horizon = rng.uniform(0.1, 0.7) + rng.uniform(0.0, 0.12) * np.sin(x * rng.uniform(1, 4) + rng.uniform(0, 6))
    mix = np.clip((y - horizon) * size / 2 + 0.5, 0, 1).astype(np.float32)[..., None]
    below = Tone(min(0.95, max(0.12, tone.lightness - rng.uniform(-0.02, 0.1))), 0.08, rng.uniform(60, 150))
    return _mixed(_flat(tone) * (1 - 0.06 * y[..., None]), _flat(below), mix)


def light(rng: np.random.Generator, size: int) -> tuple[str, Array | None]:
    """Even light (None), light from one side, or a bright middle: its name and a factor (h, w, 1) on the picture."""
    draw, strength = rng.random(), rng.uniform(0.1, 0.3)
    if draw < 0.4:
        return "even", None
    if draw < 0.8:
        return "side", 1 + np.float32(strength) * slope(size, rng.uniform(0, 360))[..., None]
    y, x = axes(size)
    return "centre", 1.1 - np.float32(strength) * (y**2 + x**2)[..., None]


def clutter(pen: Pen, rng: np.random.Generator, count: int) -> None:
    """`count` small marks (at most a sixth of the picture), in coordinates where the picture is [-1, 1] x [-1, 1]."""
    colours = (pen.palette.main, pen.palette.second, pen.palette.accent, pen.palette.edge)
    for _ in range(count):
        y, x, form, reach, angle, which = rng.random(6).tolist()
        y, x, reach, colour = 2.1 * y - 1.05, 2.1 * x - 1.05, 0.05 + 0.08 * reach, colours[int(4 * which)]
        dy, dx = reach * math.sin(2 * math.pi * angle), reach * math.cos(2 * math.pi * angle)
        if form < 0.3:
            pen.disc(y, x, 0.5 * reach, colour=colour)
        elif form < 0.55:
            pen.stroke([(y - dy, x - dx), (y + dy, x + dx)], colour, 0.04)
        elif form < 0.7:
            pen.stroke(arc(y, x, reach, reach, 360 * angle, 360 * angle + 150), colour, 0.04)
        elif form < 0.85:
            pen.fill([(y + dy, x + dx), (y + dx, x - dy), (y - dx, x + dy)], colour)
        else:
            pen.fill(box(y - 0.6 * reach, x - 0.6 * reach, y + 0.6 * reach, x + 0.6 * reach), colour)


def cover(pen: Pen, rng: np.random.Generator, thin: bool) -> None:
    """A patch in front, or a bar if the sketch is not `thin`, in coordinates where the sketch is [-1, 1] x [-1, 1]."""
    angle, colour = rng.uniform(0, 2 * math.pi), pen.palette.accent
    if not thin and rng.random() < 0.5:
        half, offset = rng.uniform(0.05, 0.09), rng.uniform(-0.7, 0.7)
        s, c = math.sin(angle), math.cos(angle)
        ends = [(offset + d, e) for d, e in ((-half, -3), (-half, 3), (half, 3), (half, -3))]
        pen.fill([(s * e + c * d, c * e - s * d) for d, e in ends], colour)
        return
    reach, radius = rng.uniform(0.55, 1.0), rng.uniform(0.12, 0.18) if thin else rng.uniform(0.16, 0.28)
    pen.disc(reach * math.sin(angle), reach * math.cos(angle), radius, colour=colour)


def smooth(rng: np.random.Generator, size: int) -> Array | None:
    """No texture."""
    return None


def shaded(rng: np.random.Generator, size: int) -> Array | None:
    """Brighter at the top."""
    return np.float32(1.0) + slope(size, rng.uniform(45, 135))[..., None] * np.float32(0.25)


def mottled(rng: np.random.Generator, size: int) -> Array | None:
    """Smooth blotches."""
    return np.float32(1.0) + clouds(rng, size, int(rng.integers(8, 16)))[..., None] * np.float32(0.16)


def rough(rng: np.random.Generator, size: int) -> Array | None:
    """Fine grain."""
    return np.float32(1.0) + rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(0.07)


BACKGROUNDS: dict[str, Callable[[np.random.Generator, int, Tone], Array]] = {
    "plain": plain,
    "gradient": gradient,
    "clouds": cloudy,
    "grain": grainy,
    "stripes": striped,
    "landscape": landscape,
}
TEXTURES: dict[str, Callable[[np.random.Generator, int], Array | None]] = {
    "smooth": smooth,
    "shaded": shaded,
    "mottled": mottled,
    "rough": rough,
}
