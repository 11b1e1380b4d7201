"""Vectors: the activation vectors of a layer, one for each position; of tokens, one for each patch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from features.models import Model, probe
from features.objectives.places import EXTRAS


def maps_of(model: Model, images: Tensor, layer: str) -> Tensor:
    """Give what ``layer`` says of ``images``, ``(n, c, h, w)``, float32 on the CPU.

    Tokens are laid out as the patches lie in the image, and those that stand before them (a class token, registers)
    are left out; a layer without positions has one. ``ValueError`` for tokens that are no grid of patches.
    """
    model.layer(layer)
    with torch.inference_mode(False), torch.no_grad(), probe(model, layer) as activations:
        model(images)
        values = activations[layer].float().cpu().clone()
    if values.ndim == 2:
        return values[:, :, None, None]
    return values if values.ndim == 4 else _laid_out(values, (images.shape[2], images.shape[3]), layer)


def _laid_out(values: Tensor, size: tuple[int, int], layer: str) -> Tensor:
    """Give tokens ``(n, c, t)`` as ``(n, c, h, w)`` in the proportions of an image of ``size``."""
    count, (height, width) = values.shape[2], size
    for extras in EXTRAS:
        patches = count - extras
        h, w = (round(math.sqrt(patches * ratio)) for ratio in (height / width, width / height))
        if h * w == patches > 0 and h * width == w * height:
            return values[:, :, extras:].reshape(*values.shape[:2], h, w)
    raise ValueError(
        f"layer {layer!r} gives {count} tokens, which are no grid of patches of a {height} x {width} image (after "
        f"at most {EXTRAS[-1]} others): choose a layer of patches, or one with rows and columns"
    )
