"""Predictions: how much of what a layer does on real images its wires from another layer predict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from circuits.wiring.jacobian import connect
from circuits.wiring.watching import preactivations
from circuits.wiring.windows import Frame, check_images, find_frame
from features.models import Model, probe

Numbers = NDArray[np.float64]

BATCH = 32  # images at once
TINY = 1e-12  # of a channel's square: what varies less is rounding


@dataclass(frozen=True, eq=False)
class Linearity:
    """How well wires predict the pre-activations of a layer; all by target channel, ``(o,)``.

    ``r2`` is the share of the variance, over the positions of held-out images, that ``scale * prediction + offset``
    explains: 1 where the truth is linear, 0 where the prediction is no better than the mean, below 0 where it is worse,
    NaN for a channel that never changes. ``scale`` and ``offset`` were fitted to other images; a ``scale`` of 1 says
    that the wires have the right size, one far below that much of them cancels or is gated away. ``unscaled`` is the
    same share for ``prediction + offset``. ``overall`` is all channels' explained over all their variance.
    ``positions`` is how many held-out numbers of each channel were scored.
    """

    source: str
    target: str
    r2: Numbers
    unscaled: Numbers
    scale: Numbers
    offset: Numbers
    overall: float
    positions: int


def linearity(model: Model, source: str, target: str, *, images: Tensor, kernels: Tensor | None = None) -> Linearity:
    """Say how linear the truth is: predict ``target`` from the real activations of ``source`` through its wires.

    The prediction at a position is ``sum over i, y, x of kernels[o, i, y, x] * a[i, y, x]`` over the window that the
    position reads; positions whose window leaves the map are left out where others remain, else what is outside counts
    as 0. The truth is the target before the activation function that ends it (`preactivations`). Scale and offset are
    fitted by least squares, for each channel by itself, to the first, third, fifth ... of the ``images``, and scored on
    the second, fourth ...: give images in random order, 10 or more. ``kernels`` are ``connect(model, source, target)``
    where none are given; give those of `connect_gated`, `connect_fitted` or `connect_local` to compare. Only ``source``
    is heard: what other layers add is error.

    Into a layer without a map (classes), kernels of 1 x 1 are applied to the mean over positions, larger ones to the
    whole map. Raises ``ValueError`` for fewer than 2 images, for kernels of another shape, for tokens, across
    attention, and what `connect` raises.

    >>> from features.models import load_model
    >>> found = linearity(load_model("sketches"), "mixed4c", "logits", images=torch.rand(10, 3, 64, 64))
    >>> round(found.overall, 3)
    1.0
    """
    check_images(model, images)
    if len(images) < 2:
        raise ValueError("1 image was given: linearity fits to one half of the images and scores the other; give 10")
    if any(len(model.layer(name).shape) == 2 for name in (source, target)):
        raise ValueError(
            f"{source!r} or {target!r} gives tokens, which have no window: linearity is for maps and classes"
        )
    frame = find_frame(model, source, target, images, ())
    attention = sorted(frame.used & ATTENTION)
    if attention:
        raise ValueError(f"between {source!r} and {target!r} {', '.join(attention)} mixes positions: no kernel slides")
    kernels = connect(model, source, target) if kernels is None else kernels
    if kernels.dim() != 4 or kernels.shape[:2] != (model.layer(target).channels, model.layer(source).channels):
        wanted = f"({model.layer(target).channels}, {model.layer(source).channels}, kh, kw)"
        raise ValueError(
            f"kernels of shape {tuple(kernels.shape)} were given: from {source!r} to {target!r} are {wanted}"
        )
    frame = frame.holding(model, source, target, (kernels.shape[2], kernels.shape[3]))
    halves = []
    for half in (images[::2], images[1::2]):
        pairs = [_pairs(model, source, target, part, kernels, frame) for part in torch.split(half, BATCH)]
        halves.append([torch.cat(column).double().cpu().numpy() for column in zip(*pairs, strict=True)])
    return _scored(source, target, *halves[0], *halves[1])


def _pairs(
    model: Model, source: str, target: str, images: Tensor, kernels: Tensor, frame: Frame
) -> tuple[Tensor, Tensor]:
    """Give predictions and truths as (numbers, o)."""
    with torch.no_grad(), probe(model, [source]) as activations:
        model(images)
        before = activations[source].clone()
    truth = preactivations(model, target, images)
    kernels = kernels.to(before)
    if frame.source is None or frame.target is None:
        return _flat_prediction(before, kernels), truth.flatten(2).mean(2) if truth.dim() > 2 else truth
    predicted = _slid(before, kernels, frame)
    inside = frame.inside() or [(y, x) for y in range(truth.shape[2]) for x in range(truth.shape[3])]
    rows, columns = torch.tensor(inside, device=truth.device).T
    return tuple(values[:, :, rows, columns].transpose(1, 2).flatten(0, 1) for values in (predicted, truth))  # type: ignore[return-value]


def _flat_prediction(before: Tensor, kernels: Tensor) -> Tensor:
    if before.dim() == 4 and kernels.shape[2:] == before.shape[2:]:
        return torch.einsum("oiyx,niyx->no", kernels, before)
    means = before.flatten(2).mean(2) if before.dim() > 2 else before
    return means @ kernels.sum((2, 3)).T


def _slid(before: Tensor, kernels: Tensor, frame: Frame) -> Tensor:
    """Lay the kernels on the map as the target's positions lie, 0 outside: (n, o, h, w)."""
    assert frame.source is not None and frame.target is not None and frame.stride is not None
    padding: list[int] = []
    for axis in (1, 0):
        first = frame.corner_at((0, 0))[axis]
        last = first + frame.stride[axis] * (frame.target[axis] - 1) + frame.extent[axis]
        padding += [-first, last - frame.source[axis]]
    return F.conv2d(F.pad(before, padding), kernels, stride=frame.stride)


def _scored(source: str, target: str, x: Numbers, y: Numbers, held_x: Numbers, held_y: Numbers) -> Linearity:
    """Fit ``y = scale * x + offset`` for each column, and score it on the held-out rows."""
    spread = ((x - x.mean(0)) ** 2).sum(0)
    together = ((x - x.mean(0)) * (y - y.mean(0))).sum(0)
    scale = np.divide(together, spread, out=np.zeros_like(spread), where=spread > 0)
    offset = y.mean(0) - scale * x.mean(0)
    variance = ((held_y - held_y.mean(0)) ** 2).sum(0)
    missed = ((held_y - scale * held_x - offset) ** 2).sum(0)
    plain = ((held_y - held_x - (y - x).mean(0)) ** 2).sum(0)
    changes = variance > TINY * (held_y**2).sum(0)
    r2, unscaled = (
        1 - np.divide(each, variance, out=np.full_like(variance, np.nan), where=changes) for each in (missed, plain)
    )
    overall = 1 - missed[changes].sum() / variance[changes].sum() if changes.any() else np.nan
    return Linearity(source, target, r2, unscaled, scale, offset, float(overall), len(held_y))


# What attention is known by: what it reads depends on the picture, and in shifted windows on the place.
ATTENTION = {"softmax", "scaled_dot_product_attention", "multi_head_attention_forward"}
