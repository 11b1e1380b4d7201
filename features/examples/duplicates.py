"""Duplicates: the same picture twice in a dataset, found by a perceptual hash, and shown once among the examples."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.examples.embedders import resize_images
from features.examples.loading import Intake, batches
from features.examples.nouns import PREFIXES, RANKED, Examples, LayerExamples

# The side to which a picture is reduced, and of the block of its lowest frequencies that is looked at.
SIDE, LOWEST = 32, 10
BITS = LOWEST**2 - 1
# Of the 50 million pairs of CIFAR-10's 10,000 test photographs 21 differ in at most 12 bits, and all 21 are the same
# photograph, or two of the same car, to the eye; from 14 bits on three of the next ten are not.
DISTANCE = 12
# Below this a coefficient is float noise: 8-bit noise alone gives some 0.02.
FLAT = 1e-3
BATCH = 64

Bits = NDArray[np.bool_]


def perceptual_hash(images: Tensor) -> Bits:
    """Give 99 bits for each of ``images`` (n, channels, h, w), in which pictures that look the same hardly differ.

    The mean of the channels at 32 x 32 is transformed by a cosine transform (DCT-II); the bits say which of the 10 x 10
    lowest frequencies, but for the mean, lie above their median (pHash: Zauner 2010, with more frequencies). They stand
    compression, small noise, blur, brightness and contrast; not mirroring, turning, or cropping by more than 3 %. A
    picture of one colour has no bit.

    >>> perceptual_hash(torch.rand(2, 3, 64, 64)).shape
    (2, 99)
    """
    grey = resize_images(images.detach().float().mean(1, keepdim=True), (SIDE, SIDE))[:, 0].cpu().double()
    steps = torch.arange(SIDE, dtype=torch.float64)
    waves = torch.cos(torch.pi / SIDE * (steps + 0.5) * steps[:LOWEST, None])
    low = (waves @ grey @ waves.T).flatten(1)[:, 1:]
    return np.asarray((low > low.median(1, keepdim=True).values + FLAT).numpy())


def collapse_duplicates(
    examples: Examples, dataset: Any, *, distance: int = DISTANCE, progress: bool = True
) -> Examples:
    """Give the examples with each picture once: of images in a list that look the same only the best stays.

    In every ranked list of every unit (top and bottom, of maxima and of means) an image whose `perceptual_hash` differs
    in at most ``distance`` of 99 bits from that of a better one is taken out, and the others move up; the list gets
    shorter, since what did not reach it in the first place is not known: find a few more examples than are needed. The
    examples spread over quantiles, which are drawn by chance, stay as they are, and so do all statistics. The kept
    images are read again, each once.

    Errors: ``ValueError`` for a dataset of another length, an image that can no longer be read, and a ``distance``
    outside 0 to 99.

    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model, sketches = load_model("sketches"), Sketches(4)
    >>> twice = [sketches[index // 2] for index in range(8)]
    >>> examples = find_examples(model, twice, ["mixed3a"], count=4, progress=False)
    >>> len(collapse_duplicates(examples, twice, progress=False)["mixed3a:0"].bottom_image)
    2
    """
    if isinstance(distance, bool) or not isinstance(distance, int) or not 0 <= distance <= BITS:
        raise ValueError(f"distance is {distance!r}: give how many of {BITS} bits may differ")
    if len(dataset) != examples.length:
        raise ValueError(f"this dataset has {len(dataset)} images, and the examples are from one of {examples.length}")
    lists = [getattr(layer, f"{prefix}image") for layer in examples.arrays.values() for prefix in PREFIXES]
    wanted = np.unique(np.concatenate([images[images >= 0] for images in lists]))
    hashes = _hashes(Intake(examples.image_size, examples.channels), dataset, wanted, progress)
    arrays = {name: _collapsed(layer, wanted, hashes, distance) for name, layer in examples.arrays.items()}
    return replace(examples, arrays=arrays)


def _hashes(intake: Intake, dataset: Any, wanted: NDArray[np.int64], progress: bool) -> Bits:
    found = [np.zeros((0, BITS), bool)]
    stream = batches(dataset, intake, wanted.tolist(), BATCH)
    bar = tqdm(total=len(wanted), unit="image", desc="duplicates", disable=not progress)
    with closing(stream), bar:
        for batch in stream:
            if batch.skipped:
                index, reason = batch.skipped[0]
                raise ValueError(
                    f"image {index}, an example, can no longer be read ({reason}): find the examples again"
                )
            found.append(perceptual_hash(batch.images))
            bar.update(len(batch.span))
    return np.concatenate(found)


def _collapsed(layer: LayerExamples, wanted: NDArray[np.int64], hashes: Bits, distance: int) -> LayerExamples:
    values: dict[str, Any] = {field.name: getattr(layer, field.name) for field in fields(layer)}
    for prefix in PREFIXES:
        names = [f"{prefix}{name}" for name in RANKED] + ([] if prefix else ["vectors"])
        kept = shown_once(values[f"{prefix}image"], wanted, hashes, distance)
        values |= _moved_up({name: values[name] for name in names}, kept)
    return LayerExamples(**values)


def shown_once(images: NDArray[np.int64], wanted: NDArray[np.int64], hashes: Bits, distance: int) -> Bits:
    """Say which of the ranks (c, k) stay: those that look like no better one that stays."""
    filled = images >= 0
    if not filled.any():
        return filled
    signs = np.where(hashes[np.searchsorted(wanted, images).clip(max=len(wanted) - 1)], 1.0, -1.0).astype(np.float32)
    near = (BITS - signs @ signs.transpose(0, 2, 1)) / 2 <= distance
    kept = filled.copy()
    for rank in range(1, images.shape[1]):
        kept[:, rank] &= ~(near[:, rank, :rank] & kept[:, :rank]).any(axis=1)
    return kept


def _moved_up(arrays: Mapping[str, NDArray[Any]], kept: Bits) -> dict[str, NDArray[Any]]:
    """Give arrays (c, k, ...) with the rows that stay in front, and behind them rows that are not filled."""
    order = np.argsort(~kept, axis=1, kind="stable")
    gone = ~np.take_along_axis(kept, order, axis=1)
    moved = {}
    for name, array in arrays.items():
        moved[name] = np.take_along_axis(array, order.reshape(*order.shape, *(1,) * (array.ndim - 2)), axis=1)
        moved[name][gone] = EMPTY.get(name.split("_")[-1], 0)
    return moved


# What rows hold that are not filled, other than 0.
EMPTY: dict[str, float] = {"value": np.nan, "image": -1, "label": -1}
