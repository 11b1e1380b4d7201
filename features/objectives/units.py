"""Objectives about units: channel, neuron, logit, the energy of a layer, and a unit through chosen others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from features.activations import nearest
from features.models import Model
from features.objectives.algebra import Edit, Objective
from features.objectives.places import Position, at, checked, of_channel, reading, spelled, whole
from features.units import Unit


def channel(unit: Unit | str) -> Objective:
    """The mean activation of one channel over all positions, ``mean_yx a[c, y, x]``; at a layer without positions its
    value.

    Over tokens it is the mean of all, the class token too (one of ViT's 197; `neuron` reads it alone). Raises
    ``ValueError`` for text that is no unit, and, when it is read, for a channel that the layer does not have.

    >>> channel("mixed3a:3").score({"mixed3a": torch.ones(2, 8, 4, 4)})
    tensor([1., 1.])
    """
    unit = Unit.of(unit)

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values = of_channel(activations, unit)
        return values.reshape(len(values), -1).mean(1)

    return Objective(score, (unit.layer,), str(unit), unit)


def neuron(unit: Unit | str, position: Position | None = None) -> Objective:
    """The activation of one channel at one position, ``a[c, y, x]``: rows first, ``(y, x)`` counted from 0.

    Without a position the one at the centre, ``(h // 2, w // 2)``. A token is ``(t,)``, the class token ``(0,)``; where
    tokens are a square of patches (ViT's are 14 x 14 after the class token) a patch is ``(y, x)`` and the centre is the
    one in the middle. Raises ``ValueError``, when it is read, for a position that the layer does not have.

    >>> neuron("mixed3a:3", (0, 2)).name
    'mixed3a:3 at (0, 2)'
    >>> ramp = torch.arange(15.0).reshape(1, 1, 3, 5)
    >>> neuron("conv:0", (0, 2)).score({"conv": ramp}), neuron("conv:0").score({"conv": ramp})
    (tensor([2.]), tensor([7.]))
    """
    unit = Unit.of(unit)
    place = None if position is None else whole(position)

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        return at(of_channel(activations, unit), place, unit.layer)

    return Objective(score, (unit.layer,), f"{unit} {spelled(place)}", peak=unit)


def energy(layer: str) -> Objective:
    """All of a layer at once: the mean of its squared activations (DeepDream, Mordvintsev et al. 2015).

    >>> energy("mixed3a").score({"mixed3a": torch.full((1, 2, 4, 4), 3.0)})
    tensor([9.])
    """
    return Objective(
        lambda activations: reading(activations, layer).square().flatten(1).mean(1), (layer,), f"energy of {layer}"
    )


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


def through(unit: Unit | str, upstream: Unit | str | Sequence[Unit | str]) -> Objective:
    """A unit fed by chosen units only: its `channel` while, in their layers, every other channel is held at 0.

    The picture shows what the unit gets from these alone: one circuit of those that meet in it. Where nothing gets past
    the chosen layers, moving another channel of theirs changes nothing. Raises ``ValueError`` for no upstream units and
    for the unit's own layer; when it is read, for a channel that a layer does not have.

    >>> wanted = through("mixed4a:2", ["mixed3a:1", "mixed3a:5"])
    >>> wanted.name, list(wanted.edits)
    ('mixed4a:2 through mixed3a:1, mixed3a:5', ['mixed3a'])
    >>> wanted.edits["mixed3a"](torch.ones(1, 7, 1, 1)).flatten()
    tensor([0., 1., 0., 0., 0., 1., 0.])
    """
    return _by_way_of(unit, upstream, "through", _others_at_zero)


def climbing_through(unit: Unit | str, upstream: Unit | str | Sequence[Unit | str]) -> Objective:
    """A unit as it is, climbed by chosen units only: its `channel`, while no gradient reaches the other channels of
    their layers.

    The value is the unit's own, with its usual inputs; but only what the chosen units do to it moves the picture. Where
    `through` leaves a unit dead (without the others nothing reaches its threshold) this still gives a picture. Errors
    as in `through`.

    >>> values = torch.ones(1, 2, 1, 1, requires_grad=True)
    >>> climbing_through("mixed4a:2", "mixed3a:1").edits["mixed3a"](values).sum().backward()
    >>> values.grad.flatten()
    tensor([0., 1.])
    """
    return _by_way_of(unit, upstream, "climbing through", _others_unmoved)


def _by_way_of(
    unit: Unit | str, upstream: Unit | str | Sequence[Unit | str], how: str, edit: Callable[[list[Unit]], Edit]
) -> Objective:
    target = channel(unit)
    given = [upstream] if isinstance(upstream, (Unit, str)) else list(upstream)
    chosen = list(dict.fromkeys(Unit.of(each) for each in given))
    if not chosen:
        raise ValueError(f"{target.name} {how} no unit is nothing: give at least one unit before it")
    by_layer: dict[str, list[Unit]] = {}
    for each in chosen:
        by_layer.setdefault(each.layer, []).append(each)
    if target.layers[0] in by_layer:
        raise ValueError(f"{target.name} {how} its own layer says nothing: give units of layers before it")
    name = f"{target.name} {how} {', '.join(map(str, chosen))}"
    return Objective(target.score, target.layers, name, edits={layer: edit(units) for layer, units in by_layer.items()})


def _kept(values: Tensor, units: list[Unit]) -> Tensor:
    """Say which channels of ``values`` are ``units``, ``(1, c, 1, ...)``."""
    kept = torch.zeros(values.shape[1], dtype=torch.bool, device=values.device)
    kept[[checked(unit, values) for unit in units]] = True
    return kept.reshape(1, -1, *[1] * (values.ndim - 2))


def _others_at_zero(units: list[Unit]) -> Edit:
    return lambda values: torch.where(_kept(values, units), values, torch.zeros_like(values))


def _others_unmoved(units: list[Unit]) -> Edit:
    return lambda values: torch.where(_kept(values, units), values, values.detach())
