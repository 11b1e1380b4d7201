"""Calibration: the probability that a unit means several things, from what all kinds of evidence say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.meanings.agreement import Parting, apart, best_parting
from circuits.meanings.evidence import FEWEST, Evidence
from circuits.meanings.groupings import by_variance
from circuits.meanings.nulls import principal

FAINT = 0.02  # gap that is added before the logarithm: smaller ones are noise
# Added to the cosine within parts before gaps are divided by it: where examples have next to nothing in common (cosines
# under 0.1), any two halves are as far apart as can be.
LOOSE = 0.15
MEASURES = ("gap", "distance", "spread")


@dataclass(frozen=True)
class Seen:
    """What the evidence says of b units: the best parting, and by kind and measure (b, 3 * kinds) what is weighed.

    Measures of a kind: ``gap``, the logarithm of the gap of the parting on which all kinds agree; ``distance``, that
    gap as a part of the cosine within, ``gap / (within + 0.15)`` in [0, 1]; ``spread``, the same for the two clusters
    that leave the least variance in this kind alone.
    """

    parting: Parting
    measures: Tensor


def see(kinds: Mapping[str, Tensor]) -> Seen:
    """Measure sets of points, (b, k, d) of each kind."""
    points = [torch.nn.functional.normalize(each.double(), dim=2) for each in kinds.values()]
    parting = best_parting(points)
    alone = [apart(each @ each.transpose(1, 2), by_variance(principal(each)[0])[0][:, None]) for each in points]
    gap, within = (torch.cat([each[at] for each in alone], dim=1) for at in (0, 2))
    gaps = (parting.gap.clamp_min(0) + FAINT).log()
    measures = torch.stack([gaps, _relative(parting.gap, parting.within), _relative(gap, within)], dim=2)
    return Seen(parting, measures.flatten(1))


def _relative(gap: Tensor, within: Tensor) -> Tensor:
    relative: Tensor = gap / (within.clamp_min(0) + LOOSE)
    return relative.clamp(0, 1)


def log_odds(kinds: Mapping[str, Tensor], measures: Tensor) -> Tensor:
    """Give the log odds (b,) that units mean several things, as likely beforehand as not."""
    weights = torch.tensor(WEIGHTS[tuple(kinds)], dtype=measures.dtype)
    return measures @ weights[1:] + weights[0]


def kinds_of(evidence: Evidence) -> dict[str, NDArray[np.floating]]:
    """Give the kinds of evidence that are weighed: vectors, and late and upstream where given."""
    kinds = {"vectors": evidence.vectors, "late": evidence.late, "upstream": evidence.upstream}
    return {name: points for name, points in kinds.items() if points is not None}


def same_sizes(evidence: Evidence) -> list[tuple[NDArray[np.intp], int]]:
    """Give the rows of the units with as many examples, from 8, and how many."""
    sizes = evidence.sizes
    return [(np.flatnonzero(sizes == size), size) for size in np.unique(sizes[sizes >= FEWEST]).tolist()]


# By the kinds of evidence: the constant, then the weights of gap, distance and spread of each kind. Logistic
# regressions (ridge, C = 0.1 in units of standard deviations; then slope and constant refitted to units left out of
# five folds) on the development part of the benchmark of `circuits.planted`, 20 November 2026: 203 units merged in
# mixed4a to mixed4c of the network of `features.sketches` (seed 0, even channels) and 75 controls, controls and merged
# alike in weight, with 24, 32, 50 and 100 examples each.
WEIGHTS: dict[tuple[str, ...], tuple[float, ...]] = {
    ("vectors",): (-3.44, 1.54, 5.43, 3.71),
    ("vectors", "late"): (-5.51, 0.97, 4.05, 2.94, 0.38, 2.68, 1.70),
    ("vectors", "upstream"): (-3.38, 0.55, 1.95, 2.07, 0.67, 3.10, 2.56),
    ("vectors", "late", "upstream"): (-4.32, 0.30, 1.48, 1.83, 0.23, 1.50, 0.76, 0.60, 2.85, 2.16),
}
