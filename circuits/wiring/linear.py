"""Linearized: a mode under which all that depends on one tensor is linear in it: by nature, by a rule, or refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from circuits.wiring.rules import BILINEAR, LINEAR, RULES, Function, Rule, name_of


class Linearized(TorchFunctionMode):
    """While it is on, every torch function that a tensor depending on ``leaf`` goes through is linear in it.

    An operation in `RULES` keeps its value and gets the derivative of its rule; one in `LINEAR` stays as it is; any
    other raises ``NotImplementedError`` with the line that registers it. Modules and functional calls are alike,
    nothing in the network is touched. Dependence is ``requires_grad``: parameters are handed on detached, so that
    only the leaf asks for gradients. With ``structure`` each parameter is replaced by positive numbers: then
    nothing cancels, no weight is 0, and the gradient shows what is *connected*. ``used`` are the names of the
    operations met.

    >>> mode = Linearized()
    >>> mode.leaf = torch.tensor([-1.0, 2.0], requires_grad=True)
    >>> with mode:
    ...     y = (3 * mode.leaf).relu()
    >>> y.tolist(), torch.autograd.grad(y.sum(), mode.leaf)[0].tolist()
    ([0.0, 6.0], [3.0, 3.0])
    """

    def __init__(self, *, structure: bool = False) -> None:
        super().__init__()
        self.structure = structure
        self.leaf: Tensor | None = None
        self.used: set[str] = set()

    def __torch_function__(
        self, function: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, given = self._constant(args), self._constant(dict(kwargs or {}))
        if not _dependent((args, given)):
            return function(*args, **given)
        name = name_of(function)
        self.used.add(name)
        if name in RULES:
            return _by_rule(RULES[name], function, args, given)
        if name in BILINEAR:
            _check_product(function, name, args, given)
        result = function(*args, **given)
        if name not in LINEAR and _dependent(result):
            raise NotImplementedError(
                f"{_spelled(function)} is neither linear nor in the table of rules: {_line(function)}"
            )
        return result

    def _constant(self, value: Any) -> Any:
        """Give ``value`` with the network's own parameters, wherever they are in it, as constants."""
        if isinstance(value, Tensor):
            if value is self.leaf or not (isinstance(value, nn.Parameter) or (value.is_leaf and value.requires_grad)):
                return value
            return _positive(value.detach()) if self.structure else value.detach()
        if type(value) in (tuple, list):
            return type(value)(self._constant(item) for item in value)
        if type(value) is dict:
            return {key: self._constant(item) for key, item in value.items()}
        return value


def _by_rule(rule: Rule, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Give the operation's own value with the rule's derivative; what was to be changed in place is."""
    args = args or (kwargs.pop("input"),)
    inplace = bool(kwargs.pop("inplace", False)) | _changes_in_place(function)
    if "dropout" in function.__name__ and "training" in kwargs:
        kwargs["training"] = False  # the mean over masks, and no random number is drawn
    linear = rule(function, *_copies(args, inplace), **kwargs)
    with torch.no_grad():
        value = function(*_copies(args, inplace), **kwargs)
    joined = _join(value, linear[0] if isinstance(linear, tuple) else linear)
    return args[0].copy_(joined) if inplace else joined


def _join(value: Any, linear: Tensor) -> Any:
    if isinstance(value, tuple):
        return (_join(value[0], linear), *value[1:])
    return linear + (value - linear).detach() if linear.requires_grad else value.detach()


def _changes_in_place(function: Function) -> bool:
    return function.__name__.endswith("_") and not function.__name__.endswith("__")


def _copies(args: tuple[Any, ...], inplace: bool) -> list[Any]:
    return [item.clone() if inplace and isinstance(item, Tensor) else item for item in args]


def _check_product(function: Function, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    factors = list(_tensors(args[SUMMANDS.get(name, 0) :])) + [
        kwargs[key] for key in FACTORS if isinstance(kwargs.get(key), Tensor)
    ]
    dependent = [factor for factor in factors if factor.requires_grad]
    if len(dependent) > 1:
        raise NotImplementedError(
            f"{_spelled(function)} multiplies two tensors that both depend on the source: {_line(function)}"
        )
    if (
        name == "div"
        and dependent
        and (dependent[0] is not args[0] or function.__name__ in {"__rtruediv__", "__rdiv__"})
    ):
        raise NotImplementedError(
            f"{_spelled(function)} divides by a tensor that depends on the source: {_line(function)}"
        )


def _line(function: Function) -> str:
    return (
        "say what its derivative should be, for example "
        f"`circuits.wiring.register({_spelled(function)}, circuits.wiring.identity)`, or with `frozen`, or your own"
    )


def _spelled(function: Function) -> str:
    """Give how a user writes the operation."""
    name = function.__name__
    homes = ((torch, "torch"), (F, "torch.nn.functional"), (Tensor, "torch.Tensor"), (torch.special, "torch.special"))
    return next((f"{prefix}.{name}" for home, prefix in homes if hasattr(home, name)), repr(name))


def _positive(weight: Tensor) -> Tensor:
    """Give numbers above 0 in the shape of ``weight``, scaled so that deep stacks neither vanish nor explode."""
    if not weight.is_floating_point() or weight.numel() == 0:
        return weight
    ramp = torch.linspace(0.5, 1.5, weight.numel(), dtype=weight.dtype, device=weight.device).reshape(weight.shape)
    return ramp if weight.dim() < 2 else ramp / ramp.flatten(1).sum(1).reshape(-1, *[1] * (weight.dim() - 1))


def _dependent(value: Any) -> bool:
    return any(tensor.requires_grad for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)


# Where the factors of a product begin in its arguments (what comes before is added), and what they are called by
# keyword.
SUMMANDS = {"addmm": 1, "addbmm": 1, "baddbmm": 1, "einsum": 0}
FACTORS = ("weight", "other", "mat1", "mat2", "batch1", "batch2", "vec2", "tensor", "x2")
