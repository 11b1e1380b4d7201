"""Checking: what a circuit graph must be, said in a sentence where it is not."""

from __future__ import annotations

import math
from typing import Any

import networkx as nx

from features.units import Unit

SCHEMA = "circuits.graph/1"


def check_graph(graph: nx.DiGraph[str]) -> None:
    """Raise ``ValueError`` with a sentence where ``graph`` breaks the schema that `build_graph` describes.

    Graphs with fewer nodes or edges, or with attributes of the user's own, are fine; ``p_value`` and ``q_value`` may be
    missing. Edges must climb from a lower to a higher ``depth``, so that a graph has no cycles. What is no
    ``nx.DiGraph`` raises ``TypeError``.

    >>> graph = nx.DiGraph()
    >>> graph.add_node("conv:0", layer="conv", channel=1)
    >>> check_graph(graph)
    Traceback (most recent call last):
    ...
    ValueError: graph.graph has no 'schema': build it with circuits.build_graph
    """
    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        raise TypeError(
            f"a circuit graph is an nx.DiGraph, not {type(graph).__name__}: build it with circuits.build_graph"
        )
    _check_header(graph)
    for node, attributes in graph.nodes(data=True):
        _check_node(node, attributes)
    depths = dict(graph.nodes(data="depth"))
    for source, target, attributes in graph.edges(data=True):
        _check_numbers("edge", (source, target), attributes, EDGE_NUMBERS)
        if not PROBABILITIES.isdisjoint(attributes):
            _check_probabilities((source, target), attributes)
        if depths[source] >= depths[target]:
            raise ValueError(f"edge {source!r} -> {target!r} does not climb: its source is not in an earlier layer")


def _check_header(graph: nx.DiGraph[str]) -> None:
    for key, kind in HEADER.items():
        if key not in graph.graph:
            raise ValueError(f"graph.graph has no {key!r}: build it with circuits.build_graph")
        if not isinstance(graph.graph[key], kind) or isinstance(graph.graph[key], bool):
            raise ValueError(f"graph.graph[{key!r}] is {graph.graph[key]!r}: it must be {kind.__name__}")
    if graph.graph["schema"] != SCHEMA:
        raise ValueError(
            f"the graph has schema {graph.graph['schema']!r}: this version reads {SCHEMA!r}; build it again"
        )


def _check_node(node: object, attributes: dict[str, Any]) -> None:
    try:
        unit = Unit.of(node) if isinstance(node, str) else None
    except ValueError:
        unit = None
    if unit is None:
        raise ValueError(f"node {node!r} is no unit: nodes are 'layer:channel', for example 'mixed4b:409'")
    if (attributes.get("layer"), attributes.get("channel")) != (unit.layer, unit.channel):
        raise ValueError(
            f"node {node!r} has layer {attributes.get('layer')!r}, channel {attributes.get('channel')!r}: not the same"
        )
    if not isinstance(attributes.get("label"), str):
        raise ValueError(f"node {node!r} has label {attributes.get('label')!r}: it must be text, '' for none")
    _check_numbers("node", (node,), attributes, NODE_NUMBERS)


def _check_numbers(what: str, names: tuple[object, ...], attributes: dict[str, Any], kinds: dict[str, type]) -> None:
    for key, kind in kinds.items():
        value = attributes.get(key)
        if (kind is int and type(value) is int) or (kind is float and type(value) is float and math.isfinite(value)):
            continue
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float) if kind is float else int)
            or not _is_finite(value)
        ):
            needed = "a finite number" if kind is float else "a whole number"
            raise ValueError(f"{what} {' -> '.join(map(repr, names))} has {key} {value!r}: it must be {needed}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _check_probabilities(names: tuple[object, ...], attributes: dict[str, Any]) -> None:
    given = PROBABILITIES & attributes.keys()
    _check_numbers("edge", names, attributes, dict.fromkeys(given, float))
    for key in given:
        if not 0 <= attributes[key] <= 1:
            raise ValueError(
                f"edge {' -> '.join(map(repr, names))} has {key} {attributes[key]!r}: it must be between 0 and 1"
            )


HEADER: dict[str, type] = {"schema": str, "model": str, "digest": str, "layers": str, "method": str, "keep": int}
EDGE_NUMBERS: dict[str, type] = {
    **dict.fromkeys(("weight", "strength", "excitation", "inhibition", "peak_y", "peak_x", "share"), float),
    "rank": int,
}
NODE_NUMBERS: dict[str, type] = {"depth": int, "kept": float}
PROBABILITIES = {"p_value", "q_value"}
