"""Scores: how much a unit looks as if it meant several things, from the evidence on its examples; larger is more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.meanings.agreement import Parting, best_parting
from circuits.meanings.calibration import kinds_of, log_odds, same_sizes, see
from circuits.meanings.evidence import FEWEST, Evidence
from circuits.meanings.groupings import GROUPINGS, by_variance, centre_distance
from circuits.meanings.nouns import Floats
from circuits.meanings.nulls import against_null, principal

Score: TypeAlias = Callable[[Evidence], Floats]


def mean_distance(evidence: Evidence) -> Floats:
    """Mean Euclidean distance between examples, in [0, inf): **the cautionary baseline**, never a verdict.

    It measures spread, not groups: one diffuse meaning scores above two tight ones.
    """
    return _by_size(evidence, _meant(evidence), lambda points: torch.pdist(points[0])[None].mean(1), single=True)


def clarity(evidence: Evidence) -> Floats:
    """1 - clarity, in [0, 2]: clarity is the mean cosine between different examples,
    ``(|mean v|^2 - 1/n) n / (n - 1)`` with ``v`` unit vectors (Dreyer et al. 2025, "Mechanistic understanding and
    validation of large AI models with SemanticLens").
    """
    return _by_size(evidence, _meant(evidence), lambda points: 1 - clarity_of(points))


def semantic_lens(evidence: Evidence) -> Floats:
    """SemanticLens' polysemanticity: ``1 - cosine`` of the centres of two clusters by 2-means, in [0, 2] (Dreyer et al.
    2025).
    """
    return _by_size(
        evidence, _meant(evidence), lambda points: centre_distance(points, by_variance(principal(points)[0])[0])
    )


def monoscore(evidence: Evidence) -> Floats:
    """1 - MonoScore, in [0, 2]: the mean cosine of pairs of examples weighted by their activations,
    ``(|sum a_i p_i|^2 - sum a_i^2) / ((sum a_i)^2 - sum a_i^2)``, ``a`` scaled to [0, 1] between 0 and the strongest
    (Pach et al. 2025, "Sparse autoencoders learn monosemantic features in vision-language models").
    """
    weights = torch.from_numpy(np.nan_to_num(evidence.value).astype(np.float64))
    weights = weights - weights.amin(1, keepdim=True).clamp_max(0)
    weights = weights / weights.amax(1, keepdim=True).clamp_min(1e-300)
    points = _unit(torch.from_numpy(_meant(evidence)).double())
    total = (weights[:, :, None] * points).sum(1).square().sum(1) - weights.square().sum(1)
    pairs = weights.sum(1).square() - weights.square().sum(1)
    return _judged(evidence, (1 - total / pairs.clamp_min(1e-300)).numpy())


def silhouette(evidence: Evidence) -> Floats:
    """The mean silhouette of two clusters (Rousseeuw 1987), in standard deviations above sets of points that have the
    same spread and no groups (see `against_null`), in (-inf, inf).
    """
    return _by_size(evidence, _meant(evidence), lambda points: against_null(points, GROUPINGS["silhouette"])[0])


def gap(evidence: Evidence) -> Floats:
    """The gap statistic for two clusters over one (Tibshirani et al. 2001): how much more of the variance a parting in
    two explains than in sets of points of the same spread without groups, as the logarithm of what is left; in
    standard deviations of that null.
    """
    return _by_size(evidence, _meant(evidence), lambda points: against_null(points, GROUPINGS["gap"])[0])


def separation(evidence: Evidence) -> Floats:
    """The distance of two clusters' centres over the spread within along their line, as a logarithm, in standard
    deviations above the same null.
    """
    return _by_size(evidence, _meant(evidence), lambda points: against_null(points, GROUPINGS["separation"])[0])


def mixture(evidence: Evidence) -> Floats:
    """The log likelihood ratio of two normal components against one, with free shares and one common variance a
    dimension, in the five first principal coordinates, in standard deviations above the same null.

    Shares are free, so that a component of 7 % is fitted as readily as one of half.
    """
    return _by_size(evidence, _meant(evidence), lambda points: against_null(points, GROUPINGS["mixture"])[0])


def label_entropy(evidence: Evidence) -> Floats:
    """The entropy of the labels of the examples, in nats, from 0; NaN without labels."""
    return _entropy(evidence, np.ones_like(evidence.value, dtype=np.float64))


def class_entropy(evidence: Evidence) -> Floats:
    """The entropy of what each class has of the activation over the examples, in nats, from 0; NaN without labels.

    Unlike the label entropy it lets weak examples of other classes count less.
    """
    return _entropy(evidence, np.clip(np.nan_to_num(evidence.value).astype(np.float64), 0, None))


def pure(evidence: Evidence) -> Floats:
    """PURE: how far apart the two clusters of upstream contributions are, in [0, 2] (Dreyer et al. 2024).

    Activation times gradient at the layers below, normalized by the sum of absolute values, parted by 2-means; ``1 -
    cosine`` of the centres, times the mean silhouette where that is positive. Needs ``upstream``.
    """
    points = _needed(evidence, "upstream")
    points = points / np.maximum(np.abs(points).sum(2, keepdims=True), 1e-30)
    return _by_size(evidence, points, _clustered)


def visualizations(evidence: Evidence) -> Floats:
    """1 - the mean cosine between the embeddings of different pictures made for the unit, in [0, 2].

    Units with several meanings have several pictures (Nguyen et al. 2016, "Multifaceted feature visualization"; Olah et
    al. 2017). Needs ``pictures``, at least two a unit.
    """
    points = _needed(evidence, "pictures")
    if points.shape[1] < 2:
        raise ValueError("there is one picture a unit: give at least 2 to see how different they are")
    return np.asarray(1 - clarity_of(torch.from_numpy(points).double()).numpy())


def agreement(evidence: Evidence) -> Floats:
    """How far apart two groups are on which all the evidence agrees: the activations of the layer, the embedded crops
    and the contributions from below, as far as they are given; in [0, 2].

    Of the partings that any kind suggests the one is taken for which the geometric mean over kinds of ``gap =
    min(cosine within one, within the other) - cosine between`` is largest (`best_parting`). Each part counts alike, so
    that two examples of 32 are a meaning if they are like each other and unlike the rest in every respect.
    """
    return _by_kinds(evidence, lambda found: found.joint)


def agreement_with_neighbours(evidence: Evidence) -> Floats:
    """`agreement` times the share of nearest neighbours of the smaller group that are of it: outliers that resemble
    each other by chance have theirs in the other group; in [0, 2].
    """
    return _by_kinds(evidence, lambda found: found.joint * found.neighbours.amin(1))


def combined(evidence: Evidence) -> Floats:
    """The verdict's log odds: gaps, distances and clusters of all kinds of evidence weighed together (see `judge`)."""
    kinds = kinds_of(evidence)
    found = np.full(len(evidence), np.nan)
    for rows, size in same_sizes(evidence):
        points = {name: torch.from_numpy(each[rows, :size]) for name, each in kinds.items()}
        found[rows] = log_odds(points, see(points).measures).numpy()
    return found


def clarity_of(points: Tensor) -> Tensor:
    """Give the mean cosine of different points of sets (b, k, d): (b,)."""
    unit, n = _unit(points), points.shape[1]
    return (unit.mean(1).square().sum(1) - unit.square().sum((1, 2)) / n**2) * n / (n - 1)


def _by_kinds(evidence: Evidence, measure: Callable[[Parting], Tensor]) -> Floats:
    kinds = list(kinds_of(evidence).values())
    found = np.full(len(evidence), np.nan)
    for rows, size in same_sizes(evidence):
        points = [torch.from_numpy(each[rows, :size]).double() for each in kinds]
        found[rows] = measure(best_parting(points)).numpy()
    return found


def _by_size(
    evidence: Evidence, points: NDArray[np.floating], measure: Callable[[Tensor], Tensor], *, single: bool = False
) -> Floats:
    """Measure units with as many examples together; NaN where there are too few."""
    found = np.full(len(evidence), np.nan)
    for rows, size in same_sizes(evidence):
        some = torch.from_numpy(points[rows, :size]).double()
        parts = [measure(each[None]) for each in some] if single else [measure(some)]
        found[rows] = torch.cat(parts).numpy()
    return found


def _judged(evidence: Evidence, values: Floats) -> Floats:
    return np.where(evidence.sizes >= FEWEST, values, np.nan)


def _meant(evidence: Evidence) -> NDArray[np.floating]:
    """Give the points that stand for what examples show: the embedded crops, or the layer's own activations."""
    return evidence.vectors if evidence.late is None else evidence.late


def _needed(evidence: Evidence, name: str) -> NDArray[np.floating]:
    points: NDArray[np.floating] | None = getattr(evidence, name)
    if points is None:
        raise ValueError(f"the evidence has no {name}: gather it with the dataset, or give {name}=...")
    return points


def _unit(points: Tensor) -> Tensor:
    return torch.nn.functional.normalize(points, dim=2)


def _clustered(points: Tensor) -> Tensor:
    parts, closeness = GROUPINGS["silhouette"](principal(points)[0])
    return centre_distance(points, parts) * closeness.clamp_min(0)


def _entropy(evidence: Evidence, weights: Floats) -> Floats:
    found = np.full(len(evidence), np.nan)
    for row, labels in enumerate(evidence.label):
        names = np.unique(labels[labels >= 0])
        shares = np.array([weights[row, labels == name].sum() for name in names])
        if shares.sum() > 0:
            shares = shares[shares > 0] / shares.sum()
            found[row] = -(shares * np.log(shares)).sum() + 0.0
    return found


SCORES: dict[str, Score] = {
    "mean-distance": mean_distance,
    "clarity": clarity,
    "semantic-lens": semantic_lens,
    "monoscore": monoscore,
    "silhouette": silhouette,
    "gap": gap,
    "separation": separation,
    "mixture": mixture,
    "label-entropy": label_entropy,
    "class-entropy": class_entropy,
    "pure": pure,
    "visualizations": visualizations,
    "agreement": agreement,
    "agreement-with-neighbours": agreement_with_neighbours,
    "combined": combined,
}
