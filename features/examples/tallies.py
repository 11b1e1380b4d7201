"""Tallies: what is kept of a layer while images stream by. Memory does not grow with the number of images."""

from __future__ import annotations

import torch
from torch import Tensor

# Above this many numbers a layer's vectors are kept in 16 bits: 64 MB in 32 bits.
LARGE = 2**24
BINS = 32
BINNED_POSITIONS = 256
SILENT = -torch.inf
HALF_MAXIMUM = torch.finfo(torch.float16).max


class Ranking:
    """The ``count`` best images of each unit so far: highest key first, ties by image; memory ``c * count * (c + 5)``
    numbers.

    Images come in ascending order, so that a new one displaces an old one only with a key that is truly higher. Vectors
    are not moved when ranks change: ``slot`` (c, count) says where each rank's vector lies, and a new one takes the
    place of one that dropped out.
    """

    def __init__(self, first: Tensor, count: int, *, width: int) -> None:
        """Prepare for maps like ``first`` (n, c, p) and vectors of ``width`` numbers, 0 for none."""
        shape, self.count = (first.shape[1], count), count
        self.key = first.new_full(shape, SILENT)
        self.image, self.label, self.place = (torch.full(shape, -1, device=first.device) for _ in range(3))
        self.slot = torch.arange(count, device=first.device).repeat(shape[0], 1)
        large = shape[0] * count * width > LARGE
        self.vectors = torch.zeros(*shape, width, dtype=torch.float16 if large else torch.float32, device=first.device)

    def add(self, key: Tensor, maps: Tensor, images: Tensor, labels: Tensor) -> None:
        """Take in a batch: ``key`` (c, n), ``maps`` (n, c, p), where peaks and vectors are read, ``images``, ``labels``
        (n,).
        """
        rows = (key > self.key[:, -1:]).any(1).nonzero()[:, 0]
        if len(rows) == 0:
            return
        ordered, order = torch.cat([self.key[rows], key[rows]], 1).sort(dim=1, descending=True, stable=True)
        order = order[:, : self.count]
        fresh = order >= self.count
        inside = fresh.nonzero(as_tuple=True)
        units, chosen = rows[inside[0]], order[inside] - self.count
        places = peaks(maps, chosen, units)
        slots = self._slots(rows, order, fresh)
        self.key[rows] = ordered[:, : self.count]
        for kept, new in ((self.image, images[chosen]), (self.label, labels[chosen]), (self.place, places)):
            kept[rows] = kept[rows].gather(1, order.clamp(max=self.count - 1))
            kept[units, inside[1]] = new
        self.slot[rows] = slots
        if self.vectors.shape[2]:
            self.vectors[units, slots[inside]] = self._storable(maps[chosen, :, places])

    def ranked_vectors(self) -> Tensor:
        """Give the vectors in the order of the ranks, (c, count, width)."""
        return self.vectors[torch.arange(len(self.slot), device=self.slot.device)[:, None], self.slot]

    def _storable(self, vectors: Tensor) -> Tensor:
        if not torch.isfinite(vectors.sum()):
            vectors = vectors.nan_to_num(0.0, 0.0, 0.0)
        if self.vectors.dtype == torch.float16:
            vectors = vectors.clamp(-HALF_MAXIMUM, HALF_MAXIMUM)
        return vectors.to(self.vectors.dtype)

    def _slots(self, rows: Tensor, order: Tensor, fresh: Tensor) -> Tensor:
        """Give the slots of the new ranks: those of the old for what stays, the freed ones for what is ``fresh``."""
        stay = self.slot[rows].gather(1, order.clamp(max=self.count - 1))
        taken = torch.zeros(len(rows), self.count + 1, dtype=torch.int8, device=rows.device)
        taken.scatter_(1, stay.masked_fill(fresh, self.count), 1)
        free = taken[:, : self.count].argsort(dim=1, stable=True)
        return torch.where(fresh, free.gather(1, (fresh.cumsum(1) - 1).clamp(min=0)), stay)


class Moments:
    """Sums over images and positions, in float64, of what is finite: for mean, sd, range, firing rate and histogram."""

    def __init__(self, first: Tensor) -> None:
        """Take the shift and the bins' edges from the ``first`` batch (n, c, p); it is not counted yet."""
        finite = torch.isfinite(first)
        known = finite.sum((0, 2)).clamp(min=1)
        self.shift = torch.where(finite, first, 0).sum((0, 2)) / known
        low = torch.where(finite, first, torch.inf).amin((0, 2))
        high = torch.where(finite, first, -torch.inf).amax((0, 2))
        none = ~torch.isfinite(low)
        low, high = torch.where(none, 0, low), torch.where(none, 1, high)
        self.low, self.width = low, torch.where(high > low, (high - low) / BINS, 1 / BINS)
        zeros = torch.zeros(first.shape[1], dtype=torch.float64, device=first.device)
        self.sum, self.squares, self.positive = zeros, zeros.clone(), zeros.clone()
        self.minimum, self.maximum = zeros + torch.inf, zeros - torch.inf
        self.seen, self.nonfinite = zeros.long(), zeros.long()
        self.histogram = torch.zeros(first.shape[1], BINS + 2, dtype=torch.int64, device=first.device)

    def add(self, maps: Tensor, pooled: Tensor, finite: Tensor | None) -> None:
        """Take in ``maps`` (n, c, p), with 0 wherever ``finite`` is false, and their maxima over positions, ``pooled``
        (n, c).
        """
        count = maps.shape[0] * maps.shape[2]
        lost = 0 if finite is None else (~finite).sum((0, 2))
        self.seen += count - lost
        self.nonfinite += lost
        smallest = maps if finite is None else torch.where(finite, maps, torch.inf)
        self.minimum = torch.minimum(self.minimum, smallest.amin(2).amin(0).double())
        self.maximum = torch.maximum(self.maximum, pooled.amax(0).double())
        work = maps - self.shift[:, None] if finite is None else torch.where(finite, maps - self.shift[:, None], 0)
        self.sum += work.sum(2).double().sum(0)
        self.squares += torch.linalg.vector_norm(work, dim=2).double().square().sum(0)
        self.positive += torch.gt(maps, 0, out=work).sum(2).double().sum(0)
        self._bin(maps, finite)

    def mean(self) -> Tensor:
        return self.shift.double() + self.sum / self.seen

    def sd(self) -> Tensor:
        """The population's standard deviation, about the shift: ``sqrt(E[d^2] - E[d]^2)``."""
        return (self.squares / self.seen - (self.sum / self.seen).square()).clamp(min=0).sqrt()

    def edges(self) -> Tensor:
        steps = torch.arange(BINS + 1, device=self.low.device, dtype=torch.float64)
        return self.low.double()[:, None] + steps * self.width.double()[:, None]

    def _bin(self, maps: Tensor, finite: Tensor | None) -> None:
        if maps.shape[2] > BINNED_POSITIONS:
            places = torch.linspace(0, maps.shape[2] - 1, BINNED_POSITIONS, device=maps.device).round().long()
            maps, finite = maps[:, :, places], None if finite is None else finite[:, :, places]
        steps = ((maps - self.low[:, None]) / self.width[:, None]).clamp_(-1, BINS).floor_().long() + 1
        # The last of the inner bins is closed: the first batch's largest value belongs to it.
        steps.masked_fill_((steps == BINS + 1) & (maps <= (self.low + BINS * self.width)[:, None]), BINS)
        channels, across = self.histogram.shape
        steps += torch.arange(channels, device=maps.device)[:, None] * across
        counted = steps.flatten() if finite is None else steps[finite]
        self.histogram += torch.bincount(counted, minlength=channels * across).view(channels, across)


class Tally:
    """Everything that is kept of one layer: the rankings of top and bottom, and the moments."""

    def __init__(self, first: Tensor, count: int, *, vectors: bool) -> None:
        """Prepare for a layer from its ``first`` batch (n, c, ...), which is not counted yet."""
        maps = flat(first)
        self.top = Ranking(maps, count, width=maps.shape[1] if vectors else 0)
        self.bottom = Ranking(maps, count, width=0)
        self.moments = Moments(maps)

    def add(self, activations: Tensor, images: Tensor, labels: Tensor) -> None:
        """Take in the layer's activations (n, c, ...) of ``images`` (n,), ascending and above all earlier ones."""
        maps = flat(activations)
        finite = None if torch.isfinite(maps.sum()) else torch.isfinite(maps)
        peaked = maps if finite is None else torch.where(finite, maps, SILENT)
        pooled = peaked.amax(2)
        self.top.add(pooled.T, peaked, images, labels)
        self.bottom.add(torch.where(pooled == SILENT, SILENT, -pooled).T, peaked, images, labels)
        self.moments.add(maps if finite is None else torch.where(finite, maps, 0), pooled, finite)


def flat(activations: Tensor) -> Tensor:
    """Give ``(n, c, h, w)``, ``(n, c, t)`` or ``(n, c)`` as ``(n, c, p)`` of at least 32 bits."""
    maps = activations.reshape(*activations.shape[:2], -1)
    return maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps


def peaks(maps: Tensor, images: Tensor, units: Tensor) -> Tensor:
    """Give the first position of the maximum of ``maps[image, unit]`` for pairs of image and unit, a bounded number at
    a time.
    """
    at_once = max(1, LARGE // maps.shape[2])
    pieces = [slice(start, start + at_once) for start in range(0, len(images), at_once)]
    return torch.cat([maps[images[piece], units[piece]].argmax(1) for piece in pieces])
