"""Changes: transforms that leave pixels where they are; a border around them, other colours, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from features.transforms.moves import check


@dataclass(frozen=True)
class Pad:
    """See `pad`."""

    share: float
    value: float | Literal["reflect"]

    def __call__(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        reach = round(self.share * min(images.shape[2:]))
        border = (reach, reach, reach, reach)
        if self.value == "reflect":
            return F.pad(images, border, mode="reflect")
        return F.pad(images, border, value=self.value)


@dataclass(frozen=True)
class Recolour:
    """See `recolour`."""

    shift: float
    factor: float

    def __call__(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        drawn = [torch.rand(2, images.shape[1], 1, 1, generator=each, device=each.device) for each in generators]
        numbers = (2 * torch.stack(drawn) - 1).to(images)
        return (images - 0.5) * self.factor ** numbers[:, 0] + (0.5 + self.shift * numbers[:, 1])


@dataclass(frozen=True)
class Noise:
    """See `noise`."""

    sd: float

    def __call__(self, images: Tensor, generators: Sequence[Generator]) -> Tensor:
        drawn = [torch.randn(images.shape[1:], generator=each, device=each.device) for each in generators]
        return images + self.sd * torch.stack(drawn).to(images)


def pad(share: float, value: float | Literal["reflect"] = 0.5) -> Pad:
    """Put a border of ``value`` around the picture, or with ``"reflect"`` its mirror image, ``share`` of the shorter
    side wide, for the transforms that follow to move in.

    What is shown to the network at the end is the middle, as large as the picture: `transform` cuts it out.

    >>> pad(1 / 4)(torch.zeros(1, 3, 8, 8), []).shape
    torch.Size([1, 3, 12, 12])
    """
    check(0 <= share < math.inf, f"pad({share}): give the border as a share of the side, at least 0")
    mirrored = value == "reflect"
    check(not mirrored or share < 0.9, f'pad({share}, "reflect"): a mirror image is less than the picture, below 0.9')
    check(
        mirrored or (not isinstance(value, str) and 0 <= value <= 1),
        f'pad(value={value}): give a brightness between 0 and 1, or "reflect"',
    )
    return Pad(share, value)


def recolour(shift: float, factor: float = 1.0) -> Recolour:
    """Shift each channel by up to ``shift`` either way, and stretch it about grey by between ``1 / factor`` and
    ``factor`` (Ghiasi et al. 2022, for vision transformers; theirs are about 0.2 and 2.7).

    Each channel of each picture draws its own two numbers. The network may be shown values out of [0, 1].

    >>> recolour(0.2)(torch.full((1, 3, 2, 2), 0.5), [torch.Generator().manual_seed(0)]).flatten(2).std(2)
    tensor([[0., 0., 0.]])
    """
    check(0 <= shift < math.inf, f"recolour({shift}): give the largest shift of a brightness, at least 0")
    check(1 <= factor < math.inf, f"recolour(factor={factor}): give the largest stretch, at least 1")
    return Recolour(shift, factor)


def noise(sd: float) -> Noise:
    """Add normal noise of standard deviation ``sd`` to every value. The network may be shown values out of [0, 1].

    >>> float(noise(0.1)(torch.zeros(1, 3, 50, 50), [torch.Generator().manual_seed(0)]).std().round(decimals=2))
    0.1...
    """
    check(0 <= sd < math.inf, f"noise({sd}): give a standard deviation of at least 0")
    return Noise(sd)
