"""Groupings: sets of points in two groups, by 2-means or as a mixture, and statistics of how well they are grouped."""

from __future__ import annotations

import torch
from torch import Tensor

from circuits.meanings.nulls import Grouping

STARTS = 4  # principal axes along which points are first parted
STEPS = 10  # of Lloyd's algorithm and of the fit of mixtures, after which sets of 100 points have settled
SMALLEST = 2  # points in a group: one is an outlier, not a meaning
DIMENSIONS = 5  # principal coordinates in which mixtures are fitted
LEAST, MOST = 1e-6, 1e6


def by_separation(points: Tensor) -> tuple[Tensor, Tensor]:
    """Part principal coordinates (b, k, r) by 2-means so that the distance of the centres over the spread within along
    their line is largest: parts (b, k), its logarithm (b,).
    """
    parts = _two_means(points)
    return _best(parts, _separation(points, parts).log())


def by_variance(points: Tensor) -> tuple[Tensor, Tensor]:
    """Part by 2-means so that the least variance is left: parts, minus the logarithm of the share that is left."""
    parts = _two_means(points)
    n, m = _counts(parts)
    total = points.square().sum((1, 2))[:, None].clamp_min(1e-300)
    between = n * m / (n + m) * _line(points, parts).square().sum(2)
    left = (1 - between / total).clamp(LEAST, 1)
    return _best(parts, torch.where(torch.minimum(n, m) < SMALLEST, -1.0, -left.log()))


def by_silhouette(points: Tensor) -> tuple[Tensor, Tensor]:
    """Part by 2-means so that the mean silhouette is largest: parts, the silhouette."""
    parts = _two_means(points)
    n, m = _counts(parts)
    distances = torch.cdist(points, points)
    mine, other = parts @ distances, (1 - parts) @ distances
    inside = torch.where(parts > 0, mine / (n - 1).clamp_min(1)[..., None], other / (m - 1).clamp_min(1)[..., None])
    outside = torch.where(parts > 0, other / m.clamp_min(1)[..., None], mine / n.clamp_min(1)[..., None])
    width = ((outside - inside) / torch.maximum(outside, inside).clamp_min(1e-300)).mean(2)
    return _best(parts, torch.where(torch.minimum(n, m) < SMALLEST, -1.0, width))


def by_mixture(points: Tensor) -> tuple[Tensor, Tensor]:
    """Fit two normal components with one diagonal covariance and free shares to the first coordinates: parts, the log
    likelihood ratio to one component, per point.
    """
    sd = points[:, :, :DIMENSIONS].square().mean(1, keepdim=True).sqrt()
    few = points[:, :, :DIMENSIONS] / sd.clamp_min(LEAST * sd.amax(2, keepdim=True).clamp_min(1e-300))
    soft = 0.05 + 0.9 * _two_means(points)
    for _ in range(STEPS):
        likelihoods = _likelihoods(few, soft)
        soft = torch.softmax(likelihoods, dim=0)[0]
    ratio = torch.logsumexp(_likelihoods(few, soft), dim=0).mean(2)
    alone = -0.5 * few.square().sum(2).mean(1)
    parts = (soft > 0.5).to(points.dtype)
    n, m = _counts(parts)
    return _best(parts, torch.where(torch.minimum(n, m) < SMALLEST, 0.0, ratio - alone[:, None]))


def centre_distance(points: Tensor, parts: Tensor) -> Tensor:
    """Give 1 - cosine of the centres of two parts (b, k) of points (b, k, d): (b,)."""
    first, second = (
        (each[:, :, None] * points).sum(1) / each.sum(1, keepdim=True).clamp_min(1) for each in (parts, 1 - parts)
    )
    distance: Tensor = 1 - torch.cosine_similarity(first, second, dim=1)
    return distance


def _likelihoods(points: Tensor, soft: Tensor) -> Tensor:
    """Give the log likelihoods (2, b, s, k) of both components, whose memberships are ``soft`` and its rest."""
    size = points.shape[1]
    both = torch.stack([soft, 1 - soft])
    counts = both.sum(3, keepdim=True).clamp_min(1e-9)
    means = both @ points / counts
    spread = points.square().mean(1)[None, :, None] - (counts / size * means.square()).sum(0, keepdim=True)
    variances = spread.clamp_min(0.02)  # of a variance of 1: so small a component is one of a few equal points
    apart = (points.square() @ (1 / variances).transpose(2, 3)).transpose(2, 3)
    apart = apart - 2 * (means / variances) @ points.transpose(1, 2) + (means.square() / variances).sum(3)[..., None]
    found: Tensor = (counts / size).log() - 0.5 * apart - 0.5 * variances.log().sum(3)[..., None]
    return found


def _two_means(points: Tensor) -> Tensor:
    """Part principal coordinates (b, k, r) by 2-means from their first axes: parts (b, s, k)."""
    parts = (points[:, :, :STARTS] > 0).transpose(1, 2).to(points.dtype)
    gram = points @ points.transpose(1, 2)
    for _ in range(STEPS):
        n, m = (each.clamp_min(1)[..., None] for each in _counts(parts))
        mine, other = parts @ gram, (1 - parts) @ gram
        near = (parts * mine).sum(2, keepdim=True) / n**2 - 2 * mine / n
        far = ((1 - parts) * other).sum(2, keepdim=True) / m**2 - 2 * other / m
        parts = (near < far).to(points.dtype)
    return parts


def _separation(points: Tensor, parts: Tensor) -> Tensor:
    """Give the distance of the centres over the spread within the parts along their line: (b, s)."""
    n, m = _counts(parts)
    line = _line(points, parts)
    length = line.norm(dim=2, keepdim=True).clamp_min(1e-300)
    along = (line / length) @ points.transpose(1, 2)
    mean = (parts * along).sum(2, keepdim=True) / n.clamp_min(1)[..., None]
    other = ((1 - parts) * along).sum(2, keepdim=True) / m.clamp_min(1)[..., None]
    within = (parts * (along - mean).square() + (1 - parts) * (along - other).square()).mean(2)
    separation = (length[..., 0] / within.clamp_min(1e-300).sqrt()).clamp(LEAST, MOST)
    result: Tensor = separation.masked_fill(torch.minimum(n, m) < SMALLEST, LEAST)
    return result


def _line(points: Tensor, parts: Tensor) -> Tensor:
    n, m = (each.clamp_min(1)[..., None] for each in _counts(parts))
    line: Tensor = parts @ points / n - (1 - parts) @ points / m
    return line


def _counts(parts: Tensor) -> tuple[Tensor, Tensor]:
    counts = parts.sum(2)
    return counts, parts.shape[2] - counts


def _best(parts: Tensor, statistic: Tensor) -> tuple[Tensor, Tensor]:
    best = statistic.argmax(1)
    rows = torch.arange(len(parts))
    return parts[rows, best], statistic[rows, best]


GROUPINGS: dict[str, Grouping] = {
    "separation": by_separation,
    "gap": by_variance,
    "silhouette": by_silhouette,
    "mixture": by_mixture,
}
