"""Cutting, joining, turning and padding: their transposes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from circuits.wiring.pulls import Pull, Shape, UnboundedError, reshaped
from circuits.wiring.transposes.steps import ForeignError, Given, Step, signed


def cat(step: Step, pull: Pull) -> Given:
    """To each input its own part; the sizes are those that `Linearized` wrote down."""
    sizes: Sequence[Shape] | None = step.node.metadata.get("sizes") or _known(step.before)
    if sizes is None:
        raise ForeignError
    axis, first, given = step.axis(step.saved("dim")), 0, []
    for number, shape in enumerate(sizes):
        last = first + shape[axis]
        a, b = max(first, pull.start[axis]), min(last, pull.stop[axis])
        if a < b and step.before[number] is not None:
            part = pull.cut(axis, a, b)
            given.append((number, moved(part, axis, a - first)))
        first = last
    return given


def _known(shapes: Sequence[Shape | None]) -> list[Shape] | None:
    known = [shape for shape in shapes if shape is not None]
    return known if len(known) == len(shapes) else None


def stack(step: Step, pull: Pull) -> Given:
    axis = step.axis(step.saved("dim"))
    if pull.diagonal is not None:
        pull = pull.dense()
    numbers = range(pull.start[axis], pull.stop[axis])
    return [
        (number, _dropped(pull.cut(axis, number, number + 1), axis))
        for number in numbers
        if step.before[number] is not None
    ]


def _dropped(pull: Pull, axis: int) -> Pull:
    """Take an axis of one place away."""
    return replace(pull, data=pull.data.squeeze(axis + 1), start=(*pull.start[:axis], *pull.start[axis + 1 :]))


def inserted(pull: Pull, axis: int, place: int) -> Pull:
    diagonal = None if pull.diagonal is None else pull.diagonal + (axis <= pull.diagonal)
    start = (*pull.start[:axis], place, *pull.start[axis:])
    return replace(pull, data=pull.data.unsqueeze(axis + 1), start=start, diagonal=diagonal)


def moved(pull: Pull, axis: int, place: int) -> Pull:
    return replace(pull, start=(*pull.start[:axis], place, *pull.start[axis + 1 :]))


def reshape(step: Step, pull: Pull) -> Given:
    return [(0, reshaped(pull, step.shape(), step.after))]


def permute(step: Step, pull: Pull) -> Given:
    order = [step.axis(number) for number in step.saved("dims")]
    return [(0, _ordered(pull, order))]


def transpose(step: Step, pull: Pull) -> Given:
    order = list(range(len(step.after)))
    a, b = step.axis(step.saved("dim0")), step.axis(step.saved("dim1"))
    order[a], order[b] = b, a
    return [(0, _ordered(pull, order))]


def turned(step: Step, pull: Pull) -> Given:
    return [(0, _ordered(pull, list(reversed(range(len(step.after))))))]


def _ordered(pull: Pull, order: Sequence[int]) -> Pull:
    """Undo ``x.permute(order)``."""
    back = [order.index(axis) for axis in range(len(order))]
    return replace(
        pull,
        data=pull.data.permute(0, *(axis + 1 for axis in back)),
        start=tuple(pull.start[axis] for axis in back),
        diagonal=None if pull.diagonal is None else order[pull.diagonal],
    )


def select(step: Step, pull: Pull) -> Given:
    shape = step.shape()
    axis = step.axis(step.saved("dim"), len(shape))
    return [(0, inserted(pull, axis, step.axis(step.saved("index"), shape[axis])))]


def unbind(step: Step, pull: Pull) -> Given:
    return [(0, inserted(pull, step.axis(step.saved("dim"), len(step.shape())), step.output))]


def strided_slice(step: Step, pull: Pull) -> Given:
    shape = step.shape()
    axis = step.axis(step.saved("dim"), len(shape))
    first = signed(step.saved("start") or 0)
    first = max(0, first + shape[axis] if first < 0 else first)
    stride = step.saved("step")
    place = first + pull.start[axis] * stride
    if stride > 1 and pull.extent[axis] > 1:
        pull = pull.dense() if pull.diagonal == axis else pull
        count = pull.extent[axis]
        data = pull.data.new_zeros(
            [(count - 1) * stride + 1 if each == axis + 1 else n for each, n in enumerate(pull.data.shape)]
        )
        data.index_copy_(axis + 1, torch.arange(count, device=data.device) * stride, pull.data)
        pull = replace(pull, data=data)
    return [(0, moved(pull, axis, place))]


def split(step: Step, pull: Pull) -> Given:
    axis = step.axis(step.saved("dim"), len(step.shape()))
    return [(0, moved(pull, axis, pull.start[axis] + step.output * step.saved("split_size")))]


def split_with_sizes(step: Step, pull: Pull) -> Given:
    axis = step.axis(step.saved("dim"), len(step.shape()))
    return [(0, moved(pull, axis, pull.start[axis] + sum(step.saved("split_sizes")[: step.output])))]


def pad(step: Step, pull: Pull) -> Given:
    return _pad_by(step, pull, step.saved("pad"))


def mirrored_pad(step: Step, pull: Pull) -> Given:
    """A padding that copies is a plain one for who does not read it; away from borders nobody does."""
    ((number, inner),) = _pad_by(step, pull, step.saved("padding"))
    if step.bounded and not inner.within(step.shape()):
        raise ForeignError
    return [(number, inner)]


def _pad_by(step: Step, pull: Pull, pads: Sequence[int]) -> Given:
    for number in range(len(pads) // 2):
        axis = len(step.after) - 1 - number
        pull = moved(pull, axis, pull.start[axis] - signed(pads[2 * number]))
    return [(0, pull)]


def roll(step: Step, pull: Pull) -> Given:
    dims, shifts = step.saved("dims"), [signed(shift) for shift in step.saved("shifts")]
    if len(dims) != len(shifts):
        raise ForeignError
    for dim, shift in zip(dims, shifts, strict=True):
        axis = step.axis(dim)
        size = step.after[axis]
        if pull.start[axis] < 0 or pull.stop[axis] > size:
            raise UnboundedError
        first = (pull.start[axis] - shift) % size
        if first + pull.extent[axis] > size:  # it goes over the edge: the whole axis, turned
            start, stop = list(pull.start), list(pull.stop)
            start[axis], stop[axis], first = 0, size, 0
            pull = pull.spread(start, stop).dense()
            pull = replace(pull, data=pull.data.roll(-shift, axis + 1), grown=True)
        pull = moved(pull, axis, first)
    return [(0, pull)]
