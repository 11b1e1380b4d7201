"""Examples of a model, of one layer, and of one unit: frozen arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.activations import nearest
from features.examples.quantiles import quantile
from features.examples.sheets import Pictures, examples_html, sheet_of
from features.units import Unit

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LayerExamples:
    """What a pass over a dataset found for the ``c`` units of one layer; ``k`` examples each, best first, ties by
    image.

    An image's value for a unit is the largest activation over all positions (max pooling); in the lists that begin with
    ``mean_`` it is the mean over all positions. Rows that are not filled have ``image`` -1, ``value`` NaN, ``label`` -1
    and an empty box.

    - ``value`` (c, k) float32, ``image`` (c, k) the index in the dataset, ``label`` (c, k), -1 where there is none.
    - ``position`` (c, k, 2): ``(y, x)`` of the peak; the first one in reading order where several are equal. ``(t, 0)``
      at a layer of tokens, ``(0, 0)`` at one without positions.
    - ``field`` (c, k, 4): ``(y0, x0, y1, x1)``, the receptive field of that position in theory, which may reach beyond
      the image; ``box`` the same clipped to the image. The whole image where the layer has no field.
    - ``vectors`` (c, k, c): what all channels of the layer gave at that position (numbers that are not finite as 0);
      float32, or float16 (clipped to ±65504) where a layer would take more than 64 MB; (c, k, 0) where not asked for.
    - ``bottom_value``, ``bottom_image``, ...: the same for the ``k`` images that excite the unit least, smallest value
      first; for a unit that is often silent the first silent images. ``mean_value``, ...: the images with the largest
      means, and ``mean_bottom_value``, ... with the smallest; positions and boxes are those of the image's peak.
    - ``mean``, ``sd`` (population), ``minimum``, ``maximum`` (c,) float64, over all images and positions, if finite;
      ``firing_rate`` (c,) the share of these that is above 0; ``nonfinite`` (c,) how many were NaN, infinite or beyond
      ±2^60.
    - ``sketch`` (c, w) counts of the activations in bins that are 1/16 of a doubling wide, the first of which is
      ``sketch_start`` (c,) (see `features.examples.quantiles.codes`): of all positions of an image, or of 16 where
      there are more, one drawn in each of 16 equal stretches. `UnitExamples.quantile` reads it. ``histogram`` (c, 32)
      shows the same counts in bins of equal width between ``edges`` (c, 33); bins below 0 hold their upper edge, those
      above their lower one. ``pre_sketch``, ``pre_sketch_start``, ``pre_histogram``, ``pre_edges``: before the
      nonlinearity (ReLU and its kin) whose output the unit is, at the same positions; where ``nonlinear`` (c,) is
      false there is none, and they are equal to those after it.
    - ``sample_image`` (s,), ``sample_label`` (s,): images drawn by chance, up to 1,024, the same for all units;
      ``sample_value`` (c, s) their values and ``sample_position`` (c, s, 2) their peaks.
    - ``quantile_value``, ``quantile_image``, ... (c, 10, 4): examples from each tenth of the sample, lowest tenth
      first, largest value of each first; ``quantile_edges`` (c, 11) the values at which the tenths begin and end.
    - ``class_mean`` (c, classes) the mean activation over all positions of the images of each class, NaN where there
      was none, and ``class_count`` (classes,) how many images there were; (c, 0) where the classes are not named, or
      there are more than 2^24 pairs of class and unit.
    - ``dead`` (c,): never anything but 0. Where a unit never goes below 0 (after a ReLU) only values above 0 are top
      and quantile examples, so that a dead unit has none.
    """

    value: Floats
    image: Integers
    label: Integers
    position: Integers
    field: Integers
    box: Integers
    vectors: Floats
    bottom_value: Floats
    bottom_image: Integers
    bottom_label: Integers
    bottom_position: Integers
    bottom_field: Integers
    bottom_box: Integers
    mean_value: Floats
    mean_image: Integers
    mean_label: Integers
    mean_position: Integers
    mean_field: Integers
    mean_box: Integers
    mean_bottom_value: Floats
    mean_bottom_image: Integers
    mean_bottom_label: Integers
    mean_bottom_position: Integers
    mean_bottom_field: Integers
    mean_bottom_box: Integers
    quantile_value: Floats
    quantile_image: Integers
    quantile_label: Integers
    quantile_position: Integers
    quantile_field: Integers
    quantile_box: Integers
    quantile_edges: Floats
    sample_image: Integers
    sample_label: Integers
    sample_value: Floats
    sample_position: NDArray[np.int16]
    mean: Floats
    sd: Floats
    minimum: Floats
    maximum: Floats
    firing_rate: Floats
    nonfinite: Integers
    histogram: Integers
    edges: Floats
    sketch: Integers
    sketch_start: Integers
    pre_histogram: Integers
    pre_edges: Floats
    pre_sketch: Integers
    pre_sketch_start: Integers
    nonlinear: NDArray[np.bool_]
    class_mean: Floats
    class_count: Integers
    dead: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class UnitExamples:
    """The examples of one unit: the rows of `LayerExamples` that are filled, without the axis of units.

    ``value``, ``image``, ``label`` (k,), ``position`` (k, 2), ``field``, ``box`` (k, 4), ``vectors`` (k, c); the same
    with ``bottom_``, ``mean_`` and ``mean_bottom_``; with ``quantile_`` (10, 4, ...), where rows not filled stay;
    numbers ``mean`` ... ``dead``; the rest as there. ``names`` are the labels in words, "" where there is none;
    ``classes`` the names of all classes, and ``pictures`` gives the picture of an image, for a contact sheet.
    """

    unit: Unit
    value: Floats
    image: Integers
    label: Integers
    position: Integers
    field: Integers
    box: Integers
    vectors: Floats
    bottom_value: Floats
    bottom_image: Integers
    bottom_label: Integers
    bottom_position: Integers
    bottom_field: Integers
    bottom_box: Integers
    mean_value: Floats
    mean_image: Integers
    mean_label: Integers
    mean_position: Integers
    mean_field: Integers
    mean_box: Integers
    mean_bottom_value: Floats
    mean_bottom_image: Integers
    mean_bottom_label: Integers
    mean_bottom_position: Integers
    mean_bottom_field: Integers
    mean_bottom_box: Integers
    quantile_value: Floats
    quantile_image: Integers
    quantile_label: Integers
    quantile_position: Integers
    quantile_field: Integers
    quantile_box: Integers
    quantile_edges: Floats
    sample_image: Integers
    sample_label: Integers
    sample_value: Floats
    sample_position: NDArray[np.int16]
    mean: float
    sd: float
    minimum: float
    maximum: float
    firing_rate: float
    nonfinite: int
    histogram: Integers
    edges: Floats
    sketch: Integers
    sketch_start: int
    pre_histogram: Integers
    pre_edges: Floats
    pre_sketch: Integers
    pre_sketch_start: int
    nonlinear: bool
    class_mean: Floats
    class_count: Integers
    dead: bool
    names: tuple[str, ...]
    bottom_names: tuple[str, ...]
    mean_names: tuple[str, ...]
    mean_bottom_names: tuple[str, ...]
    classes: tuple[str, ...] = ()
    pictures: Pictures | None = None

    def __repr__(self) -> str:
        state = "dead" if self.dead else f"fires at {self.firing_rate:.1%} of positions, at most {self.maximum:.4g}"
        return f"UnitExamples({self.unit}: {len(self.image)} top and {len(self.bottom_image)} bottom examples, {state})"

    def _repr_html_(self) -> str:
        return sheet_of(self, self.pictures)._repr_html_()

    def quantile(self, share: float) -> float:
        """Give the activation below which ``share`` of all activations lie; NaN where none was finite.

        Within 1/33 of that activation (what is nearer to 0 than 1e-6 is 0), where all positions were counted; where 16
        of each image were, that of a share that differs by chance, by about ``0.5 / sqrt(16 n)`` with ``n`` images.
        0 and 1 give ``minimum`` and ``maximum``. ``ValueError`` for a share outside [0, 1].
        """
        found = quantile(self.sketch, self.sketch_start, share)
        exact = {0: self.minimum, 1: self.maximum}.get(share, found)  # type: ignore[call-overload]
        return float(np.clip(exact, self.minimum, self.maximum))

    def pre_quantile(self, share: float) -> float:
        """Give the same quantile of what went into the nonlinearity."""
        return quantile(self.pre_sketch, self.pre_sketch_start, share)


@dataclass(frozen=True, eq=False)
class Examples:
    """What in a dataset excites each unit of some layers of a model, and how it was found.

    ``examples["mixed4a:3"]`` gives the `UnitExamples` of one unit and ``examples.layer("mixed4a")`` the arrays of a
    layer; iterating gives the units' addresses. ``layers`` are the names in the order of the model. ``model`` and
    ``digest`` say which network, ``dataset`` is the dataset's fingerprint and ``length`` its length, ``images`` how
    many images were seen (``length`` less those in ``skipped``: pairs of index and reason), ``image_size`` and
    ``channels`` what the model takes, ``labels`` the names of the classes, ``count`` and ``batch`` as they were asked
    for. ``pictures`` gives the picture of an image by its index, where there is a dataset or a store at hand.
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
    pictures: Pictures | None = None

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

    def _repr_html_(self) -> str:
        return examples_html(self)

    def _view(self, unit: Unit, layer: LayerExamples) -> UnitExamples:
        values = {
            field.name: getattr(layer, field.name) if field.name in SHARED else getattr(layer, field.name)[unit.channel]
            for field in fields(layer)
        }
        for prefix in PREFIXES:
            filled = values[f"{prefix}image"] >= 0
            ranked = [f"{prefix}{name}" for name in RANKED] + ([] if prefix else ["vectors"])
            values |= {name: values[name][filled] for name in ranked}
        plain = {name: value.item() for name, value in values.items() if value.ndim == 0}
        names: dict[str, Any] = {f"{prefix}names": self._names(values[f"{prefix}label"]) for prefix in PREFIXES}
        return UnitExamples(unit=unit, **(values | plain), **names, classes=self.labels, pictures=self.pictures)

    def _names(self, labels: Integers) -> tuple[str, ...]:
        return tuple(self.labels[label] if 0 <= label < len(self.labels) else "" for label in labels.tolist())


RANKED: dict[str, tuple[int | str, ...]] = {
    "value": ("c", "k"),
    "image": ("c", "k"),
    "label": ("c", "k"),
    "position": ("c", "k", 2),
    "field": ("c", "k", 4),
    "box": ("c", "k", 4),
}
# What the names of the ranked lists begin with.
PREFIXES = ("", "bottom_", "mean_", "mean_bottom_")
# Arrays without an axis of units.
SHARED = ("sample_image", "sample_label", "class_count")
# The axes of every array of `LayerExamples`.
AXES: dict[str, tuple[int | str, ...]] = {
    **{f"{prefix}{name}": axes for prefix in PREFIXES for name, axes in RANKED.items()},
    "vectors": ("c", "k", "v"),
    **{f"quantile_{name}": ("c", "bins", "each", *axes[2:]) for name, axes in RANKED.items()},
    "quantile_edges": ("c", "ends"),
    **dict.fromkeys(("sample_image", "sample_label"), ("s",)),
    "sample_value": ("c", "s"),
    "sample_position": ("c", "s", 2),
    **dict.fromkeys(("mean", "sd", "minimum", "maximum", "firing_rate", "nonfinite", "nonlinear", "dead"), ("c",)),
    **dict.fromkeys(("histogram", "pre_histogram"), ("c", 32)),
    **dict.fromkeys(("edges", "pre_edges"), ("c", 33)),
    "sketch": ("c", "w"),
    "pre_sketch": ("c", "pre_w"),
    "sketch_start": ("c",),
    "pre_sketch_start": ("c",),
    "class_mean": ("c", "classes"),
    "class_count": ("classes",),
}
