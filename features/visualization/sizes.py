"""Sizes: which pictures a network takes, and how large a picture a unit needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from features.models import Model, probe
from features.objectives import INPUT
from features.units import Unit

Size = tuple[int, int]

MARGIN = 1.5  # sides of the receptive field that a canvas has: the unit's whole pattern, and room to move it
MULTIPLE = 16  # pixels; sides that strides divide leave nothing at the border unseen
SMALLEST = 32  # pixels


def canvas(model: Model, units: Unit | str | Sequence[Unit | str]) -> Size:
    """Give the size ``(h, w)`` of a picture that has room for what ``units`` can see, and no more.

    One and a half times the largest receptive field, to the next multiple of 16, at least 32 and at most the network's
    own size, which it also is where a unit sees the whole picture or the network takes no other size. A picture's cost
    goes with its area: of 224 px torchvision's GoogLeNet needs 32 for conv3, 80 for inception3a and 96 for inception3b,
    at 0.05, 0.15 and 0.18 of the time per step, and all from inception4a on (`tests/benchmarks/visualization.py --only
    canvas`). Use it as ``visualize(model, unit, image=fourier(canvas(model, unit)))``.

    >>> from features.models import load_model
    >>> canvas(load_model("sketches"), "conv2d0:3")
    (32, 32)
    """
    wanted = [units] if isinstance(units, (Unit, str)) else list(units)
    layers = list(dict.fromkeys(model.unit(unit).layer for unit in wanted))
    if not layers:
        raise ValueError("a canvas for no unit: give a unit such as 'mixed3a:3', or a list of them")
    fields = [model.layer(layer).field for layer in layers]
    if any(field is None for field in fields):
        return model.image_size
    height, width = (
        _side(max(field.size[axis] for field in fields if field), model.image_size[axis]) for axis in (0, 1)
    )
    size = (height, width)
    return size if takes(model, layers, size) else model.image_size


def takes(model: Model, layers: Sequence[str], size: Size) -> bool:
    """Say whether ``model`` can be shown pictures of ``size`` as far as ``layers``."""
    names = [layer for layer in layers if layer != INPUT]
    images = torch.full((1, model.channels, *size), 0.5, dtype=model.dtype, device=model.device)
    try:
        with torch.no_grad(), probe(model, names or [model.layers[0].name]):
            model(images)
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def least_size(model: Model, layers: Sequence[str], size: Size) -> Size | None:
    """Give the smallest size, larger than ``size`` and of its shape, that ``model`` takes as far as ``layers``; tried
    out.

    ``None`` where the network takes none whose shorter side is a pixel longer than its own longer one.
    """
    low, high = min(size), max(model.image_size) + 1

    def scaled(side: int) -> Size:
        return round(size[0] * side / min(size)), round(size[1] * side / min(size))

    if high <= low or not takes(model, layers, scaled(high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(model, layers, scaled(middle)) else (middle, high)
    return scaled(high)


def spelled(size: int | Sequence[int] | None) -> Size | None:
    """Give ``size`` as ``(h, w)``; ``None`` stays. Raises ``ValueError`` for what is neither a side nor a pair."""
    if size is None:
        return None
    pair = [size, size] if isinstance(size, int) else list(size)
    if len(pair) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in pair):
        raise ValueError(f"the size {size!r} is none: give a side or (h, w), in whole pixels above 0")
    return pair[0], pair[1]


def _side(field: int, most: int) -> int:
    return min(most, max(SMALLEST, MULTIPLE * math.ceil(MARGIN * field / MULTIPLE)))
