"""Wrapping: a parameterization around another, which passes on what it does not change itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from features.parameterizations.protocols import Constrained, Parameterization, Parameters, Seen, Size


@dataclass(frozen=True)
class Wrapper:
    """Around ``image``: everything is passed on to it."""

    image: Parameterization

    @property
    def size(self) -> Size | None:
        """The size of the picture."""
        return self.image.size

    def sized(self, channels: int, size: Size) -> Self:
        """Give the same with the sizes that are still missing."""
        return dataclasses.replace(self, image=self.image.sized(channels, size))

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give the start of ``image``."""
        return self.image.start(generators, device=device, dtype=dtype)

    def picture(self, parameters: Parameters) -> Tensor:
        """Give the picture of ``image``."""
        return self.image.picture(parameters)

    def seen(self, picture: Tensor, generators: Sequence[Generator] | None) -> Tensor:
        """Give what the network sees of ``picture``."""
        return self.image.seen(picture, generators) if isinstance(self.image, Seen) else picture

    def constrained(self, parameters: Parameters) -> None:
        """Put the numbers back where ``image`` wants them."""
        if isinstance(self.image, Constrained):
            self.image.constrained(parameters)
