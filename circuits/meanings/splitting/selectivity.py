"""Selectivity: a meaning's own edges, and whether removing them lowers that meaning alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from circuits.meanings.splitting.inflow import Inflow, Looked, without

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Truths = NDArray[np.bool_]

# An edge is a meaning's own where it gives that meaning so many times what it gives any other. Measured on 22 meanings
# of units merged in mixed4b of the network of `features.sketches` (`circuits.planted`): with 2 the mean selectivity is
# 0.91 and the own edges hold 85 % of the response, with 4 0.96 and 75 %, with 8 0.97 and 61 %.
TIMES = 4.0
DRAWS = 1000  # of the bootstrap: its ends are then sure to about 0.01
INTERVAL = (2.5, 97.5)  # percent


@dataclass(frozen=True, eq=False)
class Selectivity:
    """What removing each of ``m`` meanings' own edges does: see `circuits.meanings.Split`, where these fields are."""

    own: Truths
    drops: Floats
    selectivity: Floats
    low: Floats
    high: Floats


def own_edges(carried: Floats, group: Integers) -> Truths:
    """Say which edges (m, u) are a meaning's own: they excite it, at least `TIMES` as much as they move any other."""
    means = mean_by_group(carried, group)
    own = np.zeros(means.shape, dtype=bool)
    for meaning, mine in enumerate(means):
        others = np.abs(np.delete(means, meaning, axis=0)).max(0)
        own[meaning] = (mine > 0) & (mine >= TIMES * others)
    return own


def mean_by_group(values: Floats, group: Integers) -> Floats:
    """Give the mean of the rows of each group."""
    return np.stack([values[group == meaning].mean(0) for meaning in range(group.max() + 1)])


def measure(looked: Looked, carried: Inflow, group: Integers, seed: int) -> Selectivity:
    """Choose each meaning's own edges on one half of the examples, remove them on the other, and the other way round.

    The halves are every second example of each meaning, by rank.
    """
    half = np.empty(len(group), dtype=np.int64)
    for meaning in range(group.max() + 1):
        half[group == meaning] = np.arange((group == meaning).sum()) % 2
    drops = np.zeros((group.max() + 1, len(group)))
    for tried in (0, 1):
        own = own_edges(carried.carried[half != tried], group[half != tried])
        rows = half == tried
        part = _some(looked, rows)
        for meaning, edges in enumerate(own):
            names = [carried.sources[at] for at in np.flatnonzero(edges)]
            values = carried.values[rows]
            drops[meaning, rows] = (values - without(part, names)) / values if names else 0.0
    found = selectivity_of(mean_by_group(drops.T, group).T)
    low, high = np.percentile(_bootstrap(drops, group, seed), INTERVAL, axis=0)
    return Selectivity(own_edges(carried.carried, group), drops, found, low, high)


def selectivity_of(means: Floats) -> Floats:
    """Give ``1 - other / own`` in [0, 1] of each meaning, (..., m), of ``means`` (..., m, m), the mean drop of each
    meaning's examples where each one's own edges are removed: ``other`` the largest absolute of those that are not its
    own; 0 where its own response does not fall."""
    own = np.diagonal(means, axis1=-2, axis2=-1)
    other = np.abs(means * (1 - np.eye(means.shape[-1]))).max(-1)
    falls = own > 0
    return np.where(falls, np.clip(1 - other / np.where(falls, own, 1.0), 0, 1), 0.0)


def _bootstrap(drops: Floats, group: Integers, seed: int) -> Floats:
    """Give the selectivities (draws, m) of examples drawn anew within each meaning."""
    generator = np.random.default_rng(seed)
    means = np.empty((DRAWS, len(drops), len(drops)))
    for meaning in range(len(drops)):
        mine = drops[:, group == meaning]
        means[:, :, meaning] = mine[:, generator.integers(mine.shape[1], size=(DRAWS, mine.shape[1]))].mean(2).T
    return selectivity_of(means)


def _some(looked: Looked, rows: Truths) -> Looked:
    return replace(looked, images=looked.images[rows.nonzero()[0]], position=looked.position[rows])
