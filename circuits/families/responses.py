"""Families from responses: a unit's answer to a picture, and another's to the picture transformed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from circuits.families.grouping import Variants, group, variants
from circuits.families.nouns import Family, Transform
from circuits.motifs.kernels import recoloured
from circuits.motifs.rewiring import check_sampling
from features.models import Model, probe

Numbers = NDArray[np.float64]

BATCH = 128  # pictures in one pass


def find_families(
    model: Model,
    layer: str,
    images: Tensor,
    *,
    step: float = 15.0,
    mirror: bool = True,
    scales: Sequence[float] = (),
    hues: Sequence[float] = (),
    least: float = 0.6,
    selective: float = 0.5,
    level: float = 0.05,
    views: int = 2,
    samples: int = 19,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Family, ...]:
    """Find families among the units of any layer with a map, by showing ``images (n, channels, h, w)`` transformed.

    At ``views`` random places of each picture, the picture is transformed about the place (turned by every multiple of
    ``step`` degrees, mirrored, at the ``scales`` and ``hues`` given) and the layer is read there. If ``b`` is ``a``
    transformed by ``T``, then ``b(T x) = a(x)`` for all pictures, turned or not: the similarity of ``b`` with ``a`` is
    the largest correlation of ``a(R x)`` with ``b(T R x)`` over pictures ``x`` and turns ``R``, of all ``T``. A unit
    takes part only if it is ``selective``: its least correlation with itself over all transforms is no more than that,
    so blobs are no family of turned blobs. A pair matches from ``least`` on, if no more than the part ``level`` of
    ``samples`` null networks has a pair as similar: the same responses, those of ``b`` to other pictures.

    Where several transforms do (a bar turned by 0 or 180 degrees), the simplest is taken. Beyond the border, pictures
    are continued by reflection. Cost: ``n * views * 360 / step`` pictures, twice that with mirrors, times
    scales and hues.

    Raises ``ValueError`` for a layer without a map or a receptive field, fewer than 8 pictures or others than of the
    model's size, hues without three channels.

    >>> from features.models import load_model
    >>> images = torch.rand(8, 3, 64, 64)
    >>> found = find_families(load_model("sketches"), "conv2d0", images, step=90, views=1, progress=False)
    >>> all(family.layer == "conv2d0" for family in found)
    True
    """
    _check(model, layer, images, views, samples)
    tried = variants(step, mirror, scales, hues)
    read = _responses(model, layer, images, tried, views, seed, progress)
    alive = read.std((0, 1, 2)) > 1e-6 * max(1e-30, float(read.std()))
    scores = _standardized(read)
    similarity = _similarities(scores, scores, tried)
    own = np.diagonal(similarity, axis1=1, axis2=2).min(0)
    chosen = np.flatnonzero(alive & (own <= selective))
    if chosen.size < 2:
        return ()
    scores, similarity = scores[..., chosen], similarity[:, chosen][:, :, chosen]
    null = _null(scores, tried, samples, np.random.default_rng([seed, 1]))
    names = [f"{layer}:{channel}" for channel in chosen.tolist()]
    return group(layer, names, similarity, tried, null, least=least, level=level, method="responses")


def _check(model: Model, layer: str, images: Tensor, views: int, samples: int) -> None:
    described = model.layer(layer)
    if len(described.shape) != 3 or described.field is None:
        raise ValueError(f"layer {layer!r} has no map whose positions see a part of the picture: choose another")
    if images.ndim != 4 or len(images) < 8:
        raise ValueError(f"images of shape {tuple(images.shape)} were given: correlations need 8 pictures or more")
    if tuple(images.shape[2:]) != model.image_size:
        wanted = " x ".join(map(str, model.image_size))
        raise ValueError(
            f"images of shape {tuple(images.shape)} were given: {model.name}'s maps are for {wanted} pixels"
        )
    if isinstance(views, bool) or not isinstance(views, int) or views < 1:
        raise ValueError(f"views is {views!r}: give a whole number, 1 or more")
    check_sampling(samples, 1)


@torch.no_grad()
def _responses(
    model: Model, layer: str, images: Tensor, tried: Variants, views: int, seed: int, progress: bool
) -> Numbers:
    """Show every view under every transform: ``(others, turns, views, units)``."""
    places, centres = _places(model, layer, images, views, np.random.default_rng([seed, 0]))
    shown = images.repeat_interleave(views, dim=0)
    found = []
    for transform in tqdm(tried.transforms, desc=f"families of {layer}", disable=not progress):
        parts = []
        for some in torch.split(torch.arange(len(shown)), BATCH):
            with probe(model, [layer]) as activations:
                model(_seen(shown[some], transform, centres[some]))
                maps = activations[layer]
                parts.append(maps[torch.arange(len(some)), :, places[some, 0], places[some, 1]].double().cpu())
        found.append(torch.cat(parts).numpy())
    return np.stack(found).reshape(len(tried.others), tried.turns, len(shown), -1)


def _places(model: Model, layer: str, images: Tensor, views: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw positions of the map in the middle half of each picture; give them and the pixels at their centres."""
    field = model.layer(layer).field
    if field is None:
        raise ValueError(f"layer {layer!r} has no receptive field")
    _, h, w = model.layer(layer).shape
    count = len(images) * views
    places = np.stack([random.integers(side // 4, max(side // 4 + 1, side - side // 4), count) for side in (h, w)], 1)
    centres = np.array(field.offset) + places * np.array(field.stride)
    return torch.from_numpy(places), torch.from_numpy(centres)


def _seen(images: Tensor, transform: Transform, centres: Tensor) -> Tensor:
    """Transform each picture about its own centre ``(y, x)``, reflected at the border; colours stay in [0, 1]."""
    h, w = images.shape[2:]
    turn = math.radians(transform.angle)
    y = torch.arange(h, dtype=torch.float64)[None, :, None] - centres[:, 0, None, None]
    x = torch.arange(w, dtype=torch.float64)[None, None] - centres[:, 1, None, None]
    from_x = (x * math.cos(turn) - y * math.sin(turn)) / transform.scale * (-1 if transform.mirror else 1)
    from_y = (x * math.sin(turn) + y * math.cos(turn)) / transform.scale
    from_x, from_y = from_x + centres[:, 1, None, None], from_y + centres[:, 0, None, None]
    grid = torch.stack([(2 * from_x + 1) / w - 1, (2 * from_y + 1) / h - 1], dim=-1).to(images)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return recoloured(moved, transform.hue).clamp(0, 1) if transform.hue else moved


def _standardized(read: Numbers) -> Numbers:
    """Scale each unit's responses under each mirror, scale and hue to mean 0 and length 1, over turns and pictures."""
    centred = read - read.mean((1, 2), keepdims=True)
    length = np.sqrt((centred**2).sum((1, 2), keepdims=True))
    scaled: Numbers = centred / np.maximum(length, 1e-30)
    return scaled


def _similarities(scores: Numbers, others: Numbers, tried: Variants) -> Numbers:
    """Correlate ``a(R x)`` with ``b(T R x)``: ``(t, a, b)``; a mirror turns the turn that comes before it."""
    turns, units = tried.turns, scores.shape[3]
    flat = scores[0].reshape(-1, units)
    found = []
    for place, other in enumerate(tried.others):
        for turn in range(turns):
            order = (turn - np.arange(turns)) if other.mirror else (turn + np.arange(turns))
            found.append(flat.T @ others[place][order % turns].reshape(-1, units))
    return np.stack(found)


def _null(scores: Numbers, tried: Variants, samples: int, random: np.random.Generator) -> Numbers:
    """Give the largest similarity of any two units when one answers to other pictures, for each sample."""
    found = []
    for _ in range(samples):
        shuffled = scores[:, :, random.permutation(scores.shape[2])]
        best = _similarities(scores, shuffled, tried).max(0)
        np.fill_diagonal(best, -1.0)
        found.append(best.max())
    return np.array(found)
