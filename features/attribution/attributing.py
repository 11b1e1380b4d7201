"""Attributing: which pixels of images make a target high, by any of the methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.activations import nearest
from features.attribution.cams import CAMS
from features.attribution.layers import choose_layer
from features.attribution.nouns import Attribution
from features.attribution.perturbing import PERTURBING
from features.attribution.pixels import GRADIENTS
from features.attribution.rectified import RULED
from features.attribution.targets import Method, Target, aim, check_images, score_of, whole_number
from features.models import Model
from features.objectives import Objective


def attribute(
    model: Model,
    images: Tensor,
    target: Target,
    *,
    method: str | Method = "grad-cam",
    layer: str | None = None,
    batch: int = 16,
    progress: bool = True,
) -> Attribution:
    """Say which pixels of ``images`` (n, channels, h, w), in [0, 1], make ``target`` high.

    ``target`` is a class (its number, or its label), a unit (the mean of its channel) or an `Objective`, such as
    ``neuron("mixed4a:3", (2, 5))``. ``method`` is a name in `METHODS` or a function like those, for example
    ``functools.partial(integrated_gradients, steps=200)``. ``layer`` is for methods that read one. An image's heat does
    not depend on the others in its batch; ``batch`` images are worked on at a time.

    Errors: ``ValueError`` for images of another size or range, an unknown method, class (with the nearest labels) or
    layer, a layer after the target, a target that does not depend on the layer, and gradients that are not finite.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> found = attribute(model, torch.rand(2, 3, 64, 64), "mixed3a:3", method="gradient", progress=False)
    >>> found.heat.shape, found.target
    ((2, 64, 64), 'mixed3a:3')
    """
    images = check_images(model, images)
    objective = aim(model, target)
    name, explain = named_method(method)
    if layer is not None and name in PIXEL_METHODS:
        raise ValueError(f"{name} is about pixels and reads no layer: leave out layer={layer!r}, or choose grad-cam")
    if name in CAMS or layer is not None:
        layer = choose_layer(model, objective, images, layer, shown=name != "cam")
    whole_number("batch", batch)
    parts = []
    with tqdm(total=len(images), unit="image", desc=name, disable=not progress) as bar:
        for start in range(0, len(images), batch):
            scores: list[Tensor] = []
            counted = _counted(objective, bar, scores if name in ONE_PASS else None)
            parts.append(_explained(model, images[start : start + batch], counted, explain, layer, scores))
            bar.update(len(parts[-1][0]))
    heat, score = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    promised = [part[2] for part in parts if part[2] is not None]
    total = np.concatenate(promised) if promised else None
    residual = None if total is None else heat.sum((1, 2), dtype=np.float64) - total
    return Attribution(heat, name, objective.name, layer, score, total, residual, pictures_of(images))


def named_method(method: str | Method) -> tuple[str, Method]:
    """Give a method's name and the method; ``ValueError`` with the nearest for a name that is none."""
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(nearest(method, METHODS, what="method", listing="features.attribution.METHODS"))
        return method, METHODS[method]
    if not callable(method):
        raise TypeError(f"a method is one of {', '.join(METHODS)} or a function, not {type(method).__name__}")
    inner = method.func if isinstance(method, partial) else method
    known = next((name for name, each in METHODS.items() if each is inner), None)
    return known or str(getattr(inner, "__name__", type(inner).__name__)), method


def pictures_of(images: Tensor) -> NDArray[np.uint8] | None:
    """Give images of 1 or 3 channels as bytes (n, h, w, 3), ``None`` for others."""
    if images.shape[1] not in (1, 3):
        return None
    shown = images.clamp(0, 1).mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1)
    return shown.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _counted(objective: Objective, bar: tqdm, scores: list[Tensor] | None) -> Objective:
    """Give the objective, telling the bar of every pass (a method may take thousands for one image), and keeping its
    ``scores`` where these are wanted."""

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        bar.passes = getattr(bar, "passes", 0) + 1
        bar.set_postfix(passes=bar.passes, refresh=False)
        bar.update(0)
        found = objective.score(activations)
        if scores is not None:
            scores.append(found.detach())
        return found

    return replace(objective, score=score)


def _explained(
    model: Model, images: Tensor, objective: Objective, explain: Method, layer: str | None, scores: list[Tensor]
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating] | None]:
    """Give heat, score and promise; ``scores`` gets those of the passes, where the first is over the images as they
    are, so that no other is needed."""
    with torch.inference_mode(False), torch.enable_grad():
        images = images.clone()
        heat, total = explain(model, images, objective, layer)
        score = scores[0] if scores else score_of(model, images, objective)
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


PIXEL_METHODS: dict[str, Method] = {**GRADIENTS, **RULED, **PERTURBING}
METHODS: dict[str, Method] = {**PIXEL_METHODS, **CAMS}
# Those that pass over the images once, as they are: the target's value is known from that.
SEVERAL = {"score-cam", "ablation-cam", "eigen-cam"}
ONE_PASS = frozenset({"gradient", "absolute-gradient", "saliency", "gradient-x-input", *RULED, *CAMS} - SEVERAL)
