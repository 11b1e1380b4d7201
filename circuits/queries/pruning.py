"""Pruning: what can go because it is weak, or because little of a unit's input passes through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from circuits.queries.access import (
    Measure,
    Wire,
    check_choice,
    check_graph_type,
    check_part,
    copy_of,
    node,
    nodes,
    number,
)
from circuits.queries.arrays import Numbers, Wires, climbing, wires_of
from features.units import Unit

Targets = Unit | str | Iterable[Unit | str] | Mapping[str, float] | None


def prune(graph: nx.DiGraph[str], *, share: float = 0.02) -> nx.DiGraph[str]:
    """Give ``graph`` without the edges below ``share`` of their target's input, and without units left alone.

    Where nothing is left, ``graph.graph["empty"]`` of the result says why. Raises ``ValueError`` for a share outside
    [0, 1] and for edges without ``share``.

    >>> graph = nx.DiGraph()
    >>> graph.add_edge("a:0", "b:0", share=0.5)
    >>> graph.add_edge("a:1", "b:0", share=0.01)
    >>> sorted(prune(graph, share=0.1))
    ['a:0', 'b:0']
    """
    check_graph_type(graph)
    check_part("share", share)
    shares = {edge: number(graph, edge, "share") for edge in graph.edges}
    largest = max(shares.values(), default=0.0)
    empty = f"no edge has a share of {share:g} or more: the largest is {largest:.3g}" if shares else "it had no edges"
    return copy_of(graph, [edge for edge, value in shares.items() if value >= share], (), empty)


def influence(graph: nx.DiGraph[str], targets: Targets = None, *, by: Measure = "strength") -> dict[str, float]:
    """Give how much of the input of ``targets`` passes through each unit, directly or not: unit to influence, largest
    first.

    ``infl = p (A + A^2 + A^3 + ...)`` with ``A[t, s] = |by of s -> t|`` over its sum over the inputs of ``t`` that the
    graph has, and ``p`` the targets' weights, scaled to sum 1: a mapping, equal for several units, and by default
    equal over all units without outputs. A unit that everything passes through has influence 1; a target has none on
    itself. (Ameisen et al. 2025, "Circuit Tracing", appendix on pruning; circuit-tracer's ``graph.py``.)

    Raises ``ValueError`` for unknown units, a graph with a cycle, and edges without the number.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 3.0), ("a:1", "b:0", -1.0), ("b:0", "c:0", 2.0)])
    >>> influence(graph, by="weight")
    {'b:0': 1.0, 'a:0': 0.75, 'a:1': 0.25, 'c:0': 0.0}
    """
    wires = _normalized(graph, by)
    found = _influence(wires, _weights(graph, wires, targets))
    return {wires.names[place]: float(found[place]) for place in np.argsort(-found, kind="stable")}


def prune_influence(
    graph: nx.DiGraph[str],
    targets: Targets = None,
    *,
    nodes: float = 0.8,
    edges: float = 0.98,
    by: Measure = "strength",
) -> nx.DiGraph[str]:
    """Give the part of ``graph`` through which most of the targets' input passes.

    The units of largest `influence` that together have the part ``nodes`` of all influence are kept, with the targets
    and, as where everything starts (circuit-tracer's tokens), the units without inputs;
    then, with the influence measured again on what is left, the edges of largest ``A[t, s] * (infl[t] + p[t])`` that
    together have the part ``edges`` of all; then, until nothing changes, units that dangle are dropped: those without
    an output left that are no targets, and those without an input left that had one. The defaults are
    circuit-tracer's. Nodes and edges get ``influence``, as measured on the whole graph and on the kept units.

    Raises ``ValueError`` as `influence` does, and for parts outside [0, 1].

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 9.0), ("a:1", "b:0", -1.0), ("b:0", "c:0", 2.0)])
    >>> sorted(prune_influence(graph, "c:0", edges=0.9, by="weight"))
    ['a:0', 'b:0', 'c:0']
    """
    check_part("nodes", nodes)
    check_part("edges", edges)
    wires = _normalized(graph, by)
    p = _weights(graph, wires, targets)
    whole = _influence(wires, p)
    starts = np.bincount(wires.heads, minlength=len(p)) == 0
    units = _largest(whole, nodes) | (p > 0) | starts
    inside = wires.kept(units[wires.tails] & units[wires.heads])
    inside = _row_normalized(inside)
    scores = inside.values * (_influence(inside, p) + p)[inside.heads]
    chosen = _largest(scores, edges)
    left = _without_dangling(inside.kept(chosen), ends=p > 0, starts=starts)
    return _pruned(graph, inside, scores, left, whole, p)


def _pruned(
    graph: nx.DiGraph[str], inside: Wires, scores: Numbers, left: Wires, whole: Numbers, p: Numbers
) -> nx.DiGraph[str]:
    names = inside.names
    score = {
        (names[tail], names[head]): value
        for tail, head, value in zip(inside.tails, inside.heads, scores.tolist(), strict=True)
    }
    kept: list[Wire] = [(names[tail], names[head]) for tail, head in zip(left.tails, left.heads, strict=True)]
    targets = [names[place] for place in np.flatnonzero(p).tolist()]
    empty = f"no path that leads to {', '.join(targets[:3])} was kept whole: larger nodes and edges keep more"
    part = copy_of(graph, kept, targets, empty)
    values = dict(zip(names, whole.tolist(), strict=True))
    nx.set_node_attributes(part, {unit: values[unit] for unit in part}, "influence")
    nx.set_edge_attributes(part, {wire: score[wire] for wire in part.edges}, "influence")
    return part


def _normalized(graph: nx.DiGraph[str], by: Measure) -> Wires:
    check_graph_type(graph)
    check_choice("by", by, Measure)
    return _row_normalized(wires_of(graph, by))


def _row_normalized(wires: Wires) -> Wires:
    """Divide each edge's absolute value by the sum over its head's inputs; edges of 0 go."""
    values = np.abs(wires.values)
    total = np.bincount(wires.heads, values, minlength=len(wires.names))[wires.heads]
    shares = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    return Wires(wires.names, wires.tails, wires.heads, shares).kept(shares > 0)


def _weights(graph: nx.DiGraph[str], wires: Wires, targets: Targets) -> Numbers:
    weights = _weight_of_each(graph, targets)
    total = sum(weights.values())
    if not all(0 <= weight < np.inf for weight in weights.values()) or not 0 < total < np.inf:
        raise ValueError(f"the targets' weights are {weights!r}: give numbers of 0 or more, not all 0")
    place = {name: index for index, name in enumerate(wires.names)}
    p = np.zeros(len(wires.names))
    for name, weight in weights.items():
        p[place[name]] = weight / total
    return p


def _weight_of_each(graph: nx.DiGraph[str], targets: Targets) -> dict[str, float]:
    if isinstance(targets, Mapping):
        return {node(graph, unit): float(weight) for unit, weight in targets.items()}
    if targets is not None:
        return dict.fromkeys(nodes(graph, targets), 1.0)
    last = [unit for unit in graph if graph.out_degree(unit) == 0]
    if not last:
        raise ValueError("no unit of this graph is without outputs: name the targets")
    return dict.fromkeys(last, 1.0)


def _influence(wires: Wires, p: Numbers) -> Numbers:
    """Sum the powers: against the wires, each unit gets its share of what its targets have, whose sums are complete."""
    found = np.zeros(len(p))
    turned = wires.turned()
    for edges in climbing(turned):
        flows = turned.values[edges] * (found + p)[turned.tails[edges]]
        found += np.bincount(turned.heads[edges], flows, minlength=len(p))
    return found


def _largest(values: Numbers, part: float) -> NDArray[np.bool_]:
    """Mark the largest values that together reach ``part`` of the sum; what ties with the last is marked too."""
    ordered = np.sort(values)[::-1]
    if not values.size or ordered[0] <= 0:
        return np.zeros(values.shape, bool)
    sums = np.cumsum(ordered)
    last = min(int(np.searchsorted(sums, part * sums[-1] * (1 - 1e-12))), values.size - 1)
    mask: NDArray[np.bool_] = (values >= ordered[last]) & (values > 0)
    return mask


def _without_dangling(wires: Wires, *, ends: NDArray[np.bool_], starts: NDArray[np.bool_]) -> Wires:
    while True:
        count = len(wires.names)
        fed = starts | (np.bincount(wires.heads, minlength=count) > 0)
        feeds = ends | (np.bincount(wires.tails, minlength=count) > 0)
        kept = fed[wires.tails] & feeds[wires.heads]
        if kept.all():
            return wires
        wires = wires.kept(kept)
