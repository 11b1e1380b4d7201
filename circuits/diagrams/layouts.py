"""Where the units of a drawn circuit stand: layers as columns, units ordered so that few connections cross."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from features.units import Unit

SWEEPS = 8
TALLEST = 680  # pixels that a column may take before its pictures are drawn smaller
LARGEST, SMALLEST = 60, 14  # side of a picture in pixels
HEADER = 46  # room for the names of the layers, in pixels
LABEL = 22  # room for a label under a picture, in pixels


@dataclass(frozen=True)
class Layout:
    """Places of the units in pixels, ``(x, y)`` of each picture's centre, y growing downwards from the top left
    corner.
    """

    layers: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]
    places: Mapping[str, tuple[float, float]]
    side: int
    width: int
    height: int
    labelled: bool


def arrange(graph: nx.DiGraph) -> Layout:
    """Give every unit of ``graph`` its place: one column per layer, in the order of the layers, from left to right.

    The order within a column is found with the barycenter method (Sugiyama, Tagawa and Toda 1981): sweeping to the
    right and to the left, each unit moves to the mean height of its neighbours, weighted by strength; of all orders
    seen, the one with the fewest crossings stays. Equal graphs get equal places.

    >>> graph = nx.DiGraph([("a:0", "b:1"), ("a:1", "b:0")])
    >>> arrange(graph).columns
    (('a:0', 'a:1'), ('b:1', 'b:0'))
    """
    layers = ordered_layers(graph)
    members: dict[str, list[str]] = {layer: [] for layer in layers}
    for node in sorted(graph, key=lambda name: Unit.of(name).channel):
        members[Unit.of(node).layer].append(node)
    columns = uncross(graph, [members[layer] for layer in layers])
    return _place(layers, columns)


def ordered_layers(graph: nx.DiGraph) -> tuple[str, ...]:
    """Give the layers that have units in ``graph``, in the order that ``graph.graph['layers']`` states, else by
    ``depth``.

    A graph that states neither is ordered by its connections: a layer stands to the right of all layers that feed it.
    """
    present = {Unit.of(node).layer for node in graph}
    stated = graph.graph.get("layers", ())
    names = json.loads(stated) if isinstance(stated, str) and stated.startswith("[") else list(stated)
    if present <= set(names):
        return tuple(name for name in names if name in present)
    if all("depth" in data for _, data in graph.nodes(data=True)):
        depth = {Unit.of(node).layer: data["depth"] for node, data in graph.nodes(data=True)}
        return tuple(sorted(present, key=lambda layer: (depth[layer], layer)))
    return _by_connections(graph, present)


def _by_connections(graph: nx.DiGraph, present: set[str]) -> tuple[str, ...]:
    quotient = nx.DiGraph()
    quotient.add_nodes_from(sorted(present))
    quotient.add_edges_from(sorted({(Unit.of(a).layer, Unit.of(b).layer) for a, b in graph.edges}))
    quotient.remove_edges_from(list(nx.selfloop_edges(quotient)))
    if nx.is_directed_acyclic_graph(quotient):
        return tuple(nx.lexicographical_topological_sort(quotient))
    return tuple(sorted(present))


def uncross(graph: nx.DiGraph, columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """Order each column by barycenter sweeps, and give the order with the fewest crossings among all that were seen."""
    order = [list(column) for column in columns]
    best, fewest = [list(column) for column in order], crossings(graph, order)
    for sweep in range(SWEEPS):
        rightwards = sweep % 2 == 0
        _sweep(graph, order, rightwards)
        found = crossings(graph, order)
        if found < fewest:
            best, fewest = [list(column) for column in order], found
        if fewest == 0:
            break
    return best


def _sweep(graph: nx.DiGraph, order: list[list[str]], rightwards: bool) -> None:
    neighbours = graph.pred if rightwards else graph.succ
    height = {node: _middle(row, column) for column in order for row, node in enumerate(column)}
    for column in order if rightwards else reversed(order):
        target = {node: _barycenter(neighbours[node], height, height[node]) for node in column}
        column.sort(key=target.__getitem__)  # stable: units without neighbours and ties keep their order
        height.update({node: _middle(row, column) for row, node in enumerate(column)})


def _middle(row: int, column: Sequence[str]) -> float:
    return row - (len(column) - 1) / 2


def _barycenter(neighbours: Mapping[str, Mapping[str, float]], height: Mapping[str, float], here: float) -> float:
    weights = {node: float(data.get("strength", 1.0)) for node, data in neighbours.items()}
    total = sum(weights.values())
    return sum(height[node] * weight for node, weight in weights.items()) / total if total > 0 else here


def crossings(graph: nx.DiGraph, columns: Sequence[Sequence[str]]) -> int:
    """Count the pairs of edges, between the same two columns, that cross each other.

    >>> graph = nx.DiGraph([("a:0", "b:1"), ("a:1", "b:0")])
    >>> crossings(graph, [["a:0", "a:1"], ["b:0", "b:1"]])
    1
    """
    place = {node: (number, row) for number, column in enumerate(columns) for row, node in enumerate(column)}
    bundles: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for source, target in graph.edges:
        bundles.setdefault((place[source][0], place[target][0]), []).append((place[source][1], place[target][1]))
    return sum(_inversions(np.asarray(sorted(bundle))) for bundle in bundles.values())


def _inversions(pairs: np.ndarray) -> int:
    """Count the pairs ``i < j`` with ``left[i] < left[j]`` and ``right[i] > right[j]``, with a table of prefix
    counts.
    """
    left, right = pairs[:, 0], pairs[:, 1]
    counts = np.zeros((left.max() + 2, right.max() + 2), dtype=np.int64)
    np.add.at(counts, (left + 1, right + 1), 1)
    table = counts.cumsum(axis=0).cumsum(axis=1)
    above = table[left, -1] - table[left, right + 1]
    return int(above.sum())


def _place(layers: tuple[str, ...], columns: Sequence[Sequence[str]]) -> Layout:
    tallest = max((len(column) for column in columns), default=1)
    side = int(np.clip(TALLEST // max(tallest, 1) - LABEL, SMALLEST, LARGEST))
    labelled = side > SMALLEST
    row = side + (LABEL + 6 if labelled else 5)
    gap = 2.0 * side + max(90, min(300, row * tallest / 6))
    margin = side / 2 + 44
    height = HEADER + row * max(tallest, 2) + 14
    places = {
        node: (
            margin + gap * number,
            HEADER + (height - HEADER - 14) / 2 + _middle(index, column) * row - (LABEL / 2 if labelled else 0),
        )
        for number, column in enumerate(columns)
        for index, node in enumerate(column)
    }
    width = round(2 * margin + gap * max(len(columns) - 1, 0))
    return Layout(layers, tuple(tuple(column) for column in columns), places, side, width, round(height), labelled)
