"""Comparing: which units are wired alike, and what changed between two graphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import networkx as nx

from circuits.queries.access import (
    Measure,
    Wire,
    check_choice,
    check_count,
    check_graph_type,
    node,
    number,
)
from features.units import Unit


def similar_inputs(
    graph: nx.DiGraph[str], unit: Unit | str, *, count: int = 10, by: Measure = "weight"
) -> dict[str, float]:
    """Give the units whose inputs are most like those of ``unit``: unit to cosine of the two vectors of ``by``, best
    first.

    A wire that the graph does not have counts as 0, so that in a graph of the strongest inputs units are alike which
    share strong inputs with the same sign; opposite signs give -1. Only units that share an input are listed.

    Raises ``ValueError`` for an unknown unit, and where no other unit shares an input with it.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 1.0), ("a:0", "b:1", 2.0), ("a:1", "b:1", 2.0)])
    >>> similar_inputs(graph, "b:0")
    {'b:1': 0.7071067811865475}
    """
    name = node(graph, unit)
    return _similar(graph, name, graph.predecessors, graph.successors, False, count, by, "input")


def similar_outputs(
    graph: nx.DiGraph[str], unit: Unit | str, *, count: int = 10, by: Measure = "weight"
) -> dict[str, float]:
    """Give the units whose outputs are most like those of ``unit``, as `similar_inputs`.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 1.0), ("a:1", "b:0", -2.0)])
    >>> similar_outputs(graph, "a:0")
    {'a:1': -1.0}
    """
    name = node(graph, unit)
    return _similar(graph, name, graph.successors, graph.predecessors, True, count, by, "output")


def difference(
    before: nx.DiGraph[str], after: nx.DiGraph[str], *, by: Measure = "weight", tolerance: float = 0.1
) -> nx.DiGraph[str]:
    """Give what changed from one graph to another of the same units (two checkpoints), as a graph of the changed edges.

    Each edge has ``change``: ``'added'``, ``'lost'``, ``'flipped'`` (another sign) or ``'changed'`` (by more than
    ``tolerance`` of the larger absolute value), with the values of ``by`` in ``before`` and ``after`` where the graph
    has the edge: a wire that is not in a graph of the strongest need not be 0. The other attributes are those of
    ``after``, of ``before`` for what was lost. Nodes that one of the graphs lacks have ``change`` too.
    ``graph.graph["changes"]`` counts: ``'added 3, lost 1, flipped 0, changed 2, same 10'``; without any change,
    ``graph.graph["empty"]`` says so.

    Raises ``ValueError`` for graphs that share no unit, a negative tolerance, and edges without the number.

    >>> one, two = nx.DiGraph(), nx.DiGraph()
    >>> one.add_weighted_edges_from([("a:0", "b:0", 1.0), ("a:1", "b:0", 1.0)])
    >>> two.add_weighted_edges_from([("a:0", "b:0", -1.0), ("a:1", "b:0", 1.0), ("a:1", "b:1", 3.0)])
    >>> found = difference(one, two)
    >>> [(*edge, found.edges[edge]["change"]) for edge in found.edges]
    [('a:0', 'b:0', 'flipped'), ('a:1', 'b:1', 'added')]
    >>> found.graph["changes"]
    'added 1, lost 0, flipped 1, changed 0, same 1'
    """
    _check_pair(before, after, by, tolerance)
    found: nx.DiGraph[str] = nx.DiGraph(**after.graph)
    found.graph.pop("empty", None)
    counts = dict.fromkeys((*CHANGES, "same"), 0)
    for wire in dict.fromkeys([*after.edges, *before.edges]):
        change, values = _change(before, after, wire, by, tolerance)
        counts[change] += 1
        if change != "same":
            home = after if change != "lost" else before
            _add_ends(found, before, after, wire)
            found.add_edge(*wire, **{**home.edges[wire], **values, "change": change})
    for unit in [*(unit for unit in before if unit not in after), *(unit for unit in after if unit not in before)]:
        _add_ends(found, before, after, (unit,))
    found.graph["changes"] = ", ".join(f"{change} {count}" for change, count in counts.items())
    if not found.number_of_edges():
        found.graph["empty"] = (
            f"no edge differs by more than {tolerance:g} of its {by} ({counts['same']} were compared)"
        )
    return found


def _check_pair(before: nx.DiGraph[str], after: nx.DiGraph[str], by: Measure, tolerance: float) -> None:
    check_graph_type(before)
    check_graph_type(after)
    check_choice("by", by, Measure)
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance is {tolerance!r}: give a part of the larger value, 0 or more")
    if len(before) and len(after) and not set(before) & set(after):
        raise ValueError("the two graphs share no unit: compare two checkpoints of one network, with the same layers")


def _change(
    before: nx.DiGraph[str], after: nx.DiGraph[str], wire: Wire, by: Measure, tolerance: float
) -> tuple[str, dict[str, float]]:
    homes = {"before": before, "after": after}
    values = {name: number(graph, wire, by) for name, graph in homes.items() if graph.has_edge(*wire)}
    if len(values) == 1:
        return ("added" if "after" in values else "lost"), values
    old, new = values["before"], values["after"]
    if min(old, new) < 0 < max(old, new):
        return "flipped", values
    return ("changed" if abs(new - old) > tolerance * max(abs(old), abs(new)) else "same"), values


def _add_ends(found: nx.DiGraph[str], before: nx.DiGraph[str], after: nx.DiGraph[str], units: tuple[str, ...]) -> None:
    for unit in units:
        home = after if unit in after else before
        found.add_node(unit, **home.nodes[unit])
        if (unit in before) != (unit in after):
            found.nodes[unit]["change"] = "added" if unit in after else "lost"


def _similar(
    graph: nx.DiGraph[str],
    name: str,
    neighbours: Callable[[str], Any],
    back: Callable[[str], Any],
    outputs: bool,
    count: int,
    by: Measure,
    what: str,
) -> dict[str, float]:
    check_count("count", count)
    check_choice("by", by, Measure)

    def value(unit: str, other: str) -> float:
        return number(graph, (unit, other) if outputs else (other, unit), by)

    products: dict[str, float] = {}
    for other in neighbours(name):
        for unit in back(other):
            products[unit] = products.get(unit, 0.0) + value(name, other) * value(unit, other)
    norms = {unit: math.hypot(*(value(unit, other) for other in neighbours(unit))) for unit in products}
    cosines = {
        unit: max(-1.0, min(1.0, product / norms[unit] / norms[name]))
        for unit, product in products.items()
        if unit != name and norms[unit] > 0 and norms[name] > 0
    }
    if not cosines:
        raise ValueError(f"no other unit shares an {what} with {name!r} in this graph: build it with a larger keep")
    return dict(sorted(cosines.items(), key=lambda pair: (-pair[1], pair[0]))[:count])


CHANGES = ("added", "lost", "flipped", "changed")
