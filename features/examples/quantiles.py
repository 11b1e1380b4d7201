"""Quantiles: counts of numbers in bins whose width is a share of the number, read off a float's bits; mergeable."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Bits of the mantissa that tell bins apart: 16 bins from a number to its double, so that a bin's middle (harmonic) is
# within 1/33 of everything in it.
STEPS = 4
SHIFT = 23 - STEPS
# Numbers nearer to zero than 2^-20, about 1e-6, are counted as zero.
FIRST = ((127 - 20) << STEPS) - 1
BINS = 32
MASK = (1 << (9 + STEPS)) - 1


def codes(numbers: NDArray[np.float32]) -> NDArray[np.int64]:
    """Give the bin of each finite number: 0 for what is below 1e-6, then 1, 2, ... upwards and -1, -2, ... downwards.

    Bin 1 begins at 2^-20, and 16 bins lead to the double.

    >>> codes(np.array([0.0, 1.0, 1.06, 1.07, 2.0, -2.0], dtype=np.float32)).tolist()
    [0, 321, 321, 322, 337, -337]
    """
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.int32)
    result: NDArray[np.int64] = CODES.take((bits >> SHIFT) & MASK)
    return result


def _codes() -> NDArray[np.int64]:
    """Give the bin of every beginning of a float's bits: sign, exponent and the first of the mantissa."""
    sizes = np.maximum(np.arange((MASK + 1) // 2) - FIRST, 0)
    return np.concatenate([sizes, -sizes])


def lower(sizes: NDArray[np.integer]) -> NDArray[np.float64]:
    """Give where the bins 1, 2, ... begin."""
    return ((sizes.astype(np.int32) + FIRST) << SHIFT).astype(np.int32).view(np.float32).astype(np.float64)


def middles(bins: NDArray[np.integer]) -> NDArray[np.float64]:
    """Give for each bin the number that is within 1/33 of all that it counts; 0 for bin 0."""
    sizes = np.maximum(np.abs(bins), 1)
    low, high = lower(sizes), lower(sizes + 1)
    result: NDArray[np.float64] = np.sign(bins) * 2 * low * high / (low + high)
    return result


class Counter:
    """Counts of each unit's numbers, ``counts`` (c, w) for the bins ``start``, ``start + 1``, ...; grows where needed.

    Memory is ``8 * c * w`` bytes, where ``w`` is 32 for each doubling between 1e-6 and the largest number: some 700.
    """

    def __init__(self, channels: int) -> None:
        self.start = 0
        self.counts = np.zeros((channels, 1), dtype=np.int64)

    def add(self, numbers: NDArray[np.floating]) -> None:
        """Count ``numbers`` (m, c); what is not finite is left out."""
        numbers = np.ascontiguousarray(numbers, dtype=np.float32)
        found = codes(numbers)
        kept = np.isfinite(numbers) if not np.isfinite(numbers.sum(dtype=np.float64)) else None
        if kept is not None:
            found = np.where(kept, found, 0)
        self._cover(int(found.min()), int(found.max()))
        found += np.arange(numbers.shape[1]) * self.counts.shape[1] - self.start
        counted = found.ravel() if kept is None else found[kept]
        self.counts += np.bincount(counted, minlength=self.counts.size).reshape(self.counts.shape)

    def _cover(self, low: int, high: int) -> None:
        end = self.start + self.counts.shape[1]
        if low < self.start or high >= end:
            # a whole doubling more than is needed, so that this happens a few times at most
            before = max(0, self.start - low + 2**STEPS) if low < self.start else 0
            after = max(0, high + 1 - end + 2**STEPS) if high >= end else 0
            self.counts = np.pad(self.counts, ((0, 0), (before, after)))
            self.start -= before

    def arrays(self) -> tuple[NDArray[np.int64], int]:
        """Give the counts and their first bin, cut to the bins that were used: the same however they were added."""
        return cut(self.counts, self.start)


def cut(counts: NDArray[np.int64], start: int) -> tuple[NDArray[np.int64], int]:
    """Give counts without the empty bins at both ends; bin 0 is always there."""
    used = np.flatnonzero(counts.any(0))
    first = min(int(used[0]) if len(used) else -start, -start)
    last = max(int(used[-1]) if len(used) else -start, -start)
    return counts[:, first : last + 1].copy(), start + first


def added(parts: list[tuple[NDArray[np.int64], int]]) -> tuple[NDArray[np.int64], int]:
    """Give the sum of several counts, each with its first bin."""
    start = min(first for _, first in parts)
    end = max(first + counts.shape[1] for counts, first in parts)
    total = np.zeros((len(parts[0][0]), end - start), dtype=np.int64)
    for counts, first in parts:
        total[:, first - start : first - start + counts.shape[1]] += counts
    return cut(total, start)


def rectified(counts: NDArray[np.int64], start: int) -> tuple[NDArray[np.int64], int]:
    """Give the counts of ``max(x, 0)`` from those of ``x``."""
    result = counts[:, -start:].copy()
    result[:, 0] += counts[:, :-start].sum(1) if start < 0 else 0
    return cut(result, 0)


def quantile(counts: NDArray[np.int64], start: int, share: float) -> float:
    """Give the number below which ``share`` of those lie that a unit's ``counts`` (w,) hold; NaN where there are none.

    It is within 1/33 of the number of rank ``floor(share * (n - 1))``; what is nearer to 0 than 1e-6 is 0.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the quantile {share} was asked for: give a share from 0 (smallest) to 1 (largest)")
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    place = int(np.searchsorted(np.cumsum(counts), int(share * (total - 1)), side="right"))
    return float(middles(np.array([start + place]))[0])


def histogram(counts: NDArray[np.int64], start: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Give the counts of each unit ``(c, 32)`` in bins of equal width, and their edges ``(c, 33)``.

    The width is a power of two that depends on the smallest and largest bin used alone, chosen so that every bin of the
    sketch lies in one of the 32: nothing is split, and the counts are exact.
    """
    bins = start + np.arange(counts.shape[1])
    used = counts > 0
    none = ~used.any(1)
    low = np.where(none, 0, bins[used.argmax(1)])
    high = np.where(none, 0, bins[len(bins) - 1 - used[:, ::-1].argmax(1)])
    # where the outermost bins end, away from zero (a bin that ends at a positive edge does not hold that edge)
    bottom = np.where(low < 0, -lower(np.abs(low) + 1), np.where(low > 0, lower(np.maximum(low, 1)), 0.0))
    top = np.where(high > 0, lower(np.abs(high) + 1), np.where(high < 0, -lower(np.maximum(-high, 1)), 0.0))
    width = _widths(np.minimum(bottom, 0), np.maximum(top, 0))
    first = np.floor(np.minimum(bottom, 0) / width)
    edges = (first[:, None] + np.arange(BINS + 1)) * width[:, None]
    where = _places(bins, width, first)
    result = np.zeros((len(counts), BINS), dtype=np.int64)
    np.add.at(result, (np.arange(len(counts))[:, None], where), counts)
    return result, edges


def _widths(bottom: NDArray[np.float64], top: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the least power of two of which 32 steps, counted from a multiple of it, reach from ``bottom`` to ``top``,
    and that no bin of the sketch is wider than.
    """
    reach = np.maximum(np.maximum(-bottom, top), 2.0**-20)
    exponent = np.ceil(np.log2(reach)) - STEPS - 1
    for _ in range(3):
        width = np.exp2(exponent)
        exponent = np.where(np.ceil(top / width) - np.floor(bottom / width) > BINS, exponent + 1, exponent)
    result: NDArray[np.float64] = np.exp2(exponent)
    return result


def _places(bins: NDArray[np.int64], width: NDArray[np.float64], first: NDArray[np.float64]) -> NDArray[np.int64]:
    """Give which of the 32 bins each bin of the sketch lies in, ``(c, w)``; one at an end for those not used."""
    inside = middles(bins)[None] / width[:, None]
    return (np.floor(inside) - first[:, None]).clip(0, BINS - 1).astype(np.int64)


CODES = _codes()
