"""Flow: follow one image through a network, tensor by tensor: which axes are rows and columns, which pixels each
position sees."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from features.models.rules import RULES, Rule, Step, unknown
from features.models.traces import LOST, Input, Span, Trace

JOINS = frozenset(["add", "iadd", "radd", "sub", "isub", "cat", "concat", "concatenate", "stack"])


class Flow(TorchFunctionMode):
    """Follows the tensors of one forward pass; a `features.activations.Witness` too, so that it knows the call it is
    in.

    ``traces[name]`` is what was known of a call's output when the call returned (an in-place operation may change it
    later), and ``joins`` are the calls in whose own code two or more tensors that depend on the image were added or
    concatenated.
    """

    def __init__(self, net: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.traces: dict[str, Trace] = {}
        self.joins: set[str] = set()
        self._calls = [""]
        self._known: dict[int, tuple[weakref.ref[Tensor], Trace | None]] = {}
        for constant in [*net.parameters(), *net.buffers()]:
            self._note(constant, None)
        self._note(images, Trace(axes=(2, 3), field=(Span(), Span())))

    def enter(self, name: str, module: nn.Module) -> None:
        """Take note that a call of a module begins."""
        self._calls.append(name)

    def leave(self, name: str, module: nn.Module, output: Tensor | None) -> None:
        """Take note of what a call of a module gave; what no image reached is left out."""
        self._calls.pop()
        trace = None if output is None else self._trace(output)
        if trace is not None:
            self.traces[name] = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func``, and note what its output depends on; a constant (``None``) is what no image reached."""
        kwargs = kwargs or {}
        given = {
            id(tensor): (tensor, self._trace(tensor), tuple(tensor.shape))
            for tensor in _tensors([args, [*kwargs.values()]])
        }
        output = func(*args, **kwargs)
        inputs = tuple(Input(shape, trace) for _, trace, shape in given.values() if trace is not None)
        if inputs:
            if "input" in kwargs:  # torch's name for the first argument
                args, kwargs = (kwargs["input"], *args), {key: kwargs[key] for key in kwargs if key != "input"}
            self._follow(getattr(func, "__name__", "").strip("_"), inputs, output, args, kwargs)
        else:
            for constant in _tensors([output]):
                self._note(constant, None)
        return output

    def _follow(self, name: str, inputs: tuple[Input, ...], output: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if len(inputs) > 1 and name in JOINS:
            self.joins.add(self._calls[-1])
        for tensor in _tensors([output]):
            self._note(tensor, _traced(name, Step(inputs, tuple(tensor.shape)), args, kwargs))
        if args and isinstance(args[0], Tensor) and (name == "setitem" or args[0] is output):
            self._mix_in(args[0], whole=name != "setitem", alone=len(inputs) == 1)

    def _mix_in(self, changed: Tensor, *, whole: bool, alone: bool) -> None:
        """Forget what another tensor was written into: ``changed`` if only a part was, and what it is a view of."""
        for tensor in (None if whole else changed, None if alone and whole else changed._base):
            if tensor is not None:
                self._note(tensor, Trace((self._trace(tensor) or LOST).axes))

    def _note(self, tensor: Tensor, trace: Trace | None) -> None:
        self._known[id(tensor)] = (weakref.ref(tensor), trace)

    def _trace(self, tensor: Tensor) -> Trace | None:
        """Give the trace of ``tensor``: ``None`` for a constant, `LOST` where it came from nowhere that was seen."""
        reference, trace = self._known.get(id(tensor), (None, None))
        return trace if reference is not None and reference() is tensor else LOST


def _traced(name: str, step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trace:
    rule: Rule = RULES.get(name, unknown)
    try:
        inspect.signature(rule).bind(step, *args, **kwargs)
    except TypeError:  # called in a way that the rule does not know
        rule = unknown
    trace: Trace = rule(step, *args, **kwargs)
    return trace


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
