"""Inflow: what each channel below gives to one unit at chosen places of images, and the unit without some of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.wiring import flow
from features.activations import Edit
from features.models import Model, probe
from features.units import Unit

BATCH = 32  # images at once

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Inflow:
    """What ``u`` source units give to one unit on ``k`` images, each looked at in one place.

    ``sources`` (u,) are addresses; ``carried`` (k, u) is activation times gradient, summed over the positions of the
    source; ``places`` (k, u, 2) where in the source's map the centre of that (of its absolute values) lies, from the
    place that is looked at, down and right, in positions of the source; ``values`` (k,) are the unit's own.
    """

    sources: tuple[str, ...]
    carried: Floats
    places: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class Looked:
    """A unit, and where it is looked at: ``images`` (k, channels, h, w), ``position`` (k, 2).

    ``feeding`` are the layers of a graph that feed it. Each is held at what it is on these images, whatever happens to
    the others, so that an edge is what goes from one unit to another past no unit of a third layer.
    """

    model: Model
    unit: Unit
    feeding: tuple[str, ...]
    images: Tensor
    position: Integers

    @classmethod
    def at(cls, model: Model, unit: Unit, layers: Sequence[str], images: Tensor, position: Integers) -> Looked:
        """Look at ``unit`` in a graph of ``layers``; ``ValueError`` where none of them feeds it."""
        feeding = flow(model, layers)[unit.layer]
        if not feeding:
            raise ValueError(f"none of the layers {', '.join(layers)} feeds {unit.layer!r}: build the graph with more")
        return cls(model, unit, feeding, images, np.asarray(position, np.int64))

    def batches(self) -> Iterator[tuple[slice, Tensor]]:
        """Give the images in parts, as the network takes them, and which they are."""
        for start in range(0, len(self.images), BATCH):
            rows = slice(start, start + BATCH)
            yield rows, self.images[rows].to(device=self.model.device, dtype=self.model.dtype)

    def read(self, output: Tensor, rows: slice) -> Tensor:
        """Give the unit in its places, (n,), of what its layer gave."""
        wide = output.shape[3] if output.ndim == 4 else 1
        places = torch.from_numpy(self.position[rows] @ np.array([wide, 1])).to(output.device)
        own = output[:, self.unit.channel].reshape(len(output), -1)
        return own.gather(1, places[:, None])[:, 0]


def inflow(looked: Looked) -> Inflow:
    """Give what every channel of the feeding layers gives: ``sum over y, x of a[y, x] dz/da[y, x]``.

    ``z`` is the unit in its place; between the layers the network is as it is (ReLUs open or shut, the maxima of
    pools), so that of a unit whose feeding layer is one convolution below, contributions and bias add up to ``z``.
    """
    parts = [_inflow(looked, rows, images) for rows, images in looked.batches()]
    sources = [f"{name}:{i}" for name in looked.feeding for i in range(looked.model.layer(name).channels)]
    carried, places, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Inflow(tuple(sources), carried, places, values)


def without(looked: Looked, removed: Sequence[str]) -> Floats:
    """Give the unit in its places, (k,), with the edges from the ``removed`` source units cut: it reads 0 from them.

    The network is run again: the feeding layers get these channels at 0 and all others as they were, so that nothing
    but this unit's (and its neighbours') reading of them changes; neighbours are not looked at.
    """
    channels: dict[str, list[int]] = {name: [] for name in looked.feeding}
    for unit in map(Unit.of, removed):
        if unit.layer not in channels:
            raise ValueError(f"{str(unit)!r} feeds {str(looked.unit)!r} by no edge: {', '.join(channels)} do")
        channels[unit.layer].append(unit.channel)
    return np.concatenate([_without(looked, channels, rows, images) for rows, images in looked.batches()])


@torch.enable_grad()
def _inflow(looked: Looked, rows: slice, images: Tensor) -> tuple[Floats, Floats, Floats]:
    leaves: dict[str, Tensor] = {}

    def leaf(name: str, value: Tensor) -> Tensor:
        leaves[name] = value.detach().clone().requires_grad_()
        return leaves[name].clone()

    edits: dict[str, Edit] = {name: functools.partial(leaf, name) for name in looked.feeding}
    with probe(looked.model, [looked.unit.layer], edits=edits) as activations:
        looked.model(images)
        output = activations[looked.unit.layer]
        values = looked.read(output, rows)
        gradients = torch.autograd.grad(values.sum(), [leaves[name] for name in looked.feeding])
    maps = [leaves[name].detach() * gradient for name, gradient in zip(looked.feeding, gradients, strict=True)]
    height, width = _extent(output)
    at = (looked.position[rows] + 0.5) / [height, width]
    carried = torch.cat([each.reshape(*each.shape[:2], -1).double().sum(2) for each in maps], 1)
    return carried.cpu().numpy(), np.concatenate([_centres(each, at) for each in maps], 1), _array(values)


def _centres(maps: Tensor, at: Floats) -> Floats:
    """Give where the mass of each map (n, c, h, w) lies, (n, c, 2), from the places ``at`` (n, 2) in parts of 1."""
    height, width = _extent(maps)
    mass = maps.abs().double().reshape(*maps.shape[:2], height, width).cpu().numpy()
    total = np.maximum(mass.sum((2, 3)), np.finfo(np.float64).tiny)
    y = (mass.sum(3) @ np.arange(height)) / total - (at[:, :1] * height - 0.5)
    x = (mass.sum(2) @ np.arange(width)) / total - (at[:, 1:] * width - 0.5)
    return np.where((mass.sum((2, 3)) > 0)[:, :, None], np.stack([y, x], 2), 0.0)


def _extent(maps: Tensor) -> tuple[int, int]:
    """Give rows and columns; of tokens their number and 1, of a layer without positions 1 and 1."""
    rows, columns = (*maps.shape[2:], 1, 1)[:2]
    return int(rows), int(columns)


def _without(looked: Looked, channels: Mapping[str, list[int]], rows: slice, images: Tensor) -> Floats:
    with torch.no_grad():
        with probe(looked.model, looked.feeding) as activations:
            looked.model(images)
            kept = {name: activations[name].clone() for name in looked.feeding}
        for name, removed in channels.items():
            kept[name][:, removed] = 0
        edits: dict[str, Edit] = {name: functools.partial(_put, value) for name, value in kept.items()}
        with probe(looked.model, [looked.unit.layer], edits=edits) as activations:
            looked.model(images)
            return _array(looked.read(activations[looked.unit.layer], rows))


def _put(value: Tensor, _: Tensor) -> Tensor:
    return value


def _array(values: Tensor) -> Floats:
    return values.detach().double().cpu().numpy()
