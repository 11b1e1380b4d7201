"""Parting: groups of examples, numbered by how frequent they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def by_frequency(group: Integers) -> Integers:
    """Number groups by size, largest first; ties by the best example.

    >>> by_frequency(np.array([7, 2, 2, 7, 2])).tolist()
    [1, 0, 0, 1, 0]
    """
    names, first, counts = np.unique(group, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[order] = np.arange(len(names))
    return ranks[np.searchsorted(names, group)]
