"""Crops: the Jacobian by autograd's own backward pass, on the smallest image that shows the whole window.

The slow way, for what `circuits.wiring.reading` cannot read by itself; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from circuits.wiring.rules import RULES, VALUELESS
from circuits.wiring.segments import Segment, grey
from features.models import Model

Box = tuple[int, int, int, int]
Size = tuple[int, int]
Run = Callable[..., Segment]

ROWS = 2**25  # numbers of source gradients that one batched backward pass gives at once: 128 MB in float32
ROOM = 3  # times the smallest image that shows one window: the windows of a whole period lie beside the middle one
LARGEST = 8  # times the model's own image side, before a target that still reads everything is taken to read everything
FARTHEST = 32  # a dilated kernel may hide behind the border as far as this many positions


def connect_by_autograd(
    model: Model, run: Run, source: str, target: str, images: Tensor | None, *, total: bool | None = None
) -> Tensor:
    """Give what `circuits.wiring.connect` gives, by batched backward passes on whole maps; ``run`` runs the segment.

    ``total`` says whether weights are summed over the source's positions; ``None`` where the window decides.
    """
    if total is not None:
        jacobian = jacobian_by_autograd(run(grey(model) if images is None else images))
        return summed(jacobian) if total else jacobian
    images = grey(model, size_needed(model, run, source, target)) if images is None else images
    segment = run(images, structure=True)
    window = window_read(segment)
    jacobian = jacobian_by_autograd(run(images))
    everything = covers(window, segment) and _extent(window) != extent_by_fields(model, source, target)
    return summed(jacobian) if everything else _cropped(jacobian, window)


@torch.enable_grad()
def jacobian_by_autograd(segment: Segment) -> Tensor:
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
def window_read(segment: Segment) -> Box:
    """Give the box (y0, x0, y1, x1) of the source that the target's centre reads, from a run with ``structure``."""
    leaf, centre = segment.leaf, _centre(segment.output)
    weights = torch.linspace(0.5, 1.5, centre.shape[1], dtype=centre.dtype, device=centre.device)
    (gradient,) = torch.autograd.grad((centre * weights).sum(), leaf, retain_graph=True)
    read = (gradient != 0).flatten(0, 1).any(0)
    rows, columns = read.any(1).nonzero(), read.any(0).nonzero()
    if len(rows) == 0:
        return 0, 0, *read.shape
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def covers(window: Box, segment: Segment) -> bool:
    """Say whether a window is the whole map of the source."""
    return window == (0, 0, *segment.leaf.shape[2:])


def _inside(segment: Segment) -> bool:
    """Say whether the window is certain not to be clipped by the border of the map."""
    y0, x0, y1, x1 = window_read(segment)
    h, w = segment.leaf.shape[2:]
    return min(y0, h - y1) >= min(y1 - y0, FARTHEST) and min(x0, w - x1) >= min(x1 - x0, FARTHEST)


def size_needed(model: Model, run: Run, source: str, target: str) -> Size:
    """Give the smallest image whose map shows the whole window, the model's own where the network takes no other."""
    own = model.image_size
    natural = run(grey(model, own), structure=True)
    if any(RULES[name] not in VALUELESS for name in natural.used & RULES.keys()):
        return own
    shapes = model.layer(source).shape[1:], model.layer(target).shape[1:]
    extent = extent_by_fields(model, source, target)
    if extent is not None:
        for size in [*_sizes(own, *shapes, extent, largest=own), own, *_sizes(own, *shapes, extent, largest=None)]:
            if _shows(_try(model, run, size), extent):
                return size
    size, extent = _search(model, run, natural)
    trials = _sizes(own, *shapes, extent, largest=size)
    return next((trial for trial in trials if _shows(_try(model, run, trial), extent, with_border=True)), size)


def with_room(model: Model, run: Run, size: Size) -> Size:
    """Give a larger size, at which neighbouring positions show their whole windows too; the given one for no other."""
    own = model.image_size
    larger = max(own[0], ROOM * size[0]), max(own[1], ROOM * size[1])
    return size if _try(model, run, larger) is None else larger


def _search(model: Model, run: Run, natural: Segment) -> tuple[Size, Size]:
    """Double the image until the window is certain to be whole; give the size and the window's extent."""
    size, segment = model.image_size, natural
    while not _inside(segment):
        size = 2 * size[0], 2 * size[1]
        larger = _try(model, run, size) if size[0] <= LARGEST * model.image_size[0] else None
        if larger is None or larger.output.shape == segment.output.shape:
            return model.image_size, _extent(window_read(natural))
        segment = larger
    return size, _extent(window_read(segment))


def extent_by_fields(model: Model, source: str, target: str) -> Size | None:
    """Give how many positions of the source the target reads, by theory; None where that is not known."""
    narrow, wide = model.layer(source).field, model.layer(target).field
    if narrow is None or wide is None:
        return None
    y, x = ((b - a) // step + 1 for a, b, step in zip(narrow.size, wide.size, narrow.stride, strict=True))
    return y, x


def _shows(segment: Segment | None, extent: Size, *, with_border: bool = False) -> bool:
    if segment is None:
        return False
    window = window_read(segment)
    return _extent(window) == extent and not (with_border and covers(window, segment))


def _try(model: Model, run: Run, size: Size) -> Segment | None:
    """Run on an image of another size; None where the network takes none, or pools to a size of its own."""
    try:
        segment = run(grey(model, size), structure=True)
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


def summed(jacobian: Tensor) -> Tensor:
    """Sum over the source's positions, and keep two axes of one position in their place."""
    return jacobian.flatten(2).sum(2)[:, :, None, None] if jacobian.dim() > 2 else jacobian[:, :, None, None]
