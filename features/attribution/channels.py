"""Channels: which channels of a layer, and which of its positions, carried what the network said."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import NMF
from torch import Tensor
from tqdm import tqdm

from features.attribution.layers import choose_layer, read_maps, score_edited
from features.attribution.targets import Target, aim, check_images, score_of, whole_number
from features.models import Model
from features.objectives import Objective
from features.units import Unit

SHOWN = 10  # channels that a notebook shows of an image
STEPS = 16  # points on the way from nothing to the activations

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ChannelAttribution:
    """What each channel of a layer, at each position, adds to the target.

    ``products`` (n, c, h, w), signed and unscaled, at the layer's positions (of tokens: the square of patches);
    ``score`` (n,) the target's value; ``total`` (n,) what the products promise to sum to, and ``residual`` (n,) their
    sum minus that, ``None`` where nothing is promised. ``channels`` (n, c) and ``spatial`` (n, h, w) are the sums over
    positions and over channels.
    """

    layer: str
    target: str
    method: str
    products: Floats
    score: NDArray[np.floating]
    total: NDArray[np.floating] | None
    residual: NDArray[np.floating] | None

    @property
    def channels(self) -> NDArray[np.float64]:
        """What each channel adds, summed over positions: (n, c)."""
        summed: NDArray[np.float64] = self.products.sum((2, 3), dtype=np.float64)
        return summed

    @property
    def spatial(self) -> NDArray[np.float64]:
        """What each position adds, summed over channels: (n, h, w)."""
        summed: NDArray[np.float64] = self.products.sum(1, dtype=np.float64)
        return summed

    def __len__(self) -> int:
        return len(self.products)

    def top(self, image: int = 0, *, count: int = SHOWN) -> list[tuple[Unit, float]]:
        """Give the channels that add or take most in one image, largest absolute first, ties by channel.

        The number is the channel's signed share, of the sum of absolute values over all channels; in a layer that says
        nothing there is none.
        """
        values = self.channels[image]
        mass = np.abs(values).sum()
        order = np.argsort(-np.abs(values), kind="stable")[:count]
        return [(Unit(self.layer, int(c)), float(values[c] / mass)) for c in order if values[c] != 0]

    def __repr__(self) -> str:
        named = ", ".join(f"{unit.channel} ({share:+.0%})" for unit, share in self.top(count=3))
        return f"ChannelAttribution({self.method} at {self.layer} of {self.target}: {len(self)} images; first: {named})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{image}</td><td>{html.escape(str(unit))}</td><td>{share:+.1%}</td></tr>"
            for image in range(min(4, len(self)))
            for unit, share in self.top(image)
        )
        head = "<tr><th>image</th><th>channel</th><th>share</th></tr>"
        return f"<p>{html.escape(self.method)} of {html.escape(self.target)}</p><table>{head}{rows}</table>"


@dataclass(frozen=True, eq=False)
class GroupAttribution:
    """What each of ``k`` groups of channels adds to the target (Olah et al. 2018, "The Building Blocks").

    ``maps`` (n, k, h, w) is where each group is active, ``directions`` (k, c) what it is made of, and ``values`` (n, k)
    what it adds: ``sum_xy map * (direction . gradient)``. ``explained`` is the share of the activations' sum of squares
    that the groups account for; ``residual`` (n,) is the sum over groups minus that of `attribute_channels`.
    """

    layer: str
    target: str
    maps: Floats
    directions: Floats
    values: NDArray[np.float64]
    explained: float
    residual: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        named = ", ".join(f"{value:+.3g}" for value in self.values[0])
        return f"GroupAttribution({len(self.directions)} groups at {self.layer} of {self.target}: {named})"


def attribute_channels(
    model: Model,
    images: Tensor,
    target: Target,
    *,
    layer: str | None = None,
    batch: int = 16,
    progress: bool = True,
) -> ChannelAttribution:
    """Say what each channel of ``layer`` adds to ``target`` at each position, to first order: ``A * dS/dA``.

    Olah et al. 2018, "The Building Blocks of Interpretability". Exact where the target is linear in the layer; it
    promises no sum. ``layer`` is by default the last one with positions before the target. Errors as those of
    `attribute`.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> found = attribute_channels(model, torch.rand(2, 3, 64, 64), "car", layer="mixed4a", progress=False)
    >>> found.channels.shape, found.spatial.shape
    ((2, 96), (2, 8, 8))
    """
    objective, images, layer = _asked(model, images, target, layer, batch)
    products, scores = [], []
    for some in tqdm(torch.split(images, batch), unit="batch", desc="channels", disable=not progress):
        with torch.inference_mode(False):
            maps, grads = read_maps(model, some.clone(), objective, layer)
        products.append(_floats(maps * grads))
        scores.append(_doubles(score_of(model, some, objective)))
    joined = np.concatenate(products)
    _check_finite(joined, objective)
    return ChannelAttribution(layer, objective.name, "linear", joined, np.concatenate(scores), None, None)


def attribute_channels_along_path(
    model: Model,
    images: Tensor,
    target: Target,
    *,
    layer: str | None = None,
    steps: int = STEPS,
    batch: int = 16,
    progress: bool = True,
) -> ChannelAttribution:
    """Say what each channel of ``layer`` adds to ``target``: integrated gradients from a silent layer to the
    activations.

    ``A * mean of dS/dA on the way from 0 to A``, by Gauss-Legendre quadrature at ``steps`` points; it promises the sum
    ``S - S(A = 0)``. (Of tokens, what the class token adds is in the residual.) Otherwise as `attribute_channels`.

    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> found = attribute_channels_along_path(model, torch.rand(1, 3, 64, 64), "car", layer="mixed4a", progress=False)
    >>> bool(abs(found.residual).max() < 0.1 * abs(found.total).max() + 0.1)
    True
    """
    objective, images, layer = _asked(model, images, target, layer, batch)
    points, weights = np.polynomial.legendre.leggauss(whole_number("steps", steps))
    products, scores, totals = [], [], []
    for some in tqdm(torch.split(images, batch), unit="batch", desc="channels", disable=not progress):
        some = some.clone()
        whole = torch.zeros(())
        for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
            with torch.inference_mode(False):
                maps, grads = read_maps(model, some, objective, layer, edit=lambda values, at=point: values * at)  # type: ignore[misc]
            # the reading is at * A: divided by at it is A again
            whole = whole.to(maps) + weight * grads * (maps / point)
        products.append(_floats(whole))
        scores.append(_doubles(score_of(model, some, objective)))
        totals.append(scores[-1] - _doubles(score_edited(model, some, objective, {layer: torch.zeros_like})))
    joined, total = np.concatenate(products), np.concatenate(totals)
    _check_finite(joined, objective)
    residual = joined.sum((1, 2, 3), dtype=np.float64) - total
    return ChannelAttribution(layer, objective.name, "path-integrated", joined, np.concatenate(scores), total, residual)


def attribute_groups(
    model: Model,
    images: Tensor,
    target: Target,
    *,
    layer: str | None = None,
    groups: int = 6,
    batch: int = 16,
    progress: bool = True,
) -> GroupAttribution:
    """Say what ``groups`` of channels that fire together add to ``target``: NMF of the layer's activations on
    ``images``.

    The activations (positions, c), negative ones as 0, are taken apart into non-negative maps and directions (sklearn's
    NMF, a start that depends on nothing random), and each group's part of the activations is multiplied with the
    gradient. Errors as those of `attribute`, and ``ValueError`` for more groups than channels or positions.
    """
    objective, images, layer = _asked(model, images, target, layer, batch)
    readings = []
    for some in tqdm(torch.split(images, batch), unit="batch", desc="groups", disable=not progress):
        with torch.inference_mode(False):
            readings.append([each.double().cpu() for each in read_maps(model, some.clone(), objective, layer)])
    maps, grads = (torch.cat([each[part] for each in readings]) for part in (0, 1))
    n, c, h, w = maps.shape
    points = maps.clamp(min=0).permute(0, 2, 3, 1).reshape(-1, c).numpy()
    if whole_number("groups", groups) > min(points.shape):
        raise ValueError(f"{groups} groups of {points.shape[0]} positions and {c} channels: ask for fewer")
    if not points.any():
        raise ValueError(f"layer {layer!r} is silent on these images: there is nothing to group")
    method = NMF(groups, init="nndsvda", random_state=0, max_iter=500, tol=1e-4)
    where = method.fit_transform(points)
    part = where.reshape(n, h, w, groups).transpose(0, 3, 1, 2)
    along = np.einsum("kc,nchw->nkhw", method.components_, grads.numpy())
    values = (part * along).sum((2, 3))
    return GroupAttribution(
        layer,
        objective.name,
        part.astype(np.float32),
        method.components_.astype(np.float32),
        values,
        float(1 - np.square(points - where @ method.components_).sum() / np.square(points).sum()),
        values.sum(1) - (maps * grads).sum((1, 2, 3)).numpy(),
    )


def _asked(
    model: Model, images: Tensor, target: Target, layer: str | None, batch: int
) -> tuple[Objective, Tensor, str]:
    images = check_images(model, images)
    objective = aim(model, target)
    whole_number("batch", batch)
    return objective, images, choose_layer(model, objective, images, layer)


def _check_finite(products: Floats, objective: Objective) -> None:
    lost = np.flatnonzero(~np.isfinite(products.reshape(len(products), -1)).all(1))
    if len(lost):
        raise ValueError(f"the attribution of {objective.name!r} is not finite in image {lost[0]} of {len(products)}")


def _floats(tensor: Tensor) -> Floats:
    array: Floats = tensor.detach().float().cpu().numpy()
    return array


def _doubles(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().double().cpu().numpy()
    return array
