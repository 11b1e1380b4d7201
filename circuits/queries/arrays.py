"""A graph's edges as arrays, and the orders in which paths are counted: what makes queries of large graphs quick."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from circuits.queries.access import cyclic, not_a_number

Numbers = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Wires:
    """Edges as arrays: names of the nodes, and for each edge the places of its ends among them and a number."""

    names: Sequence[str]
    tails: Places
    heads: Places
    values: Numbers

    def kept(self, mask: NDArray[np.bool_]) -> Wires:
        """Give the edges that the mask keeps, among the same nodes."""
        return replace(self, tails=self.tails[mask], heads=self.heads[mask], values=self.values[mask])

    def turned(self) -> Wires:
        """Give the edges the other way round."""
        return replace(self, tails=self.heads, heads=self.tails)


def wires_of(graph: nx.DiGraph[str], key: str) -> Wires:
    """Read all edges with the attribute ``key``; ``ValueError`` where one has no finite number there."""
    names = list(graph)
    place = {name: index for index, name in enumerate(names)}
    values: list[Any] = []
    tails: list[int] = []
    heads: list[int] = []
    for tail, outputs in graph.adjacency():
        tails += [place[tail]] * len(outputs)
        heads += [place[head] for head in outputs]
        values += [attributes.get(key) for attributes in outputs.values()]
    wires = Wires(names, np.array(tails, np.intp), np.array(heads, np.intp), _checked(values, names, tails, heads, key))
    if not np.isfinite(wires.values).all():
        _refuse(values, names, tails, heads, key)
    return wires


def _checked(values: list[Any], names: list[str], tails: list[int], heads: list[int], key: str) -> Numbers:
    if not all(issubclass(kind, (int, float)) and kind is not bool for kind in set(map(type, values))):
        _refuse(values, names, tails, heads, key)
    try:
        return np.array(values, np.float64)
    except OverflowError as error:
        raise ValueError(f"an edge has a {key} that is too large for a float: circuit graphs hold floats") from error


def _refuse(values: list[Any], names: list[str], tails: list[int], heads: list[int], key: str) -> None:
    for value, tail, head in zip(values, tails, heads, strict=True):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise ValueError(not_a_number((names[tail], names[head]), key, value))


def reached(wires: Wires, starts: Sequence[int]) -> NDArray[np.bool_]:
    """Say of each node whether a path leads to it from one of ``starts``, which count."""
    order, first = _by_tail(wires)
    seen = np.zeros(len(wires.names), bool)
    front = np.asarray(starts, np.intp)
    seen[front] = True
    while front.size:
        heads = np.unique(wires.heads[order[_ranges(first, front)]])
        front = heads[~seen[heads]]
        seen[front] = True
    return seen


def climbing(wires: Wires) -> Iterator[Places]:
    """Give the places of the edges in groups, such that all edges into the tails of a group came in earlier groups.

    A group holds all edges into its heads, sorted by head (topological generations, Kahn 1962). Raises ``ValueError``
    for a graph with a cycle.
    """
    order, first = _by_tail(wires)
    count = len(wires.names)
    missing = np.bincount(wires.heads, minlength=count)
    level = np.zeros(count, np.intp)
    front = np.flatnonzero(missing == 0)
    done = depth = 0
    while front.size:
        level[front] = depth
        done, depth = done + front.size, depth + 1
        heads, times = np.unique(wires.heads[order[_ranges(first, front)]], return_counts=True)
        missing[heads] -= times
        front = heads[missing[heads] == 0]
    if done < count:
        raise cyclic()
    edges = np.lexsort((wires.heads, level[wires.heads]))
    bounds = np.searchsorted(level[wires.heads[edges]], np.arange(1, depth + 1))
    return iter(np.split(edges, bounds)[1:-1])


def ranks(groups: NDArray[Any]) -> Places:
    """Give for each entry of sorted ``groups`` how many entries of its own group come before it.

    >>> ranks(np.array([4, 4, 4, 7, 9, 9])).tolist()
    [0, 1, 2, 0, 0, 1]
    """
    if groups.size == 0:
        return np.zeros(0, np.intp)
    new = np.r_[True, groups[1:] != groups[:-1]]
    places = np.arange(groups.size)
    return places - np.maximum.accumulate(np.where(new, places, 0))


def _by_tail(wires: Wires) -> tuple[Places, Places]:
    """Sort the edges by tail; give the order and, for each node, where its outputs begin (and one end more)."""
    order = np.argsort(wires.tails, kind="stable")
    return order, np.searchsorted(wires.tails[order], np.arange(len(wires.names) + 1))


def _ranges(first: Places, front: Places) -> Places:
    """Give the numbers ``first[f], ..., first[f + 1] - 1`` for all ``f`` of ``front``, one after the other."""
    counts = first[front + 1] - first[front]
    before = np.cumsum(counts) - counts
    return np.repeat(first[front] - before, counts) + np.arange(counts.sum())
