"""Parting: sets of points in two groups, and how likely such groups are where there are none."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STARTS = 4  # principal axes along which the examples are first parted
STEPS = 10  # of Lloyd's algorithm, after which parts of 32 points have settled
SMALLEST = 2  # examples in a group: one is an outlier, not a meaning
CHUNK = 2**22  # numbers of one batch of null draws: 32 MB in float64

Integers = NDArray[np.int64]


def part(points: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Part each of b sets of k points (b, k, c) in two: which (b, k), distance, separation and p (b,)."""
    size = points.shape[1]
    centred = points - points.mean(1, keepdim=True)
    variances, axes = torch.linalg.eigh(centred @ centred.transpose(1, 2))
    lengths = variances.flip(1)[:, : size - 1].clamp_min(0).sqrt()
    axes = axes.flip(2)[:, :, : size - 1]
    parts, separation = _best_parts(axes * lengths[:, None])
    null = _null(lengths, size, draws, seed).log()
    z = (separation.log() - null.mean(1)) / null.std(1).clamp_min(1e-9)
    p = 0.5 * torch.erfc(z / math.sqrt(2))
    first, second = _centre(points, parts), _centre(points, 1 - parts)
    distance = 1 - torch.cosine_similarity(first, second, dim=1)
    nothing = lengths[:, 0] < 1e-9 * points.abs().amax((1, 2)).clamp_min(1e-300)
    return parts, distance.masked_fill(nothing, 0), separation.masked_fill(nothing, 0), p.masked_fill(nothing, 1)


def _null(lengths: Tensor, size: int, draws: int, seed: int) -> Tensor:
    """Give the separations (b, draws) of points with the same principal lengths (b, r) and no groups."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(draws, size, size - 1, generator=generator, dtype=lengths.dtype)
    rotations, _ = torch.linalg.qr(normal - normal.mean(1, keepdim=True))
    chunk = max(1, CHUNK // (size * size * len(lengths)))
    separations = []
    for some in torch.split(rotations, chunk):
        points = (some[:, None] * lengths[None, :, None]).flatten(0, 1)
        separations.append(_best_parts(points)[1].reshape(len(some), -1))
    return torch.cat(separations).T


def _best_parts(points: Tensor) -> tuple[Tensor, Tensor]:
    """Part principal coordinates (b, k, r) by 2-means from several starts: the most separated parts (b, k), how far
    (b,)."""
    parts = (points[:, :, :STARTS] > 0).transpose(1, 2).to(points.dtype)
    gram = points @ points.transpose(1, 2)
    size = points.shape[1]
    for _ in range(STEPS):
        mine, other = parts @ gram, (1 - parts) @ gram
        n = parts.sum(2, keepdim=True).clamp_min(1)
        m = (size - parts.sum(2, keepdim=True)).clamp_min(1)
        near = (parts * mine).sum(2, keepdim=True) / n**2 - 2 * mine / n
        far = ((1 - parts) * other).sum(2, keepdim=True) / m**2 - 2 * other / m
        parts = (near < far).to(points.dtype)
    separation = _separation(points, parts)
    best = separation.argmax(1)
    rows = torch.arange(len(points))
    return parts[rows, best], separation[rows, best]


def _separation(points: Tensor, parts: Tensor) -> Tensor:
    """Give the distance of the centres over the spread within the parts along their line: (b, starts)."""
    size = points.shape[1]
    counts = parts.sum(2, keepdim=True)
    n, m = counts.clamp_min(1), (size - counts).clamp_min(1)
    line = parts @ points / n - (1 - parts) @ points / m
    length = line.norm(dim=2, keepdim=True).clamp_min(1e-300)
    along = (line / length) @ points.transpose(1, 2)
    mean, other = (parts * along).sum(2, keepdim=True) / n, ((1 - parts) * along).sum(2, keepdim=True) / m
    within = (parts * (along - mean).square() + (1 - parts) * (along - other).square()).sum(2) / size
    separation = length[..., 0] / within.clamp_min(1e-300).sqrt()
    lopsided = torch.minimum(counts, size - counts)[..., 0] < SMALLEST
    result: Tensor = separation.clamp(1e-6, 1e6).masked_fill(lopsided, 1e-6)
    return result


def _centre(points: Tensor, parts: Tensor) -> Tensor:
    total: Tensor = (parts[:, :, None] * points).sum(1)
    return total / parts.sum(1, keepdim=True).clamp_min(1)


def by_frequency(group: Integers) -> Integers:
    """Number groups by size, largest first; ties by the best example."""
    names, first, counts = np.unique(group, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[order] = np.arange(len(names))
    return ranks[np.searchsorted(names, group)]
