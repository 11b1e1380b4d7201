"""Where and along what activations are read: positions, channels, and numbers given per channel."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

# Below this cosine a direction's factor stays constant (lucid, objectives.py, `_dot_cossim`).
LEAST_COSINE = 0.1


def at(values: Tensor, layer: str, x: int | None, y: int | None, size: tuple[int, int] = (1, 1)) -> Tensor:
    """Give ``size`` rows and columns of ``values`` ``(n, c, ...)`` from column ``x``, row ``y``; ``IndexError`` for
    what is not there.

    >>> at(torch.arange(6.0).reshape(1, 1, 2, 3), "conv", 2, 0).flatten()
    tensor([2.])
    """
    shape = tuple(values.shape[2:])
    wanted = ((y, size[0]), (x, size[1]))[-len(shape) :] if shape else ()
    starts = [length // 2 if start is None else start for (start, _), length in zip(wanted, shape, strict=True)]
    ends = [start + width for start, (_, width) in zip(starts, wanted, strict=True)]
    if any(not 0 <= start < end <= length for start, end, length in zip(starts, ends, shape, strict=True)):
        asked = " x ".join(f"{start} to {end - 1}" for start, end in zip(starts, ends, strict=True))
        raise IndexError(f"no positions {asked} in layer {layer!r}: it has {' x '.join(map(str, shape))}, rows first")
    return values[(slice(None), slice(None), *(slice(a, b) for a, b in zip(starts, ends, strict=True)))]


def known(values: Tensor, layer: str, channel: int) -> int:
    count = values.shape[1]
    if not 0 <= channel < count:
        raise IndexError(f"no channel {channel} in layer {layer!r}: it has {count} channels (0 to {count - 1})")
    return channel


def vector_for(given: ArrayLike | Tensor, values: Tensor) -> Tensor:
    """Give numbers as ``(c, 1, ...)``, to be multiplied with ``values``, where these are."""
    vector = given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
    if vector.numel() != values.shape[1]:
        raise ValueError(f"{vector.numel()} numbers were given, and the layer has {values.shape[1]} channels")
    return vector.to(values).reshape(-1, *[1] * (values.ndim - 2))


def weighed(values: Tensor, weight: ArrayLike | Tensor | None) -> Tensor:
    return values if weight is None else values * vector_for(weight, values)


def along(values: Tensor, given: ArrayLike | Tensor, power: float | None) -> Tensor:
    vector = vector_for(given, values)[None]
    cosine = F.cosine_similarity(values, vector, dim=1)
    if power is None:
        return cosine
    return (values * vector).sum(1) * cosine.clamp(min=LEAST_COSINE) ** power
