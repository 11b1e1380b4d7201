"""Nonlinearities: which calls of an activation function give a layer its output, and what went into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from features.activations import TURNS, listen, turn
from features.models import Layer, Model
from features.visualization.redirection import CLAMPS, PLAIN


@dataclass(frozen=True)
class Source:
    """Where the channels of a layer come from, piece by piece: ``calls`` has the number of each call of a nonlinearity
    in a forward pass, ``None`` where there is none, and ``sizes`` the number of channels. ``rectified`` says whether
    all are ReLUs.
    """

    calls: tuple[int | None, ...]
    sizes: tuple[int, ...]
    rectified: bool

    @property
    def counted(self) -> tuple[str, ...]:
        """What has to be counted: after a ReLU, what went into it tells what came out."""
        if self.rectified:
            return ("before",)
        return ("before", "after") if any(call is not None for call in self.calls) else ("after",)


@dataclass(eq=False)
class _Known:
    """What is known of a tensor: the tensor itself, so that its memory is not used again, its version, its pieces."""

    tensor: Tensor
    version: int
    axis: int | None
    pieces: tuple[tuple[int | None, int, bool], ...]


class _Following(TorchFunctionMode):
    """Follows what nonlinearities give through concatenations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.known: dict[tuple[int, int], _Known] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rectifier = is_nonlinear(func, args, kwargs)
        result = func(*args, **kwargs)
        if rectifier is not None and isinstance(result, Tensor):
            self.note(result, None, ((self.count, 0, rectifier),))
            self.count += 1
        elif func in CONCATENATIONS and isinstance(result, Tensor):
            self.concatenated(result, args, kwargs)
        return result

    def note(self, tensor: Tensor, axis: int | None, pieces: tuple[tuple[int | None, int, bool], ...]) -> None:
        self.known[_memory(tensor)] = _Known(tensor, tensor._version, axis, pieces)

    def recall(self, tensor: Tensor) -> _Known | None:
        known = self.known.get(_memory(tensor))
        return known if known is not None and known.version == tensor._version else None

    def concatenated(self, result: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        tensors = args[0] if args else kwargs["tensors"]
        axis = int(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % result.ndim
        pieces: list[tuple[int | None, int, bool]] = []
        for tensor in tensors:
            known = self.recall(tensor)
            if known is None or known.axis not in (None, axis):
                pieces.append((None, tensor.shape[axis], False))
            elif known.axis is None:
                pieces.append((known.pieces[0][0], tensor.shape[axis], known.pieces[0][2]))
            else:
                pieces += known.pieces
        self.note(result, axis, tuple(pieces))

    def source(self, layer: Layer, tensor: Tensor) -> Source:
        known = self.recall(tensor)
        channels = (layer.channels,)
        if known is None or known.axis not in (None, TURNS[layer.layout][1]):
            return Source((None,), channels, False)
        if turn(known.tensor, layer.layout).stride() != tensor.stride():  # the same numbers in another order
            return Source((None,), channels, False)
        calls = tuple(call for call, _, _ in known.pieces)
        sizes = channels if known.axis is None else tuple(size for _, size, _ in known.pieces)
        return Source(calls, sizes, all(rectifier for _, _, rectifier in known.pieces))


def find_sources(model: Model, layers: Sequence[str]) -> dict[str, Source]:
    """Say for each layer which calls of a nonlinearity its channels come from, alone or concatenated.

    Modules, functions and operations in place are seen alike, in one run on a grey image. Anything else that happens to
    the output of a nonlinearity on its way (a sum, a pool) makes it none.
    """
    following, found = _Following(), {}

    def noting(layer: Layer) -> Callable[[Tensor], Tensor]:
        def note(value: Tensor) -> Tensor:
            found[layer.name] = following.source(layer, value)
            return value

        return note

    image = torch.full((1, model.channels, *model.image_size), 0.5, device=model.device, dtype=model.dtype)
    edits = {name: noting(model.layer(name)) for name in layers}
    with torch.inference_mode(False), torch.no_grad(), hearing(model, layers, edits), following:
        model(image)
    return found


def hearing(
    model: Model, layers: Sequence[str], edits: Mapping[str, Callable[[Tensor], Tensor]]
) -> AbstractContextManager[Any]:
    """Hear layers one by one, as each is there, and keep none; to the last one."""
    layouts = {name: model.layer(name).layout for name in layers}
    return listen(model.net, layers[-1], edits=edits, overwritten=(), layouts=layouts)


class Noting(TorchFunctionMode):
    """While it lasts, gives what goes into each call of a nonlinearity, by number, to a function, before it is used."""

    def __init__(self, heard: Mapping[int, Callable[[Tensor], None]]) -> None:
        super().__init__()
        self.heard = heard
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_nonlinear(func, args, kwargs) is not None:
            hear = self.heard.get(self.count)
            if hear is not None:
                hear(args[0] if args else kwargs["input"])
            self.count += 1
        return func(*args, **kwargs)


def is_nonlinear(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool | None:
    """Say whether a call of a torch function is one of a ReLU (True) or another nonlinearity (False), or ``None``."""
    if func in PLAIN:
        return True
    if func in CLAMPS:
        bounds = list(_bounds(args, kwargs))
        plain = bounds[0] == 0 if bounds and isinstance(bounds[0], int | float) else False
        return (len(bounds) == 1 or bounds[1] is None) if plain else None
    return False if func in CURVED else None


def _bounds(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    given = list(args[1:3])
    for place, names in enumerate((("min", "min_val"), ("max", "max_val"))):
        named = next((kwargs[name] for name in names if name in kwargs), None)
        yield given[place] if place < len(given) else named


def _memory(tensor: Tensor) -> tuple[int, int]:
    """Tell a tensor by its memory, so that another view of all of it is the same."""
    return tensor.data_ptr(), tensor.numel()


CONCATENATIONS = frozenset({torch.cat, torch.concat, torch.concatenate})
# Functions that bend each number by itself, other than ReLU.
CURVED: frozenset[Any] = frozenset(
    {
        *(F.relu6, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.selu, F.selu_, F.celu, F.prelu, F.rrelu, F.gelu),
        *(F.silu, F.mish, F.softplus, F.hardswish, F.hardsigmoid, F.sigmoid, F.tanh, F.softsign, F.logsigmoid),
        *(torch.sigmoid, torch.sigmoid_, torch.tanh, torch.tanh_, Tensor.sigmoid, Tensor.sigmoid_, Tensor.tanh),
        *(Tensor.tanh_, torch.selu, torch.celu, torch.prelu),
    }
)
