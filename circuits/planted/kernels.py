"""Kernels as a small language: fields of weights that are added, moved, mirrored and turned, then drawn on a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Field = Callable[[Floats, Floats], Floats]


class Source(NamedTuple):
    """What a kernel reads: a feature, and at which angle it stands, for features that have one.

    >>> str(Source("edge", 45.0)), str(Source("texture"))
    ('edge 45', 'texture')
    """

    name: str
    angle: float | None = None

    def __str__(self) -> str:
        return self.name if self.angle is None else f"{self.name} {self.angle:g}"

    def turned(self, angle: float) -> Source:
        """Give the feature turned by ``angle`` degrees; one without an angle stays as it is."""
        return self if self.angle is None else self._replace(angle=(self.angle + angle) % 360)


@dataclass(frozen=True)
class Kernel:
    """A field of weights over the plane; ``field(y, x)`` takes positions from the centre, down and right.

    A field has no grid, so that turning it by any angle is exact; `drawn` samples it at the end.

    >>> blob = spot(1.0).moved(0, 2)
    >>> bool(np.allclose((blob - blob.turned(360)).drawn(7), 0))
    True
    >>> bool(np.allclose(blob.turned(90).drawn(7), np.rot90(blob.drawn(7))))
    True
    """

    field: Field

    def drawn(self, size: int) -> Floats:
        """Give the weights ``(size, size)`` at whole positions around the centre; ``ValueError`` for even sizes."""
        if size < 1 or size % 2 == 0:
            raise ValueError(f"size is {size}: a kernel with a centre has an odd number of rows, such as 7")
        steps = np.arange(size, dtype=float) - size // 2
        return np.broadcast_to(self.field(steps[:, None], steps[None, :]), (size, size)).astype(np.float64)

    def moved(self, down: float, right: float) -> Kernel:
        """Give the kernel moved by so many positions."""
        return Kernel(lambda y, x: self.field(y - down, x - right))

    def turned(self, angle: float) -> Kernel:
        """Give the kernel turned about its centre, in degrees, counterclockwise as seen."""
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        return Kernel(lambda y, x: self.field(sin * x + cos * y, cos * x - sin * y))

    def mirrored(self) -> Kernel:
        """Give the kernel mirrored left to right."""
        return Kernel(lambda y, x: self.field(y, -x))

    def __add__(self, other: Kernel) -> Kernel:
        return Kernel(lambda y, x: self.field(y, x) + other.field(y, x))

    def __sub__(self, other: Kernel) -> Kernel:
        return self + -1.0 * other

    def __neg__(self) -> Kernel:
        return -1.0 * self

    def __mul__(self, factor: float) -> Kernel:
        return Kernel(lambda y, x: factor * self.field(y, x))

    __rmul__ = __mul__


Wiring = Mapping[Source, Kernel]  # what a unit reads: one kernel for each feature


def spot(sigma: float) -> Kernel:
    """A blob: ``exp(-r^2 / (2 sigma^2))``."""
    return Kernel(lambda y, x: np.exp(-(y**2 + x**2) / (2 * sigma**2)))


def ring(radius: float, sigma: float) -> Kernel:
    """A ring about the centre, ``sigma`` wide."""
    return Kernel(lambda y, x: np.exp(-((np.hypot(y, x) - radius) ** 2) / (2 * sigma**2)))


def halves(reach: float) -> Kernel:
    """Positive on the right, negative on the left, fading with ``reach``; the two halves weigh the same."""
    return Kernel(lambda y, x: x / reach * np.exp(-(y**2 + x**2) / (2 * reach**2)))


def edge(sigma: float) -> Kernel:
    """An edge that gets brighter to the right: the derivative of a Gaussian."""
    return halves(sigma)


def line(length: float, sigma: float) -> Kernel:
    """A bright line from left to right with dark flanks: the second derivative of a Gaussian across it."""
    return Kernel(lambda y, x: (1 - (y / sigma) ** 2) * np.exp(-((y / sigma) ** 2 + (x / length) ** 2) / 2))


def gabor(wavelength: float, phase: float, sigma: float) -> Kernel:
    """Stripes that stand upright: a cosine along x, ``phase`` in degrees, under a Gaussian; without a mean."""
    turn, damp = math.radians(phase), math.exp(-2 * (math.pi * sigma / wavelength) ** 2)
    mean = math.cos(turn) * damp  # what a Gaussian window leaves of the cosine's sum
    return Kernel(
        lambda y, x: (np.cos(2 * np.pi * x / wavelength + turn) - mean) * np.exp(-(y**2 + x**2) / (2 * sigma**2))
    )


def curve(radius: float, directions: int, sigma: float = 1.0, span: float = 60.0, against: float = 0.7) -> Wiring:
    """What a curve reads that bulges to the right, bright on its left, from edges of so many directions.

    Along the arc of ``radius`` positions, up to ``span`` degrees on both sides, the edges whose bright side is the
    centre excite. Those on the arc that bends the other way inhibit, and so do those that go straight on (Cammarata et
    al. 2021, "Curve Circuits").
    """
    reads: dict[Source, Kernel] = {}
    for number in range(directions):
        theta = (360 * number / directions + 180) % 360 - 180
        if abs(theta) > span:
            continue
        up, right = radius * math.sin(math.radians(theta)), radius * (1 - math.cos(math.radians(theta)))
        _plus(reads, Source("edge", (theta + 180) % 360), spot(sigma).moved(-up, -right))
        if theta:
            _plus(reads, Source("edge", (180 - theta) % 360), -against * spot(sigma).moved(-up, right))
    straight = spot(sigma).moved(0.8 * radius, 0) + spot(sigma).moved(-0.8 * radius, 0)
    _plus(reads, Source("edge", 180.0), -against * straight)
    return reads


def circle(radius: float, directions: int, sigma: float = 1.0, against: float = 0.5) -> Wiring:
    """What a circle reads from curves of so many directions: each where the circle bulges that way; on the other side
    it inhibits.
    """
    right = spot(sigma).moved(0, radius) - against * spot(sigma).moved(0, -radius)
    angles = [360 * number / directions for number in range(directions)]
    return {Source("curve", angle): right.turned(angle) for angle in angles}


def turned(wiring: Wiring, angle: float) -> dict[Source, Kernel]:
    """Turn a unit: what it reads is turned, and so are the kernels, ``W(a -> b) = W(Ta -> Tb)`` (Olah et al. 2020,
    "Naturally Occurring Equivariance").

    >>> sorted(map(str, turned(circle(5, 4), 90))) == sorted(map(str, circle(5, 4)))
    True
    """
    return {source.turned(angle): kernel.turned(angle) for source, kernel in wiring.items()}


def mirrored(wiring: Wiring, swapped: Mapping[str, str]) -> dict[Source, Kernel]:
    """Mirror a unit left to right; ``swapped`` says which features are each other's mirror images, by name.

    >>> [str(source) for source in mirrored({Source("tip left"): spot(1)}, {"tip left": "tip right"})]
    ['tip right']
    """
    both = {**swapped, **{there: here for here, there in swapped.items()}}
    return {
        Source(both.get(source.name, source.name), source.angle): kernel.mirrored() for source, kernel in wiring.items()
    }


def union(*wirings: Wiring) -> dict[Source, Kernel]:
    """Give a unit that reads what any of these read: the kernels of one source are added."""
    reads: dict[Source, Kernel] = {}
    for wiring in wirings:
        for source, kernel in wiring.items():
            _plus(reads, source, kernel)
    return reads


def _plus(reads: dict[Source, Kernel], source: Source, kernel: Kernel) -> None:
    reads[source] = reads[source] + kernel if source in reads else kernel
