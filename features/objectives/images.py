"""Objectives about an image of the user's: inversion, caricature, difference and style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from features.models import Model, probe
from features.objectives.algebra import INPUT, Objective
from features.objectives.directions import LEAST_COSINE
from features.objectives.places import mark, reading, square_of

TINY = 1e-12


def inversion(model: Model, image: ArrayLike | Tensor, layer: str, *, mask: ArrayLike | None = None) -> Objective:
    """What a layer knows of an image (feature inversion): make a picture whose activations there are the image's.

    ``-sum (a - a0)^2 / sum a0^2``, 0 at best and -1 for no activation at all (Mahendran and Vedaldi 2015). ``image`` is
    a picture ``(h, w, 3)`` or a tensor ``(channels, h, w)``, ``(1, channels, h, w)`` in [0, 1]; make the picture in its
    size. ``mask`` ``(h, w)``, from 0 to 1, weighs the positions of the layer (averaged to its size): where in the image
    to look; the patches of a transformer too, whose class token then is left out, and ``(t,)`` weighs the tokens.

    Transforms move the picture away from the image: with weaker ones than the standard, ``(jitter(1 / 32), scale(0.95,
    1.05), rotate(-5, 5))``, more of the image comes back. Errors: ``ValueError`` for an image or mask that does not
    fit, and, when it is read, for a picture of another size.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> image = np.random.default_rng(0).random((64, 64, 3))
    >>> inversion(model, image, "mixed3a").name[:27]
    'inversion of an image at mi'
    """
    wanted, weights, name = _aimed(model, image, layer, mask, "inversion")
    size = (wanted.square() * weights).sum().clamp(min=TINY)

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values, goal = _fitting(activations, layer, wanted)
        return -((values - goal).square() * weights.to(values)).flatten(1).sum(1) / size.to(values)

    return Objective(score, (layer,), name)


def caricature(
    model: Model, image: ArrayLike | Tensor, layer: str, *, power: float = 1.0, mask: ArrayLike | None = None
) -> Objective:
    """What a layer sees in an image, exaggerated: ``(a · a0) / |a0| max(0.1, cos(a, a0))^power`` over all channels and
    positions.

    Growing the activations along those of the image draws more of what is there (Olah and others, lucid's notebook on
    caricatures); the power keeps other things out. Arguments and errors as in `inversion`.

    >>> from features.models import load_model
    >>> caricature(load_model("sketches"), np.full((64, 64, 3), 0.4), "mixed3a", power=2).layers
    ('mixed3a',)
    """
    if not power >= 0:
        raise ValueError(f"the power of the cosine is {power}: give 0 (the plain dot product) or more")
    wanted, weights, name = _aimed(model, image, layer, mask, f"caricature (cos^{power:g})")
    unit_goal = wanted * weights
    unit_goal = unit_goal / unit_goal.norm().clamp(min=TINY)

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values, goal = _fitting(activations, layer, unit_goal)
        dots = (values * goal).flatten(1).sum(1)
        if not power:
            return dots
        lengths = ((values * (weights.to(values) > 0)).square().flatten(1).sum(1) + TINY).sqrt()
        return dots * (dots / lengths).clamp(min=LEAST_COSINE) ** power

    return Objective(score, (layer,), name)


def difference(model: Model, image: ArrayLike | Tensor, layer: str, *, mask: ArrayLike | None = None) -> Objective:
    """How different a layer's activations are from those of an image: ``mean |a - a0|``, to be subtracted (stay near
    the image) or added (get away from it).

    At `INPUT` it compares the pictures themselves. Arguments and errors as in `inversion`.

    >>> from features.models import load_model
    >>> from features.objectives.algebra import INPUT
    >>> grey = difference(load_model("sketches"), np.full((64, 64, 3), 0.5), INPUT)
    >>> grey.score({INPUT: torch.ones(1, 3, 64, 64)})
    tensor([0.5000])
    """
    wanted, weights, name = _aimed(model, image, layer, mask, "difference")
    shares = weights / (weights.expand_as(wanted).sum().clamp(min=TINY))

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        values, goal = _fitting(activations, layer, wanted)
        return ((values - goal).abs() * shares.to(values)).flatten(1).sum(1)

    return Objective(score, (layer,), name)


def style(model: Model, image: ArrayLike | Tensor, layers: str | Sequence[str]) -> Objective:
    """The texture of an image: minus how far the channels' products are from the image's, the mean over ``layers`` of
    ``|G - G0|^2 / |G0|^2``.

    ``G = A A^T / positions`` is the Gram matrix of a layer, which forgets where things are (Gatys, Ecker and Bethge
    2015), so that the picture may have another size. 0 at best. Errors as in `inversion`.

    >>> from features.models import load_model
    >>> style(load_model("sketches"), np.full((64, 64, 3), 0.4), ["conv2d0", "mixed3a"]).layers
    ('conv2d0', 'mixed3a')
    """
    names = [layers] if isinstance(layers, str) else list(dict.fromkeys(layers))
    if not names:
        raise ValueError("a style is read from at least one layer, and none was given")
    pixels = one_image(model, image)
    found = _activations(model, pixels, names)
    goals = {name: _gram(found[name]) for name in names}

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        grams = {name: _gram(reading(activations, name)) for name in names}
        far = [_distance(grams[name], goals[name].to(grams[name])) for name in names]
        return -torch.stack([each.to(far[0]) for each in far]).mean(0)

    return Objective(score, tuple(names), f"style of an image at {', '.join(names)} ({mark(pixels.numpy())})")


def _aimed(
    model: Model, image: ArrayLike | Tensor, layer: str, mask: ArrayLike | None, what: str
) -> tuple[Tensor, Tensor, str]:
    """Give the image's activations ``(1, c, ...)``, the weights of their positions ``(1, 1, ...)`` and a name."""
    pixels = one_image(model, image)
    wanted = reading(_activations(model, pixels, [layer]), layer)
    weights = _weights(mask, wanted, layer)
    if not bool((wanted * weights).any()):
        raise ValueError(f"layer {layer!r} is 0 all over the image (and mask): there is nothing to look for")
    digits = mark(pixels.numpy(), weights.cpu().numpy())
    return wanted, weights, f"{what} of an image at {layer} ({digits})"


def one_image(model: Model, image: ArrayLike | Tensor) -> Tensor:
    """Give ``(1, channels, h, w)`` on the CPU of a picture ``(h, w, channels)`` or a tensor with channels first."""
    if isinstance(image, Tensor):
        pixels = image.detach().cpu()
        pixels = pixels[None] if pixels.ndim == 3 else pixels
    else:
        array = np.asarray(image)
        array = array[:, :, None] if array.ndim == 2 else array
        pixels = torch.from_numpy(np.array(np.moveaxis(array, -1, 0) if array.ndim == 3 else array))[None]
    if pixels.ndim != 4 or len(pixels) != 1 or pixels.shape[1] != model.channels:
        wanted = f"a picture (h, w, {model.channels}) or a tensor ({model.channels}, h, w)"
        raise ValueError(f"this is no single image that {model.name} takes: give {wanted}")
    if not pixels.is_floating_point() or not bool(((pixels >= -1e-3) & (pixels <= 1 + 1e-3)).all()):
        raise ValueError("an image holds floats in [0, 1]: divide bytes by 255")
    return pixels


def _activations(model: Model, pixels: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    names = [layer for layer in layers if layer != INPUT]
    found = {INPUT: pixels}
    if names:
        with torch.inference_mode(False), torch.no_grad(), probe(model, names) as activations:
            model(pixels)
            found |= {name: activations[name].clone() for name in names}
    return found


def _weights(mask: ArrayLike | None, values: Tensor, layer: str) -> Tensor:
    places = tuple(values.shape[2:])
    if mask is None:
        return values.new_ones(1, 1, *places)
    array = torch.as_tensor(np.asarray(mask, dtype=np.float64))
    if not bool(((array >= 0) & (array <= 1)).all()) or not bool(array.any()):
        raise ValueError("a mask holds numbers from 0 to 1, not all 0")
    if len(places) == 1 and array.ndim == 2:
        extras, side = square_of(places[0], layer)
        patches = F.adaptive_avg_pool2d(array[None, None], (side, side)).flatten(2)
        return F.pad(patches, (extras, 0)).to(values)
    if array.ndim != len(places) or (len(places) == 1 and tuple(array.shape) != places) or not places:
        size = " x ".join(map(str, places)) if places else "no"
        wanted = f"a mask (h, w){' or ' + str(places) if len(places) == 1 else ''}" if places else "no mask"
        raise ValueError(f"a mask {tuple(array.shape)} for layer {layer!r} of {size} positions: give {wanted}")
    small = F.adaptive_avg_pool2d(array[None, None], places) if len(places) == 2 else array[None, None]
    return small.to(values)


def _fitting(activations: Mapping[str, Tensor], layer: str, goal: Tensor) -> tuple[Tensor, Tensor]:
    values = reading(activations, layer)
    if values.shape[1:] != goal.shape[1:]:
        given, wanted = (" x ".join(map(str, each.shape[2:])) or "no" for each in (values, goal))
        raise ValueError(
            f"the picture has {given} positions at layer {layer!r} and the image {wanted}: make the picture in the "
            "image's size, with transforms that keep it"
        )
    return values, goal.to(values)


def _gram(values: Tensor) -> Tensor:
    maps = values.reshape(len(values), values.shape[1], -1)
    return maps @ maps.transpose(1, 2) / maps.shape[2]


def _distance(gram: Tensor, goal: Tensor) -> Tensor:
    return (gram - goal).square().flatten(1).sum(1) / goal.square().sum().clamp(min=TINY)
