"""Edges graded: how much of a planted circuit each edge score finds, and what `build_graph` and its tests keep."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor
from tqdm import tqdm

from circuits.contributions import measure_contributions
from circuits.graphs import build_graph, significance
from circuits.interventions import verify
from circuits.planted.networks import NETWORKS
from circuits.planted.planting import Planted
from circuits.wiring import connect_fitted, connect_gated

BACKGROUNDS = (0.2, 0.5, 1.0)  # hardly any; half as strong as what was planted; as strong
LEVEL = 0.05  # false discoveries among a unit's inputs
KEEP = 10  # inputs of each unit, `build_graph`'s own default
COUNT = 2  # pictures of each content

Edge = tuple[str, str]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Wired:
    """A planted network as the scores see it.

    ``graph`` holds every wire of the network, ``edges`` those into planted units, in order; ``images`` show each
    content; nothing here knows which wires were planted but `planted`, which scores do not look at.
    """

    planted: Planted
    graph: nx.DiGraph[str]
    edges: tuple[Edge, ...]
    images: Tensor

    def column(self, graph: nx.DiGraph[str], name: str) -> Floats:
        """Give the absolute value of an attribute of each edge, 0 where the graph has no such edge."""
        found = ((graph.edges[edge].get(name, 0.0) if graph.has_edge(*edge) else 0.0) for edge in self.edges)
        values: Floats = np.abs(np.fromiter(found, float, len(self.edges)))
        return values

    @cached_property
    def checked(self) -> nx.DiGraph[str]:
        """The graph with every wire's measured effect."""
        return verify(self.planted.model, self.graph, self.images, progress=False)

    @cached_property
    def tested(self) -> nx.DiGraph[str]:
        """The graph with every wire's significance."""
        return significance(self.planted.model, self.graph, progress=False)


@dataclass(frozen=True)
class ScoreGrade:
    """How well a score tells the planted wires of one network from all others into the same units.

    - auroc, average_precision: among the wires into one unit, mean over the units (0.5 and the planted share are
      chance; units of other layers have weights of another size, and no unit competes with another for inputs)
    - found: of as many wires of each unit as were planted into it, those with the highest scores, the part that is
      planted (precision and recall are the same there); excitatory and inhibitory: the part that is found of the
      planted wires of that sign, NaN where there are none
    """

    score: str
    network: str
    background: float
    planted: int
    wires: int
    auroc: float
    average_precision: float
    found: float
    excitatory: float
    inhibitory: float


@dataclass(frozen=True)
class ChoiceGrade:
    """What a rule that keeps some wires keeps of the planted ones: precision (NaN where it keeps none) and recall."""

    choice: str
    network: str
    background: float
    kept: int
    precision: float
    recall: float


@dataclass(frozen=True)
class EdgeGrades:
    """The grades of `grade_edges`; as text and in a notebook the means over networks, by background."""

    scores: tuple[ScoreGrade, ...]
    choices: tuple[ChoiceGrade, ...]

    def __str__(self) -> str:
        return "\n\n".join(_text(rows) for rows in self._tables())

    def _repr_html_(self) -> str:
        return "".join(_markup(rows) for rows in self._tables())

    def _tables(self) -> list[list[list[str]]]:
        tables = [
            _means(self.scores, "score", ("auroc", "average_precision", "found", "excitatory", "inhibitory")),
            _means(self.choices, "choice", ("kept", "precision", "recall")),
        ]
        return [rows for rows in tables if len(rows) > 1]


def grade_edges(
    networks: Iterable[str] | None = None,
    *,
    backgrounds: Iterable[float] = BACKGROUNDS,
    scores: Iterable[str] | None = None,
    choices: Iterable[str] | None = None,
    count: int = COUNT,
    seed: int = 0,
    progress: bool = True,
) -> EdgeGrades:
    """Grade edge scores on networks whose circuits were planted: precision, recall and AUROC against the truth.

    The question is put for every planted unit that reads other units: which of the wires from the layer below were
    planted? Candidates are all channels of that layer, distractors and other planted units. ``networks`` are names in
    `NETWORKS` (by default all), each made with every background of ``backgrounds`` (see `Planted`); ``scores`` names in
    `EDGE_SCORES` and ``choices`` in `EDGE_CHOICES`, by default all; ``count`` pictures of each content are shown to
    those that look at images. `verify` asks whether a wire acts, and a background wire does: its precision here says
    how many of the wires that act were planted. Between neighbouring layers nothing rectifies on the way, so that gated
    and fitted weights equal those of `connect` there: the row is a check, not a contest.

    Raises ``ValueError`` for names that do not exist.

    >>> grades = grade_edges(["centres and surrounds"], backgrounds=[0.1], scores=["strength"], choices=[],
    ...     progress=False)
    >>> grades.scores[0].auroc > 0.9
    True
    """
    chosen = {name: NETWORKS[name] for name in _known(networks, NETWORKS, "planted network")}
    named = {name: EDGE_SCORES[name] for name in _known(scores, EDGE_SCORES, "edge score")}
    rules = {name: EDGE_CHOICES[name] for name in _known(choices, EDGE_CHOICES, "choice of edges")}
    jobs = [(name, background) for background in backgrounds for name in chosen]
    scored: list[ScoreGrade] = []
    kept: list[ChoiceGrade] = []
    for name, background in tqdm(jobs, desc="edges", unit="network", disable=not progress, leave=False):
        wired = wire(chosen[name](background=background, seed=seed), count=count, seed=seed)
        scored += [_grade_score(wired, score, function(wired)) for score, function in named.items()]
        kept += [_grade_choice(wired, choice, rule(wired)) for choice, rule in rules.items()]
    return EdgeGrades(tuple(scored), tuple(kept))


def wire(planted: Planted, *, count: int = COUNT, seed: int = 0) -> Wired:
    """Give every wire of a planted network, and those among which the planted ones are to be found."""
    layers = planted.model.default_layers
    graph = build_graph(
        planted.model,
        layers,
        keep=max(planted.model.layer(each).channels for each in layers) * len(layers),
        progress=False,
    )
    targets = sorted({target for _, target in planted.kernels})
    below = dict(zip(layers[1:], layers, strict=False))
    edges = tuple(
        (f"{source}:{channel}", target)
        for target in targets
        for source in [below[target.rpartition(":")[0]]]
        for channel in range(planted.model.layer(source).channels)
    )
    images = torch.cat([planted.images(content, count, seed=seed) for content in planted.contents])
    return Wired(planted, graph, edges, images)


def _known(names: Iterable[str] | None, known: Mapping[str, object], what: str) -> list[str]:
    chosen = list(known) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"no {what} {unknown[0]!r}: there are {', '.join(known)}")
    return chosen


def _grade_score(wired: Wired, name: str, values: Floats) -> ScoreGrade:
    truth, signs = _truth(wired)
    top = _strongest(wired, values, {target: int(truth[rows].sum()) for target, rows in _rows(wired).items()})
    return ScoreGrade(
        score=name,
        network=wired.planted.model.name,
        background=wired.planted.background,
        planted=int(truth.sum()),
        wires=len(truth),
        auroc=_over_units(wired, roc_auc_score, truth, values),
        average_precision=_over_units(wired, average_precision_score, truth, values),
        found=float((top & truth).sum() / truth.sum()),
        excitatory=_part(top, truth & (signs > 0)),
        inhibitory=_part(top, truth & (signs < 0)),
    )


def _grade_choice(wired: Wired, name: str, kept: NDArray[np.bool_]) -> ChoiceGrade:
    truth, _ = _truth(wired)
    hits = int((kept & truth).sum())
    count = int(kept.sum())
    precision = hits / count if count else float("nan")
    network = wired.planted.model.name
    return ChoiceGrade(name, network, wired.planted.background, count, precision, hits / int(truth.sum()))


def _truth(wired: Wired) -> tuple[NDArray[np.bool_], Floats]:
    """Say which wires were planted, and whether each mainly excites (1) or inhibits (-1)."""
    kernels = wired.planted.kernels
    truth = np.array([edge in kernels for edge in wired.edges])
    signs = np.array([np.sign(kernels[edge].sum()) if edge in kernels else 0.0 for edge in wired.edges])
    balanced = np.array(
        [edge in kernels and abs(kernels[edge].sum()) < 1e-6 * np.abs(kernels[edge]).sum() for edge in wired.edges]
    )
    return truth, np.where(balanced, 0.0, signs)


def _rows(wired: Wired) -> dict[str, NDArray[np.intp]]:
    targets = np.array([target for _, target in wired.edges])
    return {str(target): np.flatnonzero(targets == target) for target in np.unique(targets)}


def _strongest(wired: Wired, values: Floats, counts: Mapping[str, int]) -> NDArray[np.bool_]:
    """Keep so many wires of each unit, the highest values; ties by channel; never a value of 0."""
    kept = np.zeros(len(values), dtype=bool)
    for target, rows in _rows(wired).items():
        order = rows[np.argsort(-values[rows], kind="stable")]
        kept[order[: counts[target]]] = True
    return kept & (values > 0)


def _over_units(wired: Wired, grade: Callable[..., float], truth: NDArray[np.bool_], values: Floats) -> float:
    return float(np.mean([grade(truth[rows], values[rows]) for rows in _rows(wired).values() if not truth[rows].all()]))


def _part(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> float:
    return float((found & wanted).sum() / wanted.sum()) if wanted.any() else float("nan")


def _attribute(name: str) -> Callable[[Wired], Floats]:
    return lambda wired: wired.column(wired.graph, name)


def _with_images(wires: Callable[..., Tensor]) -> Callable[[Wired], Floats]:
    def score(wired: Wired) -> Floats:
        model = wired.planted.model
        keep = len(wired.graph)
        graph = build_graph(
            model, model.default_layers, keep=keep, wires=partial(wires, images=wired.images), progress=False
        )
        return wired.column(graph, "strength")

    return score


def _contribution(wired: Wired) -> Floats:
    seen = measure_contributions(wired.planted.model, wired.graph, wired.images, progress=False)
    return wired.column(seen, "contribution")


def _significance(wired: Wired) -> Floats:
    missing = np.array([not wired.tested.has_edge(*edge) for edge in wired.edges])
    return np.where(missing, 0.0, 1.0 - wired.column(wired.tested, "q_value"))


def _effect(wired: Wired) -> Floats:
    return wired.column(wired.checked, "measured")


def _kept_by(measure: str) -> Callable[[Wired], NDArray[np.bool_]]:
    def rule(wired: Wired) -> NDArray[np.bool_]:
        model = wired.planted.model
        graph = build_graph(model, model.default_layers, keep=KEEP, by=measure, progress=False)
        return np.array([graph.has_edge(*edge) for edge in wired.edges])

    return rule


def _discovered(wired: Wired) -> NDArray[np.bool_]:
    return _significance(wired) > 1 - LEVEL


def _confirmed(wired: Wired) -> NDArray[np.bool_]:
    verdicts = nx.get_edge_attributes(wired.checked, "verdict")
    return np.array([verdicts.get(edge) == "confirmed" for edge in wired.edges])


def _means(rows: Iterable[ScoreGrade | ChoiceGrade], key: str, columns: Iterable[str]) -> list[list[str]]:
    """Give the means over networks as a table of words, one row a name and background, under a head."""
    groups: dict[tuple[str, float], list[ScoreGrade | ChoiceGrade]] = {}
    for row in rows:
        groups.setdefault((getattr(row, key), row.background), []).append(row)
    table = [[key, "background", *(name.replace("_", " ") for name in columns)]]
    for (name, background), group in groups.items():
        values = [np.array([getattr(row, column) for row in group], float) for column in columns]
        table.append([name, f"{background:g}", *(_number(each[np.isfinite(each)]) for each in values)])
    return table


def _number(values: Floats) -> str:
    return f"{values.mean():.3g}" if len(values) else ""


def _text(rows: list[list[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _markup(rows: list[list[str]]) -> str:
    head, *body = ([html.escape(cell) for cell in row] for row in rows)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return "<table><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + f"</tr>{lines}</table>"


# A score of each of ``wired.edges``, (n,), higher for wires that matter more.
EDGE_SCORES: dict[str, Callable[[Wired], Floats]] = {
    **{name: _attribute(name) for name in ("strength", "weight", "excitation", "inhibition")},
    "gated": _with_images(connect_gated),
    "fitted": _with_images(connect_fitted),
    "contribution": _contribution,
    "significance": _significance,
    "measured effect": _effect,
}
# A rule that keeps some of ``wired.edges``, (n,) bool.
EDGE_CHOICES: dict[str, Callable[[Wired], NDArray[np.bool_]]] = {
    **{f"build_graph by {name}": _kept_by(name) for name in ("strength", "weight", "excitation", "inhibition")},
    f"q below {LEVEL:g}": _discovered,
    "confirmed by verify": _confirmed,
}
