"""Penalties: positive numbers about the picture itself, to be subtracted from what it is made to maximize.

All are in the units of a pixel's value and do not depend on the size of the picture, as `channel` is a mean over
positions (lucid's and captum's are sums over pixels, or of squares: their weights mean something else). A weight as
large as the unit's own score is mild, one of ten times that leaves little but the core of what excites it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from features.objectives.algebra import INPUT, Objective
from features.objectives.places import reading

PictureScore: TypeAlias = Callable[[Tensor], Tensor]

TINY = 1e-12


def total_variation(layer: str = INPUT) -> Objective:
    """How much neighbours differ: the mean over pixels and channels of ``|x[y+1, x] - x[y, x]| + |x[y, x+1] - x[y,
    x]|`` (Rudin, Osher and Fatemi 1992; as in lucid the sum of absolute values).

    Raises ``ValueError``, when it is read, for a layer without rows and columns.

    >>> steps = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).reshape(1, 1, 2, 2)
    >>> total_variation().score({"input": steps})
    tensor([0.5000])
    """

    def score(values: Tensor) -> Tensor:
        down = (values[:, :, 1:] - values[:, :, :-1]).abs().flatten(1).sum(1)
        right = (values[:, :, :, 1:] - values[:, :, :, :-1]).abs().flatten(1).sum(1)
        return (down + right) / values[0].numel()

    return _of_map(score, layer, "total variation")


def l1(layer: str = INPUT, *, value: float = 0.5) -> Objective:
    """The mean distance from ``value``, ``mean |x - value|``: of the picture from grey, or, with ``value=0``, of a
    layer from silence.

    >>> l1().score({"input": torch.ones(1, 3, 2, 2)})
    tensor([0.5000])
    """
    name = f"l1 of {layer} from {value:g}"
    return Objective(lambda activations: (reading(activations, layer) - value).abs().flatten(1).mean(1), (layer,), name)


def l2(layer: str = INPUT, *, value: float = 0.5) -> Objective:
    """The root of the mean squared distance from ``value``, ``sqrt(mean (x - value)^2)``.

    >>> l2().score({"input": torch.ones(1, 3, 2, 2)})
    tensor([0.5000])
    """
    name = f"l2 of {layer} from {value:g}"
    return Objective(
        lambda activations: _root((reading(activations, layer) - value).square().flatten(1).mean(1)), (layer,), name
    )


def blur() -> Objective:
    """How sharp the picture is: the root mean square of its distance from its own blurred copy, which is held constant.

    Subtracted, each step moves the picture towards the copy (lucid's ``blur_input_each_step``, which is half the sum of
    squares). The blur is 3 x 3, the middle of weight 1 and the rest of weight 1/2; at the border it averages what is
    there.

    >>> blur().score({"input": torch.full((1, 3, 8, 8), 0.5)})
    tensor([1.0000e-06])
    """

    def score(values: Tensor) -> Tensor:
        return _root((values - _blurred(values, 3).detach()).square().flatten(1).mean(1))

    return _of_map(score, INPUT, "blur")


def boundary(width: int = 5, *, value: float = 0.5) -> Objective:
    """How much happens along the border of the picture, ``width`` pixels wide: the root of the mean there of ``(x -
    blurred)^2 + 0.8 (x - value)^2``.

    Subtracted, it leaves a grey margin around the thing (lucid's ``penalize_boundary_complexity``, which is the sum of
    these squares; the atlas icons of Carter et al. 2019 are made with 5 pixels of 80). Raises ``ValueError``, when it
    is read, for a picture that is all border.

    >>> boundary(2).score({"input": torch.ones(1, 3, 8, 8)})
    tensor([0.4472])
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"the border is {width!r} wide: give a whole number of pixels, at least 1")

    def score(values: Tensor) -> Tensor:
        height, across = values.shape[2:]
        if min(height, across) <= 2 * width:
            raise ValueError(
                f"a picture of {height} x {across} pixels is all border: give a width below {min(height, across) // 2}"
            )
        border = values.new_ones(height, across)
        border[width:-width, width:-width] = 0
        costs = (values - _blurred(values, 5)).square() + 0.8 * (values - value).square()
        return _root((costs * border).flatten(1).sum(1) / (border.sum() * values.shape[1]))

    return _of_map(score, INPUT, f"boundary of {width}")


def _of_map(score: PictureScore, layer: str, name: str) -> Objective:
    full = name if layer == INPUT else f"{name} of {layer}"

    def of_values(activations: Mapping[str, Tensor]) -> Tensor:
        values = reading(activations, layer)
        if values.ndim != 4:
            raise ValueError(f"{full!r} is about rows and columns, and {layer!r} gives {tuple(values.shape)}")
        return score(values)

    return Objective(of_values, (layer,), full)


def _root(squares: Tensor) -> Tensor:
    """Give the root; at 0, where it has no gradient, that of next to nothing."""
    return squares.clamp(min=TINY).sqrt()


def _blurred(values: Tensor, size: int) -> Tensor:
    """Average over ``size x size`` pixels, the outer ring at half weight; beyond the border there is nothing."""
    channels = values.shape[1]
    kernel = values.new_full((size, size), 0.5)
    kernel[1:-1, 1:-1] = 1
    kernel = kernel.expand(channels, 1, size, size)
    total = F.conv2d(values, kernel, padding=size // 2, groups=channels)
    return total / F.conv2d(torch.ones_like(values[:1]), kernel, padding=size // 2, groups=channels)


PENALTIES = {"total variation": total_variation, "l1": l1, "l2": l2, "blur": blur, "boundary": boundary}
