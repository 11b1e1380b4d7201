"""The pen that draws a sketch: colours, an affine pose, antialiasing by supersampling, and the box of every part.

Everything is drawn in local coordinates, (y, x) with y pointing down, in which a thing fills about [-1, 1] x [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]
FACTOR = 4  # drawn at 4x, averaged down: 17 grey levels per edge pixel, and a part never leaks out of its box
ROUND = tuple((math.sin(2 * math.pi * k / 28), math.cos(2 * math.pi * k / 28)) for k in range(28))


def oklch(lightness: float, chroma: float, hue: float) -> RGB:
    """The sRGB colour of a lightness in [0, 1], a chroma (0 grey, 0.2 vivid) and a hue in degrees.

    Björn Ottosson, *A perceptual color space for image processing*, 2020; colours out of gamut are clipped.

    Examples:
        >>> oklch(1.0, 0.0, 0.0)
        (255, 255, 255)
    """
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3  # noqa: E741
    m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    red = 4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s
    green = -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s
    blue = -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s
    return _encode(red), _encode(green), _encode(blue)


def _encode(linear: float) -> int:
    linear = min(1.0, max(0.0, linear))
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))


@dataclass(frozen=True)
class Tone:
    """A colour with the OKLCH coordinates that tell how far it is from another."""

    lightness: float
    chroma: float
    hue: float

    @property
    def rgb(self) -> RGB:
        """The sRGB colour, 0 to 255."""
        return oklch(self.lightness, self.chroma, self.hue)

    def distance(self, other: Tone) -> float:
        """The OKLab distance, with lightness weighted up: a line is seen by its lightness first."""
        turn = math.radians(self.hue - other.hue)
        plane = self.chroma**2 + other.chroma**2 - 2 * self.chroma * other.chroma * math.cos(turn)
        return math.hypot(1.4 * (self.lightness - other.lightness), math.sqrt(max(0.0, plane)))


def distinct(rng: np.random.Generator, others: Sequence[Tone], hue: float | None, vivid: float) -> Tone:
    """A tone far from all `others`: the best of twelve draws, around `hue` if given; `vivid` 0 gives greys."""
    draws = rng.random((12, 3)).tolist()
    tones = [
        Tone(0.32 + 0.58 * u, vivid * (0.07 + 0.12 * v), 360 * w if hue is None else hue + 36 * (w - 0.5))
        for u, v, w in draws
    ]
    return max(tones, key=lambda tone: min(tone.distance(other) for other in others))


@dataclass(frozen=True)
class Palette:
    """The colours of one sketch.

    `main`, `second`, `accent` fill areas; `bold` and `trim` are strokes that take the place of an area in `main` or
    `second`; `edge` is seen on the ground, `ink` on `main`; `pale` and `dark` make an eye; `glass` is a window.
    """

    ground: RGB
    main: RGB
    second: RGB
    accent: RGB
    bold: RGB
    trim: RGB
    edge: RGB
    ink: RGB
    pale: RGB
    dark: RGB
    glass: RGB


def painted(
    rng: np.random.Generator, ground: Tone, hue: float | None, vivid: float, *, opposed: bool = False
) -> Palette:
    """Colours for filled areas: `main`, `second` and `accent` far from the ground and from each other.

    If `opposed`, `second` lies across the colour circle from `main`.
    """
    main = distinct(rng, [ground], hue, vivid)
    second = distinct(rng, [ground, main], main.hue + rng.uniform(120, 240) if opposed else None, vivid)
    accent = distinct(rng, [ground, main, second], None, vivid)
    edge = Tone(0.24, 0.02, 260) if ground.lightness > 0.55 else Tone(0.9, 0.02, 90)
    ink = Tone(0.22, 0.03, 280) if main.lightness > 0.56 else Tone(0.96, 0.02, 90)
    glass = Tone(0.93, 0.04, 225) if main.lightness < 0.72 else Tone(0.36, 0.07, 250)
    pale, dark = Tone(0.97, 0.01, 90), Tone(0.2, 0.03, 280)
    tones = (ground, main, second, accent, main, second, edge, ink, pale, dark, glass)
    return Palette(*(tone.rgb for tone in tones))


def drawn(rng: np.random.Generator, ground: Tone, hue: float | None, vivid: float) -> Palette:
    """Colours for a line drawing: paper close to the ground, and one ink seen on both."""
    light = ground.lightness > 0.55
    turn = 360 * float(rng.random())
    ink = Tone(0.25 if light else 0.92, vivid * float(rng.uniform(0.0, 0.1)), turn if hue is None else hue)
    shift = 0.05 if light else -0.04
    lift = min(0.98, max(0.12, ground.lightness + shift))
    paper = [Tone(lift, ground.chroma * float(k), ground.hue).rgb for k in rng.uniform(0.2, 1.0, 3)]
    line = ink.rgb
    return Palette(ground.rgb, paper[0], paper[1], paper[2], line, line, line, line, paper[0], line, paper[1])


@dataclass(frozen=True)
class Pose:
    """Where a sketch stands: centre (y, x), half extent in image pixels, turn in degrees counter-clockwise, mirroring.

    `stretch` multiplies the width and divides the height.
    """

    centre: Point
    scale: float
    turn: float = 0.0
    mirrored: bool = False
    stretch: float = 1.0


class Pen:
    """Draws in local coordinates on a transparent sheet of `size` x `size` pixels and remembers the box of each part.

    Attributes:
        palette: the colours.
        outline: width of the line around filled areas, in image pixels (0: none).
        thickness: a factor on the width of strokes.
        broad: it fills the whole picture.
        parts: (name, box) in the order of drawing, boxes (y0, x0, y1, x1) in image pixels.
    """

    def __init__(
        self,
        size: int,
        pose: Pose,
        palette: Palette,
        *,
        outline: float = 0.0,
        thickness: float = 1.0,
        omit: Collection[str] = (),
        broad: bool = False,
    ) -> None:
        self.palette, self.outline, self.thickness, self.broad = palette, outline * size / 64, thickness, broad
        self.parts: list[tuple[str, tuple[int, int, int, int]]] = []
        self._size, self._omit, self._hidden = size, frozenset(omit), 0
        self._boxes: list[list[float]] = []
        self._scale = FACTOR * pose.scale
        self._sheet = Image.new("RGBX", (FACTOR * size, FACTOR * size))
        self._draw = ImageDraw.Draw(self._sheet)
        cos, sin = math.cos(math.radians(pose.turn)) * self._scale, math.sin(math.radians(pose.turn)) * self._scale
        wide = -pose.stretch if pose.mirrored else pose.stretch
        self._y, self._x = FACTOR * pose.centre[0], FACTOR * pose.centre[1]
        self._yy, self._yx = cos / pose.stretch, -sin * wide
        self._xy, self._xx = sin / pose.stretch, cos * wide

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is drawn inside belongs to the part `name` and to the parts around it; an omitted part is not drawn."""
        hidden = name in self._omit
        self._hidden += hidden
        self._boxes.append([math.inf, math.inf, -math.inf, -math.inf])
        try:
            yield
        finally:
            self._hidden -= hidden
            self._close(name, self._boxes.pop())

    def fill(self, points: Sequence[Point], colour: RGB) -> None:
        """A filled polygon, with the outline of the style."""
        placed = self._place(points, FACTOR * self.outline / 2)
        if self._hidden or len(placed) < 3:
            return
        self._draw.polygon(placed, fill=(*colour, 255))
        if self.outline:
            self._trace([*placed, placed[0]], self.palette.ink, FACTOR * self.outline)

    def disc(self, y: float, x: float, ry: float, rx: float | None = None, *, colour: RGB, turn: float = 0.0) -> None:
        """A filled ellipse with the outline of the style; `turn` in degrees counter-clockwise."""
        self.fill(ellipse(y, x, ry, ry if rx is None else rx, turn), colour)

    def stroke(self, points: Sequence[Point], colour: RGB, width: float = 0.08) -> None:
        """A line with round ends through `points`; `width` in local units, at least 1.3 image pixels."""
        pixels = max(1.3 * FACTOR * self._size / 64, width * self.thickness * self._scale)
        placed = self._place(points, pixels / 2)
        if self._hidden:
            return
        if len(placed) > 6:
            self._draw.polygon(band(placed, pixels / 2), fill=(*colour, 255))
            self._round([placed[0], placed[-1]], colour, pixels)
        else:
            self._trace(placed, colour, pixels)

    def layer(self) -> tuple[np.ndarray, np.ndarray]:
        """What was drawn: colour times cover (h, w, 3) and cover (h, w, 1), float32 in [0, 1]."""
        array = np.asarray(self._sheet.reduce(FACTOR), dtype=np.float32) / 255
        return array[..., :3], array[..., 3:]

    def _place(self, points: Sequence[Point], reach: float) -> list[Point]:
        placed = [(self._x + self._xy * y + self._xx * x, self._y + self._yy * y + self._yx * x) for y, x in points]
        columns, rows = [p[0] for p in placed], [p[1] for p in placed]
        top, left, bottom, right = min(rows) - reach, min(columns) - reach, max(rows) + reach, max(columns) + reach
        for box in self._boxes:
            box[0], box[1] = min(box[0], top), min(box[1], left)
            box[2], box[3] = max(box[2], bottom), max(box[3], right)
        return placed

    def _trace(self, placed: Sequence[Point], colour: RGB, width: float) -> None:
        self._draw.line(placed, fill=(*colour, 255), width=max(1, round(width)))
        self._round(placed if len(placed) <= 16 else (placed[0], placed[-1]), colour, width)

    def _round(self, joints: Sequence[Point], colour: RGB, width: float) -> None:
        radius = width / 2
        for x, y in joints if width > 3 else ():
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*colour, 255))

    def _close(self, name: str, box: list[float]) -> None:
        slack = 1.0  # Pillow rounds the ends of wide lines outwards by up to one drawn pixel
        y0, x0 = (max(0, math.floor((v - slack) / FACTOR)) for v in box[:2]) if box[0] < math.inf else (0, 0)
        y1, x1 = (
            (min(self._size, math.ceil((v + 1 + slack) / FACTOR)) for v in box[2:]) if box[0] < math.inf else (0, 0)
        )
        if y1 > y0 and x1 > x0:
            self.parts.append((name, (y0, x0, y1, x1)))


@dataclass(frozen=True)
class Kind:
    """How one class is drawn.

    Attributes:
        draw: called with the pen, a generator and the pose ('left', 'right', 'front' or None); the pen mirrors 'left'.
        poses: the poses it can take; empty: it has none.
        spin: it is turned by up to this many degrees either way.
        period: after this turn in degrees it looks the same; 0: it has no orientation.
        hue: its natural hue in degrees, used half of the time.
        thin: made of lines, so that a bar across it would change what it is.
        field: it may also fill the whole picture.
        coloured: never turned into greys.
    """

    draw: Callable[[Pen, np.random.Generator, str | None], None]
    poses: tuple[str, ...] = ()
    spin: float = 14.0
    period: float = 360.0
    hue: float | None = None
    thin: bool = False
    field: bool = False
    coloured: bool = False


def band(points: Sequence[Point], radius: float) -> list[Point]:
    """The outline of a smooth curve drawn `radius` wide to either side, without the gaps of Pillow's wide lines."""
    closed = math.dist(points[0], points[-1]) < 1e-6
    before = [points[-2] if closed else points[0], *points[:-1]]
    after = [*points[1:], points[1] if closed else points[-1]]
    left, right = [], []
    for (x0, y0), (x, y), (x1, y1) in zip(before, points, after, strict=True):
        length = math.hypot(x1 - x0, y1 - y0) / radius or 1.0
        dx, dy = (y1 - y0) / length, (x0 - x1) / length
        left.append((x + dx, y + dy))
        right.append((x - dx, y - dy))
    return left + right[::-1]


def ellipse(y: float, x: float, ry: float, rx: float, turn: float = 0.0) -> list[Point]:
    """The outline of an ellipse as points (y, x); `turn` in degrees counter-clockwise."""
    if not turn:
        return [(y + ry * s, x + rx * c) for s, c in ROUND]
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return [(y + ry * s * cos - rx * c * sin, x + rx * c * cos + ry * s * sin) for s, c in ROUND]


def arc(y: float, x: float, ry: float, rx: float, start: float, stop: float) -> list[Point]:
    """Points (y, x) on an ellipse from `start` to `stop` degrees, counter-clockwise from the right."""
    steps = max(6, round(abs(stop - start) / 6))
    angles = [math.radians(start + (stop - start) * k / steps) for k in range(steps + 1)]
    return [(y - ry * math.sin(a), x + rx * math.cos(a)) for a in angles]


def box(y0: float, x0: float, y1: float, x1: float) -> list[Point]:
    """The four corners (y, x) of a rectangle."""
    return [(y0, x0), (y0, x1), (y1, x1), (y1, x0)]
