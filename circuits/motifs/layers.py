"""The wires between two layers of a graph as a matrix, and parts of the graph with roles."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from circuits.queries.access import check_graph_type, copy_of, number
from features.units import Unit


@dataclass(frozen=True, eq=False)
class Between:
    """The wires from one layer to another: units and ``weights (o, i)``, 0 where the graph has no wire."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    weights: NDArray[np.float64]


def units_of(graph: nx.DiGraph[str], layer: str) -> tuple[str, ...]:
    """Give the units of a layer in the graph, by channel; ``ValueError`` with the nearest layers for none."""
    units = [Unit.of(name) for name in graph]
    found = sorted(unit for unit in units if unit.layer == layer)
    if not found:
        layers = list(dict.fromkeys(unit.layer for unit in units))
        near = difflib.get_close_matches(str(layer), layers, n=3, cutoff=0.4) or layers[:10]
        raise ValueError(f"no layer {layer!r} in this graph: nearest are {', '.join(map(repr, near))}")
    return tuple(map(str, found))


def weights_between(graph: nx.DiGraph[str], source: str, target: str) -> Between:
    """Read the weights of all wires from one layer to another; ``ValueError`` where there is none."""
    check_graph_type(graph)
    sources, targets = units_of(graph, source), units_of(graph, target)
    column = {unit: index for index, unit in enumerate(sources)}
    weights = np.zeros((len(targets), len(sources)))
    for row, unit in enumerate(targets):
        for tail in graph.predecessors(unit):
            if tail in column:
                weights[row, column[tail]] = number(graph, (tail, unit), "weight")
    if not weights.any():
        raise ValueError(
            f"no wire leads from {source!r} to {target!r} in this graph: circuits.flow says what feeds what"
        )
    return Between(sources, targets, weights)


def with_roles(
    graph: nx.DiGraph[str], roles: Mapping[str, str], wires: Iterable[tuple[str, str]], motif: str, score: float
) -> nx.DiGraph[str]:
    """Copy these wires and units out of the graph, with the attribute ``role``."""
    part = copy_of(graph, wires, roles)
    nx.set_node_attributes(part, dict(roles), "role")
    part.graph.update(motif=motif, score=float(score))
    return part
