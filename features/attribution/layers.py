"""Layers: a layer's activations and gradients on images as maps, (n, c, h, w), tokens too; and which layer to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from features.activations import Edit
from features.attribution.targets import gradients, in_order, scored
from features.models import Layer, Model, probe
from features.objectives import Objective
from features.objectives.places import square_of


def read_maps(
    model: Model, images: Tensor, objective: Objective, layer: str, *, edit: Edit | None = None
) -> tuple[Tensor, Tensor]:
    """Give the activations of ``layer`` and the target's gradient with respect to them, both (n, c, h, w), detached.

    Of tokens, those that are a square of patches. ``edit`` is done to the layer before it is read, after the
    objective's own edit of it.
    """
    edits = dict(objective.edits)
    if edit is not None:
        edits[layer] = _chained(edits.get(layer), edit)
    with (
        torch.enable_grad(),
        probe(model, in_order(model, [*objective.layers, layer]), edits=edits) as activations,
    ):
        model(images.detach().clone().requires_grad_())
        values = activations[layer]
        found = gradients(scored(objective, activations, len(images)), values, objective, f"layer {layer!r}")
        return as_maps(values.detach(), layer), as_maps(found, layer)


def read_values(model: Model, images: Tensor, objective: Objective, layer: str) -> Tensor:
    """Give the activations of ``layer`` as maps (n, c, h, w), without gradients."""
    with torch.no_grad(), probe(model, layer, edits=objective.edits) as activations:
        model(images)
        return as_maps(activations[layer], layer)


def score_edited(model: Model, images: Tensor, objective: Objective, edits: Mapping[str, Edit]) -> Tensor:
    """Give the objective's value (n,) while layers are edited, each after the objective's own edit of it."""
    merged = {**objective.edits, **{name: _chained(objective.edits.get(name), edit) for name, edit in edits.items()}}
    with torch.no_grad(), probe(model, in_order(model, objective.layers), edits=merged) as activations:
        model(images)
        return scored(objective, activations, len(images))


def as_maps(values: Tensor, layer: str) -> Tensor:
    """Give ``(n, c, h, w)`` as it is and tokens ``(n, c, t)`` as ``(n, c, side, side)``: the square of patches."""
    if values.ndim != 3:
        return values
    extras, side = square_of(values.shape[2], layer)
    return values[:, :, extras:].reshape(*values.shape[:2], side, side)


def choose_layer(model: Model, objective: Objective, images: Tensor, name: str | None, *, shown: bool = True) -> str:
    """Give the layer to read: the one named, if it has positions and comes before the target; else the last such.

    With ``shown``, the last of ``model.default_layers``, where one of these will do.
    Of layers of tokens the last whose patches matter to the target on ``images`` is taken: after the last attention
    only the class token does.
    """
    order = {layer.name: place for place, layer in enumerate(model.layers)}
    last = max(order[each] for each in objective.layers)
    if name is None:
        return _default_layer(model, objective, images, last, shown=shown)
    layer = model.layer(name)
    if order[name] > last:
        raise ValueError(f"layer {name!r} comes after the target {objective.name!r}: choose a layer before it")
    if not has_positions(layer):
        raise ValueError(f"layer {name!r} has shape {layer.shape}, without positions (h, w): choose another layer")
    return name


def has_positions(layer: Layer) -> bool:
    """Say whether a layer has more than one position: maps, or tokens of which some are a square of patches."""
    if len(layer.shape) == 2:
        try:
            return square_of(layer.shape[1], layer.name)[1] > 1
        except ValueError:
            return False
    return len(layer.shape) == 3 and layer.shape[1] * layer.shape[2] > 1


def _default_layer(model: Model, objective: Objective, images: Tensor, last: int, *, shown: bool) -> str:
    usable = [layer for layer in model.layers[:last] if has_positions(layer)]
    preferred = [layer for layer in usable if shown and layer.name in model.default_layers]
    for layer in reversed(preferred or usable):
        if len(layer.shape) == 3 or _matters(model, objective, images[:1], layer.name):
            return layer.name
    raise ValueError(f"no layer before the target {objective.name!r} has positions: choose a method on pixels")


def _matters(model: Model, objective: Objective, images: Tensor, layer: str) -> bool:
    with torch.inference_mode(False):
        return bool(read_maps(model, images.clone(), objective, layer)[1].any())


def _chained(first: Edit | None, second: Edit) -> Edit:
    if first is None:
        return second
    before: Callable[[Tensor], Tensor] = first
    return lambda values: second(before(values))
