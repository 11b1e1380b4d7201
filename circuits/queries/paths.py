"""Paths: the strongest between two units or from one to all, and how much of what paths carry cancels."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import networkx as nx
import numpy as np

from circuits.queries.access import check_count, copy_of, ends, node
from circuits.queries.arrays import Numbers, Places, Wires, climbing, ranks, reached, wires_of
from features.units import Unit


@dataclass(frozen=True)
class Path:
    """A way through the graph: its units, first to last, and the signed product of the weights on it."""

    units: tuple[str, ...]
    product: float


@dataclass(frozen=True, eq=False)
class Paths(Mapping[str, tuple[Path, ...]]):
    """The best paths from one unit to every unit that it reaches, best first; made by `strongest_paths_from`.

    A mapping from the name of the unit at the end. Paths are spelled out when they are asked for.
    """

    source: str
    _wires: Wires
    _best: Numbers
    _edges: Places
    _rests: Places
    _place: Mapping[str, int]

    def __getitem__(self, unit: Unit | str) -> tuple[Path, ...]:
        name = str(unit)
        if name not in self._place:
            raise KeyError(f"no path leads from {self.source!r} to {name!r} over weights that are not 0")
        end = self._place[name]
        return tuple(self._walk(end, rest) for rest in range(int(np.isfinite(self._best[end]).sum())))

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def _walk(self, end: int, rest: int) -> Path:
        names, wires = self._wires.names, self._wires
        units, product = [names[end]], 1.0
        while names[end] != self.source:
            edge, rest = int(self._edges[end, rest]), int(self._rests[end, rest])
            product *= float(wires.values[edge])
            end = int(wires.tails[edge])
            units.append(names[end])
        return Path(tuple(units[::-1]), product)


@dataclass(frozen=True)
class PathSum:
    """What all paths from ``source`` to ``target`` carry together.

    ``signed`` is the sum over paths of the product of their weights, ``mass`` the same with absolute weights, ``ratio``
    is ``|signed| / mass`` in [0, 1]: 1 where all paths agree, near 0 where they cancel. ``paths`` is their number
    (a float beyond 2**53).
    """

    source: str
    target: str
    signed: float
    mass: float
    ratio: float
    paths: int


def strongest_paths(
    graph: nx.DiGraph[str], source: Unit | str, target: Unit | str, *, count: int = 5
) -> nx.DiGraph[str]:
    """Give the ``count`` paths from ``source`` to ``target`` with the largest product of absolute weights, in one.

    Exact, by dynamic programming over the graph's order: the best paths to a unit extend the best paths to its
    inputs. Each edge gets ``paths``, the number of these paths that use it; ``graph.graph["paths"]`` is their list
    as JSON, best first, each ``{"units": [...], "product": signed product of the weights}``. Paths over a weight of
    0 do not count.

    Raises ``ValueError`` for unknown units, a graph with a cycle on the way, edges without ``weight``, and where no
    path exists.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 2.0), ("b:0", "c:0", 2.0), ("a:0", "b:1", -3.0)])
    >>> graph.add_edge("b:1", "c:0", weight=1.0)
    >>> strongest_paths(graph, "a:0", "c:0", count=1).graph["paths"]
    '[{"units": ["a:0", "b:0", "c:0"], "product": 4.0}]'
    """
    check_count("count", count)
    start, end = ends(graph, source, target)
    wires = _on_the_way(wires_of(graph, "weight"), start, end)
    found = _search(wires, start, count)
    if end not in found:
        raise ValueError(f"every path from {start!r} to {end!r} has a weight of 0")
    paths = found[end]
    used = Counter(wire for path in paths for wire in pairwise(path.units))
    part = copy_of(graph, used, {start, end})
    nx.set_edge_attributes(part, used, "paths")
    part.graph["paths"] = json.dumps([{"units": path.units, "product": path.product} for path in paths])
    return part


def strongest_paths_from(graph: nx.DiGraph[str], source: Unit | str, *, count: int = 20) -> Paths:
    """Give the ``count`` best paths from ``source`` to every unit that it reaches, in one pass over the edges.

    As `strongest_paths`, to all units at once. At most ``count (count + 1) / 2`` candidates are compared for each unit,
    whatever its number of inputs, and all units of one generation together.

    Raises ``ValueError`` for an unknown unit, a cycle that the source reaches, and edges without ``weight``.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 2.0), ("b:0", "c:0", -2.0), ("a:0", "c:0", 1.0)])
    >>> strongest_paths_from(graph, "a:0")["c:0"]
    (Path(units=('a:0', 'b:0', 'c:0'), product=-4.0), Path(units=('a:0', 'c:0'), product=1.0))
    """
    check_count("count", count)
    start = node(graph, source)
    wires = wires_of(graph, "weight")
    seen = reached(wires, [wires.names.index(start)])
    return _search(wires.kept(seen[wires.tails]), start, count)


def path_sum(graph: nx.DiGraph[str], source: Unit | str, target: Unit | str) -> PathSum:
    """Give the signed sum over all paths from ``source`` to ``target``, beside their unsigned mass.

    The sum over paths of the product of weights is what the source does to the target if everything between is
    linear; where it is far below the mass, strong paths cancel (as conv2d2:89 -> mixed3b:345 of InceptionV1, which
    washes out although strong both ways: Voss et al. 2021, "Visualizing Weights"). Exact, by dynamic programming.

    Raises ``ValueError`` for unknown units, a cycle on the way, edges without ``weight``, where no path exists, where
    every path has a weight of 0, and where the sum is too large for a float.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 2.0), ("b:0", "c:0", 3.0), ("a:0", "c:0", -2.0)])
    >>> path_sum(graph, "a:0", "c:0")
    PathSum(source='a:0', target='c:0', signed=4.0, mass=8.0, ratio=0.5, paths=2)
    """
    start, end = ends(graph, source, target)
    wires = _on_the_way(wires_of(graph, "weight"), start, end)
    sums = np.zeros((3, len(wires.names)))
    sums[:, wires.names.index(start)] = 1
    factors = np.stack([wires.values, np.abs(wires.values), (wires.values != 0).astype(float)])
    with np.errstate(over="ignore", invalid="ignore"):
        for edges in climbing(wires):
            heads, first = np.unique(wires.heads[edges], return_index=True)
            sums[:, heads] += np.add.reduceat(factors[:, edges] * sums[:, wires.tails[edges]], first, axis=1)
    signed, mass, number = (float(total) for total in sums[:, wires.names.index(end)])
    if not math.isfinite(mass) or not math.isfinite(signed):
        raise ValueError(f"the paths from {start!r} to {end!r} carry more than a float can hold: scale the weights")
    if mass == 0:
        raise ValueError(f"every path from {start!r} to {end!r} has a weight of 0")
    return PathSum(start, end, signed, mass, min(1.0, abs(signed) / mass), int(number))


def _on_the_way(wires: Wires, start: str, end: str) -> Wires:
    """Keep the edges that lie on a path from ``start`` to ``end``."""
    after = reached(wires, [wires.names.index(start)])
    before = reached(wires.turned(), [wires.names.index(end)])
    both = after & before
    return wires.kept(both[wires.tails] & both[wires.heads])


def _search(wires: Wires, start: str, count: int) -> Paths:
    wires = wires.kept(wires.values != 0)
    logs = np.log(np.abs(wires.values))
    shape = (len(wires.names), count)
    best = np.full(shape, -np.inf)
    edges, rests = np.zeros(shape, np.intp), np.zeros(shape, np.intp)
    best[wires.names.index(start), 0] = 0
    for group in climbing(wires):
        heads, found, sums, found_rests = _best_of(wires, logs, best, group, count)
        into = heads, ranks(heads)
        best[into], edges[into], rests[into] = sums, found, found_rests
    ended = np.flatnonzero(np.isfinite(best[:, 0])).tolist()
    return Paths(start, wires, best, edges, rests, {wires.names[i]: i for i in ended if wires.names[i] != start})


def _best_of(
    wires: Wires, logs: Numbers, best: Numbers, group: Places, count: int
) -> tuple[Places, Places, Numbers, Places]:
    """Give the ``count`` best ways into each head of a group of edges, best first: head, edge, sum of logs, and
    which of the tail's ways it extends.

    Sorted by their best way, the i-th of a head's edges (0 first) has i edges before it whose best is at least as good
    as any way of its own; so its r-th way has ``i + r`` before it, and matters only where that is below ``count``, and
    where it is as good as the best way of the head's last edge, once there are ``count`` of them.
    """
    first = logs[group] + best[wires.tails[group], 0]
    order = np.lexsort((-first, wires.heads[group]))
    order = order[np.isfinite(first[order])]
    order = order[ranks(wires.heads[group[order]]) < count]
    rank = ranks(wires.heads[group[order]])
    floor = np.full(len(wires.names), -np.inf)
    last = order[rank == count - 1]
    floor[wires.heads[group[last]]] = first[last]
    edge = np.repeat(group[order], count - rank)
    rest = ranks(np.repeat(np.arange(order.size), count - rank))
    value = logs[edge] + best[wires.tails[edge], rest]
    matters = np.isfinite(value) & (value >= floor[wires.heads[edge]])
    edge, rest, value = edge[matters], rest[matters], value[matters]
    order = np.lexsort((-value, wires.heads[edge]))
    order = order[ranks(wires.heads[edge[order]]) < count]
    return wires.heads[edge[order]], edge[order], value[order], rest[order]
