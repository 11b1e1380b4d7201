"""Which layer feeds which, and the linear map between two layers: what autograd says of the network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuits.wiring.linear import Linearized
from circuits.wiring.rules import RULES, VALUELESS
from features.models import Model, probe

Edit = Callable[[Tensor], Tensor]
Box = tuple[int, int, int, int]
Size = tuple[int, int]
Run = Callable[..., "_Segment"]

ROWS = 2**25  # numbers of source gradients that one batched backward pass gives at once: 128 MB in float32
LARGEST = 8  # times the model's own image side, before a target that still reads everything is taken to read everything
FARTHEST = 32  # a dilated kernel may hide behind the border as far as this many positions


def flow(model: Model, layers: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Say which of ``layers`` feed which: target to its sources, both in order of execution.

    The network is cut at the listed layers (the output of each is replaced by a fresh leaf) and the graph that
    autograd recorded behind each output is followed to the leaves it reaches. What it reaches it reads, through
    residuals, concatenations, branches, functional calls and modules that run twice (``name#1``); a source that
    acts only through another listed layer is not named. Cost: one forward pass of one image. What autograd cannot
    see (an index from ``argmax``, work under ``torch.no_grad``) is no flow here.

    Raises ``ValueError`` for a layer that the model has not and for one listed twice, ``TypeError`` for text in
    place of a list.

    >>> from features.models import load_model
    >>> flow(load_model("sketches"), ["mixed3a", "mixed3b", "mixed4a"])
    {'mixed3a': (), 'mixed3b': ('mixed3a',), 'mixed4a': ('mixed3b',)}
    """
    ordered = _in_order(model, layers)
    outputs: dict[str, Tensor] = {}
    leaves: dict[str, Tensor] = {}

    def cut(name: str, value: Tensor) -> Tensor:
        outputs[name] = value
        leaves[name] = value.detach().clone().requires_grad_()
        return leaves[name].clone()

    edits: dict[str, Edit] = {name: functools.partial(cut, name) for name in ordered}
    with torch.enable_grad(), probe(model, ordered, edits=edits):
        model(_grey(model, model.image_size))
    names = {id(leaf): name for name, leaf in leaves.items()}
    reached = {name: {names.get(id(leaf)) for leaf in _leaves_behind(outputs[name])} for name in ordered}
    return {name: tuple(source for source in ordered if source in reached[name]) for name in ordered}


def connect(
    model: Model, source: str, target: str, *, cut: Collection[str] = (), images: Tensor | None = None
) -> Tensor:
    """Give the linear map from layer ``source`` to layer ``target``: weights ``(o, i, kh, kw)``.

    ``weights[o, i, y, x]`` is the derivative of channel ``o`` of the target, at its central position ``(h // 2, w
    // 2)``, to channel ``i`` of the source at ``(y, x)`` in the window that this position reads, with the network
    made linear by `RULES`: ReLU and its kin pass everything, max pooling averages, gates and attention patterns are
    frozen, denominators are frozen; batch norm is affine already. These are the expanded weights of Voss et al.
    (2021, "Visualizing Weights"); between adjacent convolutions they are the weights of the second times its batch
    norm, in torch's orientation (cross-correlation).

    *Window.* As large as the receptive field of the target in the source, so odd and centred for odd kernels of stride
    1, and measured away from borders: on a grey image as large as that needs and no larger, where the network takes
    images of other sizes and no rule on the way looks at values; else on the map as it is. *Stride.* All positions of a
    strided target read the same window, each from its own corner; a target finer than its source (upsampling) has
    several kinds, and this is the one of its central position. *No window.* Where the source or the target has no map,
    or the target reads the whole of it (a class behind global pooling), ``kh = kw = 1`` and the weight is the sum over
    the source's positions: what a change of the channel everywhere does. For tokens the target is the token in the
    middle.

    ``cut`` names layers held fixed, so that only paths around them count. ``images``, ``(n, channels, h, w)`` in
    [0, 1], say where the frozen values are taken; the result is then the mean over them, on their maps as they are,
    borders included. A weight of the
    model that is infinite or NaN makes NaN of all wires of the source channels that it multiplies.

    Raises ``ValueError`` for unknown layers, and when the source does not feed the target or only through frozen
    operations; ``NotImplementedError`` for an operation that is neither linear nor in `RULES`, with the line that
    registers it.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> weights = connect(model, "conv2d1", "conv2d2")
    >>> block = model.net.conv2d2
    >>> scale = block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt()
    >>> torch.allclose(weights, block.conv.weight * scale[:, None, None, None], atol=1e-5)
    True
    """
    maps = all(model.layer(name).layout in MAPS for name in (source, target))
    if source == target:
        raise ValueError(f"source and target are both {source!r}: name two layers")
    held = tuple(model.layer(name).name for name in cut if name not in {source, target})
    run = functools.partial(_run, model, source, target, held)
    if not maps:
        return _summed(_jacobian(run(_grey(model, model.image_size) if images is None else images)))
    if images is None:
        images = _grey(model, _size_needed(model, run, source, target))
    segment = run(images, structure=True)
    window = _window(segment)
    jacobian = _jacobian(run(images))
    everything = _covers(window, segment) and _extent(window) != _extent_by_fields(model, source, target)
    return _summed(jacobian) if everything else _cropped(jacobian, window)


def linear_map(
    model: Model, source: str, target: str, *, images: Tensor, cut: Collection[str] = ()
) -> Callable[[Tensor], Tensor]:
    """Give the whole linear map from ``source`` to ``target`` at these images, as a function of a change of the source.

    The function takes a change of the source's activations, channels first, ``(n, i, ...)`` for the ``n`` images, and
    gives the change of the target that the network made linear by `RULES` answers with, ``(n, o, ...)``: borders,
    strides and tokens as they are. It can be called as often as needed; each call costs one pass between the layers.

    >>> from features.models import load_model
    >>> images = torch.rand(2, 3, 64, 64)
    >>> linear_map(load_model("sketches"), "conv2d1", "conv2d2", images=images)(torch.zeros(2, 24, 32, 32)).abs().max()
    tensor(0.)
    """
    held = tuple(model.layer(name).name for name in cut if name not in {source, target})
    segment = _run(model, source, target, held, images)
    with torch.enable_grad():
        rows = torch.zeros_like(segment.output, requires_grad=True)
        (pulled,) = torch.autograd.grad(segment.output, segment.leaf, rows, create_graph=True)

    def push(change: Tensor) -> Tensor:
        """Transpose the transposed map: the derivative of ``rows -> J^T rows`` along ``change`` is ``J change``."""
        return torch.autograd.grad(pulled, rows, change, retain_graph=True)[0]

    return push


@dataclass(frozen=True)
class _Segment:
    """One run of the linearized network: the leaf in place of the source, the target, the operations between them."""

    leaf: Tensor
    output: Tensor
    used: frozenset[str]


def _run(
    model: Model, source: str, target: str, cut: Sequence[str], images: Tensor, *, structure: bool = False
) -> _Segment:
    mode = Linearized(structure=structure)

    def replace(value: Tensor) -> Tensor:
        mode.leaf = value.detach().clone().requires_grad_()
        return mode.leaf.clone()

    edits: dict[str, Edit] = {**dict.fromkeys(cut, Tensor.detach), source: replace}
    edits = {name: edit for name, edit in edits.items() if _runs_before(model, name, target)}
    with torch.enable_grad(), probe(model, [target], edits=edits) as activations, mode:
        model(images)
        output = activations[target]
    if mode.leaf is None or not output.requires_grad:
        frozen = sorted(mode.used & RULES.keys())
        reason = (
            f"it goes through operations with rules that stop it ({', '.join(frozen)})"
            if frozen
            else "nothing flows from it"
        )
        raise ValueError(f"layer {source!r} does not feed {target!r}: {reason}; circuits.flow says what feeds what")
    return _Segment(mode.leaf, output, frozenset(mode.used))


def _runs_before(model: Model, name: str, target: str) -> bool:
    names = [layer.name for layer in model.layers]
    return names.index(name) < names.index(target)


@torch.enable_grad()
def _jacobian(segment: _Segment) -> Tensor:
    """Give the derivative of the target at its centre to the whole source, mean over images: (o, i, ...)."""
    leaf, centre = segment.leaf, _centre(segment.output).mean(0)
    unit = torch.eye(len(centre), dtype=centre.dtype, device=centre.device)
    rows = max(1, ROWS // leaf.numel())
    parts = [
        torch.autograd.grad(centre, leaf, some, retain_graph=True, is_grads_batched=True)[0].sum(1)
        for some in torch.split(unit, rows)
    ]
    return torch.cat(parts)


def _centre(output: Tensor) -> Tensor:
    for axis in range(output.dim() - 1, 1, -1):
        output = output.select(axis, output.shape[axis] // 2)
    return output


@torch.enable_grad()
def _window(segment: _Segment) -> Box:
    """Give the box (y0, x0, y1, x1) of the source that the target's centre reads, from a run with ``structure``."""
    leaf, centre = segment.leaf, _centre(segment.output)
    weights = torch.linspace(0.5, 1.5, centre.shape[1], dtype=centre.dtype, device=centre.device)
    (gradient,) = torch.autograd.grad((centre * weights).sum(), leaf, retain_graph=True)
    read = (gradient != 0).flatten(0, 1).any(0)
    rows, columns = read.any(1).nonzero(), read.any(0).nonzero()
    if len(rows) == 0:
        return 0, 0, *read.shape
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _covers(window: Box, segment: _Segment) -> bool:
    return window == (0, 0, *segment.leaf.shape[2:])


def _inside(segment: _Segment) -> bool:
    """Say whether the window is certain not to be clipped by the border of the map."""
    y0, x0, y1, x1 = _window(segment)
    h, w = segment.leaf.shape[2:]
    return min(y0, h - y1) >= min(y1 - y0, FARTHEST) and min(x0, w - x1) >= min(x1 - x0, FARTHEST)


def _size_needed(model: Model, run: Run, source: str, target: str) -> Size:
    """Give the smallest image whose map shows the whole window, the model's own where the network takes no other."""
    own = model.image_size
    natural = run(_grey(model, own), structure=True)
    if any(RULES[name] not in VALUELESS for name in natural.used & RULES.keys()):
        return own
    shapes = model.layer(source).shape[1:], model.layer(target).shape[1:]
    extent = _extent_by_fields(model, source, target)
    if extent is not None:
        for size in [*_sizes(own, *shapes, extent, largest=own), own, *_sizes(own, *shapes, extent, largest=None)]:
            if _shows(_try(model, run, size), extent):
                return size
    size, extent = _search(model, run, natural)
    trials = _sizes(own, *shapes, extent, largest=size)
    return next((trial for trial in trials if _shows(_try(model, run, trial), extent, with_border=True)), size)


def _search(model: Model, run: Run, natural: _Segment) -> tuple[Size, Size]:
    """Double the image until the window is certain to be whole; give the size and the window's extent."""
    size, segment = model.image_size, natural
    while not _inside(segment):
        size = 2 * size[0], 2 * size[1]
        larger = _try(model, run, size) if size[0] <= LARGEST * model.image_size[0] else None
        if larger is None or larger.output.shape == segment.output.shape:
            return model.image_size, _extent(_window(natural))
        segment = larger
    return size, _extent(_window(segment))


def _extent_by_fields(model: Model, source: str, target: str) -> Size | None:
    """Give how many positions of the source the target reads, by theory; None where that is not known."""
    narrow, wide = model.layer(source).field, model.layer(target).field
    if narrow is None or wide is None:
        return None
    y, x = ((b - a) // step + 1 for a, b, step in zip(narrow.size, wide.size, narrow.stride, strict=True))
    return y, x


def _shows(segment: _Segment | None, extent: Size, *, with_border: bool = False) -> bool:
    if segment is None:
        return False
    window = _window(segment)
    return _extent(window) == extent and not (with_border and _covers(window, segment))


def _try(model: Model, run: Run, size: Size) -> _Segment | None:
    """Run on an image of another size; None where the network takes none, or pools to a size of its own."""
    try:
        segment = run(_grey(model, size), structure=True)
    except NotImplementedError:
        raise
    except (
        RuntimeError,
        ValueError,
        AssertionError,
        IndexError,
    ):  # what networks of one size raise is their own choice
        return None
    adaptive = size != model.image_size and any(name.startswith("adaptive") for name in segment.used)
    return None if adaptive else segment


def _sizes(
    own: Size, source: Sequence[int], target: Sequence[int], extent: Size, *, largest: Size | None
) -> Iterator[Size]:
    """Give the sizes to try, growing: multiples of the target's stride around what the window covers in pixels."""
    for margin in (1, 2, 4):
        y, x = (
            -(-side // there) * (-(-wide * side // (here * -(-side // there))) + margin)
            for side, here, there, wide in zip(own, source, target, extent, strict=True)
        )
        if largest is None or (y < largest[0] and x < largest[1]):
            yield y, x


def _extent(window: Box) -> Size:
    return window[2] - window[0], window[3] - window[1]


def _cropped(jacobian: Tensor, window: Box) -> Tensor:
    y0, x0, y1, x1 = window
    return jacobian[:, :, y0:y1, x0:x1].contiguous()


def _summed(jacobian: Tensor) -> Tensor:
    return jacobian.flatten(2).sum(2)[:, :, None, None] if jacobian.dim() > 2 else jacobian[:, :, None, None]


def _leaves_behind(output: Tensor) -> Iterator[Any]:
    seen: set[Any] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield getattr(node, "variable", None)
        waiting += [parent for parent, _ in node.next_functions]


def _in_order(model: Model, layers: Iterable[str]) -> list[str]:
    if isinstance(layers, str):
        raise TypeError(f"layers are a list of names, not the text {layers!r}: write [{layers!r}]")
    names = [model.layer(name).name for name in layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"listed twice: {', '.join(twice)}; name every layer once")
    place = {layer.name: number for number, layer in enumerate(model.layers)}
    return sorted(names, key=place.__getitem__)


def _grey(model: Model, size: tuple[int, int]) -> Tensor:
    return torch.full((1, model.channels, *size), 0.5, dtype=model.dtype, device=model.device)


MAPS = {"nchw", "nhwc"}
