"""Moves: transforms that read each pixel from another place; jitter, scale, rotate, crop, and their one resampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Size: TypeAlias = tuple[int, int]
Transform: TypeAlias = Callable[[Tensor, Sequence[Generator]], Tensor]


@runtime_checkable
class Affine(Protocol):
    """A transform that moves pixels by a matrix, so that neighbours of its kind become one resampling.

    ``numbers`` random numbers in [0, 1) are drawn for each image; ``matrices(numbers (n, numbers), size)`` gives ``(n,
    3, 3)``, the map from a pixel of the result to the place in the image it is read from, both ``(x, y, 1)`` in pixels
    from the centre.
    """

    numbers: ClassVar[int]

    def matrices(self, numbers: Tensor, size: Size) -> Tensor: ...

    def __call__(self, images: Tensor, generators: Sequence[Generator]) -> Tensor: ...


class _Move:
    """What an `Affine` does alone."""

    def __call__(self: Affine, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        size = (int(images.shape[2]), int(images.shape[3]))
        return moved(images, (self,), generators, size, size)


@dataclass(frozen=True)
class Jitter(_Move):
    """See `jitter`."""

    share: float
    numbers: ClassVar[int] = 2

    def matrices(self, numbers: Tensor, size: Size) -> Tensor:
        """Give the shifts by whole pixels."""
        reach = round(self.share * min(size))
        result = torch.eye(3, dtype=numbers.dtype).repeat(len(numbers), 1, 1)
        result[:, :2, 2] = torch.floor(numbers * (2 * reach + 1)) - reach
        return result


@dataclass(frozen=True)
class Scale(_Move):
    """See `scale`."""

    low: float
    high: float
    numbers: ClassVar[int] = 1

    def matrices(self, numbers: Tensor, size: Size) -> Tensor:
        """Give the enlargements about the centre."""
        factor = self.low * (self.high / self.low) ** numbers[:, 0]
        return torch.diag_embed(torch.stack([1 / factor, 1 / factor, torch.ones_like(factor)], dim=1))


@dataclass(frozen=True)
class Rotate(_Move):
    """See `rotate`."""

    low: float
    high: float
    numbers: ClassVar[int] = 1

    def matrices(self, numbers: Tensor, size: Size) -> Tensor:
        """Give the turns about the centre."""
        angle = torch.deg2rad(self.low + (self.high - self.low) * numbers[:, 0])
        result = torch.zeros(len(numbers), 3, 3, dtype=numbers.dtype)
        result[:, 0, 0] = result[:, 1, 1] = torch.cos(angle)
        result[:, 1, 0] = torch.sin(angle)
        result[:, 0, 1] = -result[:, 1, 0]
        result[:, 2, 2] = 1
        return result


@dataclass(frozen=True)
class Crop(_Move):
    """See `crop`."""

    low: float
    high: float
    numbers: ClassVar[int] = 3

    def matrices(self, numbers: Tensor, size: Size) -> Tensor:
        """Give the windows: as large as the first number says, where the other two say."""
        share = self.low + (self.high - self.low) * numbers[:, 0]
        result = torch.diag_embed(torch.stack([share, share, torch.ones_like(share)], dim=1))
        room = (1 - share)[:, None] * torch.tensor([size[1], size[0]], dtype=numbers.dtype)
        result[:, :2, 2] = (numbers[:, 1:] - 0.5) * room
        return result


def jitter(share: float) -> Jitter:
    """Shift by whole pixels, each direction alike, at most ``share`` of the shorter side; the border is mirrored, never
    black.

    >>> jitter(1 / 8)(torch.rand(1, 3, 16, 16), [torch.Generator().manual_seed(0)]).shape
    torch.Size([1, 3, 16, 16])
    """
    check(0 <= share < 1, f"jitter({share}): give the largest shift as a share of the side, at least 0 and below 1")
    return Jitter(share)


def scale(low: float, high: float) -> Scale:
    """Enlarge about the centre by a factor between ``low`` and ``high`` (below 1 shrinks); both ends of log-uniform
    odds.

    >>> scale(0.9, 1.1)
    Scale(low=0.9, high=1.1)
    """
    check(0 < low <= high < math.inf, f"scale({low}, {high}): give two factors above 0, the smaller one first")
    return Scale(low, high)


def rotate(low: float, high: float) -> Rotate:
    """Turn about the centre by an angle between ``low`` and ``high`` degrees, counterclockwise as one looks at the
    picture.

    >>> picture = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    >>> rotate(90, 90)(picture, [torch.Generator()]).round().flatten()
    tensor([2., 4., 1., 3.])
    """
    check(
        -math.inf < low <= high < math.inf, f"rotate({low}, {high}): give two angles in degrees, the smaller one first"
    )
    return Rotate(low, high)


def crop(low: float, high: float) -> Crop:
    """Show a window of the picture, its sides between ``low`` and ``high`` of the picture's, anywhere inside it;
    enlarged to the picture's size (Fel et al. 2023, MACO).

    >>> ramp = torch.arange(16.0).reshape(1, 1, 1, 16).expand(1, 1, 16, 16)
    >>> shown = crop(0.25, 0.25)(ramp, [torch.Generator().manual_seed(0)])
    >>> shown.shape, bool(shown.max() - shown.min() < 4)
    (torch.Size([1, 1, 16, 16]), True)
    """
    check(0 < low <= high <= 1, f"crop({low}, {high}): give two shares of the side, above 0 and at most 1, in order")
    return Crop(low, high)


def moved(
    images: Tensor, moves: Sequence[Affine], generators: Sequence[Generator], cut: Size, size: Size | None = None
) -> Tensor:
    """Give ``images`` after all ``moves``, in one resampling: the middle ``cut`` of what they give, in ``size`` (that
    of the cut without it).
    """
    before, after = (int(images.shape[2]), int(images.shape[3])), size or cut
    if not moves and before == cut == after:
        return images
    matrix = torch.eye(3, dtype=torch.float64).expand(len(images), 3, 3)
    if moves:
        count = sum(move.numbers for move in moves)
        numbers = torch.stack([_drawn(count, each) for each in generators])
        for move, drawn in zip(moves, torch.split(numbers, [move.numbers for move in moves], dim=1), strict=True):
            matrix = matrix @ move.matrices(drawn, before)
    if after != cut:
        matrix = matrix * torch.tensor([cut[1] / after[1], cut[0] / after[0], 1.0], dtype=matrix.dtype)
    # An odd difference has no middle pixel: half a pixel up and left keeps whole pixels whole.
    middle = torch.tensor([((before[1] - cut[1]) % 2) / -2, ((before[0] - cut[0]) % 2) / -2], dtype=matrix.dtype)
    places = matrix[:, :2].clone()
    places[:, :, 2] += middle
    return _resampled(images, places, before, after)


def check(good: bool, sentence: str) -> None:
    """Raise ``ValueError`` with ``sentence`` unless ``good``."""
    if not good:
        raise ValueError(sentence)


def _resampled(images: Tensor, places: Tensor, before: Size, after: Size) -> Tensor:
    """Read pixel ``(x, y)`` of the result, from its centre, at ``places (n, 2, 3) (x, y, 1)`` of the images, from
    theirs.
    """
    # grid_sample counts from -1 at the left edge of the first pixel to 1 at the right edge of the last.
    places = places / (torch.tensor([[before[1]], [before[0]]], dtype=places.dtype) / 2)
    places = places.to(images.device, images.dtype)
    columns, rows = (
        torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2 for side in (after[1], after[0])
    )
    # One sum over rows and columns is four times as fast as affine_grid's matrix product.
    along_row = columns[None, :, None] * places[:, None, :, 0]
    along_column = rows[None, :, None] * places[:, None, :, 1] + places[:, None, :, 2]
    grid = along_row[:, None] + along_column[:, :, None]
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _drawn(count: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64).cpu()
