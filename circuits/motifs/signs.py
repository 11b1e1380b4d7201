"""Motifs of signs between two layers: cross inhibition, inhibition pairs, superposition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from circuits.motifs.layers import Between, units_of, weights_between, with_roles
from circuits.motifs.rewiring import Motif, Numbers, compare
from circuits.queries.access import check_count, nodes
from circuits.queries.structure import communities as louvain
from features.units import Unit


def cross_inhibition(
    graph: nx.DiGraph[str],
    source: str,
    target: str,
    *,
    count: int = 20,
    samples: int = 199,
    steps: int = 20,
    seed: int = 0,
) -> Motif:
    """Find two pathways that excite within and inhibit across: A -> B and A' -> B' positive, A -> B' and A' -> B
    negative.

    The statistic is the number of such signed bi-fans between the two layers, ``sum over A < A' of Q[A, A'] Q[A', A]``
    with ``Q[A, A']`` the number of targets that A excites and A' inhibits; the null is `rewired`. Instances are the
    strongest one of each pair A, A', by the smallest of the four absolute weights. Known case: the two pathways of
    oriented dog heads in InceptionV1 (Olah et al. 2020, "Zoom In").

    Raises ``ValueError`` for layers that the graph has not, or that no wire joins.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from([("a:0", "b:0", 1.0), ("a:1", "b:1", 1.0)])
    >>> graph.add_weighted_edges_from([("a:0", "b:1", -1.0), ("a:1", "b:0", -1.0)])
    >>> found = cross_inhibition(graph, "a", "b")
    >>> found.statistic, dict(found.found[0].nodes(data="role"))
    (1.0, {'a:0': 'A', 'b:0': 'B', 'a:1': "A'", 'b:1': "B'"})
    """
    check_count("count", count)
    layer = weights_between(graph, source, target)
    return compare(
        "cross inhibition",
        layer.weights,
        _bifans,
        partial(_strongest_bifans, graph, layer, count),
        samples=samples,
        steps=steps,
        seed=seed,
        empty=f"no two units of {source!r} excite and inhibit two of {target!r} crosswise in this graph",
    )


def inhibition_pairs(
    graph: nx.DiGraph[str],
    source: str,
    target: str,
    *,
    margin: int = 3,
    count: int = 20,
    samples: int = 199,
    steps: int = 20,
    seed: int = 0,
) -> Motif:
    """Find pairs of targets that the same inputs drive in opposite directions: what excites the one inhibits the other.

    For two targets, ``opposed`` is the number of shared inputs with opposite signs less that with equal signs. The
    statistic is the sum over pairs of ``max(0, opposed)**2``, the null `rewired`; instances are the pairs with
    ``opposed >= margin``, most opposed first, with the shared inputs of opposite sign. Known case: curves of opposite
    orientation in InceptionV1 (Cammarata et al. 2021, "Curve Circuits").

    Raises ``ValueError`` for layers that the graph has not, or that no wire joins.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from((f"a:{i}", f"b:{o}", (-1.0) ** o) for i in range(3) for o in range(2))
    >>> found = inhibition_pairs(graph, "a", "b", samples=9)
    >>> found.statistic, sorted(found.found[0])
    (9.0, ['a:0', 'a:1', 'a:2', 'b:0', 'b:1'])
    """
    check_count("count", count)
    check_count("margin", margin)
    layer = weights_between(graph, source, target)
    return compare(
        "inhibition pairs",
        layer.weights,
        lambda layers: (np.maximum(0, _opposed(layers)) ** 2).sum((1, 2)) / 2,
        partial(_most_opposed, graph, layer, margin, count),
        samples=samples,
        steps=steps,
        seed=seed,
        empty=f"no two units of {target!r} have {margin} more inputs of opposite than of equal sign in common",
    )


def superposition(
    graph: nx.DiGraph[str],
    source: str,
    target: str,
    *,
    communities: Mapping[str, int] | None = None,
    pure: Iterable[Unit | str] | None = None,
    spread: int = 3,
    count: int = 20,
    samples: int = 199,
    steps: int = 20,
    seed: int = 0,
) -> Motif:
    """Find pure units that are spread over targets which belong to others (a car spread over dog units).

    ``communities`` says which community each unit of ``source`` belongs to; by default that of the graph *below*
    ``source`` (Louvain), which the rewired wires have no part in. A community owns a target if more than half of the
    wires that excite it come from there. The motif is a unit that excites ``spread`` or more targets which other
    communities own; the statistic is the number of such wires of all units that have so many, the null `rewired`.
    ``pure`` lists the units to look at (for example those that `polysemanticity` does not flag), by default all.
    Known case: mixed4c:447 -> mixed4d of InceptionV1 (Olah et al. 2020, "Zoom In").

    Raises ``ValueError`` for layers that the graph has not, or that no wire joins, and where nothing lies below
    ``source`` and no communities are given.

    >>> graph = nx.DiGraph()
    >>> graph.add_weighted_edges_from((f"a:{i}", f"b:{o}", 1.0) for o in range(3) for i in range(4))
    >>> found = superposition(graph, "a", "b", communities={"a:0": 1, "a:1": 0, "a:2": 0, "a:3": 0}, samples=9)
    >>> found.statistic, found.found[0].nodes["a:0"]["role"]
    (3.0, 'pure')
    """
    check_count("count", count)
    check_count("spread", spread)
    layer = weights_between(graph, source, target)
    numbers = _communities_below(graph, source, layer.sources) if communities is None else dict(communities)
    if missing := [unit for unit in layer.sources if unit not in numbers]:
        raise ValueError(f"communities say nothing of {missing[0]!r}: give a number for every unit of {source!r}")
    _, own = np.unique([numbers[unit] for unit in layer.sources], return_inverse=True)
    looked = set(layer.sources if pure is None else nodes(graph, pure))
    mask = np.array([unit in looked for unit in layer.sources])
    return compare(
        "superposition",
        layer.weights,
        lambda layers: _spread(layers, own, mask, spread).sum(1),
        partial(_most_spread, graph, layer, own, mask, spread, count),
        samples=samples,
        steps=steps,
        seed=seed,
        empty=f"no unit of {source!r} excites {spread} units of {target!r} that another community owns",
    )


def crossed(layers: Numbers) -> Numbers:
    """Count signed bi-fans for each pair of sources: ``(n, o, i)`` to ``(n, i, i)``."""
    excites, inhibits = (layers > 0).astype(np.float32), (layers < 0).astype(np.float32)
    both = excites.swapaxes(1, 2) @ inhibits
    crossings: Numbers = (both * both.swapaxes(1, 2)).astype(np.float64)
    return crossings


def _bifans(layers: Numbers) -> Numbers:
    total: Numbers = crossed(layers).sum((1, 2)) / 2
    return total


def _strongest_bifans(graph: nx.DiGraph[str], layer: Between, count: int) -> tuple[nx.DiGraph[str], ...]:
    n = len(layer.sources)
    excites, inhibits = np.maximum(layer.weights, 0), np.maximum(-layer.weights, 0)
    best, where = np.zeros((n, n)), np.zeros((n, n), np.intp)
    for first in range(n):  # [B, A'] of one A at a time: (o, i, i) at once would be large
        strength = np.minimum(excites[:, first, None], inhibits)
        where[first], best[first] = strength.argmax(0), strength.max(0)
    scores = np.triu(np.minimum(best, best.T), 1)
    return tuple(_bifan(graph, layer, *pair, where, score) for pair, score in _largest(scores, count))


def _bifan(
    graph: nx.DiGraph[str], layer: Between, first: int, second: int, where: NDArray[np.intp], score: float
) -> nx.DiGraph[str]:
    a, other_a = layer.sources[first], layer.sources[second]
    b, other_b = layer.targets[where[first, second]], layer.targets[where[second, first]]
    roles = {a: "A", other_a: "A'", b: "B", other_b: "B'"}
    wires = [(tail, head) for tail in (a, other_a) for head in (b, other_b)]
    return with_roles(graph, roles, wires, "cross inhibition", score)


def _opposed(layers: Numbers) -> Numbers:
    signs = np.sign(layers)
    return -(signs @ signs.swapaxes(1, 2))


def _most_opposed(graph: nx.DiGraph[str], layer: Between, margin: int, count: int) -> tuple[nx.DiGraph[str], ...]:
    scores = np.triu(_opposed(layer.weights[None])[0], 1)
    found = []
    for (one, other), score in _largest(np.where(scores >= margin, scores, 0), count):
        shared = [layer.sources[i] for i in np.flatnonzero(layer.weights[one] * layer.weights[other] < 0).tolist()]
        pair = layer.targets[one], layer.targets[other]
        roles = {**dict.fromkeys(shared, "shared"), pair[0]: "one", pair[1]: "other"}
        wires = [(tail, head) for tail in shared for head in pair]
        found.append(with_roles(graph, roles, wires, "inhibition pairs", score))
    return tuple(found)


def _foreign(layers: Numbers, own: NDArray[np.intp]) -> Numbers:
    """Mark the wires that excite a target which another community owns: ``(n, o, i)``."""
    excites = (layers > 0).astype(np.float64)
    shares = excites @ np.eye(own.max() + 1)[own]
    owner = np.where(shares.max(2) * 2 > shares.sum(2), shares.argmax(2), -1)
    foreign: Numbers = excites * ((owner >= 0)[:, :, None] & (owner[:, :, None] != own))
    return foreign


def _spread(layers: Numbers, own: NDArray[np.intp], pure: NDArray[np.bool_], least: int) -> Numbers:
    """Count each pure unit's wires to targets owned by others, 0 below ``least``: ``(n, i)``."""
    wires = _foreign(layers, own).sum(1) * pure
    return np.where(wires >= least, wires, 0.0)


def _most_spread(
    graph: nx.DiGraph[str], layer: Between, own: NDArray[np.intp], pure: NDArray[np.bool_], least: int, count: int
) -> tuple[nx.DiGraph[str], ...]:
    foreign = _foreign(layer.weights[None], own)[0]
    wires = _spread(layer.weights[None], own, pure, least)[0]
    found = []
    for place in [place for place in np.argsort(-wires, kind="stable").tolist() if wires[place]][:count]:
        unit, rows = layer.sources[place], np.flatnonzero(foreign[:, place]).tolist()
        targets = [layer.targets[row] for row in rows]
        roles = {unit: "pure", **dict.fromkeys(targets, "owned by another community")}
        found.append(with_roles(graph, roles, [(unit, each) for each in targets], "superposition", wires[place]))
    return tuple(found)


def _communities_below(graph: nx.DiGraph[str], source: str, units: tuple[str, ...]) -> dict[str, int]:
    inputs = {tail for unit in units for tail in nx.ancestors(graph, unit)} - set(units)
    below = graph.subgraph(inputs | set(units_of(graph, source)))
    if not inputs:
        raise ValueError(
            f"nothing in this graph lies below {source!r}, so its communities are unknown: give communities="
        )
    return louvain(nx.DiGraph(below), by="weight")


def _largest(scores: Numbers, count: int) -> list[tuple[tuple[int, int], float]]:
    """Give the places of the ``count`` largest positive numbers of a matrix, largest first, ties by place."""
    order = np.argsort(-scores, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(order, scores.shape)
    places = zip(rows.tolist(), columns.tolist(), scores.flat[order].tolist(), strict=True)
    return [((row, column), score) for row, column, score in places if score > 0]
