"""Which layer feeds which, and the linear map between two layers: what autograd says of the network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from circuits.wiring.crops import (
    Box,
    Size,
    connect_by_autograd,
    covers,
    extent_by_fields,
    size_needed,
    summed,
    window_read,
    with_room,
)
from circuits.wiring.phases import averaged, over_place, period
from circuits.wiring.pulls import Pull, UnboundedError, hull
from circuits.wiring.reading import Found, Plan, agrees, kinds, plan, position, read, window_of
from circuits.wiring.rules import RULES, VALUELESS
from circuits.wiring.segments import (
    Edit,
    Rules,
    Segment,
    check_linear,
    default_rules,
    grey,
    leaves_behind,
    run,
    run_all,
)
from features.models import Model, probe

Phases = Literal["centre", "mean"]
Run = Callable[..., Segment]


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
        model(grey(model))
    names = {id(leaf): name for name, leaf in leaves.items()}
    reached = {name: {names.get(id(leaf)) for leaf in leaves_behind(outputs[name])} for name in ordered}
    return {name: tuple(source for source in ordered if source in reached[name]) for name in ordered}


def connect(
    model: Model,
    source: str,
    target: str,
    *,
    cut: Collection[str] = (),
    images: Tensor | None = None,
    phases: Phases = "centre",
) -> Tensor:
    """Give the linear map from layer ``source`` to layer ``target``: weights ``(o, i, kh, kw)``.

    ``weights[o, i, y, x]`` is the derivative of channel ``o`` of the target, at its central position ``(h // 2, w
    // 2)``, to channel ``i`` of the source at ``(y, x)`` in the window that this position reads, with the network
    made linear by `RULES`: ReLU and its kin pass everything, max pooling averages, gates and attention patterns are
    frozen, denominators are frozen; batch norm is affine already. These are the expanded weights of Voss et al.
    (2021, "Visualizing Weights"); between adjacent convolutions they are the weights of the second times its batch
    norm, in torch's orientation (cross-correlation).

    *Window.* As large as the receptive field of the target in the source, so odd and centred for odd kernels of stride
    1, and measured away from borders, as if maps went on without end: the window may be larger than the map. Where an
    operation knows where it is (a denominator frozen at one place, a reshape into tokens) that has no meaning, and the
    window is cut off by the map's border; where only the size of the image is in the way, on an image as large as the
    window needs. *Flattened maps.* Behind a flattening layer (VGG, AlexNet) each place has weights of its own: ``kh``
    and ``kw`` are the source's whole map. *No window.* Where the source or the target are tokens, or the target reads
    the whole of a map that was pooled (a class behind global pooling), ``kh = kw = 1`` and the weight is the sum over
    the source's positions: what a change of the channel everywhere does. For tokens the target is the token in the
    middle.

    *Strides.* All positions of a strided target read the same window, each from its own corner. Where the target is
    finer than its source, or something on the way is coarser than the target (upsampling, a U), positions come in
    several kinds, the phases: ``"centre"`` gives the window of the central position, ``"mean"`` the average over all
    positions of one period, each window shifted with its position (for windows that depend on frozen values, at the
    positions around the centre).

    ``cut`` names layers held fixed, so that only paths around them count. ``images``, ``(n, channels, h, w)`` in
    [0, 1], say where the frozen values are taken, else one grey image; the result is then the mean over them, on their
    maps as they are, borders included. A weight of the model that is infinite or NaN makes NaN of those numbers that
    are reached through it and leaves all others. What is given is what autograd's own backward pass gives: a random
    mixture of channels is compared with it before anything is read, at the cost of one backward pass. For many pairs
    use `connections`.

    Raises ``ValueError`` for unknown layers or phases, when the source does not feed the target or only through frozen
    operations, and for a mean over phases that do not repeat; ``NotImplementedError`` for an operation that is neither
    linear nor in `RULES`, with the line that registers it.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> weights = connect(model, "conv2d1", "conv2d2")
    >>> block = model.net.conv2d2
    >>> scale = block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt()
    >>> torch.allclose(weights, block.conv.weight * scale[:, None, None, None], atol=1e-5)
    True
    """
    return kernels_with(model, source, target, cut=cut, images=images, phases=phases)


def kernels_with(
    model: Model,
    source: str,
    target: str,
    *,
    cut: Collection[str] = (),
    images: Tensor | None = None,
    rules: Rules = default_rules,
    phases: Phases = "centre",
) -> Tensor:
    """Give what `connect` gives, in the same window, with other rules than `RULES`: ``rules()`` makes those of one run.

    They are asked for anew for each run whose derivative is taken, so that a rule may count its calls.
    """
    if phases not in PHASES:
        raise ValueError(f"phases is {phases!r}: say one of {', '.join(map(repr, PHASES))}")
    if source == target:
        raise ValueError(f"source and target are both {source!r}: name two layers")
    held = tuple(model.layer(name).name for name in cut if name not in {source, target})
    model.layer(source)
    ran = functools.partial(run, model, source, target, held, rules=rules)
    return _connected(model, ran, source, target, images, phases)


def connections(model: Model, layers: Sequence[str]) -> Iterator[tuple[str, str, Tensor]]:
    """Give ``(source, target, weights)`` for every pair that `flow` names, with the other listed layers held fixed.

    Targets come in order of execution, and for each its sources in order. The weights are those of ``connect(model,
    source, target, cut=layers)``, from one run of the network for all pairs, so this is what to use for more than one.
    Errors are those of `flow` and `connect`.

    >>> from features.models import load_model
    >>> for source, target, weights in connections(load_model("sketches"), ["conv2d0", "conv2d1", "conv2d2"]):
    ...     print(source, target, tuple(weights.shape[2:]))
    conv2d0 conv2d1 (1, 1)
    conv2d1 conv2d2 (3, 3)
    """
    ordered = _in_order(model, layers)
    segments = run_all(model, ordered, grey(model))
    checked: set[tuple[Any, ...]] = set()
    for target in ordered:
        segment = segments.pop(target)
        found = _read_together(model, target, segment, checked) if segment.leaves else {}
        for source in segment.leaves:
            held = [name for name in ordered if name not in {source, target}]
            # No name holds the weights here: they can be gigabytes, and are the caller's.
            yield source, target, found.pop(source) if source in found else connect(model, source, target, cut=held)


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
    segment = run(model, source, target, held, images)
    with torch.enable_grad():
        rows = torch.zeros_like(segment.output, requires_grad=True)
        (pulled,) = torch.autograd.grad(segment.output, segment.leaf, rows, create_graph=True)

    def push(change: Tensor) -> Tensor:
        """Transpose the transposed map: the derivative of ``rows -> J^T rows`` along ``change`` is ``J change``."""
        return torch.autograd.grad(pulled, rows, change, retain_graph=True)[0]

    return push


def _read_together(model: Model, target: str, segment: Segment, checked: set[tuple[Any, ...]]) -> dict[str, Tensor]:
    """Read all sources of one target from a run that they share; what needs a run of its own is left out.

    ``checked`` are the kinds of operations that were already seen to agree with autograd.
    """
    try:
        check_linear(segment)
    except NotImplementedError:  # a product of two sources, which is linear in each
        return {}
    planned, place = plan(segment), position(segment.output)
    met = kinds(planned)
    if not met <= checked and not agrees(planned, place):
        return {}
    checked |= met
    bounded = _bounded(model, list(segment.leaves), target)
    try:
        if _loose(model, target, planned, place, bounded=bounded):
            return {}
        return _read(model, target, planned, place, bounded=bounded)
    except UnboundedError:
        if all(rule in VALUELESS for rule in planned.rules()) or _loose(model, target, planned, place, bounded=True):
            return {}
        return _read(model, target, planned, place, bounded=True)


def _connected(model: Model, ran: Run, source: str, target: str, images: Tensor | None, phases: Phases) -> Tensor:
    segment = ran(grey(model) if images is None else images)
    planned, place = plan(segment), position(segment.output)
    bounded = images is not None or _bounded(model, [source], target)
    if not agrees(planned, place):
        return _by_autograd(model, ran, source, target, images, planned)
    give = _read if phases == "centre" else _mean_over_phases
    try:
        if not _loose(model, target, planned, place, bounded=bounded):
            return give(model, target, planned, place, bounded=bounded)[source]
    except UnboundedError:
        pass
    return _connected_on_a_map(model, ran, source, target, images, segment, phases)


def _connected_on_a_map(
    model: Model, ran: Run, source: str, target: str, images: Tensor | None, segment: Segment, phases: Phases
) -> Tensor:
    """Read what has to know where borders are, on the smallest image that shows the whole window."""
    if images is None:
        values = any(RULES[name] not in VALUELESS for name in segment.used & RULES.keys())
        size = model.image_size if values else size_needed(model, ran, source, target)
        images = grey(model, with_room(model, ran, size) if phases == "mean" and not values else size)
        segment = ran(images)
    planned, place = plan(segment), position(segment.output)
    if phases == "mean":
        return _mean_over_phases(model, target, planned, place, bounded=True)[source]
    found = _found(model, target, planned, place, bounded=True)[source]
    if found.total or not _loose(model, target, planned, place, bounded=True):
        return _with_two_axes(found.kernels)
    window = window_read(ran(images, structure=True))
    if covers(window, segment) and _extent(window) != extent_by_fields(model, source, target):
        return summed(found.kernels)
    y, x = window[0] - found.start[0], window[1] - found.start[1]
    return found.kernels[:, :, y : y + window[2] - window[0], x : x + window[3] - window[1]].contiguous()


def _extent(window: Box) -> Size:
    return window[2] - window[0], window[3] - window[1]


def _loose(model: Model, target: str, planned: Plan, place: Sequence[int], *, bounded: bool) -> bool:
    """Say whether boxes were filled up on the way to a map, so that they are larger than what is read."""
    if model.layer(target).layout not in MAPS:
        return False
    return any(pull.grown for pulls in window_of(planned, place, bounded=bounded).values() for pull in pulls)


def _by_autograd(model: Model, ran: Run, source: str, target: str, images: Tensor | None, planned: Plan) -> Tensor:
    """Take autograd's own backward pass: here it says something else than reading by boxes does."""
    flat = _bounded(model, [source], target)
    pulls = window_of(planned, position(planned.segment.output), bounded=True)[source] if flat else []
    total = _total(model, target, planned, source, pulls, bounded=True) if flat else None
    return connect_by_autograd(model, ran, source, target, images, total=total)


def _bounded(model: Model, sources: Sequence[str], target: str) -> bool:
    """Say whether the map's border counts: where a layer is no map there is no other to measure away from it."""
    return not all(model.layer(name).layout in MAPS for name in [*sources, target])


def _read(model: Model, target: str, planned: Plan, place: Sequence[int], *, bounded: bool) -> dict[str, Tensor]:
    found = _found(model, target, planned, place, bounded=bounded)
    return {name: _with_two_axes(each.kernels) for name, each in found.items()}


def _found(model: Model, target: str, planned: Plan, place: Sequence[int], *, bounded: bool) -> dict[str, Found]:
    total = functools.partial(_total, model, target, planned, bounded=bounded)
    return read(planned, place, bounded=bounded, total=total)


def _total(model: Model, target: str, planned: Plan, source: str, pulls: Sequence[Pull], *, bounded: bool) -> bool:
    """Say whether the weights have no window, and are summed over the source's positions."""
    if model.layer(source).layout not in MAPS:
        return True
    if model.layer(target).layout not in MAPS:
        return model.layer(target).layout != "nc" or any(pull.pooled for pull in pulls)
    start, stop = hull(pulls)
    whole = (start[2:], stop[2:]) == ((0, 0), tuple(planned.segment.leaves[source].shape[2:]))
    extent = stop[2] - start[2], stop[3] - start[3]
    return bounded and whole and extent != extent_by_fields(model, source, target)


def _with_two_axes(kernels: Tensor) -> Tensor:
    return kernels if kernels.dim() == 4 else kernels.reshape(*kernels.shape[:2], 1, 1)


def _mean_over_phases(
    model: Model, target: str, planned: Plan, place: Sequence[int], *, bounded: bool
) -> dict[str, Tensor]:
    """Average the windows of all positions of one period, each shifted by as much as its position is."""
    if len(place) != 2:
        return _read(model, target, planned, place, bounded=bounded)
    periods = [period(planned, place, axis, bounded=bounded) for axis in (0, 1)]
    first = [at - at % length for at, (length, _) in zip(place, periods, strict=True)]
    parts: dict[str, list[tuple[Tensor, Size]]] = {}
    for y in range(periods[0][0]):
        for x in range(periods[1][0]):
            there = (first[0] + y, first[1] + x)
            for name, each in _found(model, target, planned, there, bounded=bounded).items():
                over = [over_place(at, *periods[axis]) for axis, at in enumerate(there)]
                corner = (0, 0) if each.total else (each.start[0] - over[0], each.start[1] - over[1])
                parts.setdefault(name, []).append((_with_two_axes(each.kernels), corner))
    return {name: averaged(windows) for name, windows in parts.items()}


def _in_order(model: Model, layers: Iterable[str]) -> list[str]:
    if isinstance(layers, str):
        raise TypeError(f"layers are a list of names, not the text {layers!r}: write [{layers!r}]")
    names = [model.layer(name).name for name in layers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"listed twice: {', '.join(twice)}; name every layer once")
    place = {layer.name: number for number, layer in enumerate(model.layers)}
    return sorted(names, key=place.__getitem__)


MAPS = {"nchw", "nhwc"}
PHASES: tuple[Phases, ...] = ("centre", "mean")
