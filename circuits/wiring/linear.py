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
    nothing cancels, no weight is 0, and the gradient shows what is *connected*. ``rules`` stand in for `RULES`, and may
    name linear operations too. ``used`` are the names of the operations met.

    >>> mode = Linearized()
    >>> mode.leaf = torch.tensor([-1.0, 2.0], requires_grad=True)
    >>> with mode:
    ...     y = (3 * mode.leaf).relu()
    >>> y.tolist(), torch.autograd.grad(y.sum(), mode.leaf)[0].tolist()
    ([0.0, 6.0], [3.0, 3.0])
    """

    def __init__(self, *, structure: bool = False, rules: Mapping[str, Rule] | None = None) -> None:
        super().__init__()
        self.structure = structure
        self.rules = RULES if rules is None else rules
        self.leaves: list[Tensor] = []
        self.used: set[str] = set()

    @property
    def leaf(self) -> Tensor | None:
        """The source: the tensor set last. Each that was set stays a source."""
        return self.leaves[-1] if self.leaves else None

    @leaf.setter
    def leaf(self, value: Tensor) -> None:
        self.leaves.append(value)

    def __torch_function__(
        self, function: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, given = self._constant(args), self._constant(dict(kwargs or {}))
        if not _dependent((args, given)):
            return function(*args, **given)
        name = name_of(function)
        self.used.add(name)
        if name in self.rules:
            return _by_rule(self.rules[name], function, args, given)
        reason = _reason(function, name, args, given)
        result = function(*args, **given)
        if name == "cat" and isinstance(result, Tensor) and result.grad_fn is not None:
            tensors = args[0] if args else given["tensors"]
            _note(result, "sizes", [tuple(tensor.shape) for tensor in tensors])
        return _refused(reason, result, function) if reason and _dependent(result) else result

    def _constant(self, value: Any) -> Any:
        """Give ``value`` with the network's own parameters, wherever they are in it, as constants."""
        if isinstance(value, Tensor):
            own = any(value is leaf for leaf in self.leaves)
            if own or not (isinstance(value, nn.Parameter) or (value.is_leaf and value.requires_grad)):
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
    value = _apart(value, list(_tensors((args, kwargs, linear))))
    joined = _join(value, linear[0] if isinstance(linear, tuple) else linear)
    first = joined[0] if isinstance(joined, tuple) else joined
    if first.grad_fn is not None:
        _note(first, "rule", name_of(function))
    return args[0].copy_(joined) if inplace else joined


def _note(tensor: Tensor, key: str, what: Any) -> None:
    """Write down what the way back needs to know and autograd does not keep."""
    metadata: Any = tensor.grad_fn.metadata if tensor.grad_fn is not None else {}
    metadata[key] = what


def _apart(value: Any, given: list[Tensor]) -> Any:
    """Give a tensor that shares its memory with none of ``given``, in place of the first that a function gave."""
    if isinstance(value, tuple):
        return (_apart(value[0], given), *value[1:])
    places = {tensor.untyped_storage().data_ptr() for tensor in given}
    return value.clone() if value._base is not None or value.untyped_storage().data_ptr() in places else value


def _join(value: Any, linear: Tensor) -> Any:
    if isinstance(value, tuple):
        return (_join(value[0], linear), *value[1:])
    if not linear.requires_grad:
        return value.detach()
    joined: Tensor = Joined.apply([value], linear)
    return joined


class Joined(torch.autograd.Function):
    """The value of one tensor with the derivative of another."""

    @staticmethod
    def forward(ctx: Any, value: list[Tensor], linear: Tensor) -> Tensor:
        """Give what is in the list, which hides it from autograd, as a tensor of its own."""
        return value[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        """Hand the gradient on to ``linear``."""
        return None, gradients[0]


class Refused(torch.autograd.Function):
    """A value whose derivative nobody may ask for: harmless where a rule freezes it later, as a pattern of attention
    is."""

    @staticmethod
    def forward(ctx: Any, reason: str, value: Tensor) -> Tensor:
        """Give ``value``; keep why it has no derivative."""
        ctx.reason = reason
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        """Refuse, with the reason."""
        raise NotImplementedError(ctx.reason)


def _refused(reason: str, result: Any, function: Function) -> Any:
    """Mark the results of an operation that is not linear; one that changes a tensor in place is refused at once."""
    if _changes_in_place(function):
        raise NotImplementedError(reason)
    if isinstance(result, Tensor):
        return Refused.apply(reason, result) if result.requires_grad else result
    if isinstance(result, (tuple, list)):
        kept = [_refused(reason, item, function) for item in result]
        return result if type(result) not in (tuple, list) else type(result)(kept)
    raise NotImplementedError(reason)


def _changes_in_place(function: Function) -> bool:
    return function.__name__.endswith("_") and not function.__name__.endswith("__")


def _copies(args: tuple[Any, ...], inplace: bool) -> list[Any]:
    return [item.clone() if inplace and isinstance(item, Tensor) else item for item in args]


def _reason(function: Function, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Say why an operation without a rule is not linear here; ``None`` where it is."""
    if name not in LINEAR:
        return f"{_spelled(function)} is neither linear nor in the table of rules: {_line(function)}"
    if name not in BILINEAR:
        return None
    factors = list(_tensors(args[SUMMANDS.get(name, 0) :])) + [
        kwargs[key] for key in FACTORS if isinstance(kwargs.get(key), Tensor)
    ]
    dependent = [factor for factor in factors if factor.requires_grad]
    if len(dependent) > 1:
        return f"{_spelled(function)} multiplies two tensors that both depend on the source: {_line(function)}"
    reverse = function.__name__ in {"__rtruediv__", "__rdiv__"}
    if name == "div" and dependent and (dependent[0] is not args[0] or reverse):
        return f"{_spelled(function)} divides by a tensor that depends on the source: {_line(function)}"
    return None


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
