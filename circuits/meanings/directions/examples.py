"""Examples of directions: what in a dataset lies furthest along each, and the evidence that scores judge it by."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from circuits.meanings.directions.finding import Directions
from circuits.meanings.evidence import Evidence, whitened
from features.examples.embedders import own_layers
from features.examples.loading import batches
from features.models import Model
from features.mosaics.vectors import maps_of

BATCH = 64  # images at once

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DirectionExamples:
    """The ``k`` images of a dataset that lie furthest along each of ``d`` directions, best first, ties by image.

    An image's value (d, k) is the largest ``a . v`` over all positions; ``image``, ``label`` (d, k), -1 for none;
    ``position`` (d, k, 2) of the peak, ``(y, x)``; ``vectors`` (d, k, c) what the layer gives there; ``late`` (d, k, e)
    what the network's late layer says of the whole image (`features.examples.own_layers`). ``names`` (d,) are
    ``'mixed4b NMF:3'``, ``labels`` the names of the classes.
    """

    names: tuple[str, ...]
    value: Floats
    image: Integers
    label: Integers
    position: Integers
    vectors: NDArray[np.float32]
    late: NDArray[np.float32]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"DirectionExamples({self.value.shape[1]} each for {len(self)} directions, {self.names[0]!r} first)"


def find_direction_examples(
    model: Model,
    directions: Directions | Sequence[Directions],
    dataset: Any,
    *,
    count: int = 64,
    progress: bool = True,
) -> DirectionExamples:
    """Find the ``count`` images of ``dataset`` that lie furthest along each direction, in one pass for all.

    Several sets of directions of one layer are taken together, in their order. The network is as it is: what the layer
    gives is projected. ``ValueError`` for directions of other weights or of several layers, and fewer images than
    ``count``.

    >>> from circuits.meanings.directions.finding import unit_directions
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model = load_model("sketches")
    >>> basis = unit_directions(model, "mixed3a")
    >>> find_direction_examples(model, basis, Sketches(8), count=3, progress=False).image.shape
    (64, 3)
    """
    bases = [directions] if isinstance(directions, Directions) else list(directions)
    layer = _checked(model, bases, dataset, count)
    along = torch.from_numpy(np.concatenate([each.vectors for each in bases]))
    ranking = _Ranking(along, count)
    with (
        tqdm(total=len(dataset), unit="image", desc="directions", disable=not progress, leave=False) as bar,
        contextlib.closing(batches(dataset, model, range(len(dataset)), BATCH)) as stream,
    ):
        for batch in stream:
            if len(batch.images):
                ranking.add(maps_of(model, batch.images, layer), batch.indices, batch.labels)
            bar.update(len(batch.span))
    if ranking.value.shape[1] < count:
        raise ValueError(f"{ranking.value.shape[1]} of {len(dataset)} images can be read: {count} were asked for")
    image = ranking.image.numpy()
    return DirectionExamples(
        names=tuple(f"{each.layer} {each.method}:{place}" for each in bases for place in range(len(each))),
        value=ranking.value.numpy(),
        image=image,
        label=ranking.label.numpy(),
        position=ranking.position.numpy(),
        vectors=ranking.vectors.numpy(),
        late=_late(model, dataset, image, progress),
        labels=_classes(model, dataset),
    )


def direction_evidence(examples: DirectionExamples, directions: Directions | Sequence[Directions]) -> Evidence:
    """Give the evidence by which the scores of units (`circuits.meanings.scores.SCORES`) judge directions.

    What the direction itself is made of is taken out of the vectors, as a unit's own channel is of a unit's (they get
    the mean's part along it), and all are whitened together, so that sets of directions, the units among them, can be
    compared. ``late`` is of the whole image. There is no upstream: PURE does not apply.
    """
    bases = [directions] if isinstance(directions, Directions) else list(directions)
    along = np.concatenate([each.vectors for each in bases])
    if along.shape != (len(examples), examples.vectors.shape[2]):
        raise ValueError(f"{len(examples)} examples of directions, and {len(along)} directions: give those they are of")
    vectors = examples.vectors.astype(np.float64)
    own = np.einsum("dkc,dc->dk", vectors - vectors.mean((0, 1)), along)
    vectors -= own[:, :, None] * along[:, None]
    found = Evidence(
        units=tuple(name.replace(" ", "-") for name in examples.names),
        value=examples.value,
        image=examples.image,
        label=examples.label,
        classes=len(examples.labels),
        vectors=vectors.astype(np.float32),
        late=examples.late,
    )
    return whitened(found, layers=[bases[0].layer] * len(examples))


class _Ranking:
    """The best ``count`` images of each direction so far, kept in order."""

    def __init__(self, along: Tensor, count: int) -> None:
        self.along, self.count = along.float(), count
        rows, channels = along.shape
        self.value = torch.zeros(rows, 0, dtype=torch.float64)
        self.image, self.label = torch.zeros(rows, 0, dtype=torch.int64), torch.zeros(rows, 0, dtype=torch.int64)
        self.position = torch.zeros(rows, 0, 2, dtype=torch.int64)
        self.vectors = torch.zeros(rows, 0, channels)

    def add(self, maps: Tensor, image: Tensor, label: Tensor) -> None:
        """Take in the maps (n, c, h, w) of images, whose numbers ascend from batch to batch."""
        flat = maps.flatten(2)
        value, place = torch.einsum("dc,ncp->dnp", self.along, flat).max(2)
        position = torch.stack([place // maps.shape[3], place % maps.shape[3]], 2)
        vectors = flat.transpose(1, 2)[torch.arange(len(flat)), place]
        given = {"value": value.double(), "position": position, "vectors": vectors}
        given |= {name: each.cpu().expand(len(value), -1) for name, each in (("image", image), ("label", label))}
        joined = {name: torch.cat([getattr(self, name), each], 1) for name, each in given.items()}
        order = joined["value"].sort(dim=1, descending=True, stable=True).indices[:, : self.count]
        for name, each in joined.items():
            index = order if each.ndim == 2 else order[:, :, None].expand(-1, -1, each.shape[2])
            setattr(self, name, each.gather(1, index))


def _late(model: Model, dataset: Any, image: Integers, progress: bool) -> NDArray[np.float32]:
    """Give what the network's late layer says of each image (d, k), (d, k, e): each image is read once."""
    embedder = own_layers(model)
    wanted = np.unique(image)
    parts = []
    with (
        tqdm(total=len(wanted), unit="image", desc="late layer", disable=not progress, leave=False) as bar,
        contextlib.closing(batches(dataset, model, wanted.tolist(), BATCH)) as stream,
    ):
        for batch in stream:
            with torch.no_grad():
                parts.append(torch.as_tensor(embedder(batch.images)).float().cpu().numpy())
            bar.update(len(batch.span))
    return np.concatenate(parts)[np.searchsorted(wanted, image)]


def _classes(model: Model, dataset: Any) -> tuple[str, ...]:
    for name in ("classes", "labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, list | tuple) and found and all(isinstance(each, str) for each in found):
            return tuple(found)
    return model.labels


def _checked(model: Model, bases: list[Directions], dataset: Any, count: int) -> str:
    if not bases:
        raise ValueError("no directions were given: find some with nmf_directions or kmeans_directions")
    if {each.digest for each in bases} != {model.digest}:
        raise ValueError("the directions are of other weights: find them again in this model")
    if len({each.layer for each in bases}) > 1:
        raise ValueError(f"directions of the layers {', '.join(each.layer for each in bases)}: give those of one")
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(dataset):
        raise ValueError(f"count is {count!r}: give 1 to {len(dataset)}, the images of this dataset")
    return bases[0].layer
