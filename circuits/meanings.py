"""Meanings: how many different things a unit responds to, judged from its examples against a null that keeps their
spread."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from features.examples import Examples
from features.models import Model
from features.records import check_shapes, read_record, write_record
from features.units import Unit

KIND = "polysemanticity"
SHOWN = 30  # rows of the table in a notebook
FEWEST = 8  # examples under which two groups cannot be told from one
MOST = 4  # meanings that are looked for
STARTS = 4  # principal axes along which the examples are first parted
STEPS = 10  # of Lloyd's algorithm, after which parts of 32 points have settled
SMALLEST = 2  # examples in a group: one is an outlier, not a meaning
LEVEL = 0.05  # false discoveries among the flagged units that the null would give
CHUNK = 2**22  # numbers of one batch of null draws: 32 MB in float64

# A flagged unit's two groups must be as far apart as this (1 - cosine of their centres seen from the layer's mean).
# Of units merged half and half from two unrelated ones, 95 to 98 % lie above and are sure by the null in a GoogLeNet
# trained on CIFAR-10 (inception4b, 4d), and 59 to 80 % in the network of `features.sketches` (mixed3b to mixed4c);
# of units merged from near-duplicates of correlation above 0.9 under 2 %; of single units, some of which do mean
# several things, 8 to 26 %.
FAR = 0.75

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class UnitMeanings:
    """What `Polysemanticity` says of one unit; ``group`` (k,) is the meaning of each example, 0 the most frequent."""

    unit: Unit
    verdict: str
    score: float
    distance: float
    separation: float
    p: float
    flag: bool
    meanings: int
    smallest: float
    entropy: float
    group: Integers


@dataclass(frozen=True, eq=False)
class Polysemanticity:
    """How many things each of ``n`` units responds to, with the evidence; ``result["mixed4b:3"]`` is one unit's part.

    - units (n,); verdicts (n,): ``monosemantic``, ``polysemantic``, ``dead`` (no examples) or ``undecided`` (under 8
      examples, or far apart and likely by the null, but not sure enough among so many units)
    - score (n,): ``distance + 0.3 ln(separation)``, to rank units by; -1 where there are too few examples
    - distance (n,): 1 - cosine between the centres of the two groups, from the layer's mean; 0 the same, 1 unrelated
    - separation (n,): distance of the centres over the spread within the groups, along the line between them
    - p (n,): chance of such a separation where examples of this spread have no groups
    - flag (n,) bool: p survives Benjamini and Hochberg at ``level``, and distance is at least ``far``
    - meanings (n,): number of groups, 1 unless flagged; groups (n, k): the group of each example, -1 for no example;
      smallest (n,): share of examples in the smallest group
    - entropy (n,): of the labels of the examples, in nats, NaN without labels; reported, not used
    - level, far, draws, seed, digest: how it was made
    """

    units: tuple[str, ...]
    verdicts: tuple[str, ...]
    score: Floats
    distance: Floats
    separation: Floats
    p: Floats
    flag: NDArray[np.bool_]
    meanings: Integers
    groups: Integers
    smallest: Floats
    entropy: Floats
    level: float
    far: float
    draws: int
    seed: int
    digest: str

    def __getitem__(self, unit: Unit | str) -> UnitMeanings:
        """Give what is known of ``unit``; ``ValueError`` where it was not looked at."""
        name = str(Unit.of(unit))
        if name not in self.units:
            raise ValueError(f"unit {name!r} was not looked at: these were {self.units[0]!r} to {self.units[-1]!r}")
        at = self.units.index(name)
        numbers = {key: getattr(self, key)[at].item() for key in NUMBERS}
        group = self.groups[at][self.groups[at] >= 0]
        return UnitMeanings(unit=Unit.of(name), verdict=self.verdicts[at], group=group, **numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.units)

    def __len__(self) -> int:
        return len(self.units)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.verdicts.count(verdict)} {verdict}" for verdict in VERDICTS)
        return f"Polysemanticity({len(self.units)} units: {counts})"

    def _repr_html_(self) -> str:
        """Show the units, the most suspicious first."""
        order = sorted(range(len(self)), key=lambda at: (not self.flag[at], -self.score[at]))
        rows = "".join(
            f"<tr><td>{html.escape(self.units[at])}</td><td>{self.verdicts[at]}</td><td>{self.meanings[at]}</td>"
            f"<td>{self.smallest[at]:.0%}</td><td>{self.distance[at]:.2f}</td><td>{self.p[at]:.2g}</td></tr>"
            for at in order[:SHOWN]
        )
        left = f"<p>and {len(self) - SHOWN} more units</p>" if len(self) > SHOWN else ""
        heads = "".join(f"<th>{head}</th>" for head in ("unit", "verdict", "meanings", "smallest", "distance", "p"))
        return f"<table><tr>{heads}</tr>{rows}</table>{left}"


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


def write_polysemanticity(found: Polysemanticity, folder: str | os.PathLike[str]) -> Path:
    """Write ``found`` as a record at ``folder``, from which `read_polysemanticity` gives it back."""
    parts = {each.name: getattr(found, each.name) for each in fields(Polysemanticity)}
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    return write_record(folder, KIND, arrays=arrays, fields={name: parts[name] for name in parts if name not in arrays})


def read_polysemanticity(folder: str | os.PathLike[str]) -> Polysemanticity:
    """Read what `write_polysemanticity` wrote; ``ValueError`` for a damaged record, ``FileNotFoundError`` for none."""
    arrays, said = read_record(folder, KIND)
    if sorted([*arrays, *said]) != sorted(each.name for each in fields(Polysemanticity)):
        raise ValueError(f"the verdicts in '{folder}' were written by another version: find them again")
    check_shapes(arrays, {name: "nk" if name == "groups" else "n" for name in arrays}, n=len(said["units"]))
    named = {name: tuple(said.pop(name)) for name in ("units", "verdicts")}
    return Polysemanticity(**named, **said, **arrays)  # type: ignore[arg-type]


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
        parts, distance, separation, p = _part(points, draws, seed)
        for place, channel in enumerate(mine):
            group = np.full(examples.count, -1)
            group[:size] = _by_frequency(parts[place].long().numpy())
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


def _part(points: Tensor, draws: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Part each of b sets of k points (b, k, c) in two: which (b, k), distance, separation and p (b,)."""
    size = points.shape[1]
    centred = points - points.mean(1, keepdim=True)
    variances, axes = torch.linalg.eigh(centred @ centred.transpose(1, 2))
    lengths = variances.flip(1)[:, : size - 1].clamp_min(0).sqrt()
    axes = axes.flip(2)[:, :, : size - 1]
    parts, separation = _best_parts(axes * lengths[:, None])
    null = _null(lengths, size, draws, seed).log()
    z = (separation.log() - null.mean(1)) / null.std(1).clamp_min(1e-9)
    p = 0.5 * torch.erfc(z / math.sqrt(2))
    first, second = _centre(points, parts), _centre(points, 1 - parts)
    distance = 1 - torch.cosine_similarity(first, second, dim=1)
    nothing = lengths[:, 0] < 1e-9 * points.abs().amax((1, 2)).clamp_min(1e-300)
    return parts, distance.masked_fill(nothing, 0), separation.masked_fill(nothing, 0), p.masked_fill(nothing, 1)


def _null(lengths: Tensor, size: int, draws: int, seed: int) -> Tensor:
    """Give the separations (b, draws) of points with the same principal lengths (b, r) and no groups."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(draws, size, size - 1, generator=generator, dtype=lengths.dtype)
    rotations, _ = torch.linalg.qr(normal - normal.mean(1, keepdim=True))
    chunk = max(1, CHUNK // (size * size * len(lengths)))
    separations = []
    for some in torch.split(rotations, chunk):
        points = (some[:, None] * lengths[None, :, None]).flatten(0, 1)
        separations.append(_best_parts(points)[1].reshape(len(some), -1))
    return torch.cat(separations).T


def _best_parts(points: Tensor) -> tuple[Tensor, Tensor]:
    """Part principal coordinates (b, k, r) by 2-means from several starts: the most separated parts (b, k), how far
    (b,)."""
    parts = (points[:, :, :STARTS] > 0).transpose(1, 2).to(points.dtype)
    gram = points @ points.transpose(1, 2)
    size = points.shape[1]
    for _ in range(STEPS):
        mine, other = parts @ gram, (1 - parts) @ gram
        n = parts.sum(2, keepdim=True).clamp_min(1)
        m = (size - parts.sum(2, keepdim=True)).clamp_min(1)
        near = (parts * mine).sum(2, keepdim=True) / n**2 - 2 * mine / n
        far = ((1 - parts) * other).sum(2, keepdim=True) / m**2 - 2 * other / m
        parts = (near < far).to(points.dtype)
    separation = _separation(points, parts)
    best = separation.argmax(1)
    rows = torch.arange(len(points))
    return parts[rows, best], separation[rows, best]


def _separation(points: Tensor, parts: Tensor) -> Tensor:
    """Give the distance of the centres over the spread within the parts along their line: (b, starts)."""
    size = points.shape[1]
    counts = parts.sum(2, keepdim=True)
    n, m = counts.clamp_min(1), (size - counts).clamp_min(1)
    line = parts @ points / n - (1 - parts) @ points / m
    length = line.norm(dim=2, keepdim=True).clamp_min(1e-300)
    along = (line / length) @ points.transpose(1, 2)
    mean, other = (parts * along).sum(2, keepdim=True) / n, ((1 - parts) * along).sum(2, keepdim=True) / m
    within = (parts * (along - mean).square() + (1 - parts) * (along - other).square()).sum(2) / size
    separation = length[..., 0] / within.clamp_min(1e-300).sqrt()
    lopsided = torch.minimum(counts, size - counts)[..., 0] < SMALLEST
    result: Tensor = separation.clamp(1e-6, 1e6).masked_fill(lopsided, 1e-6)
    return result


def _centre(points: Tensor, parts: Tensor) -> Tensor:
    total: Tensor = (parts[:, :, None] * points).sum(1)
    return total / parts.sum(1, keepdim=True).clamp_min(1)


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
        parts, distance, _, p = _part(points[members][None], draws, seed)
        if distance.item() >= far and p.item() < LEVEL / MOST:
            waiting += [members[parts[0].numpy() == side] for side in (0, 1)]
        else:
            done.append(members)
    group = finding.group.copy()
    for number, members in enumerate(done):
        group[members] = number
    group[: finding.size] = _by_frequency(group[: finding.size])
    return _Finding(finding.size, finding.distance, finding.separation, finding.p, group)


def _by_frequency(group: Integers) -> Integers:
    """Number groups by size, largest first; ties by the best example."""
    names, first, counts = np.unique(group, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    ranks = np.empty(len(names), dtype=np.int64)
    ranks[order] = np.arange(len(names))
    return ranks[np.searchsorted(names, group)]


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


NUMBERS = ("score", "distance", "separation", "p", "flag", "meanings", "smallest", "entropy")
VERDICTS = ("monosemantic", "polysemantic", "undecided", "dead")
