"""Coordinates: a picture as a small network from the position to the colour (a CPPN)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Generator, Tensor

from features.parameterizations.canvas import Mixture, check_count, check_number, spelled
from features.parameterizations.colours import matrix_of
from features.parameterizations.protocols import Parameters, Size

# Mordvintsev et al. 2018, "Differentiable Image Parameterizations", and lucid, optvis/param/cppn.py: coordinates of
# standard deviation 1, eight layers of 24, and the two halves of the activation divided by what their means are.
REACH = math.sqrt(3)
WIDTH = 24
DEPTH = 8
FIRST, SECOND = 0.67, 0.6


@dataclass(frozen=True)
class Cppn(Mixture):
    """See `cppn`."""

    width: int = WIDTH
    depth: int = DEPTH
    gain: float = 1.0

    def start(
        self, generators: Sequence[Generator], *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Parameters:
        """Give weights ``(n, o, i)`` and biases ``(n, o, 1)`` of each layer in turn, in units of ``gain``: noise, and 0
        for biases and the last layer.
        """
        channels, _ = self.known
        inputs = [2, *[2 * self.width] * self.depth]
        made: list[Tensor] = []
        for given in inputs[:-1]:
            drawn = [torch.randn((self.width, given), generator=each, device=each.device) for each in generators]
            made += [torch.stack(drawn) / math.sqrt(given), torch.zeros(len(generators), self.width, 1)]
        made += [torch.zeros(len(generators), channels, inputs[-1]), torch.zeros(len(generators), channels, 1)]
        return tuple((each / self.gain).to(device, dtype) for each in made)

    def values(self, parameters: Parameters) -> Tensor:
        """Give what the network makes of the coordinates of each pixel."""
        channels, (height, width) = self.known
        weights, biases = parameters[::2], [self.gain * each for each in parameters[1::2]]
        places = _coordinates((height, width), weights[0]).expand(len(weights[0]), -1, -1)
        net = torch.baddbmm(biases[0], self.gain * weights[0], places)
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            # Both halves of the activation apart, their divisors in the weights: a tenth faster than joined.
            bent = torch.atan(net)
            net = torch.baddbmm(bias, self.gain / FIRST * weight[..., : self.width], bent)
            net = torch.baddbmm(net, self.gain / SECOND * weight[..., self.width :], bent * bent)
        return net.reshape(len(net), channels, height, width)


def cppn(
    size: int | Size | None = None,
    *,
    width: int = WIDTH,
    depth: int = DEPTH,
    colours: ArrayLike | None = None,
    gain: float = 0.1,
) -> Cppn:
    """A picture as a small network from the coordinates of a pixel to its colour: smooth pictures of any resolution
    (compositional pattern producing network; Mordvintsev et al. 2018).

    ``depth`` layers of ``width`` with the activation ``[atan(x) / 0.67, atan(x)^2 / 0.6]``, then one that starts at 0,
    so that the first picture is grey. The longer side spans ±√3. The weights are ``gain`` times the numbers that are
    optimized, so that the rates that suit `fourier` suit a network too. Use it without transforms and take 200 steps or
    more: the first find a place and a colour. For the gradient it keeps about ``12 width depth`` bytes per pixel and
    picture (117 MB at 224 x 224), and a step takes as long as that of a small vision network. ``size`` and ``colours``
    are as in `fourier`.

    >>> image = cppn(16).sized(3, (64, 64))
    >>> image.picture(image.start([torch.Generator().manual_seed(0)])).unique()
    tensor([0.5000])
    """
    check_count("width", width, least=1)
    check_count("depth", depth, least=1)
    check_number("gain", gain, least=1e-6)
    return Cppn(spelled(size), colours=matrix_of(colours), width=width, depth=depth, gain=gain)


def _coordinates(size: Size, like: Tensor) -> Tensor:
    """Give ``(1, 2, h w)``: x and y of the centre of each pixel, the longer side from -√3 to √3."""
    height, width = size
    longer = max(height, width)
    y, x = (REACH * (2 * np.arange(side) + 1 - side) / longer for side in (height, width))
    places = np.stack(np.broadcast_arrays(x[None, :], y[:, None])).reshape(1, 2, -1)
    return torch.as_tensor(places, dtype=like.dtype, device=like.device)
