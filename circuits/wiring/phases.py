"""Phases: after how many positions the windows of a target repeat, and what they are on average."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from circuits.wiring.crops import Size
from circuits.wiring.pulls import Pull, UnboundedError
from circuits.wiring.reading import Plan, window_of

FEWEST = 3  # neighbouring windows that have to agree: two always do
LONGEST = 16  # positions of the target after which its windows must repeat, for a mean over phases


def period(planned: Plan, place: Sequence[int], axis: int, *, bounded: bool) -> tuple[int, int]:
    """Give after how many positions the target's windows repeat, and how many positions of the source lie between."""
    rows = _windows_along(planned, place, axis, bounded=bounded)
    for length in range(1, len(rows) // 2 + 1) if len(rows) >= FEWEST else ():
        shifts = {_shift(a, b, axis + 2, bounded) for a, b in zip(rows, rows[length:], strict=False)}
        if len(shifts) == 1 and (shift := shifts.pop()):
            return length, shift
    if not bounded:  # what resizes a map knows its border: look on one with room
        raise UnboundedError
    raise ValueError(f"the windows do not repeat within {LONGEST} positions of the target: take phases='centre'")


def _windows_along(planned: Plan, place: Sequence[int], axis: int, *, bounded: bool) -> list[dict[str, list[Pull]]]:
    """Give the windows of neighbouring positions, on a map with borders of those that reach none."""
    middle, side = place[axis], planned.segment.output.shape[axis + 2]
    first, last = (max(0, middle - LONGEST), min(side, middle + LONGEST)) if bounded else (middle, middle + 2 * LONGEST)
    lines = [[*place[:axis], at, *place[axis + 1 :]] for at in range(first, last)]
    rows = [window_of(planned, line, bounded=bounded) for line in lines]
    return [row for row in rows if not bounded or not _clipped(planned, row, axis + 2)]


def _clipped(planned: Plan, row: dict[str, list[Pull]], axis: int) -> bool:
    sides = {name: leaf.shape[axis] for name, leaf in planned.segment.leaves.items()}
    return any(pull.start[axis] <= 0 or pull.stop[axis] >= sides[name] for name, pulls in row.items() for pull in pulls)


def _shift(first: dict[str, list[Pull]], second: dict[str, list[Pull]], axis: int, windows_alone: bool) -> int:
    """Give by how much the windows of all sources moved along an axis; 0 where they did not or are others now."""
    shifts = set()
    for name, before in first.items():
        after = second[name]
        if not (len(before) == len(after) == 1 and before[0].data.shape == after[0].data.shape):
            return 0
        if not (windows_alone or torch.allclose(before[0].data, after[0].data, rtol=1e-3, atol=1e-6)):
            return 0
        shifts.add(after[0].start[axis] - before[0].start[axis])
    return shifts.pop() if len(shifts) == 1 else 0


def over_place(at: int, length: int, shift: int) -> int:
    """Give the position of the source that a position of the target lies over."""
    return math.floor((2 * at + 1) * shift / (2 * length))


def averaged(windows: Sequence[tuple[Tensor, Size]]) -> Tensor:
    start = [min(corner[axis] for _, corner in windows) for axis in (0, 1)]
    stop = [max(corner[axis] + kernels.shape[axis + 2] for kernels, corner in windows) for axis in (0, 1)]
    total = windows[0][0].new_zeros(*windows[0][0].shape[:2], stop[0] - start[0], stop[1] - start[1])
    for kernels, (y, x) in windows:
        y, x = y - start[0], x - start[1]
        total[:, :, y : y + kernels.shape[2], x : x + kernels.shape[3]] += kernels
    return total / len(windows)
