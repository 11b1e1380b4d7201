"""Convolutions and averages over windows: their transposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from circuits.wiring.pulls import Pull, Shape, UnboundedError
from circuits.wiring.transposes.steps import ForeignError, Given, Step, careful


def convolution(step: Step, pull: Pull) -> Given:
    weight: Tensor = step.saved("weight")
    if weight.dim() != 4 or step.before[0] is None:
        raise ForeignError
    if step.saved("transposed"):
        return [(0, _back_through_transposed(step, pull, weight))]
    groups, stride, dilation = step.saved("groups"), step.saved("stride"), step.saved("dilation")
    data, start, diagonal = _channels_back(pull, weight, groups, stride, dilation)
    place = [pull.start[axis + 2] * stride[axis] - step.saved("padding")[axis] for axis in (0, 1)]
    return [(0, replace(pull, data=data, start=(pull.start[0], start, *place), diagonal=diagonal))]


def _channels_back(
    pull: Pull, weight: Tensor, groups: int, stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, int, int | None]:
    """Give data, first channel and diagonal of the pull before a convolution."""
    if groups == 1 and pull.diagonal == 1:
        own = weight[pull.start[1] : pull.stop[1]]
        data = careful(lambda x, w: _read(x, w, stride, dilation), pull.data[0], own)
        return data.transpose(0, 1).contiguous() if len(pull.data[0]) > 1 else data.transpose(0, 1), 0, None
    if groups == len(weight) and weight.shape[1] == 1:
        own = weight[pull.start[1] : pull.stop[1]]
        by_channel = _transposed_by(stride, dilation, len(own))
        return _rowwise(pull.data, own, by_channel), pull.start[1], pull.diagonal
    pull = pull.dense()
    if groups == 1:
        own = weight[pull.start[1] : pull.stop[1]]
        if weight.shape[2:] == (1, 1) and tuple(stride) == (1, 1):
            return careful(_mixed, pull.data, own[:, :, 0, 0]), 0, None
        if pull.extent[2:] == (1, 1) and tuple(dilation) == (1, 1):
            return careful(_spread_once, pull.data, own), 0, None
        return _rowwise(pull.data, own, _transposed_by(stride, dilation, 1)), 0, None
    per = len(weight) // groups
    first, last = pull.start[1] // per, -(-pull.stop[1] // per)
    pull = pull.spread((pull.start[0], first * per, *pull.start[2:]), (pull.stop[0], last * per, *pull.stop[2:]))
    own = weight[first * per : last * per]
    return _rowwise(pull.data, own, _transposed_by(stride, dilation, last - first)), first * weight.shape[1], None


def _read(data: Tensor, weight: Tensor, stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """Give each row its own filter, times its own number: no sum, so nothing to round and no NaN that spreads."""
    if data.shape[2:] == (1, 1) and tuple(dilation) == (1, 1):
        return data[:, :, None] * weight[None]
    (n, rows), inputs = data.shape[:2], weight.shape[1]
    spread = F.conv_transpose2d(data, weight, stride=tuple(stride), dilation=tuple(dilation), groups=rows)
    return spread.reshape(n, rows, inputs, *spread.shape[2:])


def _mixed(data: Tensor, weight: Tensor) -> Tensor:
    """Go back through a 1x1 convolution: ``(r, n, o, y, x)`` and ``(o, i)`` to ``(r, n, i, y, x)``."""
    last = data.movedim(2, -1)
    return (last.reshape(-1, len(weight)) @ weight).reshape(*last.shape[:-1], -1).movedim(-1, 2)


def _spread_once(data: Tensor, weight: Tensor) -> Tensor:
    """Go back through a convolution at one position: a product of matrices."""
    rows, n = data.shape[:2]
    return (data.reshape(rows * n, -1) @ weight.flatten(1)).reshape(rows, n, *weight.shape[1:])


def _transposed_by(stride: Sequence[int], dilation: Sequence[int], groups: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, w: F.conv_transpose2d(x, w, stride=tuple(stride), dilation=tuple(dilation), groups=groups)


def _rowwise(data: Tensor, weight: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Apply a function of ``(n, c, h, w)`` to all rows at once."""
    found = careful(function, data.reshape(-1, *data.shape[2:]), weight)
    return found.reshape(*data.shape[:2], *found.shape[1:])


def _back_through_transposed(step: Step, pull: Pull, weight: Tensor) -> Pull:
    """Undo a transposed convolution: a convolution of the pull, filled up so that every window is whole."""
    pull = pull.dense()
    groups, stride, dilation = step.saved("groups"), step.saved("stride"), step.saved("dilation")
    padding = step.saved("padding")
    start, stop = list(pull.start), list(pull.stop)
    start[1], stop[1] = 0, step.after[1]
    place = []
    for axis in (0, 1):
        reach = (weight.shape[axis + 2] - 1) * dilation[axis]
        low = -(-(pull.start[axis + 2] + padding[axis] - reach) // stride[axis])
        high = (pull.stop[axis + 2] - 1 + padding[axis]) // stride[axis]
        start[axis + 2] = low * stride[axis] - padding[axis]
        stop[axis + 2] = high * stride[axis] - padding[axis] + reach + 1
        place.append(low)
    outer_start = [min(a, b) for a, b in zip(start, pull.start, strict=True)]
    outer_stop = [max(a, b) for a, b in zip(stop, pull.stop, strict=True)]
    pull = pull.spread(outer_start, outer_stop)
    for axis in (2, 3):
        pull = pull.cut(axis, start[axis], stop[axis])
    data = _rowwise(
        pull.data, weight, lambda x, w: F.conv2d(x, w, stride=tuple(stride), dilation=tuple(dilation), groups=groups)
    )
    return replace(pull, data=data, start=(pull.start[0], 0, *place))


def average_pool(step: Step, pull: Pull) -> Given:
    kernel, padding = step.saved("kernel_size"), step.saved("padding")
    stride = step.saved("stride") or kernel
    return [(0, _averaged(step, pull, *(_two(each) for each in (kernel, stride, padding))))]


def _averaged(step: Step, pull: Pull, kernel: Shape, stride: Shape, padding: Shape) -> Pull:
    shape = step.shape()
    if len(shape) != 4:
        raise ForeignError
    reach = [(pull.stop[axis + 2] - 1) * stride[axis] - padding[axis] + kernel[axis] for axis in (0, 1)]
    place = [pull.start[axis + 2] * stride[axis] - padding[axis] for axis in (0, 1)]
    outside = any(a < 0 or b > shape[axis + 2] for axis, (a, b) in enumerate(zip(place, reach, strict=True)))
    if outside and step.bounded:  # there it divides by other numbers, depending on how it was called
        raise ForeignError
    size = step.saved("divisor_override") or kernel[0] * kernel[1]
    return replace(pull, data=_boxed(pull.data / size, kernel, stride), start=(*pull.start[:2], *place))


def _boxed(data: Tensor, kernel: Shape, stride: Shape) -> Tensor:
    if tuple(data.shape[3:]) == (1, 1):
        return data.expand(*data.shape[:3], *kernel)
    flat = data.reshape(-1, 1, *data.shape[3:])
    spread = F.conv_transpose2d(flat, flat.new_ones(1, 1, *kernel), stride=stride)
    return spread.reshape(*data.shape[:3], *spread.shape[2:])


def adaptive_pool(step: Step, pull: Pull) -> Given:
    """Where the sizes divide, a pool to a given size slides a window; to the size it has, it does nothing."""
    before, after = step.shape()[-2:], step.after[-2:]
    if before == after:
        return [(0, pull)]
    if not step.bounded:
        raise UnboundedError
    if len(step.after) != 4 or any(b % a for b, a in zip(before, after, strict=True)):
        raise ForeignError
    kernel = (before[0] // after[0], before[1] // after[1])
    place = [pull.start[axis + 2] * kernel[axis] for axis in (0, 1)]
    data = _boxed(pull.data / (kernel[0] * kernel[1]), kernel, kernel)
    return [(0, replace(pull, data=data, start=(*pull.start[:2], *place), pooled=True))]


def _two(value: Any) -> Shape:
    return (int(value[0]), int(value[-1])) if isinstance(value, Sequence) else (int(value), int(value))
