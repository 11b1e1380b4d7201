"""Slow, obvious versions of what the packages do, sharing no code with them; a section for each test file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from features.models import Layer, Model, probe

# Examples: the network image by image, every value in a Python list, sorted by Python.


def slow_examples(model: Model, dataset: Any, layer: str, count: int) -> dict[str, np.ndarray]:
    """What `features.examples.find_examples` says of ``layer`` of a network whose values are all finite."""
    described = model.layer(layer)
    images = [dataset[index][0] for index in range(len(dataset))]
    labels = [dataset[index][1] for index in range(len(dataset))]
    values = []
    for image in images:
        with torch.no_grad(), probe(model, layer) as activations:
            model(image[None])
            values.append(activations[layer][0].double().numpy())
    names = ("value", "image", "label", "position", "box", "vectors")
    found: dict[str, list[Any]] = {f"{side}{name}": [] for side in ("", "bottom_") for name in names}
    found |= {name: [] for name in ("mean", "sd", "minimum", "maximum", "firing_rate", "dead", "nonfinite")}
    for channel in range(described.channels):
        every = [float(number) for value in values for number in value[channel].flatten()]
        mean = math.fsum(every) / len(every)
        found["mean"].append(mean)
        found["sd"].append(math.sqrt(math.fsum((number - mean) ** 2 for number in every) / len(every)))
        found["minimum"].append(min(every))
        found["maximum"].append(max(every))
        found["firing_rate"].append(sum(number > 0 for number in every) / len(every))
        found["dead"].append(min(every) == 0 == max(every))
        found["nonfinite"].append(0)
        best = [(float(value[channel].max()), index) for index, value in enumerate(values)]
        top = sorted(best, key=lambda pair: (-pair[0], pair[1]))[:count]
        if min(every) >= 0:
            top = [pair for pair in top if pair[0] > 0]
        for side, chosen in (("", top), ("bottom_", sorted(best)[:count])):
            rows = [
                _slow_row(described, values[index], channel, value, index, labels[index], model)
                for value, index in chosen
            ]
            width = described.channels
            rows += [(math.nan, -1, -1, (0, 0), (0, 0, 0, 0), [0.0] * width)] * (count - len(rows))
            for name, column in zip(names, zip(*rows, strict=True), strict=True):
                found[f"{side}{name}"].append(column)
    del found["bottom_vectors"]
    return {name: np.array(column) for name, column in found.items()}


def _slow_row(
    layer: Layer, values: np.ndarray, channel: int, value: float, index: int, label: int, model: Model
) -> tuple[float, int, int, tuple[int, int], tuple[int, int, int, int], list[float]]:
    shape = values.shape[1:]
    place = next(place for place in np.ndindex(*shape) if values[(channel, *place)] == value)
    position = (*place, 0, 0)[:2]
    height, width = model.image_size
    y0, x0, y1, x1 = (0, 0, height, width) if layer.field is None or len(shape) != 2 else layer.field.box(place)
    box = (max(y0, 0), max(x0, 0), min(y1, height), min(x1, width))
    vector = [float(values[(other, *place)]) for other in range(len(values))]
    return value, index, label, (int(position[0]), int(position[1])), box, vector


# Activations and models: every module's forward wrapped by hand; receptive fields as the pixels that have a gradient.


def outputs_of_calls(net: torch.nn.Module, images: torch.Tensor, *, copy: bool = True) -> dict[str, torch.Tensor]:
    """What every call of every module gave, in order of return, copied at once if ``copy``; '' is the network."""
    outputs: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def wrap(name: str, module: torch.nn.Module) -> None:
        forward = module.forward

        def recording(*args: Any, **kwargs: Any) -> Any:
            number = counts.get(name, 0)
            counts[name] = number + 1
            output = forward(*args, **kwargs)
            tensor = output[0] if isinstance(output, tuple) else output
            outputs[f"{name}#{number}" if number else name] = tensor.clone() if copy else tensor
            return output

        module.forward = recording

    for name, module in net.named_modules():
        wrap(name, module)
    try:
        with torch.no_grad():
            net(images)
    finally:
        for module in net.modules():
            del module.forward
    return outputs


def receptive_box(model: Model, layer: str, position: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """The smallest box ``(y0, x0, y1, x1)`` of pixels that change ``layer`` at ``position``, over random images."""
    reached = np.zeros((size, size), dtype=bool)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(8, model.channels, size, size, generator=generator, dtype=torch.float64).requires_grad_()
        with probe(model, layer) as activations:
            model(images)
            value = activations[layer][:, :, position[0], position[1]]
            (value * torch.randn(value.shape, generator=generator, dtype=torch.float64)).sum().backward()
        assert images.grad is not None
        reached |= (images.grad != 0).any(dim=0).any(dim=0).numpy()
    rows, columns = np.nonzero(reached.any(axis=1))[0], np.nonzero(reached.any(axis=0))[0]
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


# Wiring: the network made linear by swapping functions, its map felt out with one impulse at a time.


@contextmanager
def linear_functions(deviations: list[torch.Tensor]) -> Iterator[None]:
    """Let everything through ReLU and its kin, average in max pooling, divide by ``deviations`` in layer norms."""

    def same(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return x

    def average(
        x: torch.Tensor, size: Any, stride: Any = None, padding: Any = 0, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        return F.avg_pool2d(x, size, stride, padding)

    left = list(deviations)

    def norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / left.pop(0) * weight + bias

    with pytest.MonkeyPatch.context() as patch:
        for home, name in (
            (F, "relu"),
            (F, "relu_"),
            (F, "relu6"),
            (F, "hardtanh"),
            (F, "gelu"),
            (torch, "relu"),
            (torch.Tensor, "clamp"),
        ):
            patch.setattr(home, name, same)
        patch.setattr(F, "max_pool2d", average)
        patch.setattr(F, "layer_norm", norm)
        yield


@contextmanager
def noted_deviations() -> Iterator[list[torch.Tensor]]:
    """Give the list that every layer norm in the body adds the deviation to by which it divides."""
    noted: list[torch.Tensor] = []
    true = F.layer_norm

    def norm(x: torch.Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> torch.Tensor:
        noted.append((x.var(-1, unbiased=False, keepdim=True) + eps).sqrt())
        return true(x, shape, weight, bias, eps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "layer_norm", norm)
        yield noted


def slow_connect(model: Model, source: str, target: str, size: int) -> torch.Tensor:
    """What the target's central position gets from one more of each number of the source's map: ``(o, i, h, w)``.

    On a grey image of side ``size``; exact because the network is linear.
    """
    grey = torch.full((1, model.channels, size, size), 0.5, dtype=torch.float64)
    with torch.no_grad(), noted_deviations() as deviations, probe(model, [source, target]) as activations:
        model(grey)
        _, channels, h, w = activations[source].shape

    def centre(impulses: torch.Tensor) -> torch.Tensor:
        edits = {source: lambda value: value + impulses}
        with torch.no_grad(), linear_functions(deviations), probe(model, [target], edits=edits) as activations:
            model(grey.expand(len(impulses), -1, -1, -1))
            return activations[target][:, :, activations[target].shape[2] // 2, activations[target].shape[3] // 2]

    kernels = []
    for channel in range(channels):
        impulses = torch.zeros(h * w + 1, channels, h, w, dtype=torch.float64)
        for place in range(h * w):
            impulses[place, channel, place // w, place % w] = 1
        found = centre(impulses)
        kernels.append((found[:-1] - found[-1]).T.reshape(-1, h, w))
    return torch.stack(kernels, 1)


def window_of(kernels: torch.Tensor) -> torch.Tensor:
    """Cut kernels ``(o, i, h, w)`` down to the smallest box that holds everything that is not 0."""
    used = kernels.abs().amax((0, 1)) > 1e-12
    rows, columns = used.any(1).nonzero()[:, 0], used.any(0).nonzero()[:, 0]
    return kernels[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
