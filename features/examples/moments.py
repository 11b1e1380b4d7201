"""Moments: what is read of a layer's activations while they are in the processor's cache, in one walk over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from features.examples.sums import LARGEST

# Numbers that are walked over at a time: 1 MB, which with a buffer of the same size stays in the cache.
AT_ONCE = 2**18
# Where a unit's mean is this many standard deviations away from 0, its sums are taken about the mean, in 64 bits:
# nearer, float32 loses at most 17 times its rounding (6e-8) in the difference.
FAR = 4.0
# Below this share of pairs, places are looked up one by one.
FEW = 0.2

Wanted: TypeAlias = Callable[[slice, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Reading:
    """What is read of ``n`` images' activations ``rows`` (n, h, w, c) of one layer.

    ``pooled`` (n, c) are the largest of all positions, -inf where none is finite, ``places`` (n, c) the first position,
    in reading order, where they are, or 0 where that was not wanted; ``sums`` (n, c); for all images together (c,), in
    float64: ``shift``, the sums of the numbers less the shift and of their squares, ``offsets`` and ``squares``;
    ``positive`` (how many are above 0), ``lowest``, ``seen`` and ``nonfinite``. The shift is 0, or for a unit that is
    far from 0 its mean, in 24 bits.
    """

    rows: Tensor
    pooled: Tensor
    places: Tensor
    sums: Tensor
    shift: Tensor
    offsets: Tensor
    squares: Tensor
    positive: Tensor
    lowest: Tensor
    seen: Tensor
    nonfinite: Tensor


def rows_of(activations: Tensor) -> Tensor:
    """Give ``(n, c, h, w)``, ``(n, c, t)`` or ``(n, c)`` as ``(n, h, w, c)`` with channels next to each other, of at
    least 32 bits.
    """
    maps = activations.reshape(*activations.shape, *[1] * (4 - activations.ndim))
    rows = maps.permute(0, 2, 3, 1)
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    return rows.contiguous()


def read(rows: Tensor, wanted: Wanted, *, rectified: bool) -> Reading:
    """Read ``rows`` (n, h, w, c); ``rectified`` where none of them can be below 0.

    ``wanted`` says whose places are needed: for a slice of the images, their ``pooled`` values and ``sums`` (m, c),
    which pairs of image and unit (m, c).

    Numbers that are not finite, or beyond ±2^60, are counted and otherwise left out; units without any are read as they
    would be without.
    """
    first = _walked(rows, rows, rows, wanted, rectified=rectified)
    if bool((first.squares < LARGEST).all()):
        return _careful(first)
    finite = torch.isfinite(rows) & (rows.abs() < LARGEST)
    peaked, zeroed = torch.where(finite, rows, -torch.inf), torch.where(finite, rows, 0)
    low = torch.where(finite, rows, torch.inf)
    return _careful(_walked(peaked, zeroed, low, wanted, rectified=False), (~finite).sum((0, 1, 2)))


def _walked(peaked: Tensor, rows: Tensor, low: Tensor, wanted: Wanted, *, rectified: bool) -> Reading:
    count, down, across, channels = rows.shape
    crests = rows.new_empty((count, down, channels))
    pooled, sums = rows.new_empty((count, channels)), rows.new_zeros((count, channels))
    places = torch.zeros((count, channels), dtype=torch.int32, device=rows.device)
    squares, positive = (torch.zeros(channels, dtype=torch.float64, device=rows.device) for _ in range(2))
    lowest = rows.new_full((channels,), 0.0 if rectified else torch.inf)
    buffer = rows.new_empty(min(AT_ONCE + across * channels, rows.numel()))
    for images, lines in _pieces(count, down, across * channels):
        piece = rows[images, lines]
        torch.amax(peaked[images, lines], 2, out=crests[images, lines])
        flat = piece.view(-1, channels)
        sums[images] += piece.sum((1, 2))
        work = buffer[: flat.numel()].view(flat.shape)
        squares += torch.mul(flat, flat, out=work).sum(0)
        torch.sign(flat, out=work)
        positive += (work if rectified else work.clamp_(min=0)).sum(0)
        if not rectified:
            lowest = torch.minimum(lowest, low[images, lines].reshape(-1, channels).amin(0))
        if lines.stop >= down:  # the last of these images: what is needed of them again is still near
            torch.amax(crests[images], 1, out=pooled[images])
            pairs = wanted(images, pooled[images], sums[images])
            places[images] = _places(peaked[images], crests[images], pooled[images], pairs)
    seen = torch.full((channels,), count * down * across, device=rows.device)
    if rectified:
        open_ = (positive == seen).nonzero()[:, 0]
        lowest[open_] = rows[..., open_].amin((0, 1, 2))
    return Reading(
        peaked, pooled, places, sums, torch.zeros_like(squares), squares, squares, positive, lowest.double(), seen,
        torch.zeros_like(seen),
    )  # fmt: skip


def _places(rows: Tensor, crests: Tensor, pooled: Tensor, pairs: Tensor) -> Tensor:
    """Give the places of peaks, of those ``pairs`` (n, c) at least: the row is found among the ``crests`` (n, h, c),
    the largest of each row, and the column in that row, so that little is read.
    """
    across = rows.shape[2]
    if int(pairs.count_nonzero()) < FEW * pairs.numel():
        places = torch.zeros(pairs.shape, dtype=torch.int32, device=rows.device)
        images, units = pairs.nonzero(as_tuple=True)
        if len(images):
            down = crests[images, :, units].argmax(1)
            places[images, units] = (down * across + rows[images, down, :, units].argmax(1)).int()
        return places
    down = _first(crests, pooled)
    line = rows.gather(1, down[:, None, None, :].expand(-1, 1, across, -1))[:, 0]
    return (down * across + _first(line, pooled)).int()


def _first(maps: Tensor, largest: Tensor) -> Tensor:
    """Give the first place along axis 1 of ``maps`` (n, m, c) that equals the ``largest`` (n, c) there.

    Where channels lie next to each other, arithmetic is quicker than ``argmax``: places count backwards from m to 1,
    and m less where the number is smaller.
    """
    count = maps.shape[1]
    backwards = torch.arange(count, 0, -1, device=maps.device, dtype=maps.dtype)
    score = torch.sub(maps, largest[:, None]).sign_().mul_(count).add_(backwards[:, None]).amax(1)
    return (count - score).long().clamp_(0, count - 1)  # where nothing is finite there is no place


def _careful(reading: Reading, lost: Tensor | None = None) -> Reading:
    """Give the reading with the sums of units that are far from 0 taken about their mean in 64 bits, and with what is
    not finite left out of the counts.
    """
    nothing = torch.zeros_like(reading.seen) if lost is None else lost
    seen, sums, squares = reading.seen - nothing, reading.sums.double(), reading.squares.clone()
    offsets, shift = sums.sum(0), torch.zeros_like(squares)
    mean = offsets / seen.clamp(min=1)
    far = (mean.square() > FAR**2 * (squares / seen.clamp(min=1) - mean.square())).nonzero()[:, 0]
    if len(far):
        values = reading.rows[..., far].double()
        finite = torch.isfinite(values)
        sums[:, far] = torch.where(finite, values, 0).sum((1, 2))
        shift[far] = (sums[:, far].sum(0) / seen[far].clamp(min=1)).float().double()
        values = torch.where(finite, values - shift[far], 0)
        offsets[far], squares[far] = values.sum((0, 1, 2)), values.square().sum((0, 1, 2))
    return replace(reading, sums=sums, shift=shift, offsets=offsets, squares=squares, seen=seen, nonfinite=nothing)


def _pieces(count: int, down: int, line: int) -> Iterator[tuple[slice, slice]]:
    """Give slices of images and of rows of positions that cut the whole into pieces of about `AT_ONCE` numbers."""
    lines = max(1, min(down, AT_ONCE // line))
    images = max(1, AT_ONCE // (line * down)) if lines == down else 1
    for start in range(0, count, images):
        for first in range(0, down, lines):
            yield slice(start, start + images), slice(first, first + lines)
