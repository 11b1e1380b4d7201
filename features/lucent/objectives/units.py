"""Objectives of a channel, a neuron or a direction."""

from __future__ import annotations

from typing import SupportsIndex

from numpy.typing import ArrayLike
from torch import Tensor

from features.lucent.objectives.losses import handle_batch, wrap_objective
from features.lucent.objectives.places import along, at, known, weighed
from features.visualization.guests import Loss


@wrap_objective()
def neuron(
    layer: str, n_channel: int, x: int | None = None, y: int | None = None, batch: SupportsIndex | None = None
) -> Loss:
    """Minus one channel's value at one position, column ``x`` and row ``y``: without them the centre, ``w // 2`` and
    ``h // 2`` (lucent takes one for the other); ``x`` alone for tokens.

    >>> import torch
    >>> neuron("conv", 0)(lambda layer: torch.arange(15.0).reshape(1, 1, 3, 5))
    tensor(-7.)
    """
    return handle_batch(batch)(lambda T: -at(T(layer), layer, x, y)[:, known(T(layer), layer, n_channel)].mean())


@wrap_objective()
def channel(layer: str, n_channel: int, batch: SupportsIndex | None = None) -> Loss:
    """Minus the mean of one channel, over positions and pictures.

    >>> import torch
    >>> channel("conv", 1)(lambda layer: torch.ones(2, 4, 3, 3))
    tensor(-1.)
    """
    return handle_batch(batch)(lambda T: -T(layer)[:, known(T(layer), layer, n_channel)].mean())


@wrap_objective()
def neuron_weight(
    layer: str,
    weight: ArrayLike | Tensor | None,
    x: int | None = None,
    y: int | None = None,
    batch: SupportsIndex | None = None,
) -> Loss:
    """Minus the mean over channels of ``weight * a`` at one position (see `neuron`); without a weight of ``a``.

    >>> import torch
    >>> neuron_weight("conv", [1.0, 0.0])(lambda layer: torch.ones(1, 2, 3, 3))
    tensor(-0.5000)
    """
    return handle_batch(batch)(lambda T: -weighed(at(T(layer), layer, x, y), weight).mean())


@wrap_objective()
def channel_weight(layer: str, weight: ArrayLike | Tensor | None, batch: SupportsIndex | None = None) -> Loss:
    """Minus the mean of ``weight * a``, over channels, positions and pictures.

    >>> import torch
    >>> channel_weight("conv", [1.0, 0.0])(lambda layer: torch.ones(1, 2, 3, 3))
    tensor(-0.5000)
    """
    return handle_batch(batch)(lambda T: -weighed(T(layer), weight).mean())


@wrap_objective()
def localgroup_weight(
    layer: str,
    weight: ArrayLike | Tensor | None = None,
    x: int | None = None,
    y: int | None = None,
    wx: int = 1,
    wy: int = 1,
    batch: SupportsIndex | None = None,
) -> Loss:
    """Minus the mean of ``weight * a`` over ``wy`` rows from ``y`` and ``wx`` columns from ``x`` (from the centre
    without them, where lucent fails).

    >>> import torch
    >>> localgroup_weight("conv", x=1, y=0, wx=2)(lambda layer: torch.arange(6.0).reshape(1, 1, 2, 3))
    tensor(-1.5000)
    """
    return handle_batch(batch)(lambda T: -weighed(at(T(layer), layer, x, y, (wy, wx)), weight).mean())


@wrap_objective()
def direction(
    layer: str,
    direction: ArrayLike | Tensor,
    batch: SupportsIndex | None = None,
    *,
    cossim_pow: float | None = None,
) -> Loss:
    """Minus the mean over positions of the cosine between activations and ``direction`` ``(c,)``.

    With ``cossim_pow`` ``p`` (lucid's name) it is ``(a · v) max(0.1, cos)^p`` instead, 0 for the dot product.

    >>> import torch
    >>> direction("conv", [1.0, 1.0])(lambda layer: torch.ones(1, 2, 3, 3))
    tensor(-1.0000)
    >>> direction("conv", [1.0, 1.0], cossim_pow=0)(lambda layer: torch.ones(1, 2, 3, 3))
    tensor(-2.)
    """
    return handle_batch(batch)(lambda T: -along(T(layer), direction, cossim_pow).mean())


@wrap_objective()
def direction_neuron(
    layer: str,
    direction: ArrayLike | Tensor,
    x: int | None = None,
    y: int | None = None,
    batch: SupportsIndex | None = None,
    *,
    cossim_pow: float | None = None,
) -> Loss:
    """`direction` at one position (see `neuron`).

    >>> import torch
    >>> direction_neuron("conv", [1.0, 1.0])(lambda layer: torch.ones(1, 2, 3, 3))
    tensor(-1.0000)
    """
    return handle_batch(batch)(lambda T: -along(at(T(layer), layer, x, y), direction, cossim_pow).mean())
