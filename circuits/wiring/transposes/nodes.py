"""Through a node: the transpose of anything, by the derivative that autograd recorded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from circuits.wiring.pulls import Pull, UnboundedError
from circuits.wiring.transposes.steps import Given, Step


def through_node(step: Step, pull: Pull) -> Given:
    """Go back through the node's own derivative, row by row on the whole tensor, and cut off what nothing reaches."""
    if not pull.within(step.after):
        raise UnboundedError
    pull = pull.dense()
    wanted = [number for number, shape in enumerate(step.before) if shape is not None]
    whole = pull.spread([0] * len(step.after), step.after).data.contiguous()
    found = _derivatives(step, whole, wanted)
    marks = torch.linspace(0.5, 1.5, pull.data[0].numel(), dtype=whole.dtype, device=whole.device)
    marked = replace(pull, data=marks.reshape(1, *pull.extent)).spread([0] * len(step.after), step.after).data
    reached = _derivatives(step, marked.contiguous(), wanted)
    return [
        (number, part)
        for number, values, mark in zip(wanted, found, reached, strict=True)
        for part in _reached_part(replace(pull, data=values, start=(0,) * (values.dim() - 1)), mark[0])
    ]


def _derivatives(step: Step, rows: Tensor, wanted: Sequence[int]) -> list[Tensor]:
    shapes = [meta.shape for meta in step.node._input_metadata]

    def one(row: Tensor) -> tuple[Tensor, ...]:
        given = [row if number == step.output else row.new_zeros(shape) for number, shape in enumerate(shapes)]
        found = step.node(*given)
        found = found if isinstance(found, tuple) else (found,)
        return tuple(found[number].sum_to_size(step.shape(number)) for number in wanted)  # what it broadcast

    try:
        return list(torch.vmap(one)(rows))
    except RuntimeError:  # a derivative that writes in place, or depends on its numbers
        parts = [one(row) for row in rows]
    return [torch.stack([part[place] for part in parts]) for place in range(len(wanted))]


def _reached_part(pull: Pull, mark: Tensor) -> Iterable[Pull]:
    for axis in range(mark.dim()):
        others = [each for each in range(mark.dim()) if each != axis]
        places = ((mark != 0).sum(others) if others else (mark != 0)).nonzero()
        if len(places) == 0:
            return
        pull = pull.cut(axis, int(places[0]), int(places[-1]) + 1)
    yield pull
