"""Targets: what is explained (a class, a unit, an objective), its value on images, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeAlias

import torch
from torch import Tensor

from features.activations import nearest
from features.models import Model, probe
from features.objectives import Objective, channel, logit
from features.units import Unit

# A method gets the model, images, what to explain and the layer asked for (or None). It gives the heat (n, h, w),
# signed and unscaled, and what it promises the heat to sum to, (n,), or None where it promises nothing.
Method: TypeAlias = Callable[[Model, Tensor, Objective, str | None], tuple[Tensor, Tensor | None]]
Target: TypeAlias = int | str | Unit | Objective

# How far outside [0, 1] an image's value may lie and still be float noise.
NOISE = 1e-3

# Variants of few images go through the network together, up to so many: a pass over one picture wastes a wide machine.
TOGETHER = 16


def aim(model: Model, target: Target) -> Objective:
    """Give what ``target`` means for ``model``: a class by number or label, a unit, or an `Objective`; a label comes
    before a unit.

    >>> from features.models import load_model
    >>> aim(load_model("sketches"), 3).name, aim(load_model("sketches"), "mixed3a:3").name
    ('logits:3', 'mixed3a:3')
    """
    if isinstance(target, Objective):
        if target.joint:
            raise ValueError(f"{target.name!r} scores a group of pictures together: a target scores each image alone")
        for name in target.layers:
            model.layer(name)
        return target
    if isinstance(target, Unit):
        return channel(model.unit(target))
    if isinstance(target, str) and target not in model.labels:
        if not _is_address(model, target):
            raise ValueError(
                nearest(target, model.labels, what="label or unit", listing="model.labels and model.layers")
            )
        return channel(model.unit(target))
    if isinstance(target, bool) or not (isinstance(target, str) or hasattr(target, "__index__")):
        raise TypeError(f"a target is a class (number or label), a unit or an objective, not {type(target).__name__}")
    return logit(model, target if isinstance(target, str) else target.__index__())


def check_images(model: Model, images: Tensor) -> Tensor:
    """Give ``images`` (n, channels, h, w) in [0, 1] on the model's device; refuse those of another form or range."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = str(images.dtype) if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images are a tensor of floats in [0, 1], not {given}")
    wanted = (model.channels, *model.image_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != wanted or len(images) == 0:
        hint = ": give images[None] for a single one" if tuple(images.shape) == wanted else ""
        raise ValueError(
            f"images are (n, {', '.join(map(str, wanted))}) for {model.name}, not {tuple(images.shape)}{hint}"
        )
    low, high = (float(edge) for edge in images.detach().aminmax())
    if not (low >= -NOISE and high <= 1 + NOISE):
        raise ValueError(
            f"the images go from {low:.4g} to {high:.4g}: "
            "give values in [0, 1], not normalized ones (the model does that)"
        )
    return images.detach().to(model.device, model.dtype)


def score_of(model: Model, images: Tensor, objective: Objective) -> Tensor:
    """Give the objective's value on each image, (n,), without gradients."""
    with torch.no_grad(), probe(model, in_order(model, objective.layers), edits=objective.edits) as activations:
        model(images)
        return scored(objective, activations, len(images))


def scores_of(model: Model, variants: Iterable[Tensor], objective: Objective) -> Iterator[Tensor]:
    """Give the objective's values (n,) on each of ``variants``, sets of n images; several go through at once."""
    for some in _together(variants):
        scores = score_of(model, torch.cat(some), objective)
        yield from torch.split(scores, [len(each) for each in some])


def pixel_gradient(model: Model, images: Tensor, objective: Objective) -> Tensor:
    """Give the gradient of each image's value with respect to its pixels, (n, channels, h, w)."""
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        with probe(model, in_order(model, objective.layers), edits=objective.edits) as activations:
            model(leaf)
            return gradients(scored(objective, activations, len(images)), leaf, objective, "the image")


def pixel_gradients(model: Model, variants: Iterable[Tensor], objective: Objective) -> Iterator[Tensor]:
    """Give the `pixel_gradient` of each of ``variants``, sets of n images; several go through the network at once."""
    for some in _together(variants):
        found = pixel_gradient(model, torch.cat(some), objective)
        yield from torch.split(found, [len(each) for each in some])


def gradients(score: Tensor, of: Tensor, objective: Objective, what: str) -> Tensor:
    """Give the gradient of the summed ``score``; ``ValueError`` where it does not depend on ``of``."""
    (found,) = (
        torch.autograd.grad(score.sum(), of, allow_unused=True) if score.requires_grad and of.requires_grad else (None,)
    )
    if found is None:
        raise ValueError(f"the target {objective.name!r} does not depend on {what}: choose another")
    return found


def scored(objective: Objective, activations: Mapping[str, Tensor], count: int) -> Tensor:
    """Give the objective's value, (n,); ``ValueError`` where it gives another shape."""
    score = objective.score(activations)
    if score.shape != (count,):
        raise ValueError(f"the objective {objective.name!r} gave {tuple(score.shape)} for {count} images: give (n,)")
    return score


def mean_colour(model: Model, images: Tensor) -> Tensor:
    """Give the model's mean colour, which its preprocessing makes 0, as an image (1, channels, 1, 1)."""
    return torch.tensor(model.mean, dtype=images.dtype, device=images.device)[None, :, None, None]


def in_order(model: Model, names: Iterable[str]) -> list[str]:
    """Give layers in the order of execution, each once."""
    wanted = set(names)
    return [layer.name for layer in model.layers if layer.name in wanted]


def whole_number(name: str, value: object) -> int:
    """Give ``value`` if it is a whole number of at least 1; ``ValueError`` naming it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}: give a whole number of at least 1")
    return value


def _together(variants: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    stream = iter(variants)
    for first in stream:
        yield [first, *islice(stream, max(0, TOGETHER // len(first) - 1))]


def _is_address(model: Model, text: str) -> bool:
    layer, colon, number = text.rpartition(":")
    return bool(colon) and number.isascii() and number.isdigit() and any(each.name == layer for each in model.layers)
