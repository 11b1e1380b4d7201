"""Members: which units mean one thing, and which of them are put together, by labels alone: never by a score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuits.planted.merging import Merge, scaled
from circuits.planted.responses import Responses

Integers = NDArray[np.int64]

PURE = 0.85  # share of a unit's examples that are of one class, from which it is taken to mean one thing
STRANGE = 0.05  # of no other class may there be more, but of its kin
ALIKE = 0.5  # correlation among the pictures of their class, from which two units of one class are near-duplicates


@dataclass(frozen=True)
class Plan:
    """What to plant at ``layer``: ``merges``, and of each the mixture (a key of `MIXTURES`) or the kind of control."""

    layer: str
    merges: tuple[Merge, ...]
    mixtures: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Known:
    """What is known without any score: the label of every image (n,), their names, and which classes are kin."""

    labels: Integers
    names: tuple[str, ...]
    kin: Sequence[Collection[str]]

    def related(self, a: int, b: int) -> bool:
        """Whether two labels are one, or stand together in a set of ``kin``."""
        one, two = self.names[a], self.names[b]
        return one == two or any(one in group and two in group for group in self.kin)


def single_meaning(responses: Responses, known: Known, count: int) -> dict[int, int]:
    """Give the units that mean one thing, and which label: 85 % of the ``count`` top images of one class, and none of
    the others, but for its kin, with more than 5 %.

    >>> values = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]], np.float32)
    >>> responses = Responses((7, 8), values, np.zeros((3, 2), np.int32))
    >>> single_meaning(responses, Known(np.array([0, 0, 1]), ("cat", "car"), ()), 2)
    {7: 0}
    """
    found = {}
    for channel in responses.channels:
        top = known.labels[responses.top(channel, count)]
        most, share = main_class(top, known)
        if share * len(top) >= PURE * count:
            found[channel] = most
    return found


def main_class(labels: Integers, known: Known) -> tuple[int, float]:
    """Give the most frequent of ``labels`` (k,) and its share: 0 where another that is not its kin has more than 5 %.

    >>> main_class(np.array([1, 1, 1, 0]), Known(np.arange(2), ("cat", "car"), ()))
    (1, 0.0)
    """
    shares = np.bincount(labels, minlength=len(known.names)) / max(1, len(labels))
    most = int(shares.argmax())
    others = [share for label, share in enumerate(shares) if not known.related(label, most)]
    return most, float(shares[most]) if max(others, default=0) <= STRANGE else 0.0


def plan(
    layer: str,
    responses: Responses,
    known: Known,
    *,
    count: int,
    part: str = "all",
    rounds: int = 4,
    most: int = 8,
    seed: int = 0,
) -> dict[str, Plan]:
    """Plan merged units and controls at ``layer`` out of the units that mean one thing: name -> `Plan`.

    In each of ``rounds`` the units are drawn anew, each at most once: pairs of one class, half and half
    (``near-duplicate`` where they agree on the pictures of their class, ``family`` where they show it in different
    ways); units with ``noise``; ``single`` units as they are; and pairs and triples of classes that are not kin, in
    every mixture of `MIXTURES`. Nothing is planted twice. At ``most`` so many units of a class take part. ``part``
    takes the units of even (``development``) or of odd channels (``held-out``) alone. What is planted side by side is
    one plan; the controls are in each round's first.
    """
    if part not in PARTS:
        raise ValueError(f"no part {part!r}: there are {', '.join(PARTS)}")
    labels = {unit: label for unit, label in single_meaning(responses, known, count).items() if unit % 2 in PARTS[part]}
    rng = np.random.default_rng([seed, *layer.encode()])
    draw = _Draw(responses, known, _some(labels, most, rng), count, rng)
    plans = {}
    for number in range(rounds):
        for place, said in enumerate(draw.round().values()):
            if said:
                merges, mixtures = zip(*said, strict=True)
                plans[f"{layer.replace('.', '_')}-{number}-{place}"] = Plan(layer, merges, mixtures)
    return plans


def _some(labels: Mapping[int, int], most: int, rng: np.random.Generator) -> dict[int, int]:
    """Take at most so many units of each class."""
    taken: dict[int, int] = {}
    for unit in map(int, rng.permutation(sorted(labels))):
        if sum(label == labels[unit] for label in taken.values()) < most:
            taken[unit] = labels[unit]
    return taken


Said = tuple[Merge, str]
Fit = Callable[[int, int], bool]


class _Draw:
    """Draws disjoint groups of the units of one layer, round after round, without planting anything twice."""

    def __init__(
        self, responses: Responses, known: Known, labels: Mapping[int, int], count: int, rng: np.random.Generator
    ) -> None:
        self.responses, self.known, self.labels, self.count, self.rng = responses, known, labels, count, rng
        self.done: set[tuple[int, ...]] = set()
        self.alone = [[int(unit) for unit in rng.permutation(sorted(labels))] for _ in ALONE]

    def round(self) -> dict[str, list[Said]]:
        """Give what is planted side by side in a network of one mixture."""
        free = [int(unit) for unit in self.rng.permutation(sorted(self.labels))]
        total = len(free)
        same = self._groups(free, 2, self._one_class, -(-total // 6))
        controls = [self._of_one_class(pair) for pair in same]
        for number, (kind, noise) in enumerate(ALONE):
            controls += [
                (Merge((unit,), (1.0,), kind, noise), kind) for unit in self._alone(free, number, -(-total // 12))
            ]
        triples = self._groups(free, 3, self._strange, total // 12)
        pairs = self._groups(free, 2, self._strange, total)
        found: dict[str, list[Said]] = {}
        for mixture, shares in MIXTURES.items():
            groups = pairs if len(shares) == 2 else triples
            found[mixture] = [(self._mixed(group, shares), mixture) for group in groups]
        found[next(iter(MIXTURES))] += controls
        return found

    def _groups(self, free: list[int], size: int, fits: Fit, most: int) -> list[tuple[int, ...]]:
        """Take up to ``most`` groups of units that fit each other out of ``free``."""
        groups: list[tuple[int, ...]] = []
        for first in list(free):
            group = self._group(first, free, size, fits) if first in free and len(groups) < most else ()
            if group:
                groups.append(group)
                self.done.add(tuple(sorted(group)))
                free[:] = [unit for unit in free if unit not in group]
        return groups

    def _group(self, first: int, free: Sequence[int], size: int, fits: Fit) -> tuple[int, ...]:
        """Give the first group that begins with ``first`` and was not yet taken; none, ()."""
        groups: Iterator[tuple[int, ...]] = iter([(first,)])
        for _ in range(size - 1):
            groups = (
                (*group, unit)
                for group in groups
                for unit in free
                if unit not in group and all(fits(unit, one) for one in group)
            )
        return next((group for group in groups if tuple(sorted(group)) not in self.done), ())

    def _alone(self, free: list[int], number: int, most: int) -> list[int]:
        """Take units that were not yet this control."""
        taken = [unit for unit in self.alone[number] if unit in free][:most]
        self.alone[number] = [unit for unit in self.alone[number] if unit not in taken]
        free[:] = [unit for unit in free if unit not in taken]
        return taken

    def _mixed(self, members: tuple[int, ...], shares: tuple[float, ...], kind: str = "merged") -> Merge:
        values = [self.responses.of(unit) for unit in members]
        return Merge(members, scaled(values, shares, self.count), kind)

    def _of_one_class(self, pair: tuple[int, ...]) -> Said:
        kind = "near-duplicate" if self._agreement(*pair) >= ALIKE else "family"
        return self._mixed(pair, (0.5, 0.5), kind), kind

    def _one_class(self, a: int, b: int) -> bool:
        return self.labels[a] == self.labels[b]

    def _agreement(self, a: int, b: int) -> float:
        """Correlate two units over the pictures of the class of ``a``."""
        shown = self.known.labels == self.labels[a]
        one, two = (self.responses.of(unit)[shown] for unit in (a, b))
        return float(np.corrcoef(one, two)[0, 1])

    def _strange(self, a: int, b: int) -> bool:
        if self.known.related(self.labels[a], self.labels[b]):
            return False
        shares = [self._share(a, self.labels[b]), self._share(b, self.labels[a])]
        return max(shares) <= STRANGE

    def _share(self, unit: int, label: int) -> float:
        top = self.responses.top(unit, self.count)
        return float((self.known.labels[top] == label).mean())


# Controls of one unit, and the share of its value that chance takes away.
ALONE = (("single", 0.0), ("noise", 0.5), ("noise", 0.75))
# Planned shares of the examples: the last is a unit of three meanings.
MIXTURES: dict[str, tuple[float, ...]] = {
    "50/50": (0.5, 0.5),
    "80/20": (0.8, 0.2),
    "93/7": (0.93, 0.07),
    "40/30/30": (0.4, 0.3, 0.3),
}
PARTS: dict[str, tuple[int, ...]] = {"all": (0, 1), "development": (0,), "held-out": (1,)}
# Classes of `features.sketches` that share a part, an outline or a texture (written before any score was looked at).
SKETCH_KIN: tuple[frozenset[str], ...] = tuple(
    frozenset(group)
    for group in (
        ("car", "bus", "bicycle"),
        ("car", "bus", "house", "boat"),
        ("house", "boat", "triangle", "umbrella"),
        ("circle", "clock", "dots", "ladybird", "key", "flower"),
        ("circle", "clock", "spiral", "snail", "curve"),
        ("line", "cross", "corner", "stripes", "curve", "triangle", "key", "star"),
        ("stripes", "checks", "dots", "high-low frequency", "colour contrast"),
        ("cat", "dog", "face", "bird", "fish"),
        ("ladybird", "butterfly", "mushroom", "dots"),
        ("mushroom", "umbrella", "flower", "tree", "cup"),
    )
)
# CIFAR-10: vehicles, animals, and what is seen before the sky.
PHOTOGRAPH_KIN: tuple[frozenset[str], ...] = (
    frozenset(("airplane", "automobile", "ship", "truck")),
    frozenset(("bird", "cat", "deer", "dog", "frog", "horse")),
    frozenset(("airplane", "bird")),
)
