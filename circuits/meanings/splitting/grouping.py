"""Grouping: which meaning each example of a unit has: as judged, as given, and by the nearest centre for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from circuits.meanings.judging import polysemanticity
from circuits.meanings.nouns import Polysemanticity
from circuits.meanings.parting import by_frequency
from features.examples import Examples
from features.models import Model
from features.units import Unit

FEWEST = 2  # examples of a meaning: its edges are chosen on one half and tried on the other

Groups = Polysemanticity | Sequence[int] | NDArray[np.integer] | None
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


def grouped(model: Model, examples: Examples, dataset: Any, unit: Unit, groups: Groups) -> Integers:
    """Give the meaning of each example, (k,), 0 the most frequent; ``ValueError`` where there are not two to tell.

    Without ``groups`` `polysemanticity` is asked. Groups of fewer examples than there are, and those that are -1, say
    nothing of the rest: these go to the nearest centre.
    """
    found = examples[unit]
    if len(found.image) == 0:
        raise ValueError(f"{str(unit)!r} has no examples: find some, or split it by pictures (split_by_pictures)")
    given = _given(model, examples, dataset, unit, groups)
    if len(given) > len(found.image):
        raise ValueError(f"{len(given)} groups are too many: {str(unit)!r} has {len(found.image)} examples")
    known = np.full(len(found.image), -1)
    known[: len(given)] = given
    if (known < 0).any():
        known = nearest(company(examples, unit), known)
    group = by_frequency(known)
    counts = np.bincount(group)
    if len(counts) < 2 or counts.min() < FEWEST:
        raise ValueError(f"the groups have {', '.join(map(str, counts))} examples: two or more are split, of {FEWEST}")
    return group


def company(examples: Examples, unit: Unit) -> Floats:
    """Give (k, c): what the layer gave where the unit's examples peak, from the layer's mean, the unit left out."""
    layer = examples.layer(unit.layer)
    vectors = examples[unit].vectors.astype(np.float64)
    if vectors.shape[1] == 0:
        raise ValueError(f"the examples of {unit.layer!r} have no vectors: find them again with vectors=True")
    vectors -= np.nan_to_num(layer.mean)
    vectors[:, unit.channel] = 0
    return vectors


def centres(points: Floats, group: Integers) -> Floats:
    """Give the mean point of each group, (m, c)."""
    return np.stack([points[group == meaning].mean(0) for meaning in range(group.max() + 1)])


def nearest(points: Floats, known: Integers) -> Integers:
    """Put the points (k, c) whose group is -1 into the group with the nearest mean; the others stay."""
    names = np.unique(known[known >= 0])
    middle = np.stack([points[known == name].mean(0) for name in names])
    apart = ((points[:, None] - middle[None]) ** 2).sum(2)
    return np.where(known >= 0, known, names[apart.argmin(1)])


def parted(points: Floats, meanings: int, seed: int) -> Integers:
    """Part points (k, c) into ``meanings`` groups by the direction in which they lie (k-means of unit vectors)."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    alike = points / np.maximum(length, np.finfo(np.float64).tiny)
    return by_frequency(KMeans(meanings, n_init=10, random_state=seed).fit_predict(alike).astype(np.int64))


def _given(model: Model, examples: Examples, dataset: Any, unit: Unit, groups: Groups) -> Integers:
    if groups is None:
        groups = polysemanticity(model, examples, [unit], dataset=dataset, progress=False)
    if isinstance(groups, Polysemanticity):
        if groups.digest != model.digest:
            raise ValueError("the verdicts are of other weights: judge this model's examples with polysemanticity")
        judged = groups[unit]
        if not judged.flag:
            raise ValueError(
                f"{str(unit)!r} is not flagged ({judged.verdict}): give groups=, one number an example, or those of "
                "polysemanticity with a lower level"
            )
        return judged.group
    given = np.asarray(groups)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer) or not (given >= 0).any():
        raise ValueError(f"groups are {given.dtype} of shape {given.shape}: give whole numbers (k,), -1 for unknown")
    return given.astype(np.int64)
