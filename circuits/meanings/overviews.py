"""Overviews: superposition at a glance: verdicts, units against features found, interference, layer by layer."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import AgglomerativeClustering

from circuits.meanings.nouns import VERDICTS, Polysemanticity
from features.examples import Examples
from features.units import Unit

Floats = NDArray[np.float64]

# Meanings whose directions have this cosine or more are one feature. The two halves of one unit's examples agree
# better in 95 % of units (0.94 at mixed3b, 0.91 at mixed4c of the network of sketches), two units' in 1 % of pairs.
SAME = 0.9


@dataclass(frozen=True, eq=False)
class LayerSummary:
    """One layer at a glance.

    - units: that were judged; verdicts: how many of them got each verdict
    - meanings: of all units together; features: how many of these are different (directions of cosine below 0.9)
    - cosines ``(features * (features - 1) / 2,)``: between the directions of different features: 0 where they do not
      interfere
    - chance: mean absolute cosine of random directions in as many dimensions as the layer has channels
    """

    layer: str
    units: int
    verdicts: Mapping[str, int]
    meanings: int
    features: int
    cosines: Floats
    chance: float

    @property
    def interference(self) -> float:
        """The mean absolute cosine between different features; NaN for fewer than two."""
        return float(np.abs(self.cosines).mean()) if len(self.cosines) else math.nan

    @property
    def worst(self) -> float:
        """The absolute cosine that one pair in twenty exceeds; NaN for fewer than two features."""
        return float(np.quantile(np.abs(self.cosines), 0.95)) if len(self.cosines) else math.nan


@dataclass(frozen=True)
class Overview:
    """The layers of a model at a glance, in order: a table; `circuits.diagrams.draw_overview` makes a figure of it."""

    model: str
    layers: tuple[LayerSummary, ...]

    def __str__(self) -> str:
        rows = _rows(self)
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )

    def _repr_html_(self) -> str:
        head, *body = ([html.escape(cell) for cell in row] for row in _rows(self))
        lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
        return "<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + f"</tr>{lines}</table>"


def layer_overview(
    found: Polysemanticity, examples: Examples, *, directions: Mapping[str, ArrayLike] | None = None
) -> Overview:
    """Give for each layer the shares of verdicts, units against features found, and the features' interference.

    A meaning's direction is the mean of its examples' activation vectors (at their peaks) from the layer's mean;
    meanings of one layer whose directions have a cosine of 0.9 or more (clusters of average linkage) are one feature,
    whose direction is the mean of theirs. A layer with more features than units holds them in superposition (Elhage et
    al. 2022, "Toy Models of Superposition"), and interference says at what price. Dead units and those without
    examples have no meaning. ``directions``, layer -> ``(d, c)``, puts others in the place of these features, such as
    the ``vectors`` of `nmf_directions`.

    Raises ``ValueError`` for examples of other weights or without vectors, and directions of another width.

    >>> from circuits.meanings.judging import polysemanticity
    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model = load_model("sketches")
    >>> examples = find_examples(model, Sketches(12), ["mixed4c"], count=8, progress=False)
    >>> overview = layer_overview(polysemanticity(model, examples, progress=False), examples)
    >>> sum(overview.layers[0].verdicts.values()) == model.layer("mixed4c").channels
    True
    """
    if found.digest != examples.digest:
        raise ValueError(f"the verdicts and the examples (of {examples.model!r}) are of different weights")
    layers = list(dict.fromkeys(Unit.of(unit).layer for unit in found))
    given = {} if directions is None else {layer: np.asarray(vectors, float) for layer, vectors in directions.items()}
    return Overview(examples.model, tuple(_summary(found, examples, layer, given.get(layer)) for layer in layers))


def _summary(found: Polysemanticity, examples: Examples, layer: str, given: Floats | None) -> LayerSummary:
    units = [unit for unit in found if Unit.of(unit).layer == layer]
    counts = Counter(found[unit].verdict for unit in units)
    width = examples.layer(layer).vectors.shape[2]
    if width == 0:
        raise ValueError(f"the examples of {layer!r} have no vectors: find them again with vectors=True")
    vectors = _meanings(found, examples, layer, units)
    if given is not None and (given.ndim != 2 or given.shape[1] != width):
        raise ValueError(f"directions of {layer!r} have shape {given.shape}: give (d, {width}), one row a direction")
    features = _unit_length(given) if given is not None else _distinct(vectors)
    cosines = (features @ features.T)[np.triu_indices(len(features), 1)]
    verdicts = {verdict: counts[verdict] for verdict in VERDICTS}
    chance = math.exp(math.lgamma(width / 2) - math.lgamma((width + 1) / 2)) / math.sqrt(math.pi)
    return LayerSummary(layer, len(units), verdicts, len(vectors), len(features), cosines, chance)


def _meanings(found: Polysemanticity, examples: Examples, layer: str, units: list[str]) -> Floats:
    """Give the directions of all meanings of a layer's units ``(m, c)``, of length 1."""
    held = examples.layer(layer)
    mean = np.nan_to_num(held.mean)
    directions = []
    for unit in units:
        group, vectors = found[unit].group, examples[unit].vectors.astype(np.float64) - mean
        directions += [vectors[group == number].mean(0) for number in np.unique(group)]
    return _unit_length(np.array(directions).reshape(-1, len(mean)))


def _distinct(vectors: Floats) -> Floats:
    """Give one direction for each cluster of directions that are the same but for chance."""
    if len(vectors) < 2:
        return vectors
    clusters = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=1 - SAME
    ).fit_predict(vectors)
    return _unit_length(np.array([vectors[clusters == number].mean(0) for number in np.unique(clusters)]))


def _unit_length(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    kept: Floats = (vectors / np.maximum(lengths, 1e-300))[lengths[:, 0] > 0]
    return kept


def _rows(overview: Overview) -> list[list[str]]:
    names = [verdict for verdict in VERDICTS if any(each.verdicts.get(verdict) for each in overview.layers)]
    head = ["layer", "units", *names, "meanings", "features", "features / unit", "interference", "by chance", "1 in 20"]
    return [
        head,
        *(
            [
                each.layer,
                str(each.units),
                *(f"{each.verdicts.get(name, 0) / max(1, each.units):.0%}" for name in names),
                str(each.meanings),
                str(each.features),
                f"{each.features / max(1, each.units):.2f}",
                *(_cosine(value) for value in (each.interference, each.chance, each.worst)),
            ]
            for each in overview.layers
        ),
    ]


def _cosine(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else ""
