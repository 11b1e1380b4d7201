"""Comparing: whether the directions of a layer are cleaner than its units, and than directions made up by chance."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuits.meanings.directions.examples import direction_evidence, find_direction_examples
from circuits.meanings.directions.finding import Directions, random_directions, unit_directions
from circuits.meanings.scores import SCORES
from features.models import Model
from features.records import check_shapes, read_record, write_record

KIND = "direction comparison"
DRAWS = 1000  # of the bootstrap
INTERVAL = (2.5, 97.5)  # percent
JUDGED = ("agreement", "label-entropy")  # the score that separates planted units best, and the truth of labels

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DirectionComparison:
    """Scores of the units of a layer, of directions, and of controls, on the same images.

    - layer, model, digest; bases (b,): what is compared, 'units' first; basis (n,): the place in ``bases`` of each
      direction; names (n,)
    - scores (s,): keys of `circuits.meanings.scores.SCORES`, higher is more polysemantic; values (n, s), NaN where a
      score does not apply
    - purity (n,): share of the most frequent label among the examples, NaN without labels
    - mean, low, high (b, s + 1): mean of each score, and of purity in the last column, and its 95 % bootstrap interval
      over directions; less, less_low, less_high (b, s + 1): the same of the difference to the units
    - count: examples of each; seed
    """

    layer: str
    model: str
    digest: str
    bases: tuple[str, ...]
    names: tuple[str, ...]
    scores: tuple[str, ...]
    basis: NDArray[np.int64]
    values: Floats
    purity: Floats
    mean: Floats
    low: Floats
    high: Floats
    less: Floats
    less_low: Floats
    less_high: Floats
    count: int
    seed: int

    def __repr__(self) -> str:
        lines = [f"DirectionComparison({self.layer}, {self.count} examples each)"]
        for row, name in enumerate(self.bases):
            numbers = ", ".join(f"{head} {self._cell(row, at)}" for at, head in enumerate((*self.scores, "purity")))
            lines.append(f"  {(self.basis == row).sum()} {name}: {numbers}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{html.escape(head)}</th>" for head in (self.layer, *self.scores, "purity"))
        rows = "".join(
            f"<tr><td>{(self.basis == row).sum()} {html.escape(name)}</td>"
            + "".join(f"<td>{self._cell(row, at)}</td>" for at in range(len(self.scores) + 1))
            + "</tr>"
            for row, name in enumerate(self.bases)
        )
        return f"<table><tr>{heads}</tr>{rows}</table>"

    def _cell(self, row: int, at: int) -> str:
        return f"{self.mean[row, at]:.3f} ({self.low[row, at]:.3f} to {self.high[row, at]:.3f})"


def compare_directions(
    model: Model,
    directions: Directions | Sequence[Directions],
    dataset: Any,
    *,
    scores: Sequence[str] = JUDGED,
    count: int = 64,
    seed: int = 0,
    progress: bool = True,
) -> DirectionComparison:
    """Judge a layer's units, ``directions``, and the same directions shuffled over the channels, all by the same scores
    on the same images.

    Each direction's examples are the ``count`` images furthest along it (`find_direction_examples`); ``scores`` are
    keys of `circuits.meanings.scores.SCORES` (PURE and pictures, which need more than examples, are refused). Examples
    should be of other images than those the directions were found in. Cleaner than the units is what scores lower by
    an interval without 0, and cleaner than chance what also scores below its shuffled control.

    >>> from circuits.meanings.directions.finding import kmeans_directions
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> model = load_model("sketches")
    >>> found = kmeans_directions(model, "mixed3a", Sketches(12), count=4, progress=False)
    >>> held_out = Sketches(12, seed=1)
    >>> compare_directions(model, found, held_out, scores=["label-entropy"], count=8, progress=False).bases
    ('units', 'k-means', 'k-means, shuffled')
    """
    strange = [name for name in scores if name not in SCORES]
    if strange or not scores:
        raise ValueError(f"no score {strange[0] if strange else ''!r}: there are {', '.join(SCORES)}")
    given = [directions] if isinstance(directions, Directions) else list(directions)
    if not given:
        raise ValueError("no directions were given: find some with nmf_directions or kmeans_directions")
    pairs = [each for one in given for each in (one, random_directions(one, seed=seed))]
    bases = [unit_directions(model, given[0].layer), *pairs]
    examples = find_direction_examples(model, bases, dataset, count=count, progress=progress)
    evidence = direction_evidence(examples, bases)
    values = np.stack([SCORES[name](evidence) for name in scores], 1)
    basis = np.repeat(np.arange(len(bases)), [len(each) for each in bases])
    purity = np.array([_purity(labels) for labels in examples.label])
    return DirectionComparison(
        layer=given[0].layer,
        model=model.name,
        digest=model.digest,
        bases=tuple(each.method for each in bases),
        names=examples.names,
        scores=tuple(scores),
        basis=basis,
        values=values,
        purity=purity,
        **_summary(np.column_stack([values, purity]), basis, seed),
        count=count,
        seed=seed,
    )


def write_comparison(comparison: DirectionComparison, folder: str | os.PathLike[str]) -> Path:
    """Write ``comparison`` as a record at ``folder``, from which `read_comparison` gives it back."""
    parts = {each.name: getattr(comparison, each.name) for each in fields(DirectionComparison)}
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray)}
    return write_record(folder, KIND, arrays=arrays, fields={name: parts[name] for name in parts if name not in arrays})


def read_comparison(folder: str | os.PathLike[str]) -> DirectionComparison:
    """Read what `write_comparison` wrote; ``ValueError`` for a damaged record, ``FileNotFoundError`` for none."""
    arrays, said = read_record(folder, KIND)
    if sorted([*arrays, *said]) != sorted(each.name for each in fields(DirectionComparison)):
        raise ValueError(f"the comparison in '{folder}' was written by another version: make it again")
    check_shapes(arrays, AXES, n=len(said["names"]), s=len(said["scores"]), b=len(said["bases"]))
    named: dict[str, Any] = {name: tuple(said.pop(name)) for name in ("bases", "names", "scores")}
    return DirectionComparison(**named, **said, **dict[str, Any](arrays))


def _purity(labels: NDArray[np.int64]) -> float:
    counts = np.unique(labels[labels >= 0], return_counts=True)[1]
    return float(counts.max() / len(labels)) if len(counts) else float("nan")


def _summary(columns: Floats, basis: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Give means of the columns (n, s) of each basis and of their differences to the first, with intervals."""
    generator = np.random.default_rng(seed)
    groups = [columns[basis == row] for row in range(basis.max() + 1)]
    with np.errstate(invalid="ignore"):
        draws = np.stack(
            [
                np.stack([_mean(rows[generator.integers(len(rows), size=len(rows))]) for rows in groups])
                for _ in range(DRAWS)
            ]
        )
    mean = np.stack([_mean(rows) for rows in groups])
    low, high = np.percentile(draws, INTERVAL, axis=0)
    less_low, less_high = np.percentile(draws - draws[:, :1], INTERVAL, axis=0)
    less = mean - mean[:1]
    return {"mean": mean, "low": low, "high": high, "less": less, "less_low": less_low, "less_high": less_high}


def _mean(rows: Floats) -> Floats:
    """Give the means of the columns over what is not NaN, NaN where nothing is."""
    counted = ~np.isnan(rows)
    total = np.where(counted, rows, 0.0).sum(0)
    return np.where(counted.any(0), total / np.maximum(counted.sum(0), 1), np.nan)


# The axes of every array of `DirectionComparison`; means have one column more than there are scores.
AXES: dict[str, tuple[int | str, ...]] = {
    **dict.fromkeys(("basis", "purity"), ("n",)),
    "values": ("n", "s"),
    **dict.fromkeys(("mean", "low", "high", "less", "less_low", "less_high"), ("b", "columns")),
}
