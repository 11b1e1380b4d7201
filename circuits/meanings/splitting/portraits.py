"""Portraits: a picture of one meaning of a unit, made from its examples and held to them; and pictures of no
examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.models import Model, probe
from features.objectives import LEAST_COSINE, Objective, channel, cosine, diversity, neuron
from features.parameterizations import starting_from
from features.units import Unit
from features.visualization import Visualization, visualize

# Examples whose mean a picture starts from: of fewer one shows through, of more the mean is grey (looked at, sketches).
STARTED = 12
GREY = 0.5
# Weight of the likeness of pictures, whose mean activations are around 1: with 5 and with lucid's 100 they differ in
# what the unit does not see, and it fires in few of them (looked at, mixed4c of the network of `features.sketches`).
UNLIKE = 1.0

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Portraits:
    """One picture for each of ``m`` meanings: as the network sees them ``images`` (m, channels, h, w), as people do
    ``pictures`` (m, h, w, 3), and how good they are."""

    images: Tensor
    pictures: NDArray[np.float32]
    verdicts: tuple[str, ...]

    @classmethod
    def of(cls, made: Sequence[Visualization], places: Sequence[int]) -> Portraits:
        """Take the picture at each of ``places`` in its visualization."""
        pairs = list(zip(made, places, strict=True))
        images = torch.cat([tensor_of(each)[place : place + 1] for each, place in pairs])
        pictures = np.stack([each.group(each.units[place])[place] for each, place in pairs])
        return cls(images, pictures.astype(np.float32), tuple(each.verdicts[place] for each, place in pairs))


def portraits(model: Model, unit: Unit, starts: Sequence[Tensor], middles: Floats, **settings: Any) -> Portraits:
    """Make one picture for each meaning: started from ``starts`` (channels, h, w), held to ``middles`` (m, c).

    What is raised is the unit at the centre, times how much the layer there points to the meaning's centre (`held`).
    """
    pairs = zip(starts, middles, strict=True)
    made = [
        visualize(model, held(model, unit, middle), image=starting_from(start), **settings) for start, middle in pairs
    ]
    return Portraits.of(made, [0] * len(made))


def held(model: Model, unit: Unit, middle: Floats) -> Objective:
    """The unit at the centre times ``max(0.1, cos(a, middle))``, ``a`` what its layer says there: the unit as it fires
    in the company that it has on a meaning's examples."""
    fires = neuron(unit) if len(model.layer(unit.layer).shape) > 1 else channel(unit)
    if not middle.any():
        return fires
    where = "centre" if len(model.layer(unit.layer).shape) > 1 else None
    company = cosine(unit.layer, middle, position=where)  # type: ignore[arg-type]

    def score(activations: Mapping[str, Tensor]) -> Tensor:
        return fires.score(activations) * company.score(activations).clamp(min=LEAST_COSINE)

    return Objective(score, (unit.layer,), f"{fires.name} in company, {company.name}", peak=unit)


def start_of(images: Tensor, position: Integers, extent: Sequence[int]) -> Tensor:
    """Give the mean of images (n, channels, h, w), each moved so that its peak is in the middle; grey where none is.

    Nguyen et al. 2016 ("Multifaceted Feature Visualization") start from the mean of a cluster; moving the peaks
    together first keeps what they share sharp. ``extent`` are rows and columns of the layer; without two, none moves.
    """
    if len(extent) != 2:
        return images.mean(0)
    size = images.shape[2:]
    total, count = torch.zeros_like(images[0]), torch.zeros(size, dtype=images.dtype)
    for image, place in zip(images, position.tolist(), strict=True):
        moves = [
            side // 2 - int((at + 0.5) * side / cells) for side, at, cells in zip(size, place, extent, strict=True)
        ]
        to = [slice(max(0, move), side + min(0, move)) for move, side in zip(moves, size, strict=True)]
        out = [slice(max(0, -move), side + min(0, -move)) for move, side in zip(moves, size, strict=True)]
        total[:, to[0], to[1]] += image[:, out[0], out[1]]
        count[to[0], to[1]] += 1
    return torch.where(count > 0, total / count.clamp(min=1), GREY).clamp(0, 1)


def diverse(model: Model, unit: Unit, count: int, **settings: Any) -> Visualization:
    """Make ``count`` pictures of a unit that differ from each other as far as it lets them."""
    wanted = channel(unit) - UNLIKE * diversity(unit.layer)
    return visualize(model, wanted, count=count, **settings)


def seen_in(model: Model, unit: Unit, images: Tensor) -> tuple[Floats, Integers, Floats]:
    """Give of each image the unit's peak (n,), its position (n, 2), and what the layer says there (n, c)."""
    with torch.no_grad(), probe(model, [unit.layer]) as activations:
        model(images.to(device=model.device, dtype=model.dtype))
        layer = activations[unit.layer]
    wide = layer.shape[3] if layer.ndim == 4 else 1
    maps = layer.reshape(*layer.shape[:2], -1).double().cpu()
    values, places = maps[:, unit.channel].max(1)
    said = maps.gather(2, places[:, None, None].expand(-1, maps.shape[1], 1))[:, :, 0]
    position = torch.stack([places // wide, places % wide], 1)
    return values.numpy(), position.numpy(), said.numpy()


def tensor_of(pictures: Visualization) -> Tensor:
    """Give pictures as images of the network, (n, channels, h, w)."""
    return torch.from_numpy(np.moveaxis(pictures.images, -1, 1).copy())
