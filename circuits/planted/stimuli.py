"""Stimuli: pictures whose content is known, drawn from formulas, with position, contrast, tint and grain at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIDE = 64  # pixels
RADIUS = 10.0  # of the circle that circle units look for, in pixels
CONTRAST = 0.35  # from dark to bright
GRAIN = 0.015  # standard deviation of the noise on each pixel
SOFT = 0.7  # pixels over which an edge goes from dark to bright
STROKE = 1.8  # half the width of a stroke
FINE, COARSE = 4.0, 16.0  # wavelengths of high and of low frequencies, in pixels

Floats = NDArray[np.float64]
Content = Callable[[np.random.Generator], Floats]  # what a picture shows, (3, h, w), around 0: grey is 0, black -0.5


def draw(content: Content, count: int, seed: int = 0) -> Tensor:
    """Give ``count`` pictures ``(n, 3, 64, 64)`` in [0, 1] of one content; the same for the same seed.

    >>> pictures = draw(disc(10), 2, seed=1)
    >>> tuple(pictures.shape), torch.equal(pictures, draw(disc(10), 2, seed=1))
    ((2, 3, 64, 64), True)
    """
    chance = np.random.default_rng(seed)
    made = np.stack([content(chance) + GRAIN * chance.normal(size=(3, SIDE, SIDE)) for _ in range(count)])
    return torch.from_numpy(np.clip(0.5 + made, 0, 1)).float()


def disc(radius: float) -> Content:
    """A disc brighter than what is around it."""
    return lambda chance: _painted(chance, _disc(*_plane(chance), radius))


def arc(angle: float, radius: float = RADIUS) -> Content:
    """A piece of a circle that bulges towards ``angle``: bright inside, faded out on the other side."""

    def made(chance: np.random.Generator) -> Floats:
        up, right = _plane(chance)
        along, _ = _turned(up, right, angle)
        seen = np.clip((along / radius - 0.1) / 0.5, 0, 1)
        return _painted(chance, _disc(up, right, radius) * seen)

    return made


def step(angle: float | None = None) -> Content:
    """A straight edge that gets brighter towards ``angle``, or towards any angle."""

    def made(chance: np.random.Generator) -> Floats:
        towards = chance.uniform(0, 360) if angle is None else angle
        along, _ = _turned(*_plane(chance), towards)
        return _painted(chance, _bright(along) - 0.5)

    return made


def bar(width: float) -> Content:
    """A straight bright bar through the whole picture, at any angle."""

    def made(chance: np.random.Generator) -> Floats:
        along, _ = _turned(*_plane(chance), chance.uniform(0, 360))
        return _painted(chance, _bright(width / 2 - np.abs(along)))

    return made


def square(side: float) -> Content:
    """A bright square, at any angle."""

    def made(chance: np.random.Generator) -> Floats:
        along, across = _turned(*_plane(chance), chance.uniform(0, 90))
        return _painted(chance, _bright(side / 2 - np.maximum(np.abs(along), np.abs(across))))

    return made


def stripes(wavelength: float) -> Content:
    """Stripes at any angle over the whole picture."""
    return lambda chance: _painted(chance, _stripes(chance, wavelength))


def patch(wavelength: float, radius: float) -> Content:
    """A round patch of stripes at any angle."""

    def made(chance: np.random.Generator) -> Floats:
        up, right = _plane(chance)
        return _painted(chance, _stripes(chance, wavelength) * np.exp(-(up**2 + right**2) / (2 * (radius / 2) ** 2)))

    return made


def boundary(angle: float, there: float | None, here: float | None) -> Content:
    """Two halves: stripes of wavelength ``there`` on the side of ``angle``, of ``here`` on the other; ``None`` is
    plain.
    """

    def made(chance: np.random.Generator) -> Floats:
        along, _ = _turned(*_plane(chance), angle)
        sides = [0.0 if each is None else _stripes(chance, each) for each in (there, here)]
        part = _bright(along)
        return _painted(chance, part * sides[0] + (1 - part) * sides[1])

    return made


def strokes(*lines: tuple[float, float, float, float]) -> Content:
    """Bright lines from ``(up, right)`` to ``(up, right)``, in pixels from a centre that is not always the same."""

    def made(chance: np.random.Generator) -> Floats:
        up, right = _plane(chance)
        return _painted(chance, np.maximum.reduce([_bright(STROKE - _away(up, right, *each)) for each in lines]))

    return made


def spot_on(inside: Sequence[float], around: Sequence[float], radius: float) -> Content:
    """A disc of one colour on a plate of another; colours are steps from grey."""

    def made(chance: np.random.Generator) -> Floats:
        up, right = _plane(chance)
        small, large = _disc(up, right, radius), _disc(up, right, 4 * radius)
        first, second = (np.asarray(each, dtype=float)[:, None, None] for each in (inside, around))
        return np.asarray(chance.uniform(0.9, 1) * (small * first + (large - small) * second))

    return made


def plain() -> Content:
    """Nothing but a slope of brightness, too faint for an edge."""

    def made(chance: np.random.Generator) -> Floats:
        along, _ = _turned(*_plane(chance), chance.uniform(0, 360))
        return _painted(chance, along / SIDE)

    return made


def _plane(chance: np.random.Generator) -> tuple[Floats, Floats]:
    """Give each pixel's place, up and right of a centre up to 4 pixels from the picture's."""
    down, right = chance.uniform(-4, 4, size=2)
    steps = np.arange(SIDE, dtype=float) - (SIDE - 1) / 2
    return (down - steps)[:, None] * np.ones(SIDE), np.ones((SIDE, 1)) * (steps - right)


def _turned(up: Floats, right: Floats, angle: float) -> tuple[Floats, Floats]:
    """Give how far each place lies along ``angle``, and across it."""
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return cos * right + sin * up, cos * up - sin * right


def _painted(chance: np.random.Generator, shape: Floats) -> Floats:
    """Paint a shape with a contrast and a faint tint."""
    tint = chance.uniform(0.9, 1.1, size=(3, 1, 1))
    return np.asarray(CONTRAST * chance.uniform(0.95, 1.05) * tint * shape)


def _bright(distance: Floats) -> Floats:
    """Give 1 inside, 0 outside, where ``distance`` pixels to the border are positive inside."""
    return np.asarray(1 / (1 + np.exp(-np.clip(distance / SOFT, -50, 50))))


def _disc(up: Floats, right: Floats, radius: float) -> Floats:
    return _bright(radius - np.hypot(up, right))


def _stripes(chance: np.random.Generator, wavelength: float) -> Floats:
    along, _ = _turned(*_plane(chance), chance.uniform(0, 180))
    return np.asarray(np.cos(2 * np.pi * (along / wavelength + chance.uniform())))


def _away(up: Floats, right: Floats, up0: float, right0: float, up1: float, right1: float) -> Floats:
    """Give how far each place is from a stroke."""
    dy, dx = up1 - up0, right1 - right0
    part = np.clip(((up - up0) * dy + (right - right0) * dx) / (dy**2 + dx**2), 0, 1)
    return np.asarray(np.hypot(up - up0 - part * dy, right - right0 - part * dx))


fine, coarse = partial(stripes, FINE), partial(stripes, COARSE)
