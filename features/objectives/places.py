"""Where in a layer an objective looks: its activations, one channel of them, one position."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.units import Unit

Position: TypeAlias = tuple[int, ...]
HALVES = (torch.bfloat16, torch.float16)

# Tokens that stand before those of the patches: a class token, one of distillation (DeiT), four registers (DINOv2).
EXTRAS = range(6)


def reading(activations: Mapping[str, Tensor], layer: str) -> Tensor:
    """Give what ``layer`` says, halves as float32: sums of thousands of 16-bit numbers round to the same few values."""
    values = activations[layer]
    return values.float() if values.dtype in HALVES else values


def of_channel(activations: Mapping[str, Tensor], unit: Unit) -> Tensor:
    """Give one channel, ``(n, h, w)``, ``(n, t)`` or ``(n,)``."""
    values = activations[unit.layer]
    values = values[:, checked(unit, values)]
    return values.float() if values.dtype in HALVES else values


def checked(unit: Unit, values: Tensor) -> int:
    """Give the number of the channel; ``ValueError`` where ``values`` ``(n, c, ...)`` do not have it."""
    if unit.channel >= values.shape[1]:
        count = values.shape[1]
        raise ValueError(
            f"no channel {unit.channel} in layer {unit.layer!r}: it has {count} channels (0 to {count - 1})"
        )
    return unit.channel


def whole(position: Iterable[int]) -> Position:
    """Give ``position`` as a tuple of whole numbers of at least 0."""
    try:
        place = tuple(operator.index(at) for at in position)
    except TypeError:
        raise TypeError(f"a position is whole numbers, (y, x) or (t,), not {position!r}") from None
    if any(at < 0 for at in place):
        raise ValueError(f"positions count from 0, so {place} is none")
    return place


def at(values: Tensor, place: Position | None, layer: str) -> Tensor:
    """Give ``values`` ``(n, h, w)`` or ``(n, t)`` of ``layer`` at one place, ``(n,)``; ``None`` is the centre.

    Tokens have places ``(t,)``, and ``(y, x)`` and a centre where they are a square of patches.
    """
    if values.ndim == 2 and (place is None or len(place) == 2):
        extras, side = square_of(values.shape[1], layer)
        values = values[:, extras:].reshape(-1, side, side)
    shape = tuple(values.shape[1:])
    where = tuple(length // 2 for length in shape) if place is None else place
    if len(where) != len(shape) or any(not 0 <= y < length for y, length in zip(where, shape, strict=False)):
        size = " x ".join(map(str, shape)) if shape else "no"
        raise ValueError(f"no position {where} in layer {layer!r}: it has {size} positions, counted from 0, rows first")
    return values[(slice(None), *where)]  # type: ignore[index]


def square_of(count: int, layer: str) -> tuple[int, int]:
    """Give how many of ``count`` tokens stand before the patches, and the side of the square that these make."""
    for extras in EXTRAS:
        side = math.isqrt(max(0, count - extras))
        if side and side * side == count - extras:
            return extras, side
    raise ValueError(
        f"the {count} tokens of layer {layer!r} are no square of patches (after at most {EXTRAS[-1]} others): give the "
        "number of the token, (t,)"
    )


def spelled(place: Position | None) -> str:
    """Say a place in the name of an objective."""
    return f"at {'the centre' if place is None else place}"


def mark(*arrays: NDArray[np.generic]) -> str:
    """Give six digits that tell arrays apart in a name."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()[:6]
