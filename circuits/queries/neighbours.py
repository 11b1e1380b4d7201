"""What feeds a unit, what it feeds, what lies between two, the strongest edges of all."""

from __future__ import annotations

import functools
import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain

import networkx as nx

from circuits.queries.access import (
    Measure,
    Sign,
    Wire,
    agrees,
    check_choice,
    check_count,
    check_graph_type,
    check_sign,
    copy_of,
    ends,
    node,
    nodes,
    number,
)
from features.units import Unit


def upstream(
    graph: nx.DiGraph[str],
    unit: Unit | str,
    *,
    depth: int = 1,
    width: int = 5,
    sign: Sign | None = None,
    by: Measure = "strength",
) -> nx.DiGraph[str]:
    """Give the part of ``graph`` that feeds ``unit``: its ``width`` strongest inputs, theirs, and so on, ``depth``
    times.

    Strongest by the absolute value of ``by`` (strength, share of the target's input, weight, or contribution where the
    graph has it), ties by name. ``sign`` keeps only wires that excite or inhibit: those with a positive or negative
    contribution where ``by`` is that, else weight; it is asked before the strongest are taken, at every step. All
    attributes are kept; the result is a copy that may be changed. Without any edge, ``graph.graph["empty"]`` of the
    result says why.

    Raises ``ValueError`` for a unit that is not in the graph (with the nearest that are), ``depth`` or ``width``
    below 1, and edges without the numbers asked for.

    >>> graph = nx.DiGraph([("a:0", "b:0"), ("a:1", "b:0"), ("b:0", "c:0")])
    >>> nx.set_edge_attributes(graph, {edge: float(number) for number, edge in enumerate(graph.edges)}, "strength")
    >>> sorted(upstream(graph, "c:0", depth=2, width=1).edges)
    [('a:1', 'b:0'), ('b:0', 'c:0')]
    """
    name = node(graph, unit)
    check_count("depth", depth)
    check_count("width", width)
    choice = _choice(graph, width, sign, by)
    wires = _grow(name, lambda each: choice(graph.in_edges(each)), 0, depth)
    return copy_of(graph, wires, {name}, _empty(name, "input", sign))


def downstream(
    graph: nx.DiGraph[str],
    unit: Unit | str,
    *,
    depth: int = 1,
    width: int = 5,
    sign: Sign | None = None,
    by: Measure = "strength",
) -> nx.DiGraph[str]:
    """Give the part of ``graph`` that ``unit`` feeds: its ``width`` strongest outputs, theirs, and so on, ``depth``
    times.

    As `upstream`, the other way. A graph that keeps the strongest inputs of each unit holds only the outputs that are
    among those.

    >>> graph = nx.DiGraph([("a:0", "b:0"), ("b:0", "c:0"), ("b:0", "c:1")])
    >>> nx.set_edge_attributes(graph, 1.0, "strength")
    >>> sorted(downstream(graph, "a:0", depth=2))
    ['a:0', 'b:0', 'c:0', 'c:1']
    """
    name = node(graph, unit)
    check_count("depth", depth)
    check_count("width", width)
    choice = _choice(graph, width, sign, by)
    wires = _grow(name, lambda each: choice(graph.out_edges(each)), 1, depth)
    return copy_of(graph, wires, {name}, _empty(name, "output", sign))


def ancestors(
    graph: nx.DiGraph[str],
    units: Unit | str | Iterable[Unit | str],
    *,
    depth: int | None = None,
    width: int | None = None,
    sign: Sign | None = None,
    by: Measure = "strength",
) -> nx.DiGraph[str]:
    """Give what feeds any of several units: the union of their `upstream`; by default everything, to the first layer.

    ``units`` is a unit, several, or the name of a class: text without a colon stands for all units with that
    ``label``. The node attribute ``feeds`` says how many of the units each node is upstream of (a unit counts for
    itself): what several classes share has more than one.

    Raises ``ValueError`` as `upstream` does, and for a label that no unit has.

    >>> graph = nx.DiGraph([("a:0", "b:0"), ("a:0", "b:1"), ("a:1", "b:1")])
    >>> nx.set_edge_attributes(graph, 1.0, "strength")
    >>> dict(ancestors(graph, ["b:0", "b:1"]).nodes(data="feeds"))
    {'a:0': 2, 'b:0': 1, 'b:1': 1, 'a:1': 1}
    """
    check_graph_type(graph)
    names = nodes(graph, _of_class(graph, units))
    for name, value in (("depth", depth), ("width", width)):
        if value is not None:
            check_count(name, value)
    choice = _choice(graph, width or max(1, graph.number_of_edges()), sign, by)
    inputs = functools.cache(lambda each: choice(graph.in_edges(each)))
    parts = [_grow(name, inputs, 0, depth or max(1, len(graph))) for name in names]
    union = copy_of(graph, set().union(*parts), names, _empty(", ".join(names), "input", sign))
    feeds = Counter(unit for name, part in zip(names, parts, strict=True) for unit in {name, *chain(*part)})
    nx.set_node_attributes(union, feeds, "feeds")
    return union


def between(graph: nx.DiGraph[str], source: Unit | str, target: Unit | str) -> nx.DiGraph[str]:
    """Give every unit and edge that lies on a path from ``source`` to ``target``.

    Raises ``ValueError`` for unknown units, and where no path exists.

    >>> sorted(between(nx.DiGraph([("a:0", "b:0"), ("a:0", "b:1"), ("b:0", "c:0")]), "a:0", "c:0"))
    ['a:0', 'b:0', 'c:0']
    """
    start, end = ends(graph, source, target)
    on_path = (nx.descendants(graph, start) | {start}) & (nx.ancestors(graph, end) | {end})
    return copy_of(graph, (edge for edge in graph.edges(on_path) if edge[1] in on_path), on_path)


def strongest_edges(
    graph: nx.DiGraph[str], *, count: int = 20, sign: Sign | None = None, by: Measure = "strength"
) -> nx.DiGraph[str]:
    """Give the ``count`` strongest edges of the whole graph, with their ends; ``sign`` and ``by`` as in `upstream`.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 2.0), ("a:1", "b:0", -3.0)])
    >>> list(strongest_edges(graph, count=1, by="weight").edges)
    [('a:1', 'b:0')]
    """
    check_graph_type(graph)
    check_count("count", count)
    what = "edge" if sign is None else f"edge with {sign}"
    return copy_of(graph, _choice(graph, count, sign, by)(graph.edges), (), f"the graph has no {what}")


def _choice(
    graph: nx.DiGraph[str], width: int, sign: Sign | None, by: Measure
) -> Callable[[Iterable[Wire]], list[Wire]]:
    """Give the function that chooses the strongest of some wires."""
    check_sign(sign)
    check_choice("by", by, Measure)

    def strongest(wires: Iterable[Wire]) -> list[Wire]:
        asked = (wire for wire in wires if agrees(graph, wire, sign, by))
        return heapq.nsmallest(width, asked, key=lambda wire: (-abs(number(graph, wire, by)), wire))

    return strongest


def _grow(unit: str, edges: Callable[[str], list[Wire]], end: int, depth: int) -> dict[Wire, None]:
    """Give the wires that ``edges`` gives of the unit, of what they lead to (``end`` 0 or 1), and so on."""
    wires: dict[Wire, None] = {}
    seen, front = {unit}, [unit]
    for _ in range(depth):
        found = [wire for each in front for wire in edges(each)]
        wires.update(dict.fromkeys(found))
        front = list(dict.fromkeys(wire[end] for wire in found if wire[end] not in seen))
        seen.update(front)
        if not front:
            break
    return wires


def _of_class(graph: nx.DiGraph[str], units: Unit | str | Iterable[Unit | str]) -> Unit | str | Iterable[Unit | str]:
    if not isinstance(units, str) or ":" in units:
        return units
    named = [unit for unit, label in graph.nodes(data="label") if label == units]
    if not named:
        labels = sorted({label for _, label in graph.nodes(data="label") if label})
        known = f"its labels are {', '.join(labels[:20])}" if labels else "it has no labels"
        raise ValueError(f"no unit of this graph has the label {units!r}: {known}")
    return named


def _empty(name: str, what: str, sign: Sign | None) -> str:
    return f"{name} has no {what} in this graph" + (f" with {sign}" if sign else "")
