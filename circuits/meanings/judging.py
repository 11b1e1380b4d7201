"""Judging: how many different things a unit responds to, from its examples against a null that keeps their spread."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from circuits.meanings.nouns import Floats, Integers, Polysemanticity
from circuits.meanings.parting import by_frequency, part
from features.examples import Examples
from features.models import Model
from features.units import Unit

FEWEST = 8  # examples under which two groups cannot be told from one
MOST = 4  # meanings that are looked for
LEVEL = 0.05  # false discoveries among the flagged units that the null would give

# A flagged unit's two groups must be as far apart as this (1 - cosine of their centres seen from the layer's mean).
# Of units merged half and half from two unrelated ones, 95 to 98 % lie above and are sure by the null in a GoogLeNet
# trained on CIFAR-10 (inception4b, 4d), and 59 to 80 % in the network of `features.sketches` (mixed3b to mixed4c);
# of units merged from near-duplicates of correlation above 0.9 under 2 %; of single units, some of which do mean
# several things, 8 to 26 %.
FAR = 0.75


def polysemanticity(
    model: Model,
    examples: Examples,
    units: Iterable[Unit | str] | None = None,
    *,
    level: float = LEVEL,
    far: float = FAR,
    draws: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> Polysemanticity:
    """Say which units respond to several unrelated things, from the layer's activations where their examples peak.

    For a unit, its ``k`` examples are vectors: what the other channels of the layer gave at the peak. They are parted
    in two by 2-means. *Separation* (distance of the centres over the spread within, along their line) is compared with
    ``draws`` sets of points that have exactly the same spread (all principal variances) but no groups: the principal
    coordinates times a random rotation (Haar), so that what is only diffuse is not called polysemantic; ``p`` is the
    tail of a normal law of its logarithm. *Distance* says whether the two groups are unrelated or shades of one thing.
    A unit is flagged where both agree; flagged groups are parted again while that holds, up to 4 meanings. The mean
    distance of examples from each other is no part of it: it measures spread, and is larger for diffuse single
    meanings.

    ``units`` are by default all units of ``examples``. The same seed gives the same result; each layer has its own
    null.

    Raises ``ValueError`` for examples of other weights, made without vectors or with fewer than 8 a unit, and unknown
    units.

    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model = load_model("sketches")
    >>> examples = find_examples(model, Sketches(12), ["mixed4c"], count=8, progress=False)
    >>> len(polysemanticity(model, examples, progress=False)) == model.layer("mixed4c").channels
    True
    """
    chosen = _checked(model, examples, units)
    if not (0 < level < 1 and draws >= 20):
        raise ValueError(f"level is {level!r} and draws {draws!r}: give a part between 0 and 1, and at least 20")
    found = {name: _Finding.none(examples.count) for name in map(str, chosen)}
    layers = list(dict.fromkeys(unit.layer for unit in chosen))
    for layer in tqdm(layers, desc="meanings", unit="layer", disable=not progress, leave=False):
        mine = [unit for unit in chosen if unit.layer == layer]
        found.update(_look_at(examples, layer, [unit.channel for unit in mine], draws, seed))
    p = np.array([each.p for each in found.values()])
    sure = _discoveries(p, level) & np.array([each.distance >= far for each in found.values()])
    for (name, each), flag in zip(list(found.items()), sure.tolist(), strict=True):
        if flag:
            found[name] = _part_again(examples, name, each, far=far, draws=draws, seed=seed)
    return _result(examples, found, sure, level=level, far=far, draws=draws, seed=seed)


@dataclass(frozen=True)
class _Finding:
    """What was found of one unit: the best parting of its examples in two, or more."""

    size: int
    distance: float
    separation: float
    p: float
    group: Integers

    @classmethod
    def none(cls, count: int, size: int = 0) -> _Finding:
        return cls(size, 0.0, 0.0, 1.0, np.full(count, -1))


def _look_at(examples: Examples, layer: str, channels: list[int], draws: int, seed: int) -> dict[str, _Finding]:
    """Part the examples of each unit in two; units with as many examples are taken together."""
    sizes = {channel: len(examples[Unit(layer, channel)].image) for channel in channels}
    found = {f"{layer}:{channel}": _Finding.none(examples.count, size) for channel, size in sizes.items()}
    for size in sorted({size for size in sizes.values() if size >= FEWEST}):
        mine = [channel for channel in channels if sizes[channel] == size]
        points = torch.stack([_vectors(examples, Unit(layer, channel)) for channel in mine])
        parts, distance, separation, p = part(points, draws, seed)
        for place, channel in enumerate(mine):
            group = np.full(examples.count, -1)
            group[:size] = by_frequency(parts[place].long().numpy())
            found[f"{layer}:{channel}"] = _Finding(
                size, distance[place].item(), separation[place].item(), p[place].item(), group
            )
    return found


def _vectors(examples: Examples, unit: Unit) -> Tensor:
    """Give (k, c): what the layer gave where the unit's examples peak, from the layer's mean, the unit left out."""
    layer = examples.layer(unit.layer)
    vectors = torch.from_numpy(examples[unit].vectors.astype(np.float64) - np.nan_to_num(layer.mean))
    vectors[:, unit.channel] = 0
    return vectors


def _part_again(examples: Examples, name: str, finding: _Finding, *, far: float, draws: int, seed: int) -> _Finding:
    """Part the groups of a flagged unit as long as their parts are as far from each other and as sure."""
    points = _vectors(examples, Unit.of(name))
    done: list[Integers] = []
    waiting = [np.flatnonzero(finding.group == group) for group in (0, 1)]
    while waiting:
        members = waiting.pop(0)
        if len(members) < FEWEST or len(done) + len(waiting) + 1 >= MOST:
            done.append(members)
            continue
        parts, distance, _, p = part(points[members][None], draws, seed)
        if distance.item() >= far and p.item() < LEVEL / MOST:
            waiting += [members[parts[0].numpy() == side] for side in (0, 1)]
        else:
            done.append(members)
    group = finding.group.copy()
    for number, members in enumerate(done):
        group[members] = number
    group[: finding.size] = by_frequency(group[: finding.size])
    return _Finding(finding.size, finding.distance, finding.separation, finding.p, group)


def _discoveries(p: Floats, level: float) -> NDArray[np.bool_]:
    """Say which p survive the false-discovery rate ``level`` (Benjamini and Hochberg 1995)."""
    order = np.argsort(p, kind="stable")
    below = np.flatnonzero(p[order] <= level * np.arange(1, len(p) + 1) / len(p))
    sure = np.zeros(len(p), dtype=bool)
    if len(below):
        sure[order[: below[-1] + 1]] = True
    return sure


def _result(
    examples: Examples,
    found: dict[str, _Finding],
    flag: NDArray[np.bool_],
    *,
    level: float,
    far: float,
    draws: int,
    seed: int,
) -> Polysemanticity:
    findings = list(found.values())
    groups = np.stack([_shown(each, bool(sure)) for each, sure in zip(findings, flag, strict=True)])
    sizes = [np.bincount(group[group >= 0], minlength=1) for group in groups]
    distance, separation = (np.array([getattr(each, key) for each in findings]) for key in ("distance", "separation"))
    enough = np.array([each.size >= FEWEST for each in findings])
    return Polysemanticity(
        units=tuple(found),
        verdicts=tuple(_verdict(each, bool(sure), far) for each, sure in zip(findings, flag, strict=True)),
        score=np.where(enough, distance + 0.3 * np.log(np.maximum(separation, 1.0)), -1.0),
        distance=distance,
        separation=separation,
        p=np.array([each.p for each in findings]),
        flag=flag,
        meanings=np.array([int((size > 0).sum()) for size in sizes]),
        groups=groups,
        smallest=np.array([float(size[size > 0].min() / size.sum()) if size.sum() else 0.0 for size in sizes]),
        entropy=np.array([_entropy(examples[name].label) for name in found]),
        level=level,
        far=far,
        draws=draws,
        seed=seed,
        digest=examples.digest,
    )


def _shown(finding: _Finding, flag: bool) -> Integers:
    """Give the groups of a flagged unit; one group, of all its examples, of any other."""
    filled = np.arange(len(finding.group)) < finding.size
    return finding.group if flag else np.where(filled, 0, -1)


def _verdict(finding: _Finding, flag: bool, far: float) -> str:
    if finding.size == 0:
        return "dead"
    if flag:
        return "polysemantic"
    unsure = finding.size < FEWEST or (finding.distance >= far and finding.p < LEVEL)
    return "undecided" if unsure else "monosemantic"


def _entropy(labels: Integers) -> float:
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    if len(counts) == 0:
        return math.nan
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum()) + 0.0


def _checked(model: Model, examples: Examples, units: Iterable[Unit | str] | None) -> list[Unit]:
    if examples.digest != model.digest:
        raise ValueError(
            f"the examples are of other weights (of {examples.model!r}): find them again with find_examples"
        )
    if examples.count < FEWEST:
        raise ValueError(
            f"{examples.count} examples a unit are too few to tell groups: find at least {FEWEST}, better 32"
        )
    named = [units] if isinstance(units, (Unit, str)) else list(examples) if units is None else list(units)
    if not named:
        raise ValueError("no unit was given: name at least one, or leave units out for all")
    chosen = list(dict.fromkeys(model.unit(unit) for unit in named))
    for layer in {unit.layer for unit in chosen}:
        if examples.layer(layer).vectors.shape[2] == 0:
            raise ValueError(f"the examples of {layer!r} have no vectors: find them again with vectors=True")
    return chosen
