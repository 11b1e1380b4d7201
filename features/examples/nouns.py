"""Examples of a model, of one layer, and of one unit: frozen arrays, and how they are kept on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.activations import nearest
from features.records import check_shapes, read_record, write_record
from features.units import Unit

KIND = "examples"
Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerExamples:
    """What a pass over a dataset found for the ``c`` units of one layer; ``k`` examples each, best first, ties by
    image.

    An image's value for a unit is the largest activation over all positions (max pooling), for the top and for the
    bottom list. Rows that are not filled have ``image`` -1, ``value`` NaN, ``label`` -1 and an empty box.

    - ``value`` (c, k) float32, ``image`` (c, k) the index in the dataset, ``label`` (c, k), -1 where there is none.
    - ``position`` (c, k, 2): ``(y, x)`` of the peak; the first one in reading order where several are equal. ``(t, 0)``
      at a layer of tokens, ``(0, 0)`` at one without positions.
    - ``box`` (c, k, 4): ``(y0, x0, y1, x1)``, the receptive field of that position clipped to the image; the whole
      image where the layer has no field.
    - ``vectors`` (c, k, c): what all channels of the layer gave at that position (numbers that are not finite as 0);
      float32, or float16 (clipped to ±65504) where a layer would take more than 64 MB; (c, k, 0) where not asked for.
    - ``bottom_value``, ``bottom_image``, ``bottom_label``, ``bottom_position``, ``bottom_box``: the same for the ``k``
      images that excite the unit least, smallest value first; for a unit that is often silent the first silent images.
    - ``mean``, ``sd`` (population), ``minimum``, ``maximum`` (c,) float64, over all images and positions, if finite;
      ``firing_rate`` (c,) the share of these that is above 0; ``nonfinite`` (c,) how many were NaN or infinite.
    - ``histogram`` (c, 34) counts and ``edges`` (c, 33): 32 bins of equal width over the range of the first batch,
      between two open bins for what lies below and above. At layers of more than 256 positions, over 256 evenly spaced
      ones.
    - ``dead`` (c,): never anything but 0. Where a unit never goes below 0 (after a ReLU) only values above 0 are top
      examples, so that a dead unit has none.
    """

    value: Floats
    image: Integers
    label: Integers
    position: Integers
    box: Integers
    vectors: Floats
    bottom_value: Floats
    bottom_image: Integers
    bottom_label: Integers
    bottom_position: Integers
    bottom_box: Integers
    mean: Floats
    sd: Floats
    minimum: Floats
    maximum: Floats
    firing_rate: Floats
    nonfinite: Integers
    histogram: Integers
    edges: Floats
    dead: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class UnitExamples:
    """The examples of one unit: the rows of `LayerExamples` that are filled, without the axis of units.

    ``value``, ``image``, ``label`` (k,), ``position`` (k, 2), ``box`` (k, 4), ``vectors`` (k, c); the same with
    ``bottom_``; numbers ``mean`` ... ``dead``; ``histogram`` and ``edges``. ``names`` are the labels in words, '' where
    there is none.
    """

    unit: Unit
    value: Floats
    image: Integers
    label: Integers
    position: Integers
    box: Integers
    vectors: Floats
    bottom_value: Floats
    bottom_image: Integers
    bottom_label: Integers
    bottom_position: Integers
    bottom_box: Integers
    mean: float
    sd: float
    minimum: float
    maximum: float
    firing_rate: float
    nonfinite: int
    histogram: Integers
    edges: Floats
    dead: bool
    names: tuple[str, ...]
    bottom_names: tuple[str, ...]

    def __repr__(self) -> str:
        state = "dead" if self.dead else f"fires at {self.firing_rate:.1%} of positions, at most {self.maximum:.4g}"
        return f"UnitExamples({self.unit}: {len(self.image)} top and {len(self.bottom_image)} bottom examples, {state})"


@dataclass(frozen=True, eq=False)
class Examples:
    """What in a dataset excites each unit of some layers of a model, and how it was found.

    ``examples["mixed4a:3"]`` gives the `UnitExamples` of one unit and ``examples.layer("mixed4a")`` the arrays of a
    layer; iterating gives the units' addresses. ``layers`` are the names in the order of the model. ``model`` and
    ``digest`` say which network, ``dataset`` is the dataset's fingerprint and ``length`` its length, ``images`` how
    many images were seen (``length`` less those in ``skipped``: pairs of index and reason), ``image_size`` and
    ``channels`` what the model takes, ``labels`` the names of the classes, ``count`` and ``batch`` as they were asked
    for.
    """

    model: str
    digest: str
    dataset: str
    length: int
    images: int
    image_size: tuple[int, int]
    channels: int
    labels: tuple[str, ...]
    count: int
    batch: int
    skipped: tuple[tuple[int, str], ...]
    arrays: Mapping[str, LayerExamples]

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in the model's order."""
        return tuple(self.arrays)

    def layer(self, name: str) -> LayerExamples:
        """Give the arrays of the layer ``name``; ``ValueError`` where it was not looked at."""
        if name not in self.arrays:
            raise ValueError(nearest(name, self.arrays, what="examples of layer", listing="examples.layers"))
        return self.arrays[name]

    def __getitem__(self, unit: Unit | str) -> UnitExamples:
        """Give the examples of ``unit``; ``ValueError`` for a layer that was not looked at or a channel that it does
        not have.
        """
        unit = Unit.of(unit)
        layer = self.layer(unit.layer)
        if unit.channel >= len(layer.mean):
            channels = f"{len(layer.mean)} channels (0 to {len(layer.mean) - 1})"
            raise ValueError(f"no channel {unit.channel} in layer {unit.layer!r}: it has {channels}")
        return self._view(unit, layer)

    def __iter__(self) -> Iterator[str]:
        return (f"{name}:{channel}" for name, layer in self.arrays.items() for channel in range(len(layer.mean)))

    def __len__(self) -> int:
        return sum(len(layer.mean) for layer in self.arrays.values())

    def __contains__(self, unit: object) -> bool:
        address = Unit.of(unit) if isinstance(unit, Unit | str) else None
        return (
            address is not None
            and address.layer in self.arrays
            and address.channel < len(self.arrays[address.layer].mean)
        )

    def __repr__(self) -> str:
        lost = f" ({len(self.skipped)} skipped)" if self.skipped else ""
        layers = f"{len(self.layers)} layers of {self.model}: {', '.join(self.layers)}"
        return f"Examples({self.count} each for {len(self)} units among {self.images} images{lost}; {layers})"

    def _view(self, unit: Unit, layer: LayerExamples) -> UnitExamples:
        values = {field.name: getattr(layer, field.name)[unit.channel] for field in fields(layer)}
        for prefix, ranked in (("", [*RANKED, "vectors"]), ("bottom_", [*RANKED])):
            filled = values[f"{prefix}image"] >= 0
            values |= {f"{prefix}{name}": values[f"{prefix}{name}"][filled] for name in ranked}
        plain = {name: value.item() for name, value in values.items() if value.ndim == 0}
        names, bottom_names = (self._names(values[name]) for name in ("label", "bottom_label"))
        return UnitExamples(unit=unit, **(values | plain), names=names, bottom_names=bottom_names)

    def _names(self, labels: Integers) -> tuple[str, ...]:
        return tuple(self.labels[label] if 0 <= label < len(self.labels) else "" for label in labels.tolist())


def write_examples(examples: Examples, folder: str | os.PathLike[str]) -> Path:
    """Write ``examples`` as a record in ``folder`` (see `features.records.write_record`); give the folder."""
    arrays = {
        f"{name}/{field.name}": getattr(layer, field.name)
        for name, layer in examples.arrays.items()
        for field in fields(layer)
    }
    described = {field.name: getattr(examples, field.name) for field in fields(examples) if field.name != "arrays"}
    return write_record(folder, KIND, arrays=arrays, fields=described | {"layers": examples.layers})


def read_examples(folder: str | os.PathLike[str]) -> Examples:
    """Read what `write_examples` wrote; ``FileNotFoundError`` and ``ValueError`` as `features.records.read_record`
    gives them.
    """
    arrays, described = read_record(folder, KIND)
    try:
        layers = {name: _read_layer(name, arrays, int(described["count"])) for name in described.pop("layers")}
        described["image_size"] = tuple(described["image_size"])
        described["labels"] = tuple(described["labels"])
        described["skipped"] = tuple((index, reason) for index, reason in described["skipped"])
        return Examples(**described, arrays=layers)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the examples in '{Path(folder)}' are damaged: {error}; make them again") from error


def _read_layer(name: str, arrays: Mapping[str, np.ndarray], count: int) -> LayerExamples:
    check_shapes(arrays, {f"{name}/{field}": axes for field, axes in AXES.items()}, k=count)
    return LayerExamples(**{field: arrays[f"{name}/{field}"] for field in AXES})


RANKED: dict[str, tuple[int | str, ...]] = {
    "value": ("c", "k"),
    "image": ("c", "k"),
    "label": ("c", "k"),
    "position": ("c", "k", 2),
    "box": ("c", "k", 4),
}
# The axes of every array of `LayerExamples`.
AXES: dict[str, tuple[int | str, ...]] = {
    **RANKED,
    "vectors": ("c", "k", "v"),
    **{f"bottom_{name}": axes for name, axes in RANKED.items()},
    **dict.fromkeys(("mean", "sd", "minimum", "maximum", "firing_rate", "nonfinite", "dead"), ("c",)),
    "histogram": ("c", "bins"),
    "edges": ("c", "edges"),
}
