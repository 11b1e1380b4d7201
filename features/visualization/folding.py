"""Folding: the same network, run faster; batch norms folded into their convolutions, weights channels last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from features.models import Model, probe
from features.visualization.striding import is_few, strided

# How far, relative to the layer's largest value, the folded network's reading may be from the plain one's. Folding
# changes the order of float32 roundings (1e-6); a wrong fold changes everything.
TOLERANCE = 1e-3


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Switch off ``requires_grad`` of every parameter for as long as the ``with`` lasts, and restore each exactly as it
    was.

    >>> net = nn.Linear(2, 2)
    >>> with frozen(net):
    ...     net.weight.requires_grad
    False
    >>> net.weight.requires_grad
    True
    """
    before = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


class Folded(TorchFunctionMode):
    """While it lasts, convolutions use the given weights and the batch norms that were folded into them pass their
    input on.

    ``weights`` maps the ``id`` of a convolution's weight to what to use instead, ``(weight, bias)``; ``passed`` has the
    ``id`` of the running mean of every batch norm that is folded. Made by `folded`.
    """

    def __init__(self, weights: Mapping[int, tuple[Tensor, Tensor | None]], passed: frozenset[int]) -> None:
        super().__init__()
        self.weights, self.passed = weights, passed

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d and len(args) >= 3 and id(args[1]) in self.weights:
            weight, bias = self.weights[id(args[1])]
            if not kwargs and is_few(args[0], weight, args[3:]):
                return strided(args[0], weight, bias, *args[3:5])
            return func(args[0], weight, bias, *args[3:], **kwargs)
        if func is F.batch_norm and len(args) >= 2 and id(args[1]) in self.passed:
            return args[0]
        return func(*args, **kwargs)


def folded(model: Model, layers: Iterable[str], images: Tensor, *, dtype: torch.dtype | None = None) -> Folded:
    """Give the mode in which ``model`` reads ``layers`` as before, faster: about 2x on CPU
    (`tests/benchmarks/visualization.py`).

    One forward pass over ``images`` shows which convolution's output goes to a batch norm and nowhere else, and is not
    itself read; its weight becomes ``w g / sqrt(v + e)`` and its bias ``(b - m) g / sqrt(v + e) + beta``. Weights are
    copied channels last. The readings are then compared with the plain network's, and should they differ, nothing is
    folded. The network itself is not touched. With ``dtype`` the copies are of that type, for use under autocast, which
    would otherwise convert the weights again at every pass.
    """
    names = list(layers)
    with torch.no_grad(), probe(model, names) as activations:
        with _Watch() as watch:
            model(images)
        watch.spare([activations[name] for name in names])
        plain = {name: activations[name].clone() for name in names}
    mode = Folded(watch.weights(), frozenset(id(norm.mean) for norm in watch.norms()))
    with torch.no_grad(), probe(model, names) as activations, mode:
        model(images)
        same = all(_close(activations[name], plain[name]) for name in names)
    if not same:
        return Folded({}, frozenset())
    return mode if dtype is None else Folded(_converted(mode.weights, dtype), mode.passed)


def _converted(
    weights: Mapping[int, tuple[Tensor, Tensor | None]], dtype: torch.dtype
) -> dict[int, tuple[Tensor, Tensor | None]]:
    return {
        key: (weight.to(dtype), None if bias is None else bias.to(dtype)) for key, (weight, bias) in weights.items()
    }


@dataclass
class _Norm:
    """The numbers of one batch norm."""

    mean: Tensor
    variance: Tensor
    gain: Tensor | None
    shift: Tensor | None
    epsilon: float


@dataclass
class _Convolution:
    """One weight, its calls' outputs (kept, so that no other tensor gets their ids) and the norms these go to."""

    weight: Tensor
    bias: Tensor | None
    norms: list[_Norm | None] = field(default_factory=list)


class _Watch(TorchFunctionMode):
    """Sees which convolutions feed which batch norms in one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: dict[int, _Convolution] = {}
        self.outputs: dict[int, tuple[Tensor, _Convolution, list[_Norm | None]]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        norm = _read_norm(func, args, kwargs)
        used = self.outputs.get(id(args[0])) if norm is not None else None
        if used is not None:
            used[2].append(norm)
        elif isinstance(result, (Tensor, tuple, list)):
            for value in _tensors([args, list(kwargs.values())]):
                if id(value) in self.outputs:
                    self.outputs[id(value)][2].append(None)
        if func is F.conv2d and len(args) >= 3:
            known = self.convolutions.setdefault(id(args[1]), _Convolution(args[1], args[2]))
            self.outputs[id(result)] = (result, known, [])
        return result

    def spare(self, readings: Iterable[Tensor]) -> None:
        """Count what is read as used, so that no norm is folded into it."""
        for reading in readings:
            if id(reading) in self.outputs:
                self.outputs[id(reading)][2].append(None)

    def weights(self) -> dict[int, tuple[Tensor, Tensor | None]]:
        found = {key: self._folding(key) for key in self.convolutions}
        return {key: _fold(self.convolutions[key], norm) for key, norm in found.items()}

    def norms(self) -> list[_Norm]:
        return [norm for key in self.convolutions if (norm := self._folding(key)) is not None]

    def _folding(self, key: int) -> _Norm | None:
        """The one norm that every output of this weight goes to, if that norm gets nothing else."""
        feeds = [users for _, known, users in self.outputs.values() if known is self.convolutions[key]]
        norms = {id(user.mean) if user else None for users in feeds for user in (users or [None])}
        if len(norms) != 1 or None in norms or any(len(users) != 1 for users in feeds):
            return None
        (wanted,) = norms
        shared = {
            id(known) for _, known, users in self.outputs.values() for user in users if user and id(user.mean) == wanted
        }
        return feeds[0][0] if len(shared) == 1 else None


def _read_norm(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Norm | None:
    if func is not F.batch_norm:
        return None
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("training") or given.get("running_mean") is None:
        return None
    return _Norm(
        given["running_mean"], given["running_var"], given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
    )


def _fold(convolution: _Convolution, norm: _Norm | None) -> tuple[Tensor, Tensor | None]:
    weight, bias = convolution.weight.detach(), convolution.bias
    bias = None if bias is None else bias.detach()
    if norm is not None:
        factor = (norm.variance.double() + norm.epsilon).rsqrt()
        factor = factor if norm.gain is None else factor * norm.gain.detach().double()
        moved = ((0 if bias is None else bias.double()) - norm.mean.double()) * factor
        moved = moved if norm.shift is None else moved + norm.shift.detach().double()
        bias = moved.to(weight.dtype)
        weight = (weight.double() * factor[:, None, None, None]).to(weight.dtype)
    return weight.contiguous(memory_format=torch.channels_last), bias


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)


def _close(folded: Tensor, plain: Tensor) -> bool:
    return bool((folded - plain).abs().max() <= TOLERANCE * plain.abs().max() + 1e-12)
