"""Canvas: what parameterizations of the whole picture have in common; its size, channels, colours and noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Generator, Tensor

from features.parameterizations.colours import Matrix, logits_of, mixed
from features.parameterizations.protocols import Parameters, Size


@dataclass(frozen=True)
class Canvas:
    """A picture of a size that is said at once or by `sized`."""

    size: Size | None = None
    channels: int | None = None

    def sized(self, channels: int, size: Size) -> Self:
        """Give the same with the sizes that are still missing."""
        return dataclasses.replace(self, channels=self.channels or channels, size=self.size or size)

    @property
    def known(self) -> tuple[int, Size]:
        """The channels and the size; ``ValueError`` where they have not been said."""
        if self.channels is None or self.size is None:
            raise ValueError("the picture's size is not known yet: call image.sized(channels, (h, w)) first")
        return self.channels, self.size


@dataclass(frozen=True)
class Mixture(Canvas):
    """A picture ``sigmoid(C v)``: decorrelated values ``v`` ``(n, c, h, w)``, which subclasses make of their numbers,
    and the colour matrix ``C``.
    """

    colours: Matrix | None = None

    def values(self, parameters: Parameters) -> Tensor:
        """Give the decorrelated values ``(n, c, h, w)``."""
        raise NotImplementedError

    def logits(self, parameters: Parameters) -> Tensor:
        """Give what the sigmoid gets, ``(n, c, h, w)``."""
        return mixed(self.values(parameters), self.colours)

    def picture(self, parameters: Parameters) -> Tensor:
        """Give the pictures ``(n, c, h, w)``, in [0, 1]."""
        return torch.sigmoid(self.logits(parameters))

    def wanted(self, pictures: Tensor) -> Tensor:
        """Give the decorrelated values ``(n, c, h, w)`` that make ``pictures``, in double precision."""
        return mixed(logits_of(pictures.double()), self.colours, inverse=True)


def noise(generators: Sequence[Generator], shape: tuple[int, ...], sd: float) -> Tensor:
    """Give ``(n, *shape)`` normal numbers of standard deviation ``sd``, entry i drawn from generator i alone."""
    return torch.stack([sd * torch.randn(shape, generator=each, device=each.device) for each in generators])


def spelled(size: int | Size | None) -> Size | None:
    """Give ``(h, w)`` for a side, ``(h, w)`` or nothing; ``ValueError`` for anything else."""
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in pair):
        raise ValueError(f"the size {size!r} is none: give the side of the picture or (h, w), in whole pixels above 0")
    return pair[0], pair[1]


def check_number(name: str, value: float, *, least: float, most: float = np.inf) -> None:
    """Raise ``ValueError`` for a number that is not finite or out of its range."""
    if not (np.isfinite(value) and least <= value <= most):
        upper = "" if most == np.inf else f" and at most {most}"
        raise ValueError(f"{name} is {value}: give a finite number of at least {least}{upper}")


def check_count(name: str, value: int, *, least: int) -> None:
    """Raise ``ValueError`` for what is no whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}: give a whole number of at least {least}")
