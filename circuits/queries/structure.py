"""Structure: which units nothing gets around, the cheapest cut, which units belong together; networkx's algorithms."""

from __future__ import annotations

from collections.abc import Iterable

import networkx as nx

from circuits.queries.access import (
    Measure,
    check_choice,
    check_graph_type,
    copy_of,
    ends,
    node,
    nodes,
    number,
)
from features.units import Unit


def dominators(graph: nx.DiGraph[str], source: Unit | str) -> nx.DiGraph[str]:
    """Give the dominator tree of what ``source`` reaches: from each unit to those of which it is the last that nothing
    from ``source`` gets around.

    A unit dominates another if every path from ``source`` to it goes through it (`networkx.immediate_dominators`).
    Nodes keep their attributes; an edge of the tree need not be one of the graph, and has no numbers. Graphs with
    cycles are allowed.

    >>> graph = nx.DiGraph([("a:0", "b:0"), ("b:0", "c:0"), ("b:0", "c:1"), ("c:0", "d:0"), ("c:1", "d:0")])
    >>> sorted(dominators(graph, "a:0").edges)
    [('a:0', 'b:0'), ('b:0', 'c:0'), ('b:0', 'c:1'), ('b:0', 'd:0')]
    """
    start = node(graph, source)
    above = nx.immediate_dominators(graph, start)
    tree = copy_of(
        graph, (), {start, *above}, "" if graph.out_degree(start) else f"{start} feeds nothing in this graph"
    )
    tree.add_edges_from((over, unit) for unit, over in above.items() if over is not None and over != unit)
    return tree


def bottlenecks(graph: nx.DiGraph[str], source: Unit | str, target: Unit | str) -> list[str]:
    """List the units that every path from ``source`` to ``target`` goes through, on the way; both ends are among them.

    Raises ``ValueError`` for unknown units, and where no path exists.

    >>> bottlenecks(nx.DiGraph([("a:0", "b:0"), ("b:0", "c:0"), ("b:0", "c:1"), ("c:0", "d:0")]), "a:0", "d:0")
    ['a:0', 'b:0', 'c:0', 'd:0']
    """
    start, end = ends(graph, source, target)
    above = nx.immediate_dominators(graph, start)
    found = [end]
    while found[-1] != start:
        found.append(above[found[-1]])
    return found[::-1]


def minimum_cut(
    graph: nx.DiGraph[str],
    sources: Unit | str | Iterable[Unit | str],
    targets: Unit | str | Iterable[Unit | str],
    *,
    by: Measure = "strength",
) -> nx.DiGraph[str]:
    """Give the edges of least total ``|by|`` without which no path leads from ``sources`` to ``targets``.

    Both are a unit or several. ``graph.graph["cut"]`` of the result is the total, which is also the largest flow (Ford
    and Fulkerson 1956); the node attribute ``side`` is ``'source'`` or ``'target'``. Edges of 0 carry nothing and may
    not be listed.

    Raises ``ValueError`` for unknown units, a unit that is both, edges without the number, and where nothing flows.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 2.0), ("a:0", "b:1", -3.0), ("b:0", "c:0", 1.0)])
    >>> graph.add_edge("b:1", "c:0", weight=5.0)
    >>> cut = minimum_cut(graph, "a:0", "c:0", by="weight")
    >>> sorted(cut.edges), cut.graph["cut"]
    ([('a:0', 'b:1'), ('b:0', 'c:0')], 4.0)
    """
    check_graph_type(graph)
    check_choice("by", by, Measure)
    starts, goals = nodes(graph, sources), nodes(graph, targets)
    if both := set(starts) & set(goals):
        raise ValueError(f"{sorted(both)[0]!r} is a source and a target: name different units")
    flow = _flow_network(graph, starts, goals, by)
    total, (near, _) = nx.minimum_cut(flow, SOURCE, TARGET)
    wires = [wire for wire in graph.edges if flow.has_edge(*wire) and wire[0] in near and wire[1] not in near]
    if not wires:
        raise ValueError(f"no path leads from {', '.join(starts[:3])} to {', '.join(goals[:3])} over edges with {by}")
    part = copy_of(graph, wires, ())
    nx.set_node_attributes(part, {unit: "source" if unit in near else "target" for unit in part}, "side")
    part.graph["cut"] = float(total)
    return part


def communities(
    graph: nx.DiGraph[str], *, by: Measure = "strength", resolution: float = 1.0, seed: int = 0
) -> dict[str, int]:
    """Say which units belong together: unit to the number of its community, 0 the largest (ties by first unit).

    Louvain's modularity (Blondel et al. 2008) on the undirected graph of ``|by|``; larger ``resolution`` gives more and
    smaller communities. The same seed gives the same answer. ``nx.set_node_attributes(graph, found, "community")`` puts
    it on the graph.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 2.0), ("a:1", "b:1", -3.0), ("a:1", "b:0", 0.1)])
    >>> communities(graph, by="weight")
    {'a:0': 0, 'b:0': 0, 'a:1': 1, 'b:1': 1}
    """
    check_graph_type(graph)
    check_choice("by", by, Measure)
    if isinstance(resolution, bool) or not isinstance(resolution, (int, float)) or not 0 < resolution < float("inf"):
        raise ValueError(f"resolution is {resolution!r}: give a number above 0, 1 for plain modularity")
    bonds: nx.Graph[str] = nx.Graph()
    bonds.add_nodes_from(graph)
    for tail, head in graph.edges:
        bond = abs(number(graph, (tail, head), by)) + bonds.get_edge_data(tail, head, {}).get("bond", 0.0)
        bonds.add_edge(tail, head, bond=bond)
    place = {unit: index for index, unit in enumerate(graph)}
    found = nx.community.louvain_communities(bonds, weight="bond", resolution=resolution, seed=seed)
    found.sort(key=lambda units: (-len(units), min(place[unit] for unit in units)))
    number_of = {unit: index for index, units in enumerate(found) for unit in units}
    return {unit: number_of[unit] for unit in graph}


def _flow_network(
    graph: nx.DiGraph[str], starts: list[str], goals: list[str], by: Measure
) -> nx.DiGraph[tuple[str, ...] | str]:
    """Build what flows: edges with capacity on the way from any source to any target, and one node before and after."""
    flow: nx.DiGraph[tuple[str, ...] | str] = nx.DiGraph()
    after = set(starts).union(*(nx.descendants(graph, unit) for unit in starts))
    before = set(goals).union(*(nx.ancestors(graph, unit) for unit in goals))
    way = after & before
    flow.add_nodes_from((SOURCE, TARGET))
    for wire in graph.edges(way):
        if wire[1] in way and (capacity := abs(number(graph, wire, by))) > 0:
            flow.add_edge(*wire, capacity=capacity)
    flow.add_edges_from((SOURCE, unit) for unit in starts)
    flow.add_edges_from((unit, TARGET) for unit in goals)
    return flow


# Tuples, which no unit's name can be; edges without capacity carry any amount.
SOURCE = ("source",)
TARGET = ("target",)
