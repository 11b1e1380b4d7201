"""Queries: graph in, graph out. What feeds a unit, what it feeds, what lies between two, the strongest paths."""

from __future__ import annotations

import difflib
import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import networkx as nx

from features.units import Unit

Wire = tuple[str, str]


def upstream(graph: nx.DiGraph[str], unit: Unit | str, *, depth: int = 1, width: int = 5) -> nx.DiGraph[str]:
    """Give the part of ``graph`` that feeds ``unit``: its ``width`` strongest inputs, theirs, and so on, ``depth``
    times.

    Strongest by ``strength``, ties by name. All attributes are kept; the result is a copy that may be changed.

    Raises ``ValueError`` for a unit that is not in the graph (with the nearest that are), ``depth`` or ``width``
    below 1.

    >>> graph = nx.DiGraph([("a:0", "b:0"), ("a:1", "b:0"), ("b:0", "c:0")])
    >>> nx.set_edge_attributes(graph, {edge: float(number) for number, edge in enumerate(graph.edges)}, "strength")
    >>> sorted(upstream(graph, "c:0", depth=2, width=1).edges)
    [('a:1', 'b:0'), ('b:0', 'c:0')]
    """
    return _grow(graph, _node(graph, unit), graph.in_edges, 0, depth, width)


def downstream(graph: nx.DiGraph[str], unit: Unit | str, *, depth: int = 1, width: int = 5) -> nx.DiGraph[str]:
    """Give the part of ``graph`` that ``unit`` feeds: its ``width`` strongest outputs, theirs, and so on, ``depth``
    times.

    As `upstream`, the other way. A graph that keeps the strongest inputs of each unit holds only the outputs that are
    among those.

    >>> graph = nx.DiGraph([("a:0", "b:0"), ("b:0", "c:0"), ("b:0", "c:1")])
    >>> nx.set_edge_attributes(graph, 1.0, "strength")
    >>> sorted(downstream(graph, "a:0", depth=2))
    ['a:0', 'b:0', 'c:0', 'c:1']
    """
    return _grow(graph, _node(graph, unit), graph.out_edges, 1, depth, width)


def between(graph: nx.DiGraph[str], source: Unit | str, target: Unit | str) -> nx.DiGraph[str]:
    """Give every unit and edge that lies on a path from ``source`` to ``target``.

    Raises ``ValueError`` for unknown units, and where no path exists.

    >>> sorted(between(nx.DiGraph([("a:0", "b:0"), ("a:0", "b:1"), ("b:0", "c:0")]), "a:0", "c:0"))
    ['a:0', 'b:0', 'c:0']
    """
    start, end = _ends(graph, source, target)
    on_path = (nx.descendants(graph, start) | {start}) & (nx.ancestors(graph, end) | {end})
    return _copy(graph, (edge for edge in graph.edges(on_path) if edge[1] in on_path), on_path)


def strongest_paths(
    graph: nx.DiGraph[str], source: Unit | str, target: Unit | str, *, count: int = 5
) -> nx.DiGraph[str]:
    """Give the ``count`` paths from ``source`` to ``target`` with the largest product of absolute weights, in one.

    Exact, by dynamic programming over the graph's order: the best paths to a unit extend the best paths to its
    inputs. Each edge gets ``paths``, the number of these paths that use it; ``graph.graph["paths"]`` is their list
    as JSON, best first, each ``{"units": [...], "product": signed product of the weights}``. Paths over a weight of
    0 do not count.

    Raises ``ValueError`` for unknown units, a graph with a cycle, edges without ``weight``, and where no path exists.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 2.0), ("b:0", "c:0", 2.0), ("a:0", "b:1", -3.0)])
    >>> graph.add_edge("b:1", "c:0", weight=1.0)
    >>> strongest_paths(graph, "a:0", "c:0", count=1).graph["paths"]
    '[{"units": ["a:0", "b:0", "c:0"], "product": 4.0}]'
    """
    _check_count("count", count)
    start, end = _ends(graph, source, target)
    paths = [_trace(graph, units) for units in _best_paths(between(graph, start, end), start, end, count)]
    if not paths:
        raise ValueError(f"every path from {start!r} to {end!r} has a weight of 0")
    wires = Counter(wire for units, _ in paths for wire in pairwise(units))
    found = _copy(graph, wires, {start, end})
    nx.set_edge_attributes(found, wires, "paths")
    found.graph["paths"] = json.dumps([{"units": units, "product": product} for units, product in paths])
    return found


def prune(graph: nx.DiGraph[str], *, share: float = 0.02) -> nx.DiGraph[str]:
    """Give ``graph`` without the edges below ``share`` of their target's input, and without units left alone.

    Raises ``ValueError`` for a share outside [0, 1] and for edges without ``share``.

    >>> graph = nx.DiGraph()
    >>> graph.add_edge("a:0", "b:0", share=0.5)
    >>> graph.add_edge("a:1", "b:0", share=0.01)
    >>> sorted(prune(graph, share=0.1))
    ['a:0', 'b:0']
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share!r}: give a part between 0 and 1")
    return _copy(graph, [edge for edge in graph.edges if _number(graph, edge, "share") >= share], ())


def _grow(
    graph: nx.DiGraph[str], unit: str, edges: Callable[..., Any], end: int, depth: int, width: int
) -> nx.DiGraph[str]:
    _check_count("depth", depth)
    _check_count("width", width)
    wires: dict[Wire, None] = {}
    reached, front = {unit}, [unit]
    for _ in range(depth):
        strongest = [wire for node in front for wire in _strongest(graph, edges(node), width)]
        wires.update(dict.fromkeys(strongest))
        front = list(dict.fromkeys(wire[end] for wire in strongest if wire[end] not in reached))
        reached.update(front)
    return _copy(graph, wires, {unit})


def _strongest(graph: nx.DiGraph[str], wires: Iterable[Wire], width: int) -> list[Wire]:
    return heapq.nsmallest(width, wires, key=lambda wire: (-_number(graph, wire, "strength"), wire))


def _best_paths(graph: nx.DiGraph[str], start: str, end: str, count: int) -> Iterator[list[str]]:
    """Give the units of the best paths, best first; ties in the order of names."""
    best: dict[str, list[tuple[float, str, int]]] = {start: [(0.0, "", 0)]}
    for node in _ordered(graph):
        if node != start:
            reached = (
                (cost - math.log(abs(weight)), before, place)
                for before in graph.predecessors(node)
                if (weight := _number(graph, (before, node), "weight")) != 0
                for place, (cost, _, _) in enumerate(best[before])
            )
            best[node] = heapq.nsmallest(count, reached)
    for place in range(len(best[end])):
        yield _walk_back(best, end, place)


def _walk_back(best: dict[str, list[tuple[float, str, int]]], node: str, place: int) -> list[str]:
    units: list[str] = []
    while node:
        units.append(node)
        _, node, place = best[node][place]
    return units[::-1]


def _trace(graph: nx.DiGraph[str], units: list[str]) -> tuple[list[str], float]:
    return units, math.prod(_number(graph, wire, "weight") for wire in pairwise(units))


def _ordered(graph: nx.DiGraph[str]) -> list[str]:
    try:
        return list(nx.topological_sort(graph))
    except nx.NetworkXUnfeasible as error:
        raise ValueError(
            "the graph has a cycle, along which paths never end: circuit graphs climb from layer to layer"
        ) from error


def _copy(graph: nx.DiGraph[str], wires: Iterable[Wire], nodes: Iterable[str]) -> nx.DiGraph[str]:
    """Give a new graph with these edges, their ends and ``nodes``: attributes copied, in graph's order."""
    chosen = set(wires)
    kept = {*nodes, *(node for wire in chosen for node in wire)}
    part: nx.DiGraph[str] = nx.DiGraph(**graph.graph)
    part.add_nodes_from((node, dict(attributes)) for node, attributes in graph.nodes(data=True) if node in kept)
    in_order = (wire for node in part for wire in graph.out_edges(node) if wire in chosen)
    part.add_edges_from((*wire, dict(graph.edges[wire])) for wire in in_order)
    return part


def _ends(graph: nx.DiGraph[str], source: Unit | str, target: Unit | str) -> tuple[str, str]:
    start, end = _node(graph, source), _node(graph, target)
    if start == end:
        raise ValueError(f"source and target are both {start!r}: name two units")
    if not nx.has_path(graph, start, end):
        turned = "; there is one the other way round" if nx.has_path(graph, end, start) else ""
        raise ValueError(f"no path leads from {start!r} to {end!r} in this graph{turned}: build it with a larger keep")
    return start, end


def _node(graph: nx.DiGraph[str], unit: Unit | str) -> str:
    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        raise TypeError(
            f"a circuit graph is an nx.DiGraph, not {type(graph).__name__}: build it with circuits.build_graph"
        )
    name = str(Unit.of(unit))
    if name not in graph:
        raise ValueError(_nearest(graph, name))
    return name


def _nearest(graph: nx.DiGraph[str], name: str) -> str:
    unit = Unit.of(name)
    channels = sorted(
        Unit.of(node).channel for node in graph if isinstance(node, str) and node.startswith(f"{unit.layer}:")
    )
    if channels:
        close = sorted(channels, key=lambda channel: (abs(channel - unit.channel), channel))[:3]
        near = [f"{unit.layer}:{channel}" for channel in close]
    else:
        layers = {node.rpartition(":")[0] for node in graph if isinstance(node, str)}
        near = [f"{layer}:..." for layer in difflib.get_close_matches(unit.layer, sorted(layers), n=3, cutoff=0.4)]
    hint = f"nearest are {', '.join(map(repr, near))}; " if near else ""
    return f"no unit {name!r} in this graph: {hint}list them all with list(graph)"


def _number(graph: nx.DiGraph[str], wire: Wire, key: str) -> float:
    value = graph.edges[wire].get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(
            f"edge {wire[0]!r} -> {wire[1]!r} has {key} {value!r}: a circuit graph has a finite number there"
        )
    return float(value)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}: give a whole number, 1 or more")
