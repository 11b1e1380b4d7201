"""Planting: features and what they read, made the weights of a network that runs; the truth is kept beside it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from circuits.planted.kernels import Source, Wiring
from circuits.planted.stimuli import SIDE, Content, draw
from features.models import Model, load_model, probe
from features.units import Unit

COLOURS = (Source("red"), Source("green"), Source("blue"))
SHOWN, KEPT = 12, 6  # pictures of each content by which responses are set: in the first bed, in the others
# Spread of the logarithm of the background's norms: that of the wires into one unit is 0.72 in the embedded network of
# sketches (mixed3b, mixed4b) and 0.69 in that of photographs (mixed3b).
UNEVEN = 0.7
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Seed:
    """A feature to plant: its name, what it reads in the layer below, the contents that it means, and its threshold:
    the part of its full response from which it fires.

    A feature that means nothing by itself (an edge) is set by the picture that excites it most.
    """

    source: Source
    reads: Wiring
    means: tuple[str, ...] = ()
    threshold: float = 0.3


@dataclass(frozen=True)
class Bed:
    """A layer to plant: a convolution of odd ``size`` and a ReLU."""

    name: str
    size: int
    seeds: Sequence[Seed]
    stride: int = 1


@dataclass(frozen=True, eq=False)
class Planted:
    """A network in which circuits were put by hand, and the truth about it.

    - model: loaded by `load_model`, images ``(n, 3, 64, 64)`` in [0, 1]; its layers are convolution and ReLU
    - names: planted unit -> the feature that it is, such as ``'curve 45'``; all other units are distractors
    - kernels: ``(source, target)`` -> the planted weights ``(kh, kw)``, as they are in the network but for the
      background; every wire between listed layers that is not named is background
    - means: unit -> the contents that excite it, for units that mean something by themselves
    - contents: what can be drawn; `images` gives pictures of it
    - background: mean norm of a background wire over the median norm of the planted wires into that layer
    """

    model: Model
    names: Mapping[str, str]
    kernels: Mapping[tuple[str, str], Floats]
    means: Mapping[str, tuple[str, ...]]
    contents: Mapping[str, Content]
    background: float

    @property
    def edges(self) -> dict[tuple[str, str], float]:
        """The planted wires and the sum of their weights, positive for excitation; about 0 where both balance."""
        return {edge: float(kernel.sum()) for edge, kernel in self.kernels.items()}

    def unit(self, feature: str) -> str:
        """Give the address of the unit that is ``feature``, such as ``'circle'``; ``ValueError`` for no such."""
        found = {name: unit for unit, name in self.names.items()}
        if feature not in found:
            raise ValueError(f"no feature {feature!r} was planted in {self.model.name}: there are {', '.join(found)}")
        return found[feature]

    def images(self, content: str, count: int = 8, *, seed: int = 0) -> Tensor:
        """Give ``count`` pictures ``(n, 3, 64, 64)`` of ``content``; ``ValueError`` for one that cannot be drawn."""
        if content not in self.contents:
            raise ValueError(f"no content {content!r} of {self.model.name}: it has {', '.join(self.contents)}")
        if count < 1:
            raise ValueError(f"count is {count}: ask for at least one picture")
        return draw(self.contents[content], count, seed + 1000 * list(self.contents).index(content))

    def dataset(self, count: int = 32, *, seed: int = 0) -> list[tuple[Tensor, int]]:
        """Give ``count`` pictures of each content with its number, as `find_examples` takes them."""
        return [
            (image, number)
            for number, content in enumerate(self.contents)
            for image in self.images(content, count, seed=seed)
        ]


def plant(
    name: str,
    beds: Sequence[Bed],
    contents: Mapping[str, Content],
    *,
    background: float,
    distractors: int,
    seed: int,
) -> Planted:
    """Make the network of ``beds``, the first of which reads the colours of the image.

    Each bed gets ``distractors`` more channels with random kernels, as strong as the planted units together and
    without a threshold; every wire into a planted unit gets normal weights in addition, whose norm is on average
    ``background`` times the median norm of the planted wires into that bed, and spread log-normally (by 0.7, so that
    one in 20 is 2.5 times as strong as the average); channels are in random order. Then each planted unit is
    scaled so that the contents that it means excite it to 1, and its bias set to its threshold.
    """
    if not (background >= 0 and np.isfinite(background)) or distractors < 0:
        raise ValueError(f"background is {background!r}, distractors {distractors!r}: give numbers from 0 on")
    chance = np.random.default_rng(seed)
    shown = {content: draw(made, SHOWN, 7919 + number) for number, (content, made) in enumerate(contents.items())}
    net = nn.Sequential(OrderedDict())
    values = {content: (images - 0.5) / 0.5 for content, images in shown.items()}
    below: dict[Source, int] = {source: channel for channel, source in enumerate(COLOURS)}
    below_name, width, names, kernels = "", len(COLOURS), dict[str, str](), dict[tuple[str, str], Floats]()
    for bed in beds:
        channels = chance.permutation(len(bed.seeds) + distractors)
        places = {each.source: int(channel) for each, channel in zip(bed.seeds, channels, strict=False)}
        planted = _planted(bed, below, len(channels), width, places)
        weights = planted + _random(planted, places, background, chance)
        factors, bias = _tuned(bed, weights, values, places)
        layer = _layer(bed, weights * factors[:, None, None, None], bias)
        net.add_module(bed.name, layer)
        with torch.no_grad():
            values = {content: layer(images[:KEPT]) for content, images in values.items()}
        names |= {f"{bed.name}:{channel}": str(source) for source, channel in places.items()}
        kernels |= _truth(bed, planted * factors[:, None, None, None], below, below_name, places)
        below, below_name, width = places, bed.name, len(channels)
    means = {
        f"{bed.name}:{channel}": each.means
        for bed in beds
        for each in bed.seeds
        if each.means
        for channel in [_channel(names, bed.name, each.source)]
    }
    model = load_model(net.eval(), name=name, image_size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Planted(model, names, kernels, means, contents, background)


def peak_responses(planted: Planted, units: Sequence[Unit | str], images: Tensor) -> Tensor:
    """Give the largest response of each unit on each image: ``(n, units)``."""
    chosen = [planted.model.unit(unit) for unit in units]
    layers = list(dict.fromkeys(unit.layer for unit in chosen))
    with torch.no_grad(), probe(planted.model, layers) as activations:
        planted.model(images)
        return torch.stack([activations[unit.layer][:, unit.channel].amax((1, 2)) for unit in chosen], 1)


def _channel(names: Mapping[str, str], bed: str, source: Source) -> int:
    return next(
        Unit.of(unit).channel for unit, name in names.items() if name == str(source) and Unit.of(unit).layer == bed
    )


def _planted(bed: Bed, below: Mapping[Source, int], outputs: int, inputs: int, places: Mapping[Source, int]) -> Floats:
    weights = np.zeros((outputs, inputs, bed.size, bed.size))
    for each in bed.seeds:
        for source, kernel in each.reads.items():
            weights[places[each.source], below[source]] = kernel.drawn(bed.size)
    return weights


def _random(planted: Floats, places: Mapping[Source, int], background: float, chance: np.random.Generator) -> Floats:
    """Give the background of the planted units, and the kernels of the distractors."""
    norms = np.linalg.norm(planted, axis=(2, 3))
    taps = np.sqrt(planted.shape[2] * planted.shape[3])
    noise = chance.normal(size=planted.shape) / taps
    own = np.isin(np.arange(len(planted)), list(places.values()))
    units = np.sqrt(np.square(norms).sum(1))
    scale = np.where(own, background * np.median(norms[norms > 0]), np.median(units[own]) / np.sqrt(planted.shape[1]))
    uneven = np.exp(UNEVEN * chance.normal(size=norms.shape) - UNEVEN**2 / 2)
    uneven = np.where(own[:, None], uneven, 1.0)
    return np.asarray(noise * (scale[:, None] * uneven)[:, :, None, None])


def _tuned(
    bed: Bed, weights: Floats, values: Mapping[str, Tensor], places: Mapping[Source, int]
) -> tuple[Floats, Floats]:
    """Give what each channel's weights are multiplied by, and its bias."""
    layer = _layer(bed, weights, np.zeros(len(weights)))
    with torch.no_grad():
        peaks = {content: layer[0](images).amax((2, 3)).numpy() for content, images in values.items()}
    largest = np.max([peak.mean(0) for peak in peaks.values()], axis=0)
    best = np.max([peak.max(0) for peak in peaks.values()], axis=0)
    factors, bias = 1 / np.maximum(largest, 1e-9), np.zeros(len(weights))
    for each in bed.seeds:
        channel = places[each.source]
        full = min(peaks[content][:, channel].mean() for content in each.means) if each.means else best[channel]
        if full <= 0:
            raise ValueError(f"nothing that is drawn excites {str(each.source)!r}: give it another kernel or content")
        factors[channel] = 1 / (full * (1 - each.threshold))
        bias[channel] = -each.threshold / (1 - each.threshold)
    return factors, bias


def _layer(bed: Bed, weights: Floats, bias: Floats) -> nn.Sequential:
    outputs, inputs = weights.shape[:2]
    convolution = nn.Conv2d(inputs, outputs, bed.size, stride=bed.stride, padding=bed.size // 2, device="meta")
    convolution = convolution.to_empty(device="cpu")  # no weights are drawn, so that no global generator moves
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(weights))
        convolution.bias.copy_(torch.from_numpy(bias))  # type: ignore[union-attr]
    return nn.Sequential(OrderedDict(convolution=convolution, relu=nn.ReLU()))


def _truth(
    bed: Bed, weights: Floats, below: Mapping[Source, int], below_name: str, places: Mapping[Source, int]
) -> dict[tuple[str, str], Floats]:
    """Give the planted kernels between two layers; those that read the image are no wires between units."""
    if not below_name:
        return {}
    return {
        (f"{below_name}:{below[source]}", f"{bed.name}:{places[each.source]}"): weights[
            places[each.source], below[source]
        ].copy()
        for each in bed.seeds
        for source in each.reads
    }
