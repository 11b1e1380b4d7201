"""From similarities of transformed units to families."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from circuits.families.nouns import Family, Transform, wrapped

Numbers = NDArray[np.float64]

# A true copy counts for seven units that are alike by 0.6, as random filters are on photographs, which otherwise gather
# the members of other families around themselves.
ALIKE = 4
SLACK = 0.02  # the simplest transform is taken whose similarity is that close to the best


@dataclass(frozen=True)
class Variants:
    """What is tried: every mirror, scale and hue at every turn by a multiple of ``step`` degrees."""

    step: float
    others: tuple[Transform, ...]

    @property
    def turns(self) -> int:
        """How many turns there are."""
        return round(360 / self.step)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """All transforms, other by other, turn by turn."""
        return tuple(
            Transform(wrapped(turn * self.step), other.mirror, other.scale, other.hue)
            for other, turn in product(self.others, range(self.turns))
        )


def variants(step: float, mirror: bool, scales: Sequence[float], hues: Sequence[float]) -> Variants:
    """Make the list of what is tried, the identity first; ``ValueError`` for steps that do not close, bad scales."""
    if isinstance(step, bool) or not isinstance(step, (int, float)) or not 1 <= step <= 360 or 360 % step:
        raise ValueError(f"step is {step!r}: give degrees that divide 360, for example 15")
    if not all(math.isfinite(scale) and scale > 0 for scale in scales) or not all(map(math.isfinite, hues)):
        raise ValueError(f"scales are {tuple(scales)}, hues {tuple(hues)}: give factors above 0, and degrees")
    sizes = dict.fromkeys([1.0, *map(float, scales)])
    colours = dict.fromkeys([0.0, *(wrapped(float(hue)) for hue in hues)])
    others = [Transform(0.0, flip, size, hue) for flip, size, hue in product((False, True), sizes, colours)]
    return Variants(float(step), tuple(other for other in others if mirror or not other.mirror))


def group(
    layer: str,
    names: Sequence[str],
    similarity: Numbers,
    tried: Variants,
    null: Numbers,
    *,
    least: float,
    level: float,
    method: str,
) -> tuple[Family, ...]:
    """Group units: ``similarity (t, a, b)`` of ``a`` transformed with ``b``, for the transforms tried, in their order.

    A pair matches if its best similarity is at least ``least`` and has a family-wise p-value of at most ``level``:
    the part of ``null``, the largest similarity of any pair in each null sample, that is as large. The unit with the
    largest sum of ``similarity^4`` over its matches (then the lowest channel) is the first of a family, what matches it
    the rest; then the next, among the units that are left.
    """
    best = similarity.max(0)
    np.fill_diagonal(best, -1.0)
    p = (1 + (null[:, None, None] >= best).sum(0)) / (1 + null.size)
    matches = (best >= least) & (p <= level)
    transforms = tried.transforms
    order = sorted(range(len(transforms)), key=lambda place: _complexity(transforms[place]))
    found: list[Family] = []
    while matches.any():
        first = int(np.argmax(np.round((best**ALIKE * matches).sum(1), 6)))
        chosen = {
            unit: transforms[_simplest(similarity[:, first, unit], order)]
            for unit in np.flatnonzero(matches[first]).tolist()
        }
        rest = sorted(chosen, key=lambda unit: (*_kind(chosen[unit]), chosen[unit].angle, unit))
        members = tuple(names[unit] for unit in (first, *rest))
        kinds = (Transform(), *(chosen[unit] for unit in rest))
        evidence = (1.0, *best[first, rest].tolist())
        found.append(Family(layer, members, kinds, evidence, float(p[first, rest].max()), method))
        matches[[first, *rest]] = matches[:, [first, *rest]] = False
    return tuple(found)


def _kind(transform: Transform) -> tuple[bool, float, float]:
    return transform.mirror, transform.scale, transform.hue


def _complexity(transform: Transform) -> tuple[bool, bool, bool, float, float]:
    return transform.mirror, transform.scale != 1, transform.hue != 0, abs(transform.angle), -transform.angle


def _simplest(similarity: Numbers, order: Sequence[int]) -> int:
    best = similarity.max()
    return next(place for place in order if similarity[place] >= best - SLACK)
