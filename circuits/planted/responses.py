"""Responses: how strongly every image of a dataset excites some units, and where; kept whole, unlike examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.examples.images import read_item
from features.models import Model, probe

BATCH = 64

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Responses:
    """What ``n`` images give at ``u`` units of one layer.

    - channels (u,): which units; value (n, u): the largest activation over the positions, 0 for images that were not
      shown; place (n, u): the first position of it in reading order
    """

    channels: tuple[int, ...]
    value: Floats
    place: NDArray[np.int32]

    def of(self, channel: int) -> Floats:
        """Give the values (n,) of one unit."""
        return self.value[:, self.channels.index(channel)]

    def top(self, channel: int, count: int) -> Integers:
        """Give the ``count`` images that excite a unit most, best first, ties by image; silent ones are left out."""
        return strongest(self.of(channel), count)


def respond(
    model: Model,
    dataset: Any,
    wanted: Mapping[str, Sequence[int]],
    shown: Sequence[int] | None = None,
    *,
    progress: bool = True,
) -> tuple[dict[str, Responses], Integers]:
    """Show the images of ``dataset`` to ``model``, all or those ``shown``: the responses of the ``wanted`` channels of
    layers, and the labels (n,), -1 for images that have none or were not shown.

    Memory: 8 bytes for each image and unit.

    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> responses, labels = respond(load_model("sketches"), Sketches(4), {"mixed4c": [3, 5]}, progress=False)
    >>> responses["mixed4c"].value.shape, labels.shape
    ((4, 2), (4,))
    """
    count = len(dataset)
    order = np.arange(count) if shown is None else np.asarray(shown)
    value = {name: np.zeros((count, len(channels)), np.float32) for name, channels in wanted.items()}
    place = {name: np.zeros((count, len(channels)), np.int32) for name, channels in wanted.items()}
    labels = np.full(count, -1, np.int64)
    with torch.inference_mode(), tqdm(total=len(order), unit="image", desc="responses", disable=not progress) as bar:
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            images, labels[some] = opened(model, dataset, some.tolist())
            with probe(model, wanted) as activations:
                model(images)
                for name, channels in wanted.items():
                    best = flat(activations[name])[:, list(channels)].max(2)
                    value[name][some], place[name][some] = best.values.cpu().numpy(), best.indices.cpu().numpy()
            bar.update(len(some))
    found = {name: Responses(tuple(channels), value[name], place[name]) for name, channels in wanted.items()}
    return found, labels


def strongest(value: NDArray[np.floating], count: int) -> Integers:
    """Give the images of the ``count`` largest of ``value`` (n,) above 0, best first, ties by image."""
    best = np.argsort(-value, kind="stable")[:count]
    return np.asarray(best[value[best] > 0], np.int64)


def opened(model: Model, dataset: Any, indices: Sequence[int]) -> tuple[Tensor, Integers]:
    """Give the images at ``indices`` as the model takes them, and their labels, -1 where there is none."""
    items = [read_item(dataset, index, model.image_size, model.channels) for index in indices]
    images = torch.stack([image for image, _ in items]).to(model.device, model.dtype)
    return images, np.array([label for _, label in items], np.int64)


def flat(maps: Tensor) -> Tensor:
    """Give ``(n, c, ...)`` as ``(n, c, positions)``."""
    return maps.reshape(*maps.shape[:2], -1)
