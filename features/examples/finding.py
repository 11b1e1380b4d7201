"""find_examples: one pass over a dataset that finds what excites each unit; crops: the pictures of what it found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from features.examples.images import UNREADABLE, check_image, fingerprint, open_item, read_item
from features.examples.nouns import Examples, LayerExamples
from features.examples.tallies import Ranking, Tally
from features.models import Layer, Model, probe
from features.pictures import Picture, crop
from features.units import Unit


def find_examples(
    model: Model,
    dataset: Any,
    layers: str | Iterable[str] | None = None,
    *,
    count: int = 32,
    batch: int = 64,
    vectors: bool = True,
    progress: bool = True,
) -> Examples:
    """Find the ``count`` images of ``dataset`` that excite each unit most and least, and each unit's statistics, in one
    pass.

    ``dataset`` has a length and gives, by index, an image, ``(image, label)`` or ``{"image": ..., "label": ...}``; an
    image is a tensor ``(channels, h, w)`` of the model's size in [0, 1], or an image of Pillow, which is fitted (short
    side, then centre). ``layers`` are by default ``model.default_layers``. What is kept is described in
    `LayerExamples`; ``vectors=False`` leaves out the activation vectors, which take ``c * count * c`` numbers a layer.
    Names of classes are the dataset's ``classes`` or ``labels``, or the model's.

    Items that cannot be read (the dataset raises ``OSError``, ``ValueError``, ...) are skipped and listed with the
    reason; the rest gives what it would give without them. Results do not depend on ``batch`` but for float noise, and
    depend on nothing random. Memory does not grow with the dataset. Errors: ``TypeError`` and ``ValueError`` naming the
    item, for images of another size, range or type, and for a dataset that is empty or has no length.

    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> examples = find_examples(load_model("sketches"), Sketches(6), ["mixed3a"], count=2, progress=False)
    >>> examples.layer("mixed3a").box.shape == (64, 2, 4)
    True
    """
    names = _checked_layers(model, layers)
    length = _checked_plan(dataset, count, batch)
    stream = _Stream(dataset, model, length, batch)
    tallies: dict[str, Tally] = {}
    with torch.inference_mode(), tqdm(total=length, unit="image", desc="examples", disable=not progress) as bar:
        for images, indices, labels in stream.batches():
            _take_in(model, names, tallies, images, indices, labels, count=count, vectors=vectors)
            bar.update(stream.read - bar.n)
    if not tallies:
        raise ValueError(f"none of the {length} images can be read; the first: {stream.skipped[0][1]}")
    return Examples(
        model=model.name,
        digest=model.digest,
        dataset=fingerprint(dataset),
        length=length,
        images=length - len(stream.skipped),
        image_size=model.image_size,
        channels=model.channels,
        labels=_class_names(model, dataset),
        count=count,
        batch=batch,
        skipped=tuple(stream.skipped),
        arrays={name: _finished(tallies[name], model.layer(name), model.image_size) for name in names},
    )


def crops(examples: Examples, dataset: Any, unit: Unit | str, *, count: int = 9, margin: float = 0.0) -> list[Picture]:
    """Give the ``count`` best examples of ``unit`` as pictures ``(h, w, 3)``, each cropped to the receptive field of
    its peak.

    The field is clipped to the image, so that pictures from the border are smaller, and late units show whole images.
    ``margin`` widens the box on every side by that share of its height and width. Units with fewer examples give fewer
    pictures, dead ones none. ``ValueError`` for a dataset of another length than the one the examples were found in.
    """
    found = examples[unit]
    if len(dataset) != examples.length:
        raise ValueError(f"this dataset has {len(dataset)} images, and the examples are from one of {examples.length}")
    if examples.channels not in (1, 3):
        raise ValueError(f"images of {examples.channels} channels cannot be shown: pictures have 1 or 3")
    pictures = []
    for index, box in zip(found.image[:count].tolist(), found.box[:count].tolist(), strict=True):
        image, _ = read_item(dataset, index, examples.image_size, examples.channels)
        picture = image.clamp(0, 1).permute(1, 2, 0).cpu().double().numpy().astype(np.float32)
        pictures.append(crop(picture, _widened(box, margin)))
    return pictures


@dataclass(eq=False)
class _Stream:
    """Reads a dataset in order, leaves out what cannot be read, and fills batches with the rest."""

    dataset: Any
    model: Model
    length: int
    batch: int

    def __post_init__(self) -> None:
        self.skipped: list[tuple[int, str]] = []
        self.read = 0

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Give images (n, channels, h, w), their indices (n,) and labels (n,)."""
        waiting: list[tuple[Tensor, int, int]] = []
        for index in range(self.length):
            item = self._item(index)
            self.read = index + 1
            if item is not None:
                waiting.append((item[0], index, item[1]))
            if len(waiting) == self.batch:
                yield self._stacked(waiting)
                waiting = []
        if waiting:
            yield self._stacked(waiting)

    def _item(self, index: int) -> tuple[Tensor, int] | None:
        size, channels = self.model.image_size, self.model.channels
        try:
            image, label = open_item(self.dataset, index, size, channels)
        except UNREADABLE as error:
            self.skipped.append((index, f"{type(error).__name__}: {error}"))
            return None
        return check_image(image, index, size, channels), label

    def _stacked(self, waiting: list[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
        images, indices, labels = zip(*waiting, strict=True)
        device = self.model.device
        stacked = torch.stack(images).to(device, self.model.dtype)
        return stacked, torch.tensor(indices, device=device), torch.tensor(labels, device=device)


def _checked_layers(model: Model, layers: str | Iterable[str] | None) -> tuple[str, ...]:
    names = model.default_layers if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
    if not names:
        raise ValueError("no layer was given: name at least one of model.layers")
    wanted = {model.layer(name).name for name in names}
    return tuple(layer.name for layer in model.layers if layer.name in wanted)


def _checked_plan(dataset: Any, count: int, batch: int) -> int:
    for name, value in (("count", count), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}: give a whole number of at least 1")
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(
            f"{type(dataset).__name__} has no length or no items by index: give a map-style dataset or a list"
        )
    if len(dataset) == 0:
        raise ValueError("the dataset is empty: give at least one image")
    return len(dataset)


def _class_names(model: Model, dataset: Any) -> tuple[str, ...]:
    for name in ("classes", "labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, list | tuple) and found and all(isinstance(each, str) for each in found):
            return tuple(found)
    return model.labels


def _take_in(
    model: Model,
    names: tuple[str, ...],
    tallies: dict[str, Tally],
    images: Tensor,
    indices: Tensor,
    labels: Tensor,
    *,
    count: int,
    vectors: bool,
) -> None:
    with probe(model, names) as activations:
        model(images)
        for name in names:
            activation = activations[name]
            if len(activation) != len(images):
                raise ValueError(
                    f"layer {name!r} gives {len(activation)} rows for {len(images)} images: read another layer"
                )
            if name not in tallies:
                tallies[name] = Tally(activation, count, vectors=vectors)
            tallies[name].add(activation, indices, labels)


def _finished(tally: Tally, layer: Layer, image_size: tuple[int, int]) -> LayerExamples:
    moments = tally.moments
    ranged = {"minimum": moments.minimum, "maximum": moments.maximum, "mean": moments.mean(), "sd": moments.sd()}
    ranged = {name: torch.where(moments.seen > 0, value, torch.nan) for name, value in ranged.items()}
    rectified = moments.minimum >= 0
    boxes = _boxes(layer, image_size)
    top = _ranked(tally.top, 1.0, layer, boxes, only_positive=rectified)
    bottom = _ranked(tally.bottom, -1.0, layer, boxes, only_positive=torch.zeros_like(rectified))
    measured = ranged | {
        "firing_rate": moments.positive / moments.seen,
        "nonfinite": moments.nonfinite,
        "histogram": moments.histogram,
        "edges": moments.edges(),
        "dead": rectified & (moments.maximum <= 0) & (moments.seen > 0),
    }
    vectors = tally.top.ranked_vectors().cpu().numpy()
    vectors[top["image"] < 0] = 0
    bottom = {f"bottom_{name}": array for name, array in bottom.items()}
    return LayerExamples(
        **top, **bottom, vectors=vectors, **{name: value.cpu().numpy() for name, value in measured.items()}
    )


def _ranked(
    ranking: Ranking, sign: float, layer: Layer, boxes: np.ndarray, *, only_positive: Tensor
) -> dict[str, np.ndarray]:
    """Give a ranking as the arrays of `LayerExamples`, without the images that leave a rectified unit silent."""
    value = sign * ranking.key
    empty = (ranking.image < 0) | (only_positive[:, None] & (value <= 0))
    place, filled = ranking.place.masked_fill(empty, 0).cpu().numpy(), (~empty).cpu().numpy()[:, :, None]
    width = layer.shape[2] if len(layer.shape) == 3 else 1
    return {
        "value": torch.where(empty, torch.nan, value).float().cpu().numpy(),
        "image": ranking.image.masked_fill(empty, -1).cpu().numpy(),
        "label": ranking.label.masked_fill(empty, -1).cpu().numpy(),
        "position": np.stack([place // width, place % width], axis=2),
        "box": np.where(filled, boxes[place], 0),
    }


def _boxes(layer: Layer, image_size: tuple[int, int]) -> np.ndarray:
    """Give the clipped receptive-field box of every position of a layer in reading order, (p, 4); never empty."""
    height, width = image_size
    if layer.field is None or len(layer.shape) != 3:
        positions = int(np.prod(layer.shape[1:], dtype=np.int64))
        return np.tile(np.array([0, 0, height, width]), (positions, 1))
    rows = np.array([layer.field.box((y, 0)) for y in range(layer.shape[1])])
    columns = np.array([layer.field.box((0, x)) for x in range(layer.shape[2])])
    y0, x0 = rows[:, 0].clip(0, height - 1), columns[:, 1].clip(0, width - 1)
    y1, x1 = np.maximum(rows[:, 2].clip(0, height), y0 + 1), np.maximum(columns[:, 3].clip(0, width), x0 + 1)
    grid = [np.repeat(y0, len(x0)), np.tile(x0, len(y0)), np.repeat(y1, len(x0)), np.tile(x1, len(y0))]
    return np.stack(grid, axis=1).astype(np.int64)


def _widened(box: list[int], margin: float) -> tuple[float, float, float, float]:
    if not margin >= 0:
        raise ValueError(f"margin is {margin}: give the share of the box to add on each side, 0 or more")
    y0, x0, y1, x1 = box
    more_y, more_x = margin * (y1 - y0), margin * (x1 - x0)
    return y0 - more_y, x0 - more_x, y1 + more_y, x1 + more_x
