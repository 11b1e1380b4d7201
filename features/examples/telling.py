"""Telling: the arrays of a part as `LayerExamples`: positions, boxes, labels, statistics, quantile examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.examples import quantiles, sums
from features.examples.images import fingerprint
from features.examples.nouns import Examples, LayerExamples
from features.examples.plans import Plan, class_names
from features.examples.tallies import RANKINGS
from features.models import Layer, Model

QUANTILE_BINS = 10
PER_BIN = 4
PREFIXES = {"top": "", "bottom": "bottom_", "mean": "mean_", "mean_bottom": "mean_bottom_"}

Arrays = Mapping[str, np.ndarray]


def described(
    model: Model,
    dataset: Any,
    plan: Plan,
    skipped: Sequence[tuple[int, str]],
    arrays: Mapping[str, LayerExamples],
) -> Examples:
    """Give the arrays of a pass as `Examples`, with what they are of; ``ValueError`` where no image could be read."""
    if len(skipped) == plan.length:
        raise ValueError(f"none of the {plan.length} images can be read; the first: {skipped[0][1]}")
    return Examples(
        model=model.name,
        digest=model.digest,
        dataset=fingerprint(dataset),
        length=plan.length,
        images=plan.length - len(skipped),
        image_size=model.image_size,
        channels=model.channels,
        labels=class_names(model, dataset),
        count=plan.count,
        batch=plan.batch,
        skipped=tuple(skipped),
        arrays=arrays,
    )


def told(found: Arrays, shared: Arrays, layer: Layer, image_size: tuple[int, int], plan: Plan) -> LayerExamples:
    """Give what a part's arrays of one layer, ``found``, and those of all, ``shared``, show."""
    places = _Places(layer, image_size, shared)
    measured = _measured(found, plan)
    rectified = found["minimum"] >= 0
    told: dict[str, np.ndarray] = {}
    for name in RANKINGS:
        value, image = found[f"{name}_value"], found[f"{name}_image"]
        stray = rectified[:, None] & (value <= 0) if name in ("top", "mean") else False
        told |= places.rows(PREFIXES[name], value, np.where(stray, -1, image), found[f"{name}_place"])
    return LayerExamples(
        **told, **measured, **_sampled(found, shared, rectified, places), **_classes(found, shared, plan),
        vectors=_vectors(found, told["image"]), nonlinear=found["nonlinear"],
    )  # fmt: skip


class _Places:
    """Positions and receptive-field boxes of one layer, and the labels of images."""

    def __init__(self, layer: Layer, image_size: tuple[int, int], shared: Arrays) -> None:
        self.width = layer.shape[2] if len(layer.shape) == 3 else 1
        self.fields, self.boxes = _fields(layer, image_size)
        self.shared = shared

    def rows(self, prefix: str, value: np.ndarray, image: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
        """Give examples as the arrays of `LayerExamples`; image -1 stands for none."""
        empty = image < 0
        place = np.where(empty, 0, place)
        boxes = {name: np.where(empty[..., None], 0, each[place]) for name, each in self._boxes().items()}
        return {
            f"{prefix}value": np.where(empty, np.float32(np.nan), value),
            f"{prefix}image": image,
            f"{prefix}label": self.labels(image),
            f"{prefix}position": self.positions(place).astype(np.int64),
            **{f"{prefix}{name}": array for name, array in boxes.items()},
        }

    def positions(self, place: np.ndarray) -> np.ndarray:
        return np.stack([place // self.width, place % self.width], axis=-1)

    def labels(self, image: np.ndarray) -> np.ndarray:
        known, labels = self.shared["kept_image"], self.shared["kept_label"]
        if not len(known):
            return np.full(image.shape, -1)
        found = np.searchsorted(known, image).clip(0, len(known) - 1)
        return np.where(image < 0, -1, labels[found])

    def _boxes(self) -> dict[str, np.ndarray]:
        return {"field": self.fields, "box": self.boxes}


def _measured(found: Arrays, plan: Plan) -> dict[str, np.ndarray]:
    seen, none = found["seen"], found["seen"] == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.joined(found["sum"]) / seen
        firing = found["positive"] / seen
    ranged = {
        "mean": mean,
        "sd": np.sqrt(sums.variance(found["sum"], found["squares"], seen)),
        "minimum": found["minimum"],
        "maximum": found["maximum"],
    }
    told = {name: np.where(none, np.nan, array) for name, array in ranged.items()}
    told |= {"firing_rate": firing, "nonfinite": found["nonfinite"]}
    told["dead"] = ~none & (found["minimum"] >= 0) & (found["maximum"] <= 0)
    return told | _distributions(found)


def _distributions(found: Arrays) -> dict[str, np.ndarray]:
    counts = {name: (found[name], int(found[f"{name}_start"][0])) for name in ("before", "after") if name in found}
    if "after" not in counts:
        counts["after"] = quantiles.rectified(*counts["before"])
    counts.setdefault("before", counts["after"])
    told: dict[str, np.ndarray] = {}
    for prefix, name in (("", "after"), ("pre_", "before")):
        sketch, start = counts[name]
        histogram, edges = quantiles.histogram(sketch, start)
        told |= {f"{prefix}histogram": histogram, f"{prefix}edges": edges, f"{prefix}sketch": sketch}
        told[f"{prefix}sketch_start"] = np.full(len(sketch), start)
    return told


def _sampled(found: Arrays, shared: Arrays, rectified: np.ndarray, places: _Places) -> dict[str, np.ndarray]:
    """Give the sample, and the examples spread over its quantile bins."""
    image, value, place = shared["sample_image"], found["sample_value"], found["sample_place"]
    usable = np.isfinite(value) & ~(rectified[:, None] & (value <= 0))
    order = np.argsort(np.where(usable, value, np.inf), axis=1, kind="stable")
    counts = usable.sum(1)
    ranks, filled = _spread(counts)
    shape = ranks.shape
    if image.size:
        chosen = np.take_along_axis(order, ranks.reshape(len(order), -1), 1)
        picked = [np.take_along_axis(each, chosen, 1).reshape(shape) for each in (value, place)]
        found_in = np.where(filled, image[chosen].reshape(shape), -1)
    else:
        picked, found_in = [np.full(shape, np.nan, np.float32), np.zeros(shape, np.int64)], np.full(shape, -1)
    spread = places.rows("quantile_", picked[0], found_in, picked[1])
    return spread | {
        "quantile_edges": _edges(value, order, counts),
        "sample_image": image,
        "sample_label": places.labels(image),
        "sample_value": np.where(np.isfinite(value), value, np.float32(np.nan)),
        "sample_position": places.positions(place).astype(np.int16),
    }


def _spread(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the ranks (c, bins, per_bin) that lie evenly in each tenth of ``counts`` (c,) ranks, largest first, and
    which are filled: each rank is given once.
    """
    steps = np.arange(QUANTILE_BINS * PER_BIN)
    ranks = ((steps + 0.5) / len(steps) * counts[:, None]).astype(np.int64)
    fresh = np.concatenate([np.ones((len(ranks), 1), bool), ranks[:, 1:] != ranks[:, :-1]], 1)
    filled = fresh & (counts[:, None] > 0)
    shape = (len(counts), QUANTILE_BINS, PER_BIN)
    ranks, filled = ranks.reshape(shape)[:, :, ::-1], filled.reshape(shape)[:, :, ::-1]
    return np.minimum(ranks, np.maximum(counts - 1, 0)[:, None, None]), filled


def _edges(value: np.ndarray, order: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Give the values at the ends of the tenths (c, bins + 1): the smallest, ..., the largest; NaN where there are
    none.
    """
    if not value.shape[1]:
        return np.full((len(value), QUANTILE_BINS + 1), np.nan)
    shares = np.arange(QUANTILE_BINS + 1) / QUANTILE_BINS
    ranks = np.floor(shares * np.maximum(counts - 1, 0)[:, None]).astype(np.int64)
    edges = np.take_along_axis(value, np.take_along_axis(order, ranks, 1), 1).astype(np.float64)
    return np.where(counts[:, None] > 0, edges, np.nan)


def _classes(found: Arrays, shared: Arrays, plan: Plan) -> dict[str, np.ndarray]:
    channels = len(found["seen"])
    mean, count = np.full((channels, plan.classes), np.nan), np.zeros(plan.classes, dtype=np.int64)
    known = shared["class"]
    count[known] = shared["class_count"]
    if len(known):
        mean[:, known] = (sums.joined(found["class_sum"], top=0) / shared["class_count"][:, None]).T
    return {"class_mean": mean, "class_count": count}


def _vectors(found: Arrays, image: np.ndarray) -> np.ndarray:
    """Give the vectors (c, k, c) of the top examples, 0 where there is none."""
    columns = found["columns"]
    vectors = np.zeros((*image.shape, columns.shape[1]), dtype=columns.dtype)
    filled = image >= 0
    if len(columns):
        keys = (found["column_image"] << 32) | found["column_place"]
        wanted = (image << 32) | found["top_place"]
        vectors[filled] = columns[np.searchsorted(keys, wanted[filled])]
    return vectors


def _fields(layer: Layer, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Give the receptive field of every position in reading order, ``(p, 4)``, and what of it lies in the image, never
    empty; the whole image where the layer has no field.
    """
    height, width = image_size
    if layer.field is None or len(layer.shape) != 3:
        positions = int(np.prod(layer.shape[1:], dtype=np.int64))
        whole = np.tile(np.array([0, 0, height, width]), (positions, 1))
        return whole, whole
    rows = np.array([layer.field.box((y, 0)) for y in range(layer.shape[1])])
    columns = np.array([layer.field.box((0, x)) for x in range(layer.shape[2])])
    fields = np.stack(
        [np.repeat(rows[:, 0], len(columns)), np.tile(columns[:, 1], len(rows)),
         np.repeat(rows[:, 2], len(columns)), np.tile(columns[:, 3], len(rows))], axis=1,
    ).astype(np.int64)  # fmt: skip
    y0, x0 = fields[:, 0].clip(0, height - 1), fields[:, 1].clip(0, width - 1)
    y1, x1 = np.maximum(fields[:, 2].clip(0, height), y0 + 1), np.maximum(fields[:, 3].clip(0, width), x0 + 1)
    return fields, np.stack([y0, x0, y1, x1], axis=1)
