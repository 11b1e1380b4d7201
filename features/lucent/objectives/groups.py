"""Objectives of the picture itself and of the pictures of a batch together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from features.lucent.objectives.losses import wrap_objective
from features.lucent.objectives.places import known
from features.visualization.guests import Loss, Read

REACH = 4  # pictures up to four apart are aligned (lucid, objectives.py, `alignment`)


@wrap_objective()
def blur_input_each_step() -> Loss:
    """``-1/2 sum (t - blurred t)^2`` of the picture ``t``, its blur held fixed (Nguyen et al. 2015).

    It is a loss like all others: to *add* it asks for more contrast between neighbours, and ``-k *
    blur_input_each_step()`` moves the picture towards its blur, by the share k.

    >>> blur_input_each_step()(lambda layer: torch.ones(1, 3, 4, 4))
    tensor(-0.)
    """

    def inner(T: Read) -> Tensor:
        picture = T("input")
        return -0.5 * (picture - _blurred(picture.detach())).square().sum()

    return inner


@wrap_objective()
def channel_interpolate(layer1: str, n_channel1: int, layer2: str, n_channel2: int) -> Loss:
    """From one channel to another across the batch: picture i of N asks for ``1 - w`` of the first and ``w`` of the
    second, ``w = i / (N - 1)``; one picture alone for the first (lucent divides by 0). The sum over the pictures.

    >>> channel_interpolate("conv", 0, "conv", 1)(lambda layer: torch.tensor([[0.0, 5.0], [0.0, 5.0]]))
    tensor(-5.)
    """

    def inner(T: Read) -> Tensor:
        first, second = (
            T(layer)[:, known(T(layer), layer, index)].reshape(len(T(layer)), -1).mean(1)
            for layer, index in ((layer1, n_channel1), (layer2, n_channel2))
        )
        weights = torch.linspace(0, 1, len(first), dtype=first.dtype, device=first.device)
        return -((1 - weights) * first + weights * second).sum()

    return inner


@wrap_objective()
def alignment(layer: str, decay_ratio: float = 2) -> Loss:
    """How different pictures up to four apart in the batch are at ``layer``: ``sum_d sum_i mean (a_i - a_{i+d})^2 /
    decay_ratio^d``. To be added.

    >>> alignment("conv")(lambda layer: torch.tensor([[0.0], [1.0]]))
    tensor(0.5000)
    """

    def inner(T: Read) -> Tensor:
        values = T(layer)
        apart = range(1, min(REACH, len(values) - 1) + 1)
        pairs = [(values[:-d] - values[d:]).square().flatten(1).mean(1).sum() / decay_ratio**d for d in apart]
        return sum(pairs, start=values.new_zeros(()))

    return inner


@wrap_objective()
def diversity(layer: str) -> Loss:
    """Minus how alike in texture the pictures of the batch are: ``-sum_{i != j} cos(G_i, G_j) / N`` with the Gram
    matrix ``G`` of the channels. ``objective - 1e2 * diversity(layer)`` makes them differ.

    >>> diversity("conv")(lambda layer: torch.ones(4, 2, 3, 3))
    tensor(-3.)
    """

    def inner(T: Read) -> Tensor:
        values = T(layer)
        maps = values.reshape(len(values), values.shape[1], -1)
        grams = F.normalize((maps @ maps.transpose(1, 2)).flatten(1), dim=1)
        likeness = grams @ grams.T
        return -(likeness.sum() - likeness.diagonal().sum()) / len(values)

    return inner


def _blurred(picture: Tensor) -> Tensor:
    """The mean of 3 x 3 pixels, the centre twice; at the border of those that there are (lucid, `_torch_blur`)."""
    kernel = torch.full((picture.shape[1], 1, 3, 3), 0.5).to(picture)
    kernel[:, :, 1, 1] = 1.0
    total, weight = (
        F.conv2d(each, kernel, padding=1, groups=len(kernel)) for each in (picture, torch.ones_like(picture))
    )
    return total / weight
