"""Agreement: partings of examples in two on which several kinds of evidence agree, and how far the parts are apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

AXES = 4  # principal axes along which examples are first parted
EXAMPLES = 32  # examples, evenly spread, from each of which against the one most unlike it they are parted too
STEPS = 10  # of Lloyd's algorithm, after which parts of 100 points have settled
SMALLEST = 2  # examples in a part: one is an outlier, not a meaning
NEIGHBOURS = 3  # whose part is compared with an example's own
CHUNK = 2**24  # numbers of one batch of partings: 128 MB in float64
FLOOR = 1e-4  # gap at or under which there is none, so that products of gaps keep an order


@dataclass(frozen=True)
class Parting:
    """The best parting of each of b sets of k points in two, as ``s`` kinds of evidence see it.

    ``parts`` (b, k) is True for the smaller part; ``share`` (b,) its share. By kind (b, s): ``gap``, the smaller mean
    cosine within a part less the mean cosine between the parts; ``distance``, 1 - cosine of the parts' centres;
    ``within``, the smaller mean cosine; ``neighbours``, the share of the nearest neighbours of the smaller part's
    points that lie in it. ``joint`` (b,) is the geometric mean of the gaps.
    """

    parts: Tensor
    share: Tensor
    gap: Tensor
    distance: Tensor
    within: Tensor
    neighbours: Tensor
    joint: Tensor


def best_parting(kinds: Sequence[Tensor]) -> Parting:
    """Find the parting of each set of points, (b, k, d) of each kind, on which all kinds agree best.

    Candidates are what 2-means gives in each kind, from the principal axes and from points against the one most unlike
    them; each candidate is measured in every kind, and the one with the largest product of gaps is taken. A
    parting that only one kind sees (an orientation in the layer below, a background in the embedding) has no gap in the
    others. Rows are made unit vectors; rows of zeros stay.
    """
    points = [torch.nn.functional.normalize(each.double(), dim=2) for each in kinds]
    size = points[0].shape[1]
    count = max(1, CHUNK // (size * (EXAMPLES + AXES) * len(points) * 4))
    parts = [_best([each[at : at + count] for each in points]) for at in range(0, len(points[0]), count)]
    return Parting(*(torch.cat([getattr(part, name) for part in parts]) for name in Parting.__dataclass_fields__))


def _best(points: list[Tensor]) -> Parting:
    grams = [each @ each.transpose(1, 2) for each in points]
    candidates = torch.cat([_candidates(gram) for gram in grams], dim=1)
    seen = [apart(gram, candidates) for gram in grams]
    gaps = torch.stack([gap for gap, *_ in seen])
    joint = gaps.clamp_min(FLOOR).log().mean(0) + FLOOR * gaps.amin(0)  # the least gap decides where none is
    lopsided = candidates.sum(2) < SMALLEST
    best = joint.masked_fill(lopsided, -torch.inf).argmax(1)
    rows = torch.arange(len(best))
    parts = candidates[rows, best]
    gap, distance, within = (torch.stack([each[at][rows, best] for each in seen], dim=1) for at in range(3))
    neighbours = torch.stack([_neighbours(gram, parts) for gram in grams], dim=1)
    mean = gap.clamp_min(FLOOR).log().mean(1).exp()
    return Parting(parts.bool(), parts.mean(1), gap, distance, within, neighbours, mean)


def _candidates(gram: Tensor) -> Tensor:
    """Part by 2-means from several starts: (b, s, k), 1 for the smaller part."""
    size = gram.shape[1]
    centred = gram - gram.mean(1, keepdim=True) - gram.mean(2, keepdim=True) + gram.mean((1, 2), keepdim=True)
    axes = torch.linalg.eigh(centred)[1].flip(2)[:, :, :AXES]
    some = gram[:, :: 1 + (size - 1) // EXAMPLES]
    against = gram.gather(1, some.argmin(2)[:, :, None].expand_as(some))
    parts = torch.cat([(axes > 0).transpose(1, 2), some > against], dim=1)
    parts = parts.to(gram.dtype)
    for _ in range(STEPS):
        n = parts.sum(2, keepdim=True).clamp_min(1)
        m = (size - parts.sum(2, keepdim=True)).clamp_min(1)
        mine = parts @ gram
        other = gram.sum(1)[:, None] - mine
        near = (parts * mine).sum(2, keepdim=True) / n**2 - 2 * mine / n
        far = ((1 - parts) * other).sum(2, keepdim=True) / m**2 - 2 * other / m
        parts = (near < far).to(gram.dtype)
    return torch.where(2 * parts.sum(2, keepdim=True) > size, 1 - parts, parts)


def apart(gram: Tensor, parts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Measure partings (b, s, k) by a Gram matrix (b, k, k): gap, distance of the centres, least cosine within."""
    size = gram.shape[1]
    n, own = parts.sum(2), gram.diagonal(dim1=1, dim2=2)
    m = size - n
    mine = parts @ gram
    inner = (mine * parts).sum(2)
    across = (mine * (1 - parts)).sum(2)
    outer = gram.sum((1, 2))[:, None] - inner - 2 * across
    lengths = (parts @ own[:, :, None])[:, :, 0]
    first = (inner - lengths) / (n * (n - 1)).clamp_min(1)
    second = (outer - (own.sum(1)[:, None] - lengths)) / (m * (m - 1)).clamp_min(1)
    between = across / (n * m).clamp_min(1)
    centres = (inner / n.clamp_min(1) ** 2 * outer / m.clamp_min(1) ** 2).clamp_min(1e-24).sqrt()
    within = torch.minimum(first, second)
    return within - between, 1 - between / centres, within


def _neighbours(gram: Tensor, parts: Tensor) -> Tensor:
    """Give the share of the nearest neighbours of the smaller part's points that are of that part: (b,).

    Of each point as many neighbours are asked as its part has others, at most `NEIGHBOURS`.
    """
    alike = gram - 9 * torch.eye(gram.shape[1], dtype=gram.dtype)
    nearest = alike.topk(min(NEIGHBOURS, gram.shape[1] - 1), dim=2).indices
    same = parts[:, None].expand_as(gram).gather(2, nearest)
    asked = (parts.sum(1) - 1).clamp(1, nearest.shape[2])
    counted = torch.arange(nearest.shape[2]) < asked[:, None]
    share = (same * counted[:, None]).sum(2) / asked[:, None]
    return (share * parts).sum(1) / parts.sum(1).clamp_min(1)
