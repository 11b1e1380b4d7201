"""Drawing: what a drawn circuit shows, before anybody decides how: units with places, connections with signs and
widths.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from circuits.diagrams.layouts import Layout, arrange
from circuits.diagrams.texts import shown
from circuits.meanings import Polysemanticity
from features.examples import Examples

WIDTHS = (1.0, 1.9, 3.2, 5.0)  # pixels; a connection's width grows with the root of its strength
CURVE_POINTS = 15
GOLDEN = (5**0.5 - 1) / 2
NAMED = 3  # strongest inputs and outputs that a hover box names


@dataclass(frozen=True)
class Note:
    """What was measured of a unit: whether it seems to mean several things, and facts in words."""

    flagged: bool = False
    facts: tuple[str, ...] = ()


NOTHING = Note()


@dataclass(frozen=True)
class DrawnUnit:
    """One unit of a drawing: its place in pixels, its label, whether it means several things, facts and strongest wires
    in words.
    """

    name: str
    label: str
    place: tuple[float, float]
    flagged: bool
    facts: tuple[str, ...]
    wires: tuple[str, ...]


@dataclass(frozen=True)
class DrawnEdge:
    """One connection of a drawing: ``sign`` is that of the weight, ``share`` its part of all that arrives (0 to 1)."""

    source: str
    target: str
    weight: float
    strength: float
    share: float | None
    width: int

    @property
    def sign(self) -> int:
        return (self.weight > 0) - (self.weight < 0)


@dataclass(frozen=True)
class Drawing:
    """Units and connections of a circuit with everything that a figure or a page says of them."""

    layout: Layout
    units: tuple[DrawnUnit, ...]
    edges: tuple[DrawnEdge, ...]
    title: str | None


def compose(graph: nx.DiGraph, notes: Mapping[str, Note] | None = None, *, title: str | None = None) -> Drawing:
    """Give the drawing of ``graph``: nodes are units ``'layer:channel'``, edges have a finite ``weight`` (1 where none
    is given).

    ``notes`` (of `take_notes`) say of some units what was measured. ``ValueError`` for a node that is no unit, a weight
    that is no finite number, or a graph without units.
    """
    if graph.number_of_nodes() == 0:
        raise ValueError("the graph has no units: there is nothing to draw")
    edges = drawn_edges(graph)
    layout = arrange(graph)
    noted = notes or {}
    into, out = _strongest(edges)
    units = tuple(
        DrawnUnit(
            name=node,
            label=unit_label(graph, node),
            place=layout.places[node],
            flagged=noted.get(node, NOTHING).flagged,
            facts=noted.get(node, NOTHING).facts,
            wires=(*_wires("inputs", into.get(node, ())), *_wires("outputs", out.get(node, ()))),
        )
        for column in layout.columns
        for node in column
    )
    return Drawing(layout, units, edges, None if title is None else str(title))


def drawn_edges(graph: nx.DiGraph) -> tuple[DrawnEdge, ...]:
    """Give the connections from weak to strong, so that the strong are drawn above the weak."""
    rows = [(source, target, *_weights(source, target, data)) for source, target, data in graph.edges(data=True)]
    strongest = max((row[3] for row in rows), default=1.0) or 1.0
    edges = [
        DrawnEdge(source, target, weight, strength, share, round(math.sqrt(strength / strongest) * (len(WIDTHS) - 1)))
        for source, target, weight, strength, share in rows
    ]
    return tuple(sorted(edges, key=lambda edge: (edge.strength, edge.source, edge.target)))


def _weights(source: str, target: str, data: Mapping[str, Any]) -> tuple[float, float, float | None]:
    weight = float(data.get("weight", 1.0))
    strength = float(data.get("strength", abs(weight)))
    share = None if data.get("share") is None else float(data["share"])
    if not (math.isfinite(weight) and math.isfinite(strength) and (share is None or math.isfinite(share))):
        raise ValueError(f"the connection {source!r} -> {target!r} has a weight that is no finite number: leave it out")
    return weight, abs(strength), share


def _strongest(edges: tuple[DrawnEdge, ...]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    into: dict[str, list[str]] = {}
    out: dict[str, list[str]] = {}
    for edge in reversed(edges):
        into.setdefault(edge.target, []).append(f"{shown(edge.source, 40)} {edge.weight:+.3g}")
        out.setdefault(edge.source, []).append(f"{shown(edge.target, 40)} {edge.weight:+.3g}")
    return into, out


def _wires(word: str, wires: list[str] | tuple[()]) -> list[str]:
    more = f" and {len(wires) - NAMED} more" if len(wires) > NAMED else ""
    return [f"{word}: {', '.join(wires[:NAMED])}{more}"] if wires else []


def unit_label(graph: nx.DiGraph, node: str) -> str:
    """Give the label that the graph states for a unit; an empty text where it states none."""
    label = graph.nodes[node].get("label")
    return "" if label is None else str(label)


def take_notes(units: Iterable[str], examples: Examples | None, meanings: Polysemanticity | None) -> dict[str, Note]:
    """Give what ``examples`` and ``meanings`` say of each unit; units that they do not know get no note of theirs."""
    judged = set() if meanings is None else set(meanings.units)
    return {unit: _note(unit, examples, meanings if unit in judged else None) for unit in units}


def _note(unit: str, examples: Examples | None, meanings: Polysemanticity | None) -> Note:
    fires = (
        ()
        if examples is None or unit not in examples
        else (f"fires at {float(examples[unit].firing_rate):.1%} of positions",)
    )
    flagged = meanings is not None and bool(meanings[unit].flag)
    return Note(flagged, fires)


def curves(drawing: Drawing, edges: tuple[DrawnEdge, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Give x and y of the edges' curves as two arrays ``(edges, CURVE_POINTS + 1)``; the last column is NaN, the
    break.
    """
    places = drawing.layout.places
    ends = np.asarray([(*places[edge.source], *places[edge.target]) for edge in edges]).reshape(-1, 4)
    half = drawing.layout.side / 2 + 3
    left, right = ends[:, 0] + half, ends[:, 2] - half
    along = np.linspace(0, 1, CURVE_POINTS)
    ease = along * along * (3 - 2 * along)
    x = left[:, None] + (right - left)[:, None] * along
    y = ends[:, 1, None] + (ends[:, 3] - ends[:, 1])[:, None] * ease
    gap = np.full((len(edges), 1), np.nan)
    return np.hstack([x.round(1), gap]), np.hstack([y.round(1), gap])


def grips(drawing: Drawing, edges: tuple[DrawnEdge, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Give one point on each curve, where a pointer can take hold of it: staggered about the middle, where curves
    cross.
    """
    x, y = curves(drawing, edges)
    numbers = np.arange(len(edges))
    along = np.round((0.3 + 0.4 * (numbers * GOLDEN % 1)) * (CURVE_POINTS - 1)).astype(int)
    return x[numbers, along], y[numbers, along]
