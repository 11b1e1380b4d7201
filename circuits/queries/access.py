"""What every query does first and last: find the unit, read the numbers, copy the part, say why it is empty."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias, get_args

import networkx as nx

from features.units import Unit

Wire: TypeAlias = tuple[str, str]
Measure: TypeAlias = Literal["strength", "share", "weight", "contribution"]
Sign: TypeAlias = Literal["excitation", "inhibition"]


def node(graph: nx.DiGraph[str], unit: Unit | str) -> str:
    """Give the name of ``unit`` in ``graph``; ``ValueError`` with the nearest names where it has none."""
    check_graph_type(graph)
    name = str(Unit.of(unit))
    if name not in graph:
        raise ValueError(_nearest(graph, name))
    return name


def nodes(graph: nx.DiGraph[str], units: Unit | str | Iterable[Unit | str]) -> list[str]:
    """Give the names of one or several units, each once, in the order given; ``ValueError`` for none."""
    several = [units] if isinstance(units, (Unit, str)) else list(units)
    if not several:
        raise ValueError("no unit was given: name one or more, for example 'mixed4b:409'")
    return list(dict.fromkeys(node(graph, unit) for unit in several))


def ends(graph: nx.DiGraph[str], source: Unit | str, target: Unit | str) -> Wire:
    """Give the names of two units that a path joins; ``ValueError`` where none does."""
    start, end = node(graph, source), node(graph, target)
    if start == end:
        raise ValueError(f"source and target are both {start!r}: name two units")
    if not nx.has_path(graph, start, end):
        turned = nx.has_path(graph, end, start)
        hint = f"one leads from {end!r} to {start!r}" if turned else "build it with a larger keep"
        raise ValueError(f"no path leads from {start!r} to {end!r} in this graph: {hint}")
    return start, end


def copy_of(graph: nx.DiGraph[str], wires: Iterable[Wire], units: Iterable[str], empty: str = "") -> nx.DiGraph[str]:
    """Give a new graph with these edges, their ends and ``units``: attributes copied, in graph's order.

    Without any edge, ``graph.graph["empty"]`` of the result is the sentence ``empty``.
    """
    chosen = set(wires)
    kept = {*units, *(unit for wire in chosen for unit in wire)}
    part: nx.DiGraph[str] = nx.DiGraph(**graph.graph)
    part.add_nodes_from((unit, dict(attributes)) for unit, attributes in graph.nodes(data=True) if unit in kept)
    in_order = (wire for unit in part for wire in graph.out_edges(unit) if wire in chosen)
    part.add_edges_from((*wire, dict(graph.edges[wire])) for wire in in_order)
    for key in ANSWERS & part.graph.keys():
        del part.graph[key]
    if empty and not chosen:
        part.graph["empty"] = empty
    return part


def number(graph: nx.DiGraph[str], wire: Wire, key: str) -> float:
    """Give a number of an edge; ``ValueError`` where it is missing, or not finite."""
    value = graph.edges[wire].get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -math.inf < value < math.inf:
        raise ValueError(not_a_number(wire, key, value))
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"an edge has a {key} that is too large for a float: circuit graphs hold floats") from error


def not_a_number(wire: Wire, key: str, value: Any) -> str:
    """Say what is wrong with an edge's attribute."""
    return f"edge {wire[0]!r} -> {wire[1]!r} has {key} {value!r}: a circuit graph has a finite number there"


def agrees(graph: nx.DiGraph[str], wire: Wire, sign: Sign | None, by: Measure) -> bool:
    """Say whether a wire excites or inhibits as asked: by its contribution where that ranks, else by its weight."""
    if sign is None:
        return True
    value = number(graph, wire, "contribution" if by == "contribution" else "weight")
    return value > 0 if sign == "excitation" else value < 0


def check_graph_type(graph: Any) -> None:
    """Refuse with ``TypeError`` what is no directed graph with one edge between two units."""
    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        raise TypeError(
            f"a circuit graph is an nx.DiGraph, not {type(graph).__name__}: build it with circuits.build_graph"
        )


def check_choice(name: str, value: object, choices: Any) -> None:
    """Refuse a word that is none of a ``Literal``'s; ``None`` has to be allowed by the caller."""
    known = get_args(choices)
    if value not in known:
        raise ValueError(f"{name} is {value!r}: choose one of {', '.join(known)}")


def check_sign(sign: object) -> None:
    """Refuse what is neither a sign nor ``None`` for both."""
    if sign is not None:
        check_choice("sign", sign, Sign)


def check_count(name: str, value: int) -> None:
    """Refuse what is no whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}: give a whole number, 1 or more")


def check_part(name: str, value: float) -> None:
    """Refuse what is no number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}: give a part between 0 and 1")


def cyclic(error: Exception | None = None) -> ValueError:
    """Give the error for a graph along which paths never end."""
    refusal = ValueError("the graph has a cycle, along which paths never end: circuit graphs climb from layer to layer")
    refusal.__cause__ = error
    return refusal


def _nearest(graph: nx.DiGraph[str], name: str) -> str:
    unit = Unit.of(name)
    addresses = [found for each in graph if (found := _address(each)) is not None]
    channels = sorted(found.channel for found in addresses if found.layer == unit.layer)
    if channels:
        close = sorted(channels, key=lambda channel: (abs(channel - unit.channel), channel))[:3]
        near = [f"{unit.layer}:{channel}" for channel in close]
    else:
        layers = sorted({found.layer for found in addresses})
        near = [f"{layer}:..." for layer in difflib.get_close_matches(unit.layer, layers, n=3, cutoff=0.4)]
    hint = f"nearest are {', '.join(map(repr, near))}; " if near else ""
    return f"no unit {name!r} in this graph: {hint}list them all with list(graph)"


def _address(name: object) -> Unit | None:
    """Read a node of any graph; None for what is no unit."""
    try:
        return Unit.of(name) if isinstance(name, str) else None
    except ValueError:
        return None


# What queries write into graph.graph about their own answer: it does not hold for a part of it.
ANSWERS = {"empty", "paths", "cut", "changes"}
