"""Sums: float64 numbers added exactly, as whole numbers, so that no order or grouping changes a bit of the total."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A number is a row of whole numbers that count 2^80, 2^40, 1, 2^-40 and 2^-80: float64's 53 bits fit in three
# neighbours, a square of `LARGEST` in the first, and 2^23 of them can be added before `carried` is needed.
BITS = 40
TOP = 80
LIMBS = 5
# Numbers above this count as not finite: their squares would not fit.
LARGEST = 2.0**60


def split(numbers: NDArray[np.floating], *, top: int = TOP, limbs: int = LIMBS) -> NDArray[np.int64]:
    """Give ``numbers`` (...) as whole numbers ``(limbs, ...)`` that count ``2^top``, ``2^(top - 40)``, ...; what is
    smaller than the last is cut off.

    >>> joined(split(np.array([-0.1, 3e20])))
    array([-1.e-01,  3.e+20])
    """
    rest = np.asarray(numbers, dtype=np.float64)
    parts = []
    for power in _powers(top, limbs):
        part = np.trunc(np.ldexp(rest, -power))
        parts.append(part.astype(np.int64))
        rest = rest - np.ldexp(part, power)
    return np.stack(parts)


def carried(limbs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give the one form of a sum: every row but the first in [0, 2^40)."""
    result = limbs.copy()
    for row in range(len(result) - 1, 0, -1):
        over = result[row] >> BITS
        result[row] -= over << BITS
        result[row - 1] += over
    return result


def joined(limbs: NDArray[np.int64], *, top: int = TOP) -> NDArray[np.float64]:
    """Give a sum as float64.

    >>> joined(split(np.array([0.5])) + split(np.array([0.25])))
    array([0.75])
    """
    total = np.zeros(limbs.shape[1:])
    for power, row in zip(_powers(top, len(limbs)), carried(limbs), strict=True):
        total = total + np.ldexp(row.astype(np.float64), power)
    return total


def variance(total: NDArray[np.int64], squares: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the variance (c,) of ``counts`` numbers whose sum, and whose squares' sum, are given, without rounding: a
    difference of two large numbers loses nothing here; NaN for no numbers.

    >>> numbers = np.array([1e6, 1e6 + 1])
    >>> variance(split(numbers).sum(1)[:, None], split(numbers**2).sum(1)[:, None], np.array([2]))
    array([0.25])
    """
    result = np.full(len(counts), np.nan)
    unit = TOP - BITS * (LIMBS - 1)  # the power of two that the last row counts
    for place, count in enumerate(counts.tolist()):
        if count:
            first, second = (_whole(each[:, place].tolist()) for each in (total, squares))
            result[place] = max(0, count * (second << -unit) - first**2) / (count**2 << -2 * unit)
    return result


def _whole(limbs: list[int]) -> int:
    total = 0
    for limb in limbs:
        total = (total << BITS) + limb
    return total


def _powers(top: int, limbs: int) -> list[int]:
    return [top - BITS * row for row in range(limbs)]
