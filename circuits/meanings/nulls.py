"""Nulls: how grouped points are, against sets of points that have exactly the same spread and no groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

DRAWS = 20  # sets of the null, whose mean and standard deviation are used

# From sets of points (b, k, r), centred: which of two groups each is in (b, k), and how well they are grouped (b,).
Grouping: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


def against_null(points: Tensor, grouping: Grouping, *, draws: int = DRAWS, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Give how many standard deviations sets of points (b, k, d) are above their null (b,), and the parts (b, k).

    A draw of the null is the set's principal lengths times a random rotation (Haar) of the k points: all variances are
    exactly those of the set, and its groups are gone. Sets that are all one point are at 0.
    """
    coordinates, lengths = principal(points)
    parts, observed = grouping(coordinates)
    null = torch.stack([grouping(drawn)[1] for drawn in null_sets(lengths, points.shape[1], draws, seed)], dim=1)
    z = (observed - null.mean(1)) / null.std(1).clamp_min(1e-9)
    nothing = lengths[:, 0] <= 1e-9 * points.abs().amax((1, 2))
    return z.masked_fill(nothing, 0), parts


def principal(points: Tensor) -> tuple[Tensor, Tensor]:
    """Give principal coordinates (b, k, k - 1) and lengths (b, k - 1) of sets of points, largest first."""
    size = points.shape[1]
    centred = points - points.mean(1, keepdim=True)
    variances, axes = torch.linalg.eigh(centred @ centred.transpose(1, 2))
    lengths = variances.flip(1)[:, : size - 1].clamp_min(0).sqrt()
    return axes.flip(2)[:, :, : size - 1] * lengths[:, None], lengths


def null_sets(lengths: Tensor, size: int, draws: int, seed: int) -> list[Tensor]:
    """Give ``draws`` sets (b, k, k - 1) of points with the same principal lengths (b, k - 1) and no groups."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(draws, size, size - 1, generator=generator, dtype=lengths.dtype)
    rotations, _ = torch.linalg.qr(normal - normal.mean(1, keepdim=True))
    return [rotation[None] * lengths[:, None] for rotation in rotations]
