"""Rectified: deconvnet and guided backpropagation, gradients that ReLUs let through by other rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from features.attribution.targets import Method, pixel_gradient
from features.models import Model
from features.objectives import Objective

IN_PLACE = frozenset({torch.relu_, Tensor.relu_, F.relu_, torch.clamp_, torch.clamp_min_, Tensor.clamp_})
IN_PLACE |= {Tensor.clamp_min_, F.hardtanh_}
RELUS = frozenset({F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_, F.relu_, F.relu6})
CLAMPS = frozenset({torch.clamp, torch.clamp_, torch.clamp_min, torch.clamp_min_, Tensor.clamp, Tensor.clamp_})
CLAMPS |= {Tensor.clamp_min, Tensor.clamp_min_, F.hardtanh, F.hardtanh_}

# Gets the gradient that arrives at a ReLU and where the ReLU passes values on; gives the gradient that goes on.
Rule = Callable[[Tensor, Tensor], Tensor]


def deconvnet(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """The gradient where every ReLU passes on what arrives if it is positive, summed over colours.

    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks". It depends little on the target and
    on the weights above (Adebayo et al. 2018, "Sanity Checks for Saliency Maps"; `audit` shows it): a picture of what
    the network could see, and no evidence of what it used. ``ValueError`` where the network has no ReLU before the
    target.
    """
    return _through(model, images, objective, lambda gradient, open_: gradient.clamp(min=0)), None


def guided_backpropagation(
    model: Model, images: Tensor, objective: Objective, layer: str | None = None
) -> tuple[Tensor, None]:
    """The gradient where every ReLU that is open passes on what arrives if it is positive, summed over colours.

    Springenberg et al. 2015, "Striving for Simplicity". What is said of `deconvnet` holds here too.
    """
    return _through(model, images, objective, lambda gradient, open_: gradient.clamp(min=0) * open_), None


def _through(model: Model, images: Tensor, objective: Objective, rule: Rule) -> Tensor:
    with Ruled(rule) as mode:
        found = pixel_gradient(model, images, objective)
    if not mode.met:
        raise ValueError(
            f"there is no ReLU between the image and {objective.name!r}: this method is about ReLUs; choose another"
        )
    return found.sum(1)


class Ruled(TorchFunctionMode):
    """While it lasts, gradients pass ReLUs (modules, functions, in place, as clamps at 0) by ``rule``; values stay."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule, self.met = rule, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not args and "input" in kwargs:
            kwargs = dict(kwargs)
            args = (kwargs.pop("input"),)
        values = args[0] if args else None
        if not isinstance(values, Tensor) or not _rectifies(func, args, kwargs):
            return func(*args, **kwargs)
        self.met += 1
        options = {name: False if name == "inplace" else value for name, value in kwargs.items()}
        passed = _Passed.apply(values, partial(PLAIN.get(func, func), values, *args[1:], **options), self.rule)
        if func in IN_PLACE or bool(kwargs.get("inplace", func is F.relu and len(args) > 1 and args[1])):
            return values.copy_(passed)
        return passed


class _Passed(torch.autograd.Function):
    """What ``rectify`` gives for ``values``, whose gradient to them a rule decides."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rectify: Callable[[], Tensor], rule: Rule) -> Tensor:
        result = rectify()
        ctx.save_for_backward((result == values) & (values > 0))
        ctx.rule = rule
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (open_,) = ctx.saved_tensors
        return ctx.rule(gradient, open_), None, None


def _rectifies(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    if func in RELUS:
        return True
    if func not in CLAMPS:
        return False
    low = args[1] if len(args) > 1 else kwargs.get("min", kwargs.get("min_val"))
    return not isinstance(low, Tensor) and low == 0


PLAIN: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.relu_: torch.relu,
    Tensor.relu_: torch.relu,
    F.relu_: torch.relu,
    F.relu: lambda values, inplace=False: torch.relu(values),
    F.relu6: lambda values, inplace=False: F.relu6(values),
    torch.clamp_: torch.clamp,
    Tensor.clamp_: torch.clamp,
    torch.clamp_min_: torch.clamp_min,
    Tensor.clamp_min_: torch.clamp_min,
    F.hardtanh_: F.hardtanh,
    F.hardtanh: lambda values, min_val=-1.0, max_val=1.0, inplace=False: F.hardtanh(values, min_val, max_val),
}
RULED: dict[str, Method] = {"deconvnet": deconvnet, "guided-backpropagation": guided_backpropagation}
