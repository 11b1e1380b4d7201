"""Products of matrices, and the linear layers that torch makes of them: their transposes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from circuits.wiring.pulls import Pull
from circuits.wiring.transposes.steps import Given, Step, careful


def addmm(step: Step, pull: Pull) -> Given:
    given = []
    if step.before[0] is not None:
        given.append((0, step.folded(0, replace(pull, data=pull.data * step.saved("beta")))))
    alpha = step.saved("alpha")
    scaled = pull if alpha == 1 else replace(pull, data=pull.data * alpha)
    return given + _products(step, scaled, (1, "mat1"), (2, "mat2"))


def mm(step: Step, pull: Pull) -> Given:
    return _products(step, pull, (0, "self"), (1, "mat2"))


def _products(step: Step, pull: Pull, left: tuple[int, str], right: tuple[int, str]) -> Given:
    """Go back through a product of matrices to the one that depends on the source."""
    if step.before[left[0]] is not None:
        return [(left[0], _back_to_left(pull, step.saved(right[1])))]
    pull = pull.dense()
    constant = step.saved(left[1])[..., pull.start[-2] : pull.stop[-2], :]
    if constant.dim() == 3:
        constant = constant[pull.start[0] : pull.stop[0]]
    data = careful(torch.matmul, constant.transpose(-1, -2), pull.data)
    return [(right[0], replace(pull, data=data, start=(*pull.start[:-2], 0, pull.start[-1])))]


def _back_to_left(pull: Pull, constant: Tensor) -> Pull:
    """Give the pull of ``x`` in ``x @ constant``; on the diagonal a row of it is read."""
    last = len(pull.start) - 1
    if pull.diagonal != last:
        pull = pull.dense()
    own = constant[..., pull.start[-1] : pull.stop[-1]]
    if own.dim() == 3:
        own = own[pull.start[0] : pull.stop[0]]
    if pull.diagonal == last and own.dim() == 2:
        data = careful(torch.mul, pull.data[0].movedim(-1, 0)[..., None], own.T.reshape(-1, *[1] * last, len(own)))
    else:
        data = careful(torch.matmul, pull.dense().data, own.transpose(-1, -2))
    return replace(pull, data=data, start=(*pull.start[:-1], 0), diagonal=None)


def linear_layer(step: Step, pull: Pull) -> tuple[tuple[Any, int], Pull] | None:
    """Go back through reshape, product and reshape, as which torch records a linear layer on more than two axes.

    Gives what to go on with, the node and its output, and the pull of it: the box stays a box, where the flattened rows
    of a map would take in whole rows. ``None`` where these nodes are no linear layer.
    """
    product, _ = step.node.next_functions[0]
    place = PRODUCTS.get(product.name()) if step.node.name() in VIEWS else None
    if place is None or any(parent is not None for parent, _ in product.next_functions[:place]):
        return None
    inner, _ = product.next_functions[place]
    weight = getattr(product, "_saved_mat2", None)
    if inner is None or inner.name() not in VIEWS or weight is None or getattr(product, "_saved_alpha", 1) != 1:
        return None
    source, number = inner.next_functions[0]
    before = tuple(source._input_metadata[number].shape)
    if len(before) < 3 or before[:-1] != step.after[:-1] or before[-1] != len(weight):
        return None
    return (source, number), _back_to_left(pull, weight)


VIEWS = {"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"}
PRODUCTS = {"AddmmBackward0": 1, "MmBackward0": 0}  # which input is the left factor; those before it are added
