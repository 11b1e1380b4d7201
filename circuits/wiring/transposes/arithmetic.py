"""Sums, differences, products number by number, and sums over axes: their transposes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from circuits.wiring.pulls import Pull, UnboundedError
from circuits.wiring.transposes.shapes import inserted
from circuits.wiring.transposes.steps import Given, Step, careful


def same(step: Step, pull: Pull) -> Given:
    """To every input as it is; what was broadcast is summed up afterwards."""
    return [(number, step.folded(number, pull)) for number, shape in enumerate(step.before) if shape is not None]


def last(step: Step, pull: Pull) -> Given:
    """To the last input: what was copied over the first, or has the derivative in its stead."""
    number = len(step.before) - 1
    return [(number, step.folded(number, pull))]


def add(step: Step, pull: Pull) -> Given:
    return _weighted(step, pull, (1, step.saved("alpha")))


def sub(step: Step, pull: Pull) -> Given:
    return _weighted(step, pull, (1, -step.saved("alpha")))


def rsub(step: Step, pull: Pull) -> Given:
    return _weighted(step, pull, (-step.saved("alpha"), 1))


def neg(step: Step, pull: Pull) -> Given:
    return _weighted(step, pull, (-1,))


def _weighted(step: Step, pull: Pull, weights: Sequence[float]) -> Given:
    return [
        (number, step.folded(number, pull if weight == 1 else replace(pull, data=pull.data * weight)))
        for number, (weight, shape) in enumerate(zip(weights, step.before, strict=False))
        if shape is not None
    ]


def mul(step: Step, pull: Pull) -> Given:
    number = 0 if step.before[0] is not None else 1
    factor = step.saved("other" if number == 0 else "self")
    return [(number, step.folded(number, replace(pull, data=careful(torch.mul, pull.data, _part(factor, pull)))))]


def div(step: Step, pull: Pull) -> Given:
    inverse = _part(step.saved("other"), pull).to(pull.data.dtype).reciprocal()  # of a whole number it is float32
    return [(0, step.folded(0, replace(pull, data=careful(torch.mul, pull.data, inverse))))]


def _part(factor: Tensor, pull: Pull) -> Tensor:
    """Give the part of a constant, broadcast to the output, that lies in the pull's box."""
    shift = len(pull.start) - factor.dim()
    for axis, size in enumerate(factor.shape):
        a, b = pull.start[axis + shift], pull.stop[axis + shift]
        if size > 1 and (a, b) != (0, size):
            if a < 0 or b > size:
                raise UnboundedError
            factor = factor.narrow(axis, a, b - a)
    return factor


def total(step: Step, pull: Pull) -> Given:
    return [(0, _repeated(step, pull, mean=False))]


def mean(step: Step, pull: Pull) -> Given:
    return [(0, _repeated(step, pull, mean=True))]


def _repeated(step: Step, pull: Pull, *, mean: bool) -> Pull:
    """Give each place that was summed the same; over two axes or more, or one that is gone, the map is pooled."""
    shape = step.shape()
    everything = step.node.name() in {"SumBackward0", "MeanBackward0"}
    axes = list(range(len(shape))) if everything else step.axes(step.saved("dim"), len(shape))
    kept = not everything and step.saved("keepdim")
    for axis in () if kept else axes:
        pull = inserted(pull, axis, 0)
    pooled = len(axes) > 1 or not kept
    if pooled and not step.bounded:
        raise UnboundedError
    sizes = [shape[axis] if axis in axes else extent for axis, extent in enumerate(pull.extent)]
    if pull.diagonal in axes:
        pull = pull.dense()
    data = pull.data / math.prod(shape[axis] for axis in axes) if mean else pull.data
    return replace(pull, data=data.expand(len(data), *sizes), pooled=pull.pooled or pooled)
