"""The verdicts on units as frozen nouns, and how they are kept on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from circuits.meanings.reports import verdict_html
from features.examples import Examples
from features.records import check_shapes, read_record, write_record
from features.units import Unit

KIND = "polysemanticity"

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class UnitMeanings:
    """What `Polysemanticity` says of one unit; ``group`` (k,) is the meaning of each example, 0 the most frequent, and
    ``evidence`` each measure by name.
    """

    unit: Unit
    verdict: str
    probability: float
    score: float
    distance: float
    separation: float
    p: float
    flag: bool
    meanings: int
    smallest: float
    entropy: float
    group: Integers
    evidence: Mapping[str, float]

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of the examples that each meaning holds, largest first; nothing for a unit without examples."""
        return tuple((np.bincount(self.group) / len(self.group)).tolist()) if len(self.group) else ()


@dataclass(frozen=True, eq=False)
class Polysemanticity:
    """How many things each of ``n`` units responds to, with the evidence; ``result["mixed4b:3"]`` is one unit's part.

    - units (n,); verdicts (n,), of `VERDICTS`: ``polysemantic`` from a probability of ``level``; ``undecided`` from
      ``UNSURE`` on, and for under 8 examples; below that ``diffuse`` where the examples have next to nothing in common,
      else ``monosemantic``; ``dead`` for no examples
    - probability (n,): that the unit means several unrelated things, for a unit that is as likely to as not before one
      looks; calibrated on planted units, see `judge`; NaN where there are too few examples
    - score (n,): to rank units by: the probability, -1 where there are too few examples
    - distance (n,): 1 - cosine between the centres of the two groups, by the layer's activations; 0 the same, 1
      unrelated
    - separation (n,): how grouped the examples are in the layer's activations, in standard deviations above examples of
      the same spread without groups; p (n,): the chance of that
    - flag (n,) bool: the verdict is polysemantic
    - meanings (n,): number of groups, 1 unless flagged; groups (n, k): the group of each example, -1 for no example;
      smallest (n,): share of examples in the smallest group
    - entropy (n,): of the labels of the examples, in nats, NaN without labels; reported, not used
    - evidence: name -> (n,), by kind (``vectors``, ``late``, ``upstream``): ``gap``, ``distance`` and ``neighbours`` of
      the parting in two on which all kinds agree best, and ``clarity``, the mean cosine of examples
    - level, seed, digest: how it was made; examples: what was judged, for pictures; not written to disk
    """

    units: tuple[str, ...]
    verdicts: tuple[str, ...]
    probability: Floats
    score: Floats
    distance: Floats
    separation: Floats
    p: Floats
    flag: NDArray[np.bool_]
    meanings: Integers
    groups: Integers
    smallest: Floats
    entropy: Floats
    evidence: Mapping[str, Floats]
    level: float
    seed: int
    digest: str
    examples: Examples | None = None

    @property
    def far(self) -> float:
        """The distance from which two groups are called unrelated."""
        return FAR

    def __getitem__(self, unit: Unit | str) -> UnitMeanings:
        """Give what is known of ``unit``; ``ValueError`` where it was not looked at."""
        name = str(Unit.of(unit))
        if name not in self.units:
            raise ValueError(f"unit {name!r} was not looked at: these were {self.units[0]!r} to {self.units[-1]!r}")
        at = self.units.index(name)
        numbers = {key: getattr(self, key)[at].item() for key in NUMBERS}
        group = self.groups[at][self.groups[at] >= 0]
        evidence = {key: value[at].item() for key, value in self.evidence.items()}
        return UnitMeanings(unit=Unit.of(name), verdict=self.verdicts[at], group=group, evidence=evidence, **numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.units)

    def __len__(self) -> int:
        return len(self.units)

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.verdicts.count(verdict)} {verdict}" for verdict in VERDICTS)
        return f"Polysemanticity({len(self.units)} units: {counts})"

    def _repr_html_(self) -> str:
        return verdict_html(self)


def write_polysemanticity(found: Polysemanticity, folder: str | os.PathLike[str]) -> Path:
    """Write ``found`` as a record at ``folder``, from which `read_polysemanticity` gives it back, without examples."""
    parts = {name: getattr(found, name) for name in KEPT}
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    evidence = {f"evidence/{name}": part for name, part in found.evidence.items()}
    said = {name: part for name, part in parts.items() if name not in arrays}
    return write_record(folder, KIND, arrays=arrays | evidence, fields=said)


def read_polysemanticity(folder: str | os.PathLike[str]) -> Polysemanticity:
    """Read what `write_polysemanticity` wrote; ``ValueError`` for a damaged record and one of another version,
    ``FileNotFoundError`` for none.
    """
    arrays, said = read_record(folder, KIND)
    evidence = {name.partition("/")[2]: arrays.pop(name) for name in list(arrays) if name.startswith("evidence/")}
    if sorted([*arrays, *said]) != sorted(KEPT):
        raise ValueError(f"the verdicts in '{folder}' were written by another version: find them again")
    check_shapes(arrays, {name: "nk" if name == "groups" else "n" for name in arrays}, n=len(said["units"]))
    check_shapes(evidence, dict.fromkeys(evidence, "n"), n=len(said["units"]))
    named = {name: tuple(said.pop(name)) for name in ("units", "verdicts")}
    return Polysemanticity(**named, **said, **arrays, evidence=evidence)  # type: ignore[arg-type]


FAR = 0.75  # 1 - cosine of two groups of whitened activations, above which they are called unrelated
NUMBERS = ("probability", "score", "distance", "separation", "p", "flag", "meanings", "smallest", "entropy")
VERDICTS = ("monosemantic", "polysemantic", "diffuse", "undecided", "dead")
KEPT = tuple(each.name for each in fields(Polysemanticity) if each.name not in ("evidence", "examples"))
