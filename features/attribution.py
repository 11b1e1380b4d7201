"""Attribution: which pixels made the network say what it said. gradient, gradient x input, integrated gradients,
Grad-CAM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.activations import nearest
from features.models import Layer, Model, probe
from features.objectives import Objective, channel, logit
from features.pictures import encode, grid, resize, signed
from features.units import Unit

# A method gets the model, images, what to explain and the layer asked for (or None). It gives the heat (n, h, w),
# signed and unscaled, and what it promises the heat to sum to, (n,), or None where it promises nothing.
Method: TypeAlias = Callable[[Model, Tensor, Objective, str | None], tuple[Tensor, Tensor | None]]

# How far outside [0, 1] an image's value may lie and still be float noise.
NOISE = 1e-3


@dataclass(frozen=True, eq=False)
class Attribution:
    """Where in each image the target's value comes from.

    ``heat`` (n, h, w) is signed and unscaled, at the images' size: positive where the image speaks for the target.
    ``score`` (n,) is the target's value on each image. ``total`` (n,) is what the method promises the heat to sum to,
    and ``residual`` (n,) is the heat's sum minus that; both are ``None`` for methods that promise no sum. ``layer`` is
    the layer that was looked at, ``None`` for methods on pixels. Show one with ``features.pictures.overlay(picture,
    attribution.heat[0])``.
    """

    heat: NDArray[np.floating]
    method: str
    target: str
    layer: str | None
    score: NDArray[np.floating]
    total: NDArray[np.floating] | None
    residual: NDArray[np.floating] | None

    def __repr__(self) -> str:
        place = f" at {self.layer}" if self.layer else ""
        left = f", residual at most {np.abs(self.residual).max():.3g}" if self.residual is not None else ""
        return f"Attribution({self.method}{place} of {self.target}: {len(self.heat)} images{left})"

    def _repr_png_(self) -> bytes:
        """Show the heat of every image, each on its own scale: vermillion speaks for the target, blue against it."""
        return encode(grid([resize(signed(heat), 128) for heat in self.heat]), "png")


def attribute(
    model: Model,
    images: Tensor,
    target: int | str | Unit | Objective,
    *,
    method: str | Method = "grad-cam",
    layer: str | None = None,
    batch: int = 16,
    progress: bool = True,
) -> Attribution:
    """Say which pixels of ``images`` (n, channels, h, w), in [0, 1], make ``target`` high.

    ``target`` is a class (its number, or its label), a unit (the mean of its channel) or an `Objective`. ``method`` is
    a name in `METHODS` or a function like those, for example ``functools.partial(integrated_gradients, steps=200)``.
    ``layer`` is for methods that read one. An image's heat does not depend on the others in its batch; ``batch`` images
    are worked on at a time.

    Errors: ``ValueError`` for images of another size or range, an unknown method, class (with the nearest labels) or
    layer, a layer after the target, a target that does not depend on the layer, and gradients that are not finite.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> found = attribute(model, torch.rand(2, 3, 64, 64), "mixed3a:3", method="gradient", progress=False)
    >>> found.heat.shape, found.target
    ((2, 64, 64), 'mixed3a:3')
    """
    images = _checked_images(model, images)
    objective = aim(model, target)
    name, explain = _named_method(method)
    if layer is not None and name in PIXEL_METHODS:
        raise ValueError(f"{name} is about pixels and reads no layer: leave out layer={layer!r}, or choose grad-cam")
    if name == "grad-cam" or layer is not None:
        layer = _chosen_layer(model, objective, layer)
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch is {batch!r}: give a whole number of at least 1")
    parts = []
    with tqdm(total=len(images), unit="image", desc=name, disable=not progress) as bar:
        for start in range(0, len(images), batch):
            parts.append(_explained(model, images[start : start + batch], objective, explain, layer))
            bar.update(len(parts[-1][0]))
    heat, score = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    promised = [part[2] for part in parts if part[2] is not None]
    total = np.concatenate(promised) if promised else None
    residual = None if total is None else heat.sum((1, 2), dtype=np.float64) - total
    return Attribution(heat, name, objective.name, layer, score, total, residual)


def gradient(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """The gradient of the target, summed over colours: ``sum_c dS / dx_c``. It promises no sum.

    Simonyan, Vedaldi and Zisserman 2014, "Deep Inside Convolutional Networks" (they take the largest absolute value
    over colours; the signed sum is kept here).
    """
    return _pixel_gradient(model, images, objective).sum(1), None


def gradient_x_input(
    model: Model, images: Tensor, objective: Objective, layer: str | None = None
) -> tuple[Tensor, None]:
    """``sum_c (x_c - mean_c) dS / dx_c``, with the model's mean colour as what counts as nothing. It promises no sum.

    Shrikumar et al. 2017, "Not Just a Black Box". Exact for a network that is linear: then it is the target's
    difference to that on the mean colour.
    """
    return (_pixel_gradient(model, images, objective) * (images - _mean_colour(model, images))).sum(1), None


def integrated_gradients(
    model: Model,
    images: Tensor,
    objective: Objective,
    layer: str | None = None,
    *,
    steps: int = 50,
    baseline: Tensor | float | None = None,
) -> tuple[Tensor, Tensor]:
    """``sum_c (x_c - x0_c) * mean of dS/dx_c on the way from x0 to x``; promises the sum ``S(x) - S(x0)``.

    Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks". The mean over the straight line is taken
    with Gauss-Legendre quadrature at ``steps`` points. ``baseline`` x0 is by default the model's mean colour, which its
    preprocessing makes 0; a number or a tensor that fits the images is in [0, 1] as they are.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps!r}: give a whole number of at least 1")
    start = _mean_colour(model, images) if baseline is None else torch.as_tensor(baseline).to(images)
    start = start.expand_as(images)
    points, weights = np.polynomial.legendre.leggauss(steps)
    mean = torch.zeros_like(images)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        mean += weight * _pixel_gradient(model, start + point * (images - start), objective)
    return (mean * (images - start)).sum(1), score_of(model, images, objective) - score_of(model, start, objective)


def grad_cam(model: Model, images: Tensor, objective: Objective, layer: str | None = None) -> tuple[Tensor, None]:
    """Grad-CAM at ``layer``: ``sum_k w_k A_k`` with ``w_k`` the mean over positions of ``dS / dA_k``, enlarged
    bilinearly.

    Selvaraju et al. 2017, "Grad-CAM". They cut off what is below 0; here the sign is kept, since it says what speaks
    against the target. The layer is by default the last one with positions before the target. It promises no sum.
    """
    if layer is None:
        layer = _chosen_layer(model, objective, None)
    with (
        torch.enable_grad(),
        probe(model, _in_order(model, [*objective.layers, layer]), edits=objective.edits) as activations,
    ):
        model(images.detach().clone().requires_grad_())
        maps = activations[layer]
        gradients = _gradients(_scored(objective, activations, len(images)), maps, objective, f"layer {layer!r}")
    weights = gradients.mean((2, 3), keepdim=True)
    heat = (weights * maps.detach()).sum(1, keepdim=True)
    return F.interpolate(heat, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0], None


def aim(model: Model, target: int | str | Unit | Objective) -> Objective:
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


def score_of(model: Model, images: Tensor, objective: Objective) -> Tensor:
    """Give the objective's value on each image, (n,), without gradients."""
    with torch.no_grad(), probe(model, _in_order(model, objective.layers), edits=objective.edits) as activations:
        model(images)
        return _scored(objective, activations, len(images))


def _explained(
    model: Model, images: Tensor, objective: Objective, explain: Method, layer: str | None
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating] | None]:
    with torch.inference_mode(False), torch.enable_grad():
        images = images.clone()
        heat, total = explain(model, images, objective, layer)
        score = score_of(model, images, objective)
    if heat.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"the method gave a heat of {tuple(heat.shape)}: it should be {(len(images), *images.shape[2:])}"
        )
    lost = (~torch.isfinite(heat.flatten(1)).all(1)).nonzero()[:, 0].tolist()
    if lost:
        raise ValueError(
            f"the attribution of {objective.name!r} is not finite in image {lost[0]} of its batch of {len(images)}"
        )
    return _array(heat), _array(score), None if total is None else _array(total)


def _array(tensor: Tensor) -> NDArray[np.floating]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).numpy()


def _pixel_gradient(model: Model, images: Tensor, objective: Objective) -> Tensor:
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        with probe(model, _in_order(model, objective.layers), edits=objective.edits) as activations:
            model(leaf)
            return _gradients(_scored(objective, activations, len(images)), leaf, objective, "the image")


def _gradients(score: Tensor, of: Tensor, objective: Objective, what: str) -> Tensor:
    (found,) = (
        torch.autograd.grad(score.sum(), of, allow_unused=True) if score.requires_grad and of.requires_grad else (None,)
    )
    if found is None:
        raise ValueError(f"the target {objective.name!r} does not depend on {what}: choose another")
    return found


def _scored(objective: Objective, activations: Mapping[str, Tensor], count: int) -> Tensor:
    score = objective.score(activations)
    if score.shape != (count,):
        raise ValueError(f"the objective {objective.name!r} gave {tuple(score.shape)} for {count} images: give (n,)")
    return score


def _mean_colour(model: Model, images: Tensor) -> Tensor:
    return torch.tensor(model.mean, dtype=images.dtype, device=images.device)[None, :, None, None]


def _in_order(model: Model, names: tuple[str, ...] | list[str]) -> list[str]:
    wanted = set(names)
    return [layer.name for layer in model.layers if layer.name in wanted]


def _is_address(model: Model, text: str) -> bool:
    layer, colon, number = text.rpartition(":")
    return bool(colon) and number.isascii() and number.isdigit() and any(each.name == layer for each in model.layers)


def _named_method(method: str | Method) -> tuple[str, Method]:
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(nearest(method, METHODS, what="method", listing="features.attribution.METHODS"))
        return method, METHODS[method]
    if not callable(method):
        raise TypeError(f"a method is one of {', '.join(METHODS)} or a function, not {type(method).__name__}")
    inner = method.func if isinstance(method, partial) else method
    known = next((name for name, each in METHODS.items() if each is inner), None)
    return known or str(getattr(inner, "__name__", type(inner).__name__)), method


def _chosen_layer(model: Model, objective: Objective, name: str | None) -> str:
    """Give the layer to read: the one named, if it has positions and comes before the target; else the last such."""
    order = {layer.name: place for place, layer in enumerate(model.layers)}
    last = max(order[each] for each in objective.layers)
    if name is None:
        usable = [layer for layer in model.layers[:last] if _has_positions(layer)]
        preferred = [layer.name for layer in usable if layer.name in model.default_layers]
        if not usable:
            raise ValueError(f"no layer before the target {objective.name!r} has positions: choose a method on pixels")
        return (preferred or [usable[-1].name])[-1]
    layer = model.layer(name)
    if order[name] > last:
        raise ValueError(f"layer {name!r} comes after the target {objective.name!r}: choose a layer before it")
    if not _has_positions(layer):
        raise ValueError(f"layer {name!r} has shape {layer.shape}, without positions (h, w): choose another layer")
    return name


def _has_positions(layer: Layer) -> bool:
    return len(layer.shape) == 3 and layer.shape[1] * layer.shape[2] > 1


def _checked_images(model: Model, images: Tensor) -> Tensor:
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


METHODS: dict[str, Method] = {
    "gradient": gradient,
    "gradient-x-input": gradient_x_input,
    "integrated-gradients": integrated_gradients,
    "grad-cam": grad_cam,
}
PIXEL_METHODS = ("gradient", "gradient-x-input", "integrated-gradients")
