"""CPPN: a picture as a small network from a pixel's place to its colour."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from features.lucent.chance import generators, place


class CompositeActivation(nn.Module):
    """``atan(x)`` and its square, scaled to unit variance: twice as many channels."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.atan(x)
        return torch.cat([x / 0.67, (x * x) / 0.6], 1)


def cppn(
    size: int,
    num_output_channels: int = 3,
    num_hidden_channels: int = 24,
    num_layers: int = 8,
    activation_fn: Callable[[], nn.Module] = CompositeActivation,
    normalize: bool = False,
    *,
    device: torch.device | str | None = None,
) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Give the weights of a network of 1x1 convolutions and the picture ``(1, num_output_channels, size, size)`` that
    it makes of the places (-sqrt 3 to sqrt 3), grey at first (Mordvintsev et al. 2018, "Differentiable Image
    Parameterizations").

    It wants small steps (Adam at 0.005) and no transforms. Random numbers and ``device`` are as in `pixel_image`.

    >>> params, image_f = cppn(16)
    >>> len(params), image_f().unique()
    (16, tensor([0.5000], grad_fn=...))
    """
    (chance,) = generators(1)
    where = place(device)
    net = _network(num_output_channels, num_hidden_channels, num_layers, activation_fn, normalize, chance).to(where)
    line = torch.linspace(-math.sqrt(3), math.sqrt(3), size, device=where)
    places = torch.stack(torch.meshgrid(line, line, indexing="ij"))[None]

    def image() -> Tensor:
        picture: Tensor = net(places)
        return picture

    return list(net.parameters()), image


def _network(
    outputs: int, hidden: int, layers: int, activation: Callable[[], nn.Module], normalize: bool, chance: Generator
) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    inputs, last = 2, layers - 1
    for index in range(layers):
        width = outputs if index == last else hidden
        parts[f"conv{index}"] = _convolution(inputs, width, 0.0 if index == last else 1 / math.sqrt(inputs), chance)
        if normalize:
            parts[f"norm{index}"] = nn.InstanceNorm2d(width)
        if index < last:
            parts[f"actv{index}"] = made = activation()
            with torch.no_grad():
                inputs = int(made(torch.zeros(1, width, 1, 1)).shape[1])
    parts["output"] = nn.Sigmoid()
    return nn.Sequential(parts)


def _convolution(inputs: int, outputs: int, sd: float, chance: Generator) -> nn.Conv2d:
    """A 1x1 convolution without bias at first; torch's own start, from the global generator, is skipped."""
    with torch.device("meta"):
        made = nn.Conv2d(inputs, outputs, 1)
    made.weight = nn.Parameter(sd * torch.randn(outputs, inputs, 1, 1, generator=chance))
    made.bias = nn.Parameter(torch.zeros(outputs))
    return made
