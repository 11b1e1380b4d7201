"""The verdicts on units as frozen nouns, and how they are kept on disk."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from features.records import check_shapes, read_record, write_record
from features.units import Unit

KIND = "polysemanticity"
SHOWN = 30  # rows of the table in a notebook

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


NUMBERS = ("score", "distance", "separation", "p", "flag", "meanings", "smallest", "entropy")
VERDICTS = ("monosemantic", "polysemantic", "undecided", "dead")
