"""Tensors made by enlarging smaller ones: pictures that share what is coarse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from features.lucent.chance import place
from features.lucent.param.spatial import noise

Offset: TypeAlias = float | bool | None


def lowres_tensor(
    shape: Sequence[int],
    underlying_shape: Sequence[int],
    offset: Offset | Sequence[Offset] = None,
    sd: float = 0.01,
    *,
    device: torch.device | str | None = None,
) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Give a tensor of ``underlying_shape`` and a function that gives it enlarged to ``shape``, linearly along every
    axis; 1 entry along the first axis is shared by all pictures.

    ``offset`` moves the result by so many entries along each axis, the border mirrored (lucid): one number for all or
    one per axis, ``True`` for half the enlargement, ``False`` or ``None`` for none. In lucent a list moves other axes
    than it names (the batch's entry moves columns); here each its own.

    >>> params, image_f = lowres_tensor([4, 3, 8, 8], [1, 3, 2, 2])
    >>> image_f().shape, bool((image_f()[0] == image_f()[3]).all())
    (torch.Size([4, 3, 8, 8]), True)
    """
    if len(shape) != len(underlying_shape):
        raise ValueError(f"{list(shape)} and {list(underlying_shape)} have different numbers of axes: give as many")
    small = noise(underlying_shape, sd, place(device))
    moves = _moves(shape, underlying_shape, offset)

    def image() -> Tensor:
        values = resize_bilinear_nd(small, shape)
        for axis, move in enumerate(moves):
            if move:
                values = values.index_select(axis, _mirrored(values.shape[axis], move).to(values.device))
        return values

    return [small], image


def resize_bilinear_nd(t: Tensor, target_shape: Sequence[int]) -> Tensor:
    """Give ``t`` in ``target_shape``, linearly along every axis, first entry on first and last on last.

    >>> resize_bilinear_nd(torch.tensor([[0.0, 1.0]]), [2, 3])
    tensor([[0.0000, 0.5000, 1.0000],
            [0.0000, 0.5000, 1.0000]])
    """
    for axis, (old, new) in enumerate(zip(t.shape, target_shape, strict=True)):
        if old != new:
            where = torch.linspace(0, old - 1, new, dtype=torch.float64)
            low = where.floor().long().clamp(max=max(old - 2, 0))
            share = (where - low).to(t).reshape(-1, *[1] * (t.ndim - axis - 1))
            low = low.to(t.device)
            t = torch.lerp(t.index_select(axis, low), t.index_select(axis, (low + 1).clamp(max=old - 1)), share)
    return t


def _moves(shape: Sequence[int], small: Sequence[int], offset: Offset | Sequence[Offset]) -> list[int]:
    each: list[Offset] = list(offset) if isinstance(offset, Sequence) else [offset] * len(shape)
    if len(each) != len(shape):
        raise ValueError(f"offset has {len(each)} entries: give one number, or one for each of the {len(shape)} axes")
    halves = [long / short / 2 for long, short in zip(shape, small, strict=True)]
    moves = [int(half if move is True else (move or 0)) for move, half in zip(each, halves, strict=True)]
    if any(not 0 <= move <= length for move, length in zip(moves, shape, strict=True)):
        raise ValueError(f"offset moves by {moves}: give at least 0, and at most the length of the axis, {list(shape)}")
    return moves


def _mirrored(length: int, move: int) -> Tensor:
    """Which entry comes where when all move up by ``move`` and the first ones are mirrored into the gap."""
    where = torch.arange(length) - move
    return torch.where(where < 0, -1 - where, where)
