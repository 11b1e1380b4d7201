"""Rankings: the images that give a unit its largest, or its smallest, values; ties go by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# What stands in a row that is not filled; worse than any number.
NOTHING = -np.inf
LOW = 0xFFFFFFFF


@dataclass(frozen=True, eq=False)
class Ranked:
    """The best images of each of ``c`` units, best first: ``key`` (c, k) float32, ``image`` and ``place`` (c, k).

    Larger keys are better: for the smallest values they are the values with the sign changed. Rows that are not filled
    have the key -inf, image -1 and place 0.
    """

    key: Floats
    image: Integers
    place: NDArray[np.int32]


class Ranking:
    """The ``count`` best images of each unit so far; images come in ascending order. Memory: ``16 * c * count`` bytes.

    Keys and the place in line are packed into one whole number, so that sorting these, which numpy does fast, sorts by
    key and, among equal keys, by image.
    """

    def __init__(self, channels: int, count: int) -> None:
        shape = (channels, count)
        self.key = np.full(shape, NOTHING, dtype=np.float32)
        self.image = np.full(shape, -1, dtype=np.int64)
        self.place = np.zeros(shape, dtype=np.int32)

    @property
    def least(self) -> Floats:
        """The key (c,) that a new image must exceed."""
        return self.key[:, -1]

    def add(self, key: Floats, images: Integers, places: NDArray[np.int32]) -> None:
        """Take in a batch: ``key`` (n, c), -inf for what is not to be listed, ``images`` (n,) ascending, ``places`` (n,
        c).
        """
        rows: Any = np.flatnonzero((key > self.least).any(0))
        if not len(rows):
            return
        rows = slice(None) if len(rows) == len(self.key) else rows
        count = self.key.shape[1]
        found = np.sort(_packed(np.concatenate([self.key[rows], key.T[rows] + np.float32(0)], 1)), axis=1)[:, :count]
        pairs = np.concatenate([_paired(self.image[rows], self.place[rows]), _paired(images, places.T[rows])], 1)
        chosen = np.take_along_axis(pairs, found & LOW, 1)
        keys = _unpacked(found)
        nothing = keys == NOTHING
        self.key[rows] = keys
        self.image[rows] = np.where(nothing, -1, chosen >> 32)
        self.place[rows] = np.where(nothing, 0, chosen & LOW)

    def ranked(self) -> Ranked:
        return Ranked(self.key, self.image, self.place)


def merged(parts: Sequence[Ranked], count: int) -> Ranked:
    """Give the ``count`` best of several rankings, by key and then by image."""
    key, image, place = (
        np.concatenate([getattr(part, name) for part in parts], 1) for name in ("key", "image", "place")
    )
    by_image = np.argsort(image, axis=1, kind="stable")
    by_key = np.argsort(-np.take_along_axis(key, by_image, 1), axis=1, kind="stable")
    order = np.take_along_axis(by_image, by_key, 1)[:, :count]
    return Ranked(*(np.take_along_axis(each, order, 1) for each in (key, image, place)))


def _packed(keys: Floats) -> Integers:
    """Give whole numbers that ascend as ``keys`` (c, m) descend, and among equal keys along the row."""
    bits = keys.view(np.int32)
    descending = ~(bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return (descending.astype(np.int64) << 32) | np.arange(keys.shape[1])


def _unpacked(packed: Integers) -> Floats:
    """Give back the keys."""
    bits = ~(packed >> 32).astype(np.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)


def _paired(images: Integers, places: NDArray[np.int32]) -> Integers:
    """Give image and place as one number; images are -1 or below 2^31."""
    return (images << 32) | places
