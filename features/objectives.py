"""Objectives: what a picture is made to maximize; channel, neuron, direction, energy, logit and ``+ - *``."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from features.activations import nearest
from features.models import Model
from features.units import Unit

Score: TypeAlias = Callable[[Mapping[str, Tensor]], Tensor]
Position: TypeAlias = tuple[int, ...]

# Below this cosine a direction's factor stays constant, so that a picture which points the wrong way still has a
# gradient (lucid, objectives.py, `_dot_cossim`).
LEAST_COSINE = 0.1


@dataclass(frozen=True)
class Objective:
    """A number for each image, read from activations, that a picture is made to maximize.

    ``score(activations)`` gets a mapping from layer to a tensor with channels first, ``(n, c, h, w)``, ``(n, c, t)`` or
    ``(n, c)``, and gives ``(n,)``: the score of image i may depend on image i alone. ``layers`` are those that it reads
    and ``name`` is what it is called in results. Objectives add, subtract and multiply with each other and with
    numbers, image by image; the result is an objective whose name says so. ``unit`` is set on the objective `channel`
    makes, so that many of one layer are read at once.

    >>> wanted = channel("mixed3a:1") - 0.5 * channel("mixed4a:2")
    >>> wanted.name, wanted.layers
    ('mixed3a:1 - 0.5 * mixed4a:2', ('mixed3a', 'mixed4a'))
    >>> wanted.score({"mixed3a": torch.ones(2, 4, 5, 5), "mixed4a": torch.ones(2, 4, 3, 3)})
    tensor([0.5000, 0.5000])
    """

    score: Score
    layers: tuple[str, ...]
    name: str
    unit: Unit | None = None

    def __add__(self, other: Objective | float) -> Objective:
        return _combined(operator.add, self, other, "{} + {}")

    def __radd__(self, other: float) -> Objective:
        return _combined(operator.add, other, self, "{} + {}")

    def __sub__(self, other: Objective | float) -> Objective:
        return _combined(operator.sub, self, other, "{} - {}", closed="right")

    def __rsub__(self, other: float) -> Objective:
        return _combined(operator.sub, other, self, "{} - {}", closed="right")

    def __mul__(self, other: Objective | float) -> Objective:
        return _combined(operator.mul, self, other, "{} * {}", closed="both")

    def __rmul__(self, other: float) -> Objective:
        return _combined(operator.mul, other, self, "{} * {}", closed="both")

    def __neg__(self) -> Objective:
        return Objective(lambda activations: -self.score(activations), self.layers, f"-{_closed(self.name)}")


def channel(unit: Unit | str) -> Objective:
    """The mean activation of one channel over all positions, ``mean_yx a[c, y, x]``; at a layer without positions its
    value.

    Raises ``ValueError`` for text that is no unit, and, when it is read, for a channel that the layer does not have.

    >>> channel("mixed3a:3").score({"mixed3a": torch.ones(2, 8, 4, 4)})
    tensor([1., 1.])
    """
    unit = Unit.of(unit)

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values = _of_channel(activations, unit)
        return values.reshape(len(values), -1).mean(1)

    return Objective(score, (unit.layer,), str(unit), unit)


def neuron(unit: Unit | str, position: Position | None = None) -> Objective:
    """The activation of one channel at one position, ``a[c, y, x]``: rows first, ``(y, x)`` counted from 0; ``(t,)``
    for tokens.

    Without a position the one at the centre, ``(h // 2, w // 2)``. Raises ``ValueError``, when it is read, for a
    position that the layer does not have.

    >>> neuron("mixed3a:3", (0, 2)).name
    'mixed3a:3 at (0, 2)'
    >>> ramp = torch.arange(15.0).reshape(1, 1, 3, 5)
    >>> neuron("conv:0", (0, 2)).score({"conv": ramp}), neuron("conv:0").score({"conv": ramp})
    (tensor([2.]), tensor([7.]))
    """
    unit = Unit.of(unit)
    place = None if position is None else _whole(position)

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values = _of_channel(activations, unit)
        shape = tuple(values.shape[1:])
        where: Position = tuple(length // 2 for length in shape) if place is None else place
        if len(where) != len(shape) or any(not 0 <= at < length for at, length in zip(where, shape, strict=False)):
            size = " x ".join(map(str, shape)) if shape else "no"
            raise ValueError(
                f"no position {where} in layer {unit.layer!r}: it has {size} positions, counted from 0, rows first"
            )
        return values[(slice(None), *where)]  # type: ignore[index]

    return Objective(score, (unit.layer,), f"{unit} at {'the centre' if place is None else place}")


def direction(layer: str, vector: ArrayLike, *, cosine: float = 0.0) -> Objective:
    """How far the activation vectors of ``layer`` go along ``vector``: the mean over positions of ``(a · v) max(0.1,
    cos(a, v))^p``.

    ``vector`` has one number per channel and ``cosine`` is the power ``p``: 0 is the plain dot product, higher powers
    ask more and more that the activations point that way and no other (Carter et al. 2019, "Activation Atlas"). The
    name carries six digits of the vector's digest, so that two directions have two names.

    >>> direction("mixed3a", [0.0, 2.0]).score({"mixed3a": torch.ones(1, 2, 4, 4)})
    tensor([2.])
    """
    array = np.asarray(vector, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or not array.any():
        raise ValueError(f"a direction is finite numbers, one per channel, not all 0, and this has shape {array.shape}")
    if not cosine >= 0:
        raise ValueError(f"the power of the cosine is {cosine}: give 0 (the plain dot product) or more")
    along = torch.from_numpy(array)
    mark = hashlib.sha256(array.tobytes()).hexdigest()[:6]
    power = f" * cos^{cosine:g}" if cosine else ""

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values = activations[layer]
        if values.shape[1] != len(along):
            raise ValueError(
                f"the direction has {len(along)} numbers, and layer {layer!r} has {values.shape[1]} channels"
            )
        dot = torch.einsum("nc...,c->n...", values, along.to(values))
        if cosine:
            lengths = values.norm(dim=1) * float(along.norm())
            dot = dot * (dot / lengths.clamp(min=1e-12)).clamp(min=LEAST_COSINE) ** cosine
        return dot.reshape(len(values), -1).mean(1)

    return Objective(score, (layer,), f"{layer} direction {mark}{power}")


def energy(layer: str) -> Objective:
    """All of a layer at once: the mean of its squared activations (DeepDream, Mordvintsev et al. 2015).

    >>> energy("mixed3a").score({"mixed3a": torch.full((1, 2, 4, 4), 3.0)})
    tensor([9.])
    """
    return Objective(lambda activations: activations[layer].square().flatten(1).mean(1), (layer,), f"energy of {layer}")


def logit(model: Model, label: int | str) -> Objective:
    """The score of one class before the softmax, the class given by its number or its label: a channel of the last
    layer.

    Raises ``ValueError`` for a label that the model does not have, or has twice, and for a network that does not end in
    one number per class.

    >>> from features.models import load_model
    >>> logit(load_model("sketches"), 3).name
    'logits:3'
    """
    output = model.layers[-1]
    if len(output.shape) != 1:
        raise ValueError(
            f"{model.name} ends in {output.name!r} of shape {output.shape}, which is not one number per class"
        )
    if not isinstance(label, str):
        return channel(model.unit(Unit(output.name, label)))
    found = [index for index, known in enumerate(model.labels) if known == label]
    if not found and not model.labels:
        raise ValueError(f"{model.name} has no labels: give the number of the class, 0 to {output.channels - 1}")
    if not found:
        raise ValueError(nearest(label, model.labels, what="label", listing="model.labels"))
    if len(found) > 1:
        raise ValueError(f"the label {label!r} belongs to the classes {found}: give the number of one")
    return channel(model.unit(Unit(output.name, found[0])))


def together(objectives: Sequence[Objective]) -> Score:
    """Give the score of a batch in which image i is scored by objective i alone.

    The channels of one layer are read in a single gather, whatever their number; every other objective sees its own
    image only.

    >>> score = together([channel("conv:0"), channel("conv:1"), energy("conv")])
    >>> score({"conv": torch.arange(6.0).reshape(3, 2, 1, 1)})
    tensor([ 0.0000,  3.0000, 20.5000])
    """
    gathered: dict[str, list[int]] = {}
    for index, objective in enumerate(objectives):
        if objective.unit is not None:
            gathered.setdefault(objective.unit.layer, []).append(index)
    alone = [index for index, objective in enumerate(objectives) if objective.unit is None]
    order = [*(index for indexes in gathered.values() for index in indexes), *alone]
    back = torch.tensor(order).argsort()

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        parts = [_gather(activations[layer], indexes, objectives) for layer, indexes in gathered.items()]
        if alone:
            wanted = {layer for index in alone for layer in objectives[index].layers}
            single = {layer: torch.split(activations[layer], 1) for layer in sorted(wanted)}
            parts += [_one(objectives[index], {name: each[index] for name, each in single.items()}) for index in alone]
        joined = torch.cat(parts)
        return joined[back.to(joined.device)]

    return score


def _gather(values: Tensor, indexes: list[int], objectives: Sequence[Objective]) -> Tensor:
    units = [objectives[index].unit for index in indexes]
    channels = [_checked(unit, values) for unit in units if unit is not None]
    return values[indexes, channels].reshape(len(indexes), -1).mean(1)


def _one(objective: Objective, activations: Mapping[str, Tensor]) -> Tensor:
    score = objective.score(activations)
    if not isinstance(score, Tensor) or score.shape != (1,):
        given = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise ValueError(
            f"the objective {objective.name!r} gave {given} for one image: give one number per image, (n,)"
        )
    return score


def _of_channel(activations: Mapping[str, Tensor], unit: Unit) -> Tensor:
    values = activations[unit.layer]
    return values[:, _checked(unit, values)]


def _checked(unit: Unit, values: Tensor) -> int:
    if unit.channel >= values.shape[1]:
        count = values.shape[1]
        raise ValueError(
            f"no channel {unit.channel} in layer {unit.layer!r}: it has {count} channels (0 to {count - 1})"
        )
    return unit.channel


def _whole(position: Iterable[int]) -> Position:
    try:
        place = tuple(operator.index(at) for at in position)
    except TypeError:
        raise TypeError(f"a position is whole numbers, (y, x) or (t,), not {position!r}") from None
    if any(at < 0 for at in place):
        raise ValueError(f"positions count from 0, so {place} is none")
    return place


def _combined(
    operate: Callable[[Tensor | float, Tensor | float], Tensor],
    left: Objective | float,
    right: Objective | float,
    form: str,
    *,
    closed: str = "",
) -> Objective:
    sides = (left, right)
    if any(not isinstance(side, (Objective, int, float)) or isinstance(side, bool) for side in sides):
        return NotImplemented  # type: ignore[no-any-return]

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        return operate(*(side.score(activations) if isinstance(side, Objective) else side for side in sides))

    names = [side.name if isinstance(side, Objective) else f"{side:.9g}" for side in sides]
    names[0] = _closed(names[0]) if closed == "both" else names[0]
    names[1] = _closed(names[1]) if closed else names[1]
    layers = tuple(dict.fromkeys(layer for side in sides if isinstance(side, Objective) for layer in side.layers))
    return Objective(score, layers, form.format(*names))


def _closed(name: str) -> str:
    return f"({name})" if " + " in name or " - " in name else name
