"""Watching: a mode under which the network itself tells how open its gates are, and what was before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from circuits.wiring.rules import RULES, Function, identity, name_of
from features.models import Model, probe

Edit = Callable[[Tensor], Tensor]
Measure = Callable[[Callable[[Tensor], Tensor], Tensor, list[int]], Tensor]


def is_gate(name: str) -> bool:
    """Say whether an operation is ReLU or its kin: it acts on each number by itself, and `RULES` lets all through."""
    return RULES.get(name) is identity and "dropout" not in name


@dataclass(frozen=True)
class Marks:
    """What is known of a tensor: the axis of its channels, itself before the gates that ended it, and their numbers."""

    axis: int | None
    before: Tensor | None = None
    gates: frozenset[int] = frozenset()


class Watched(TorchFunctionMode):
    """While it is on, the network runs as it is, and what depends on ``leaf`` is written down.

    `before` gives a tensor as it was before the activation functions that ended it (through concatenations and
    reshapes: the sums that a mixed layer rectifies), and `gates` which calls they were; calls of gates are counted from
    0 in the order of execution, those that depend on the leaf alone, as in `circuits.wiring.linear.Linearized`. With
    ``measure``, ``measured`` collects for each call what that says of the gate and its input: sums per channel, shaped
    to multiply the input. ``used`` are the names of all operations met. Parameters are handed on as constants.
    """

    def __init__(self, *, measure: Measure | None = None) -> None:
        super().__init__()
        self.measure = measure
        self.measured: list[Tensor] = []
        self.used: set[str] = set()
        self.calls = 0
        self._marks: Any = WeakTensorKeyDictionary()

    def start(self, value: Tensor) -> Tensor:
        """Give a leaf in place of ``value``, channels first."""
        self.leaf = value.detach().clone().requires_grad_()
        self._marks[self.leaf] = Marks(1)
        return self.leaf.clone()

    def before(self, value: Tensor) -> Tensor:
        return self._before(value)

    def gates(self, value: Tensor) -> frozenset[int]:
        return self._mark(value).gates

    def __torch_function__(
        self, function: Function, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, given = _constants(args), _constants(dict(kwargs or {}))
        inputs = [tensor for tensor in _tensors((args, given)) if tensor.requires_grad]
        if not inputs:
            return function(*args, **given)
        name = name_of(function)
        self.used.add(name)
        marks = [self._mark(tensor) for tensor in inputs]
        if is_gate(name):
            return self._gate(name, function, args, given, marks[0])
        shapes = [tuple(tensor.shape) for tensor in inputs]
        earlier = self._replayed(name, function, args, given, inputs)
        result = function(*args, **given)
        if name == "setitem":
            self._marks[args[0]] = Marks(self._mark(args[0]).axis)
        for place, output in enumerate(_tensors(result)):
            axis = _axis_after(name, function, args, given, shapes[0], marks[0].axis, output)
            before = earlier[place] if earlier is not None else None
            ended = frozenset().union(*(mark.gates for mark in marks)) if before is not None else frozenset[int]()
            self._marks[output] = Marks(axis, before, ended)
        return result

    def _gate(self, name: str, function: Function, args: Any, kwargs: Any, mark: Marks) -> Any:
        number, self.calls = self.calls, self.calls + 1
        x = args[0] if args else kwargs["input"]
        before = x.clone()
        if self.measure is not None:
            self.measured.append(self._measured(self.measure, function, x, args[1:], kwargs, mark.axis))
        result = function(*args, **kwargs)
        self._marks[before] = Marks(mark.axis)
        self._marks[result] = Marks(mark.axis, before, frozenset({number}))
        return result

    def _measured(
        self, measure: Measure, function: Function, x: Tensor, args: Any, kwargs: Any, axis: int | None
    ) -> Tensor:
        if axis is None:
            raise NotImplementedError(
                f"the channels of a tensor of shape {tuple(x.shape)} that is given to {function.__name__!r} cannot be "
                "told: its firing rates are unknown; connect reads the same wires without them"
            )
        rest = {key: value for key, value in kwargs.items() if key not in {"input", "inplace"}}
        axes = [place for place in range(x.dim()) if place != axis]
        with torch.enable_grad():
            return measure(lambda point: function(point.clone(), *args, **rest), x.detach(), axes)

    def _replayed(self, name: str, function: Function, args: Any, kwargs: Any, inputs: list[Tensor]) -> Any:
        """Do to what the inputs were before their gates what is done to them, where that only moves numbers about."""
        if name not in MOVES or all(self._mark(tensor).before is None for tensor in inputs):
            return None
        if function.__name__ in {"__setitem__", "copy_"}:
            return None
        return list(_tensors(function(*self._swapped(args), **self._swapped(kwargs))))

    def _swapped(self, value: Any) -> Any:
        return _mapped(self._before, value)

    def _before(self, value: Tensor) -> Tensor:
        before = self._mark(value).before
        return value if before is None else before

    def _mark(self, tensor: Tensor) -> Marks:
        mark = self._marks.get(tensor)
        return Marks(None) if mark is None else mark


def watch(
    model: Model, source: str, target: str, images: Tensor, *, cut: Sequence[str] = (), measure: Measure | None = None
) -> tuple[Watched, Tensor]:
    """Run the network as it is with a leaf in place of the source's output; give the mode and the target's output."""
    mode = Watched(measure=measure)
    names = [layer.name for layer in model.layers]
    edits: dict[str, Edit] = {**dict.fromkeys(cut, Tensor.detach), source: mode.start}
    edits = {name: edit for name, edit in edits.items() if names.index(name) < names.index(target)}
    with torch.enable_grad(), probe(model, [target], edits=edits) as activations, mode:
        model(images)
        return mode, activations[target]


def preactivations(model: Model, layer: str, images: Tensor) -> Tensor:
    """Give what ``layer`` gives on ``images`` before the activation functions that end it: ``(n, c, h, w)`` or less.

    A layer that ends in none (a convolution, a sum, the logits) is given as it is. Constant: no gradients flow.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> images = torch.rand(2, 3, 64, 64)
    >>> with torch.no_grad(), probe(model, ["mixed3a"]) as activations:
    ...     model(images)
    ...     torch.equal(preactivations(model, "mixed3a", images).relu(), activations["mixed3a"])
    True
    """
    name = model.layer(layer).name
    mode = Watched()
    dtype, device = model.dtype, model.device
    with torch.enable_grad(), probe(model, [name]) as activations, mode:
        model(mode.start(images.to(dtype=dtype, device=device)))
        return mode.before(activations[name]).detach()


def _axis_after(
    name: str, function: Function, args: Any, kwargs: Any, shape: tuple[int, ...], axis: int | None, output: Tensor
) -> int | None:
    """Find where the channels are after an operation on a tensor of ``shape`` whose channels were at ``axis``."""
    if output.dim() == 2 or name in CHANNELS_SECOND:
        return 1
    if name in CHANNELS_LAST:
        return output.dim() - 1
    if axis is None:
        return None
    if name in REORDERED:
        marker = torch.empty([2 + place for place in range(len(shape))])
        given = [marker if isinstance(arg, Tensor) else arg for arg in args]
        return tuple(function(*given, **kwargs).shape).index(2 + axis)
    if output.dim() == len(shape):
        return axis
    if axis == 1 and output.shape[1] == shape[1]:
        return 1
    return output.dim() - 1 if axis == len(shape) - 1 and output.shape[-1] == shape[-1] else None


def _constants(value: Any) -> Any:
    """Give ``value`` with the network's own parameters, wherever they are in it, as constants."""
    return _mapped(lambda tensor: tensor.detach() if isinstance(tensor, nn.Parameter) else tensor, value)


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_mapped(change, item) for item in value)
    if type(value) is dict:
        return {key: _mapped(change, item) for key, item in value.items()}
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))


# Operations that only move numbers about: done to the sums before a gate, they give the sums before what they give.
MOVES = {
    *("cat", "stack", "chunk", "split", "flatten", "unflatten", "reshape", "view", "permute", "transpose", "movedim"),
    *("moveaxis", "swapaxes", "swapdims", "squeeze", "unsqueeze", "contiguous", "clone", "getitem", "select", "narrow"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "to", "float", "double"),
}
REORDERED = {"permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims"}
CHANNELS_SECOND = {
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "batch_norm"),
    *("group_norm", "instance_norm", "local_response_norm", "max_pool2d", "avg_pool2d"),
    *("adaptive_avg_pool2d", "adaptive_max_pool2d"),
}
CHANNELS_LAST = {"linear", "layer_norm", "rms_norm"}
