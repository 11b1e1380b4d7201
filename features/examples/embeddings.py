"""Embeddings: vectors of the crops of kept examples, by which examples that mean the same lie near each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.activations import nearest
from features.examples.embedders import own_layers, resize_images
from features.examples.loading import Batch, batches
from features.examples.nouns import Examples
from features.models import Model
from features.records import check_shapes, read_record, write_record
from features.units import Unit

KIND = "embeddings"
# Images that are read at once, and crops that are embedded at once.
BATCH = 64
# Vectors that differ by less than this share of their size are the same: float noise of a batched network.
NOISE = 1e-6

Vectors: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]


class Featureless(ValueError):
    """There is nothing to embed, or an embedder says the same of everything: its layer is no evidence."""


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What an embedder gives for the crops of kept examples.

    ``arrays`` maps each layer to (c, k, d) float32, in the order of the examples' ranks, rows of zeros where there is
    no example or none was asked for; ``embeddings["mixed4a:3"]`` gives (n, d), the examples of one unit that were
    embedded. ``vectors`` (m, d) holds each different crop once, and ``rows`` maps each layer to (c, k), which of them
    it is, or -1. ``embedder`` says which network made them and ``embedder_digest`` the SHA-256 of its weights ('' for a
    callable that has none); ``digest`` is that of the network the examples are of, ``dataset`` the fingerprint of their
    images, and ``margin`` how far the crops go beyond the receptive field.
    """

    vectors: Vectors
    rows: Mapping[str, Integers]
    embedder: str
    embedder_digest: str
    digest: str
    dataset: str
    margin: float

    @property
    def arrays(self) -> Mapping[str, Vectors]:
        """The vectors of each layer's examples (c, k, d), put together when a layer is asked for."""
        return _Arrays(self)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in the model's order."""
        return tuple(self.rows)

    def __getitem__(self, unit: Unit | str) -> Vectors:
        """Give the vectors (n, d) of the examples of ``unit`` that were embedded, best first."""
        unit = Unit.of(unit)
        rows = self.rows_of(unit.layer)
        if unit.channel >= len(rows):
            channels = f"{len(rows)} channels (0 to {len(rows) - 1})"
            raise ValueError(f"no channel {unit.channel} in layer {unit.layer!r}: it has {channels}")
        kept = rows[unit.channel]
        return np.asarray(self.vectors[kept[kept >= 0]])

    def rows_of(self, layer: str) -> Integers:
        """Give the rows (c, k) of a layer; ``ValueError`` where it was not embedded."""
        if layer not in self.rows:
            raise ValueError(nearest(layer, self.rows, what="embeddings of layer", listing="embeddings.layers"))
        return self.rows[layer]

    def __repr__(self) -> str:
        crops, width = self.vectors.shape
        return f"Embeddings({crops} crops as {width} numbers by {self.embedder}; {', '.join(self.layers)})"


class _Arrays(Mapping[str, Vectors]):
    """The vectors of each layer, put together when they are asked for: all at once they repeat the same crops."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings

    def __getitem__(self, layer: str) -> Vectors:
        rows = self._embeddings.rows[layer]
        found: Vectors = self._embeddings.vectors[rows.clip(min=0)]
        found[rows < 0] = 0
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._embeddings.rows)

    def __len__(self) -> int:
        return len(self._embeddings.rows)


def embed(
    model: Model,
    examples: Examples,
    dataset: Any,
    units: Iterable[Unit | str] | Unit | str | None = None,
    *,
    embedder: Callable[[Tensor], Any] | None = None,
    count: int | None = None,
    margin: float = 0.1,
    progress: bool = True,
) -> Embeddings:
    """Embed the crops of the ``count`` best examples (by default all that are kept) of ``units`` (by default all).

    A crop is the example's receptive-field box, wider by ``margin`` of its size on each side and of the proportions of
    the image, inside the image (moved, never padded), resized to the size of ``embedder``. That is any function from
    images ``(n, channels, h, w)`` in [0, 1] to vectors ``(n, d)``, with its own ``size`` (h, w) or for the model's; by
    default `own_layers`, the mean over positions of the model's own `late_layer`. Each image is read once, and each
    different crop embedded once.

    Errors: ``ValueError`` for examples of other weights, a dataset of another length, units that the examples lack or
    that have no example at all, an image that can no longer be read, and vectors of the wrong shape, that are not
    finite, or that are the same for all crops; ``TypeError`` for an embedder that gives no array of numbers.

    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model, sketches = load_model("sketches"), Sketches(6)
    >>> examples = find_examples(model, sketches, ["mixed3a"], count=2, progress=False)
    >>> embed(model, examples, sketches, ["mixed3a:3"], progress=False).arrays["mixed3a"].shape
    (64, 2, 96)
    """
    chosen = _chosen(model, examples, dataset, units)
    _check_options(count, margin)
    embedder = own_layers(model) if embedder is None else embedder
    size = getattr(embedder, "size", model.image_size)
    wanted = {layer: _wanted(examples, layer, channels, count, margin) for layer, channels in chosen.items()}
    crops, inverse = np.unique(np.concatenate([keys for keys, _ in wanted.values()]), axis=0, return_inverse=True)
    if len(crops) == 0:
        raise Featureless("none of these units has an example: choose units that are not dead")
    vectors = _embed_all(model, dataset, crops, embedder, tuple(size), progress)
    _check_varied(vectors)
    return Embeddings(
        vectors=vectors,
        rows=_spread(inverse.reshape(-1), wanted),
        embedder=_name_of(embedder),
        embedder_digest=str(getattr(embedder, "digest", "")),
        digest=examples.digest,
        dataset=examples.dataset,
        margin=float(margin),
    )


def write_embeddings(embeddings: Embeddings, folder: str | os.PathLike[str]) -> Path:
    """Write ``embeddings`` as a record in ``folder`` (see `features.records.write_record`); give the folder."""
    arrays = {"vectors": embeddings.vectors} | {f"{layer}/rows": rows for layer, rows in embeddings.rows.items()}
    described = {each.name: getattr(embeddings, each.name) for each in fields(embeddings)}
    del described["vectors"], described["rows"]
    return write_record(folder, KIND, arrays=arrays, fields=described | {"layers": embeddings.layers})


def read_embeddings(folder: str | os.PathLike[str]) -> Embeddings:
    """Read what `write_embeddings` wrote; ``FileNotFoundError`` and ``ValueError`` as `features.records.read_record`
    gives them.
    """
    arrays, described = read_record(folder, KIND)
    try:
        rows = {name: arrays[f"{name}/rows"] for name in described.pop("layers")}
        check_shapes(arrays, {"vectors": ("m", "d"), **{f"{name}/rows": (f"c {name}", "k") for name in rows}})
        if any(np.any((each < -1) | (each >= len(arrays["vectors"]))) for each in rows.values()):
            raise ValueError("a row points at a vector that is not there")
        return Embeddings(vectors=arrays["vectors"], rows=rows, **described)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the embeddings in '{Path(folder)}' are damaged: {error}; make them again") from error


def _chosen(model: Model, examples: Examples, dataset: Any, units: Any) -> dict[str, list[int]]:
    """Give the channels to embed in each layer, in the order of the examples' layers."""
    if examples.digest != model.digest:
        raise ValueError(
            f"the examples are of other weights (of {examples.model!r}): find them again with find_examples"
        )
    if len(dataset) != examples.length:
        raise ValueError(f"this dataset has {len(dataset)} images, and the examples are from one of {examples.length}")
    if units is None:
        return {name: list(range(len(examples.layer(name).mean))) for name in examples.layers}
    named = [units] if isinstance(units, Unit | str) else list(units)
    if not named:
        raise ValueError("no unit was given: name at least one, or leave units out for all")
    chosen: dict[str, set[int]] = {}
    for unit in map(model.unit, named):
        examples.layer(unit.layer)
        chosen.setdefault(unit.layer, set()).add(unit.channel)
    return {name: sorted(chosen[name]) for name in examples.layers if name in chosen}


def _check_options(count: int | None, margin: float) -> None:
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"count is {count!r}: give a whole number of at least 1, or None for all that are kept")
    if not 0 <= margin < float("inf"):
        raise ValueError(f"margin is {margin}: give the share of the box to add on each side, 0 or more")


def _wanted(
    examples: Examples, layer: str, channels: list[int], count: int | None, margin: float
) -> tuple[Integers, NDArray[np.bool_]]:
    """Give the crops (p, 5) of a layer, image and window, and which of its (c, k) examples they are, in this order."""
    arrays = examples.layer(layer)
    asked = np.zeros(arrays.image.shape, bool)
    asked[channels, :count] = True
    asked &= arrays.image >= 0
    windows = _windows(arrays.box[asked], examples.image_size, margin)
    return np.concatenate([arrays.image[asked][:, None], windows], axis=1), asked


def _windows(boxes: Integers, image_size: tuple[int, int], margin: float) -> Integers:
    """Give each box (p, 4) wider by ``margin``, grown to the proportions of the image, and moved inside it."""
    whole = np.array(image_size)
    low, high = boxes[:, :2], boxes[:, 2:]
    share = ((high - low) * (1 + 2 * margin) / whole).max(axis=1, keepdims=True).clip(max=1)
    # The small number keeps a size that is whole but for float noise from being rounded up.
    size = np.ceil(share * whole - 1e-9).astype(np.int64)
    corner = np.floor((low + high - size) / 2).astype(np.int64).clip(0, whole - size)
    return np.concatenate([corner, corner + size], axis=1)


def _embed_all(
    model: Model,
    dataset: Any,
    crops: Integers,
    embedder: Callable[[Tensor], Any],
    size: tuple[int, int],
    progress: bool,
) -> Vectors:
    """Embed the ``crops`` (m, 5), which are ordered by image."""
    images, starts = np.unique(crops[:, 0], return_index=True)
    ends = np.append(starts[1:], len(crops))
    vectors: list[NDArray[Any]] = []
    stream = batches(dataset, model, images.tolist(), BATCH)
    bar = tqdm(total=len(crops), unit="crop", desc="embeddings", disable=not progress)
    with torch.inference_mode(), bar, closing(stream):
        for number, batch in enumerate(stream):
            _check_read(batch)
            first = number * BATCH
            some = crops[starts[first] : ends[first + len(batch.images) - 1]]
            for start in range(0, len(some), BATCH):
                piece = some[start : start + BATCH]
                place = np.searchsorted(images[first:], piece[:, 0])
                vectors.append(_checked(embedder(_cut(batch.images, place, piece[:, 1:], size)), len(piece), vectors))
                bar.update(len(piece))
    return np.concatenate(vectors)


def _cut(images: Tensor, place: Integers, windows: Integers, size: tuple[int, int]) -> Tensor:
    """Cut the windows (p, 4) out of ``images[place]`` and give them at ``size``; windows of one size are resized at
    once.
    """
    shapes, group = np.unique(windows[:, 2:] - windows[:, :2], axis=0, return_inverse=True)
    cut = images.new_empty(len(windows), images.shape[1], *size)
    for number in range(len(shapes)):
        members = np.flatnonzero(group.reshape(-1) == number)
        boxes = zip(place[members].tolist(), windows[members].tolist(), strict=True)
        pieces = [images[index, :, y0:y1, x0:x1] for index, (y0, x0, y1, x1) in boxes]
        cut[torch.from_numpy(members).to(cut.device)] = resize_images(torch.stack(pieces), size)
    return cut


def _check_read(batch: Batch) -> None:
    if batch.skipped:
        index, reason = batch.skipped[0]
        raise ValueError(f"image {index}, an example, can no longer be read ({reason}): find the examples again")


def _checked(given: Any, count: int, before: list[NDArray[Any]]) -> Vectors:
    """Give what the embedder gave for ``count`` crops as (count, d) float32, or refuse it."""
    if not isinstance(given, Tensor | np.ndarray):
        raise TypeError(f"the embedder gives a {type(given).__name__}: it should give a tensor or an array (n, d)")
    found = given.detach().cpu().float().numpy() if isinstance(given, Tensor) else given
    if found.dtype.kind not in "fiu":
        raise TypeError(f"the embedder gives {found.dtype}: it should give real numbers")
    if found.ndim != 2 or len(found) != count or found.shape[1] == 0:
        raise ValueError(f"the embedder gives {found.shape} for {count} images: it should give ({count}, d)")
    if before and before[0].shape[1] != found.shape[1]:
        raise ValueError(f"the embedder gives {found.shape[1]} numbers an image, and gave {before[0].shape[1]} before")
    lost = int((~np.isfinite(found).all(axis=1)).sum())
    if lost:
        raise ValueError(f"the embedder gives numbers that are not finite for {lost} of {count} crops")
    return found.astype(np.float32)


def _check_varied(vectors: Vectors) -> None:
    spread = np.abs(vectors - vectors[0]).max()
    if len(vectors) > 1 and spread <= NOISE * max(np.abs(vectors).max(), np.finfo(np.float32).tiny):
        raise Featureless(
            f"the embedder gives the same vector for all {len(vectors)} crops, which tells nothing apart: give another"
        )


def _spread(inverse: Integers, wanted: Mapping[str, tuple[Integers, NDArray[np.bool_]]]) -> dict[str, Integers]:
    """Give for each layer the row of each of its (c, k) examples."""
    rows, start = {}, 0
    for layer, (keys, asked) in wanted.items():
        rows[layer] = np.full(asked.shape, -1, np.int64)
        rows[layer][asked] = inverse[start : start + len(keys)]
        start += len(keys)
    return rows


def _name_of(embedder: Any) -> str:
    for name in ("name", "__name__"):
        if isinstance(getattr(embedder, name, None), str):
            return str(getattr(embedder, name))
    return type(embedder).__name__
