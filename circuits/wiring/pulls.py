"""Pull: what some channels of a target read in a tensor before it, as numbers in a box; cutting, adding, filling up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]


class UnboundedError(Exception):
    """A window that was let grow over the border of a map met an operation that knows where the border is."""


@dataclass(frozen=True)
class Pull:
    """The derivative of the target's channels ``rows = (first, last + 1)`` to one tensor, 0 outside a box of it.

    ``data`` is ``(rows, *box)`` and ``start`` where the box begins on each axis; it may lie over the border of a map.
    With ``diagonal`` (an axis of the tensor) row ``j`` is 0 but at place ``j`` of that axis, and ``data`` is
    ``(1, *box)``: so a layer's own channels begin, and a convolution behind them is read, not multiplied. ``pooled``
    says that a whole map was averaged on the way, ``grown`` that the box was filled up to larger than what is read.

    >>> Pull((0, 2), torch.tensor([[3.0, 4.0]]), (5,), diagonal=0).dense().data.tolist()
    [[3.0, 0.0], [0.0, 4.0]]
    """

    rows: tuple[int, int]
    data: Tensor
    start: Shape
    diagonal: int | None = None
    pooled: bool = False
    grown: bool = False

    @property
    def extent(self) -> Shape:
        """How long the box is on each axis."""
        return tuple(self.data.shape[1:])

    @property
    def stop(self) -> Shape:
        """Where the box ends on each axis."""
        return tuple(a + b for a, b in zip(self.start, self.extent, strict=True))

    def dense(self) -> Pull:
        """Give the same with all rows written out."""
        if self.diagonal is None:
            return self
        count = self.rows[1] - self.rows[0]
        data = self.data.new_zeros(count, *self.extent)
        place = torch.arange(count, device=data.device)
        data.movedim(self.diagonal + 1, 1)[place, place] = self.data[0].movedim(self.diagonal, 0)
        return replace(self, data=data, diagonal=None)

    def within(self, shape: Shape) -> bool:
        """Say whether the box lies in a tensor of this shape."""
        return all(a >= 0 and b <= size for a, b, size in zip(self.start, self.stop, shape, strict=True))

    def clipped(self, shape: Shape) -> Pull | None:
        """Cut the box down to a tensor of this shape; ``None`` where nothing is left."""
        if self.within(shape):
            return self
        pull = self
        for axis, size in enumerate(shape):
            a, b = max(0, self.start[axis]), min(size, self.stop[axis])
            if b <= a:
                return None
            pull = pull.cut(axis, a, b)
        return pull

    def cut(self, axis: int, a: int, b: int) -> Pull:
        """Keep places ``a`` to ``b`` of an axis; on the diagonal one the rows go with them."""
        if (a, b) == (self.start[axis], self.stop[axis]):
            return self
        first = a - self.start[axis]
        data = self.data.narrow(axis + 1, first, b - a)
        rows = self.rows
        if axis == self.diagonal:
            rows = (rows[0] + first, rows[0] + first + b - a)
        return replace(self, rows=rows, data=data, start=(*self.start[:axis], a, *self.start[axis + 1 :]))

    def spread(self, start: Sequence[int], stop: Sequence[int]) -> Pull:
        """Fill up with zeros to a larger box."""
        if (tuple(start), tuple(stop)) == (self.start, self.stop):
            return self
        pull = self.dense() if self._grows_diagonal(start, stop) else self
        pads: list[int] = []
        for axis in reversed(range(len(self.start))):
            pads += [self.start[axis] - start[axis], stop[axis] - self.stop[axis]]
        return replace(pull, data=F.pad(pull.data, pads), start=tuple(start))

    def _grows_diagonal(self, start: Sequence[int], stop: Sequence[int]) -> bool:
        axis = self.diagonal
        return axis is not None and (start[axis], stop[axis]) != (self.start[axis], self.stop[axis])


def merged(pulls: Sequence[Pull]) -> list[Pull]:
    """Add up those of the same rows."""
    by_rows: dict[tuple[int, int], list[Pull]] = {}
    for pull in pulls:
        by_rows.setdefault(pull.rows, []).append(pull)
    return [_added(same) for same in by_rows.values()]


def _added(pulls: Sequence[Pull]) -> Pull:
    if len(pulls) == 1:
        return pulls[0]
    if len({pull.diagonal for pull in pulls}) > 1:
        pulls = [pull.dense() for pull in pulls]
    start, stop = hull(pulls)
    first, *others = [pull.spread(start, stop) for pull in pulls]
    if len({pull.diagonal for pull in (first, *others)}) > 1:
        first, *others = [pull.dense() for pull in (first, *others)]
    data = first.data + others[0].data
    for other in others[1:]:
        data += other.data
    pooled, grown = any(pull.pooled for pull in pulls), any(pull.grown for pull in pulls)
    return replace(first, data=data, pooled=pooled, grown=grown)


def hull(pulls: Sequence[Pull]) -> tuple[Shape, Shape]:
    """Give the box that holds all boxes: where it starts and where it stops."""
    start = tuple(min(places) for places in zip(*(pull.start for pull in pulls), strict=True))
    stop = tuple(max(places) for places in zip(*(pull.stop for pull in pulls), strict=True))
    return start, stop


def reduced(pull: Pull, before: Shape, after: Shape, *, bounded: bool) -> Pull:
    """Sum over the axes that an operation broadcast: ``after`` is the shape it gave, ``before`` the one it got."""
    extra = len(after) - len(before)
    axes = [*range(extra), *(axis + extra for axis, size in enumerate(before) if size == 1 != after[axis + extra])]
    if not axes:
        return pull
    if not bounded and any(pull.start[axis] < 0 or pull.stop[axis] > after[axis] for axis in axes):
        raise UnboundedError
    if pull.diagonal in axes:
        pull = pull.dense()
    data = pull.data.sum([axis + 1 for axis in axes], keepdim=True)
    start = [0 if axis in axes else place for axis, place in enumerate(pull.start)]
    diagonal = None if pull.diagonal is None else pull.diagonal - extra
    data = data.flatten(1, extra + 1) if extra else data
    return replace(pull, data=data, start=tuple(start[extra:]), diagonal=diagonal)


def reshaped(pull: Pull, before: Shape, after: Shape) -> Pull:
    """Undo a reshape of a tensor of shape ``before`` to ``after``.

    Axes that the reshape left alone keep their box, over the border or not; of axes that it joined or split the box is
    filled up until it is one run of numbers on either side.
    """
    groups = _groups(after, before)
    moved = None
    for ours, theirs in groups:
        plain = len(ours) == len(theirs) == 1
        if pull.diagonal is not None and pull.diagonal in ours:
            if plain:
                moved = theirs[0]
            else:
                pull = pull.dense()
    start: list[int] = []
    extents: list[int] = []
    for ours, theirs in groups:
        if len(ours) == len(theirs) == 1:
            start.append(pull.start[ours[0]])
            extents.append(pull.extent[ours[0]])
            continue
        pull, where, size = _regrouped(pull, ours, theirs, after, before)
        start += where
        extents += size
    return replace(pull, data=pull.data.reshape(len(pull.data), *extents), start=tuple(start), diagonal=moved)


def _groups(first: Shape, second: Shape) -> list[tuple[list[int], list[int]]]:
    """Give which axes of one shape hold the numbers of which axes of the other."""
    groups = []
    i = j = 0
    while i < len(first) or j < len(second):
        ours, theirs = ([i] if i < len(first) else []), ([j] if j < len(second) else [])
        left, right = (first[i] if ours else 1), (second[j] if theirs else 1)
        i, j = i + len(ours), j + len(theirs)
        while left != right:
            if left < right:
                ours, left, i = [*ours, i], left * first[i], i + 1
            else:
                theirs, right, j = [*theirs, j], right * second[j], j + 1
        groups.append((ours, theirs))
    return groups


def _regrouped(
    pull: Pull, ours: list[int], theirs: list[int], after: Shape, before: Shape
) -> tuple[Pull, list[int], list[int]]:
    if any(pull.start[axis] < 0 or pull.stop[axis] > after[axis] for axis in ours):
        raise UnboundedError
    start, stop = list(pull.start), list(pull.stop)
    long = False
    for axis in ours:
        if long:
            start[axis], stop[axis] = 0, after[axis]
        long = long or stop[axis] - start[axis] > 1
    pull = _grown(pull, start, stop)
    low, length = 0, 1
    for axis in ours:
        low, length = low * after[axis] + start[axis], length * (stop[axis] - start[axis])
    where, size, first, last = _run_of_places(low, low + length, [before[axis] for axis in theirs])
    if (first, last) != (low, low + length):
        at = ours[0] + 1
        shape = pull.data.shape
        flat = pull.data.reshape(*shape[:at], length, *shape[at + len(ours) :])
        pads = [0, 0] * (flat.dim() - at - 1) + [low - first, last - low - length]
        flat = F.pad(flat, pads)
        # The padded run takes the group's first axis, its other axes keep one place each: a reshape puts it in shape.
        data = flat.reshape(*shape[:at], last - first, *[1] * (len(ours) - 1), *shape[at + len(ours) :])
        pull = replace(pull, grown=True)
        kept = (*pull.start[: ours[0]], 0, *[0] * (len(ours) - 1), *pull.start[ours[-1] + 1 :])
        pull = replace(pull, data=data, start=kept)
    return pull, where, size


def _grown(pull: Pull, start: Sequence[int], stop: Sequence[int]) -> Pull:
    larger = pull.spread(start, stop)
    return larger if larger is pull else replace(larger, grown=True)


def _run_of_places(first: int, last: int, shape: list[int]) -> tuple[list[int], list[int], int, int]:
    """Give the smallest box of ``shape`` that is one run of numbers and holds places ``first`` to ``last``."""
    where: list[int] = []
    size: list[int] = []
    whole = math.prod(shape)
    low, high = first, last - 1
    base = 0
    for number, side in enumerate(shape):
        whole //= side
        a, b = (low - base) // whole, (high - base) // whole
        if a != b:
            rest = shape[number + 1 :]
            begin, end = base + a * whole, base + (b + 1) * whole
            return [*where, a, *[0] * len(rest)], [*size, b - a + 1, *rest], begin, end
        where, size, base = [*where, a], [*size, 1], base + a * whole
    return where, size, base, base + 1
