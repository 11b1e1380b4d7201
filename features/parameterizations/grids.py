"""Grids: pictures as their pixels, with and without decorrelated colours, and as a pyramid of grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Generator, Tensor

from features.parameterizations.canvas import Canvas, Mixture, check_count, check_number, noise, spelled
from features.parameterizations.colours import matrix_of
from features.parameterizations.protocols import Parameters, Size

# The Keras example (Chollet, "Visualizing what convnets learn") starts from uniform noise of a quarter of the range
# [-1, 1] about grey: (uniform - 0.5) * 0.25, which is 1/16 either way in [0, 1].
SPREAD = 1 / 16

# lucid, optvis/param/lowres.py: `laplacian_pyramid` has four levels, each with half the side of the one before.
LEVELS = 4


@dataclass(frozen=True)
class Pixels(Mixture):
    """See `pixels`."""

    sd: float = 0.01

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give ``((n, channels, h, w),)``: normal noise of standard deviation ``sd``."""
        channels, size = self.known
        return (noise(generators, (channels, *size), self.sd).to(device, dtype),)

    def values(self, parameters: Parameters) -> Tensor:
        """Give the numbers themselves."""
        return parameters[0]

    def parameters(self, pictures: Tensor) -> Parameters:
        """Give the numbers that make ``pictures``."""
        return (self.wanted(pictures),)


@dataclass(frozen=True)
class RawPixels(Canvas):
    """See `raw_pixels`."""

    spread: float = SPREAD

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give ``((n, channels, h, w),)``: uniform noise about grey, ``spread`` either way."""
        channels, size = self.known
        uniform = [torch.rand((channels, *size), generator=each, device=each.device) for each in generators]
        return ((0.5 + self.spread * (2 * torch.stack(uniform) - 1)).to(device, dtype),)

    def picture(self, parameters: Parameters) -> Tensor:
        """Give the numbers themselves, held in [0, 1]; gradients pass as if they were not held."""
        return held(parameters[0], 0.0, 1.0)

    def constrained(self, parameters: Parameters) -> None:
        """Put the numbers back into [0, 1]."""
        parameters[0].clamp_(0, 1)

    def parameters(self, pictures: Tensor) -> Parameters:
        """Give the numbers that make ``pictures``: those themselves."""
        return (pictures.double(),)


@dataclass(frozen=True)
class Pyramid(Mixture):
    """See `pyramid`."""

    levels: int = LEVELS
    sd: float = 0.01

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give one ``(n, channels, ceil(h / 2^k), ceil(w / 2^k))`` for each level k, the finest first: noise."""
        channels, size = self.known
        grids = [noise(generators, (channels, *_side(size, level)), self.sd) for level in range(self.levels)]
        return tuple(each.to(device, dtype) for each in grids)

    def values(self, parameters: Parameters) -> Tensor:
        """Give the levels from the coarsest on, each enlarged to the next and added to it."""
        values = parameters[-1]
        for finer in reversed(parameters[:-1]):
            values = finer + enlarged(values, (int(finer.shape[2]), int(finer.shape[3])))
        return values

    def parameters(self, pictures: Tensor) -> Parameters:
        """Give the numbers that make ``pictures``: each level what the coarser ones lack of the picture in its size."""
        wanted, (_, size) = self.wanted(pictures), self.known
        smaller = [F.adaptive_avg_pool2d(wanted, _side(size, level)) for level in range(self.levels)]
        lacking = [each - enlarged(less, (int(each.shape[2]), int(each.shape[3]))) for each, less in pairwise(smaller)]
        return (*lacking, smaller[-1])


def pixels(size: int | Size | None = None, *, sd: float = 0.01, colours: ArrayLike | None = None) -> Pixels:
    """A picture as its pixels, in decorrelated colours: what is left when the Fourier basis is taken away (it shows
    more noise).

    ``size`` and ``colours`` are as in `fourier`.

    >>> image = pixels(16).sized(1, (64, 64))
    >>> image.picture(image.start([torch.Generator().manual_seed(0)])).shape
    torch.Size([1, 1, 16, 16])
    """
    check_number("sd", sd, least=0)
    return Pixels(spelled(size), colours=matrix_of(colours), sd=sd)


def raw_pixels(size: int | Size | None = None, *, spread: float = SPREAD) -> RawPixels:
    """A picture as its pixels and nothing else, the numbers being the brightnesses in [0, 1]: plain ascent as textbooks
    teach it.

    It starts from uniform noise about grey, ``spread`` either way. A step that leaves [0, 1] is put back to the nearest
    end; a value at an end keeps its gradient, so that it can come back. ``size`` is as in `fourier`.

    >>> image = raw_pixels(16, spread=0.1).sized(3, (64, 64))
    >>> picture = image.picture(image.start([torch.Generator().manual_seed(0)]))
    >>> bool((picture - 0.5).abs().max() <= 0.1)
    True
    """
    check_number("spread", spread, least=0, most=0.5)
    return RawPixels(spelled(size), spread=spread)


def pyramid(
    size: int | Size | None = None, *, levels: int = LEVELS, sd: float = 0.01, colours: ArrayLike | None = None
) -> Pyramid:
    """A picture as the sum of ``levels`` grids, each with half the side of the one before and enlarged to it, bilinear
    (a Laplacian pyramid; lucid).

    Coarse and fine structure are optimized apart, so that neither waits for the other. ``size`` and ``colours`` are as
    in `fourier`.

    >>> image = pyramid(16, levels=3).sized(3, (64, 64))
    >>> [tuple(each.shape) for each in image.start([torch.Generator().manual_seed(0)])]
    [(1, 3, 16, 16), (1, 3, 8, 8), (1, 3, 4, 4)]
    """
    check_count("levels", levels, least=1)
    check_number("sd", sd, least=0)
    return Pyramid(spelled(size), colours=matrix_of(colours), levels=levels, sd=sd)


def enlarged(grid: Tensor, size: Size) -> Tensor:
    """Give ``grid`` ``(n, c, h', w')`` in ``size``, bilinear; a grid of that size as it is."""
    if tuple(grid.shape[2:]) == tuple(size):
        return grid
    return F.interpolate(grid, size=size, mode="bilinear", align_corners=False)


def held(values: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Clamp ``values`` and let gradients pass as if they had not been, so that what is at an end can come back."""
    result: Tensor = _Held.apply(values, low, high)
    return result


class _Held(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, low: Any, high: Any) -> Tensor:
        return torch.clamp(values, low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def _side(size: Size, level: int) -> Size:
    return -(-size[0] // 2**level), -(-size[1] // 2**level)
