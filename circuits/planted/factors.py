"""Factors: which known factors of the drawn world explain what excites a unit, and so how many things it means."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from circuits.planted.benchmarks import Benchmark
from circuits.planted.members import SKETCH_KIN
from circuits.planted.responses import respond
from features.models import Model
from features.sketches import LABELS, Factors, Sketches
from features.units import Unit

DRAWS = 1000  # permutations
LEVEL = 0.01  # chance with which a class is taken for a meaning where the unit means nothing in particular
SMALLEST = 0.05  # share of the examples from which a class is a meaning

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FactorMeanings:
    """What the factors say of ``u`` units.

    - units (u,), factors (f,): names, such as ``name`` (the class), ``pose``, ``colour`` or ``part wheel``
    - information (u, f): bits that the factor tells about whether a picture is among the unit's top; chance (u, f): the
      mean of that where pictures are permuted; p (u, f): how often a permutation tells as much, at least 1 / 1001
    - meanings: of each unit its unrelated classes with their shares of the top: ``((("car", "bus"), 0.6), (("cat",),
      0.3))``; none where no class is more frequent than by chance
    - images, count: how many pictures were shown, and how many are a unit's top
    """

    units: tuple[str, ...]
    factors: tuple[str, ...]
    information: Floats
    chance: Floats
    p: Floats
    meanings: tuple[tuple[tuple[tuple[str, ...], float], ...], ...]
    images: int
    count: int

    @property
    def counts(self) -> Integers:
        """How many unrelated things each unit means: (u,)."""
        return np.array([len(each) for each in self.meanings], np.int64)

    def explained(self, unit: Unit | str, *, level: float = LEVEL) -> tuple[str, ...]:
        """Give the factors that say something about ``unit``, the most telling first (p under ``level``)."""
        row = self.units.index(str(Unit.of(unit)))
        order = np.argsort(-(self.information[row] - self.chance[row]), kind="stable")
        return tuple(self.factors[at] for at in order.tolist() if self.p[row, at] <= level)

    def __repr__(self) -> str:
        several = int((self.counts > 1).sum())
        return f"FactorMeanings({len(self.units)} units, {several} of several meanings, among {self.images} pictures)"


def factor_meanings(
    model: Model,
    world: Sketches,
    units: str | Unit | Iterable[Unit | str],
    *,
    count: int = 100,
    kin: Sequence[Collection[str]] = SKETCH_KIN,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
) -> FactorMeanings:
    """Say which factors of the drawn ``world`` explain what excites ``units``, and so how many things each means.

    A unit's top are the ``count`` pictures that excite it most. For each factor that is the mutual information between
    its value and being among the top, ``sum p(v, t) log2(p(v, t) / (p(v) p(t)))``, beside what a permutation of the
    pictures gives. A unit means those classes that are more frequent in its top than by chance: the most frequent
    class is compared with permutations, then taken out with all its pictures, and the next one with permutations of
    what is left, for as long as it is surer than 1 % and at least 5 % of the top. Classes that are ``kin`` are one
    meaning. It looks at the factors alone, not at the network's vectors, and so can grade what does.

    ``ValueError`` for unknown units, and for fewer than twice ``count`` pictures.

    >>> from features.models import load_model
    >>> found = factor_meanings(load_model("sketches"), Sketches(40), ["mixed4c:3"], count=8, draws=50, progress=False)
    >>> found.information.shape == (1, len(found.factors))
    True
    """
    named = [units] if isinstance(units, str | Unit) else list(units)
    chosen = list(dict.fromkeys(model.unit(unit) for unit in named))
    if not chosen or draws < 1 or count < 1 or len(world) < 2 * count:
        raise ValueError(
            f"{len(chosen)} units, {draws} draws and {len(world)} pictures for a top of {count}: give at least one "
            f"unit, one draw and {2 * count} pictures"
        )
    wanted: dict[str, list[int]] = {}
    for unit in chosen:
        wanted.setdefault(unit.layer, []).append(unit.channel)
    responses, labels = respond(model, world, wanted, progress=progress)
    known = [world.factors(index) for index in tqdm(range(len(world)), desc="factors", disable=not progress)]
    tops = [responses[unit.layer].top(unit.channel, count) for unit in chosen]
    return _told(tuple(map(str, chosen)), tops, factor_table(known), labels, count, kin, draws, seed)


def factor_table(known: Sequence[Factors]) -> dict[str, Integers]:
    """Give the factors of ``n`` pictures as small whole numbers (n,): a code for each value.

    Orientations are taken in eight parts of the circle, -1 where there is none; colours in 8 hues and a grey; positions
    in nine fields; scales in thirds. Each part that some picture has is a factor of its own: 1 where it is drawn.

    >>> table = factor_table([Sketches(4).factors(index) for index in range(4)])
    >>> table["grey"].shape
    (4,)
    """
    parts = sorted({part.name for each in known for part in each.parts})
    scales = np.array([each.scale for each in known])
    thirds = np.quantile(scales, [1 / 3, 2 / 3])
    said = {name: [_value(each, name) for each in known] for name in PLAIN}
    said["orientation"] = [None if each.orientation is None else int(each.orientation % 360 // 45) for each in known]
    said["colour"] = [_hue(each.colour) for each in known]
    said["position"] = [_field(each.position) for each in known]
    said["scale"] = np.searchsorted(thirds, scales).tolist()
    coded = {name: np.unique(np.array(list(map(str, values))), return_inverse=True)[1] for name, values in said.items()}
    for name in parts:
        coded[f"part {name}"] = np.array([int(any(part.name == name for part in each.parts)) for each in known])
    return {name: codes.astype(np.int64) for name, codes in coded.items()}


def mutual_information(codes: ArrayLike, top: ArrayLike) -> float:
    """Give the mutual information in bits between a factor (n,) and a mark (n,) bool.

    >>> mutual_information([0, 0, 1, 1], [True, True, False, False])
    1.0
    """
    values, inside = np.asarray(codes), np.asarray(top, bool)
    _, places = np.unique(values, return_inverse=True)
    size = places.max() + 1
    both = np.bincount(places[inside], minlength=size)
    return float(_information(both[None], np.bincount(places, minlength=size))[0])


def factor_vectors(known: Sequence[Factors]) -> NDArray[np.float32]:
    """Give what there is to know of pictures as vectors (n, d): class and parts one-hot, orientation, pose, colour,
    style, texture, background, place and size, each factor with the same variance over these pictures.

    >>> factor_vectors([Sketches(4).factors(index) for index in range(4)]).shape[0]
    4
    """
    blocks = [_one_hot([each.name for each in known], LABELS)]
    parts = sorted({part.name for each in known for part in each.parts})
    blocks.append(np.array([[any(part.name == name for part in each.parts) for name in parts] for each in known]))
    turns = [0.0 if each.orientation is None else math.radians(each.orientation) for each in known]
    sure = np.array([each.orientation is not None for each in known])[:, None]
    blocks.append(np.stack([np.cos(turns), np.sin(turns)], 1) * sure)
    for name in ("pose", "style", "texture", "background", "lighting"):
        values = [str(_value(each, name)) for each in known]
        blocks.append(_one_hot(values, sorted(set(values))))
    blocks.append(np.array([each.colour for each in known]))
    blocks.append(np.array([[*each.position, each.scale] for each in known]))
    centred = [block.astype(np.float64) - block.mean(0) for block in blocks]
    scaled = [block / max(math.sqrt((block**2).sum(1).mean()), 1e-12) for block in centred]
    return np.concatenate(scaled, axis=1).astype(np.float32)


def with_factors(benchmark: Benchmark, world: Sketches, *, progress: bool = True) -> Benchmark:
    """Give ``benchmark`` with the true factors of the examples in place of all other evidence: the ceiling.

    What a score reaches on it is what it would reach with an embedder that sees exactly what was drawn.
    """
    image = benchmark.evidence.image
    shown, places = np.unique(image[image >= 0], return_inverse=True)
    known = [
        world.factors(index) for index in tqdm(shown.tolist(), desc="factors", unit="picture", disable=not progress)
    ]
    vectors = np.zeros((*image.shape, (rows := factor_vectors(known)).shape[1]), np.float32)
    vectors[image >= 0] = rows[places.ravel()]
    evidence = replace(benchmark.evidence, vectors=vectors, late=None, upstream=None, pictures=None)
    return replace(benchmark, network=f"{benchmark.network}, true factors", evidence=evidence)


def _told(
    units: tuple[str, ...],
    tops: Sequence[Integers],
    table: Mapping[str, Integers],
    labels: Integers,
    count: int,
    kin: Sequence[Collection[str]],
    draws: int,
    seed: int,
) -> FactorMeanings:
    shape = len(units), len(table)
    information, chance, p = np.zeros(shape), np.zeros(shape), np.ones(shape)
    for column, codes in enumerate(table.values()):
        totals = np.bincount(codes)
        for size in sorted({len(top) for top in tops} - {0}):
            null = _information(_drawn(totals, size, draws, seed), totals)
            rows = [row for row, top in enumerate(tops) if len(top) == size]
            both = np.stack([np.bincount(codes[tops[row]], minlength=len(totals)) for row in rows])
            information[rows, column], chance[rows, column] = _information(both, totals), null.mean()
            # Equal tables give equal information but for the order of adding up.
            as_much = (null[None] >= information[rows, column][:, None] - 1e-12).sum(1)
            p[rows, column] = (1 + as_much) / (1 + draws)
    meanings = tuple(class_meanings(top, labels, kin, draws=draws, seed=seed) for top in tops)
    return FactorMeanings(units, tuple(table), information, chance, p, meanings, len(labels), count)


def class_meanings(
    top: Integers,
    labels: Integers,
    kin: Sequence[Collection[str]] = SKETCH_KIN,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[tuple[tuple[str, ...], float], ...]:
    """Give the groups of classes that are in ``top``, indices into ``labels`` (n,), more often than by chance, with
    their shares, largest first; see `factor_meanings`.

    >>> labels = np.arange(3300) % 33
    >>> class_meanings(np.flatnonzero(labels == LABELS.index("snail"))[:50], labels, draws=200)
    ((('snail',), 1.0),)
    """
    totals = np.bincount(labels, minlength=len(LABELS))
    counts = np.bincount(labels[top], minlength=len(LABELS))
    left_total, left = totals.copy(), counts.copy()
    found: list[int] = []
    while left.sum() and left.max() >= SMALLEST * len(top):
        best = int(left.argmax())
        null = _drawn(left_total, int(left.sum()), draws, seed).max(1)
        if (1 + (null >= left[best]).sum()) / (1 + draws) > LEVEL:
            break
        found.append(best)
        left[best] = left_total[best] = 0
    groups: list[list[int]] = []
    for label in found:
        near = [group for group in groups if any(_kin(label, other, kin) for other in group)]
        groups = [group for group in groups if group not in near] + [[*(one for group in near for one in group), label]]
    shares = [(tuple(LABELS[label] for label in group), float(counts[group].sum() / len(top))) for group in groups]
    return tuple(sorted(shares, key=lambda each: -each[1]))


def _kin(a: int, b: int, kin: Sequence[Collection[str]]) -> bool:
    return any(LABELS[a] in group and LABELS[b] in group for group in kin)


def _drawn(totals: Integers, size: int, draws: int, seed: int) -> Integers:
    """Give how often each value is drawn (draws, v) where ``size`` of all pictures are taken without order."""
    return np.random.default_rng(seed).multivariate_hypergeometric(totals, size, size=draws)


def _information(both: Integers, totals: Integers) -> Floats:
    """Give bits (m,): of tables ``both`` (m, v), values among the top, where ``totals`` (v,) are all pictures'."""
    n = totals.sum()
    inside = both.sum(1, keepdims=True)
    found = np.zeros(len(both))
    for part, size in ((both, inside), (totals - both, n - inside)):
        expected = totals * size / n
        ratio = np.divide(part, expected, out=np.ones(part.shape), where=(part > 0) & (expected > 0))
        found += (part / n * np.log2(ratio)).sum(1)
    return np.maximum(found, 0.0)


def _value(factors: Factors, name: str) -> object:
    return getattr(factors, name)


def _hue(colour: tuple[int, int, int]) -> str:
    hue, _, saturation = colorsys.rgb_to_hls(*(part / 255 for part in colour))
    return "grey" if saturation < 0.15 else str(int(hue * 8) % 8)


def _field(position: tuple[float, float]) -> str:
    return "/".join(str(min(2, max(0, int((part - 16) // 11)))) for part in position)


def _one_hot(values: Sequence[str], names: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([[value == name for name in names] for value in values])


PLAIN = ("name", "pose", "style", "texture", "background", "lighting", "grey", "distractors", "occluded")
