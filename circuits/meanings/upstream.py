"""Upstream: what each channel of the layers below gave to a unit where its examples peak."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from circuits.wiring import flow
from features.activations import Edit
from features.examples import Examples
from features.examples.images import read_item
from features.models import Model, probe
from features.units import Unit

BATCH = 64  # examples at once


def find_upstream(
    model: Model,
    examples: Examples,
    dataset: Any,
    units: Iterable[Unit | str] | None = None,
    *,
    progress: bool = True,
) -> NDArray[np.float32]:
    """Give what the channels below contributed to each example of ``units``, by default all: (n, k, u), zeros where
    there is no example.

    ``contribution_i = sum over y, x of a_i[y, x] * dz/da_i[y, x]``, where ``z`` is the unit at the example's peak and
    ``a`` the layers that feed its layer, among the model's default layers (``u`` counts their channels, concatenated;
    of units of several layers the widest, filled with zeros). PURE (Dreyer et al. 2024, "PURE: Turning Polysemantic
    Neurons Into Pure Features by Identifying Relevant Circuits") clusters these: two meanings come by two circuits. A
    layer that no default layer feeds reads the image, whose channels (less the model's mean) take the layer's place.

    Raises ``ValueError`` for a dataset of another length than the one the examples were found in, and unknown units.

    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model, dataset = load_model("sketches"), Sketches(12)
    >>> examples = find_examples(model, dataset, ["mixed4c"], count=4, progress=False)
    >>> find_upstream(model, examples, dataset, ["mixed4c:3"], progress=False).shape
    (1, 4, 96)
    """
    chosen = [model.unit(unit) for unit in (examples if units is None else units)]
    if len(dataset) != examples.length:
        raise ValueError(f"this dataset has {len(dataset)} images, and the examples are from one of {examples.length}")
    places: dict[str, list[int]] = {}
    for place, unit in enumerate(chosen):
        places.setdefault(unit.layer, []).append(place)
    with tqdm(total=len(chosen), desc="upstream", unit="unit", disable=not progress, leave=False) as bar:
        parts = {}
        for layer, mine in places.items():
            parts[layer] = _of_layer(model, examples, dataset, layer, [chosen[place].channel for place in mine])
            bar.update(len(mine))
    found = np.zeros((len(chosen), examples.count, max(part.shape[2] for part in parts.values())), np.float32)
    for layer, part in parts.items():
        found[places[layer], :, : part.shape[2]] = part
    return found


def sources_of(model: Model, layer: str) -> tuple[str, ...]:
    """Give the default layers that feed ``layer`` directly; none where it reads the image."""
    return flow(model, list(dict.fromkeys([*model.default_layers, layer])))[layer]


def _of_layer(model: Model, examples: Examples, dataset: Any, layer: str, channels: list[int]) -> NDArray[np.float32]:
    sources = sources_of(model, layer)
    found = examples.layer(layer)
    images = found.image[channels]
    rows, columns = np.nonzero(images >= 0)
    order = np.argsort(images[rows, columns], kind="stable")  # an image is opened once
    rows, columns = rows[order], columns[order]
    width = sum(model.layer(source).channels for source in sources) or model.channels
    given = np.zeros((len(channels), examples.count, width), np.float32)
    pictures = _opened(dataset, images[rows, columns].tolist(), examples)
    for start in range(0, len(rows), BATCH):
        some = slice(start, start + BATCH)
        row, column = rows[some], columns[some]
        batch = torch.stack([next(pictures) for _ in row])
        wanted = np.asarray(channels)[row], found.position[np.asarray(channels)[row], column]
        given[row, column] = _contributions(model, sources, layer, batch, *map(torch.from_numpy, wanted))
    return given


def _opened(dataset: Any, indices: list[int], examples: Examples) -> Iterator[Tensor]:
    """Give the images at ``indices``, which ascend; each is opened once."""
    held: tuple[int, Tensor] | None = None
    for index in indices:
        if held is None or held[0] != index:
            held = index, read_item(dataset, index, examples.image_size, examples.channels)[0]
        yield held[1]


def _contributions(
    model: Model, sources: tuple[str, ...], layer: str, images: Tensor, channels: Tensor, positions: Tensor
) -> NDArray[np.float32]:
    """Give (n, u): activation times gradient of one unit at one place for each of ``images``."""
    leaves: dict[str, Tensor] = {}

    def cut(name: str, value: Tensor) -> Tensor:
        leaves[name] = value.detach().clone().requires_grad_()
        return leaves[name].clone()

    edits: Mapping[str, Edit] = {name: functools.partial(cut, name) for name in sources}
    with torch.enable_grad(), probe(model, [layer], edits=edits) as activations:
        # channels last: the same numbers but for rounding, twice as fast on a processor
        shown = images.to(model.device, model.dtype).contiguous(memory_format=torch.channels_last)
        if not sources:
            mean = torch.tensor(model.mean, device=shown.device, dtype=shown.dtype)[:, None, None]
            leaves["image"] = (shown - mean).requires_grad_()
            shown = leaves["image"] + mean
        model(shown)
        maps = activations[layer].flatten(2) if activations[layer].ndim > 2 else activations[layer][:, :, None]
        wide = activations[layer].shape[3] if activations[layer].ndim == 4 else 1
        places = (positions[:, 0] * wide + positions[:, 1]).to(maps.device)
        peaks = maps[torch.arange(len(maps), device=maps.device), channels.to(maps.device), places]
        gradients = torch.autograd.grad(peaks.sum(), list(leaves.values()))
    products = [(leaf.detach() * gradient) for leaf, gradient in zip(leaves.values(), gradients, strict=True)]
    summed = [each.flatten(2).sum(2) if each.ndim > 2 else each for each in products]
    return torch.cat(summed, dim=1).float().cpu().numpy()
