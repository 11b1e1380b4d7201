"""Significance: which edges are stronger than chance: than shuffled kernels, than networks with random weights."""

from __future__ import annotations

import copy
import dataclasses
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from circuits.graphs.building import method_of, sources_of
from circuits.graphs.checking import check_graph
from circuits.graphs.kernels import MEASURES, Numbers, Pair, Places, Wires, kernel_sets, measure, places_in_groups
from circuits.wiring import connect
from features.models import Model


@dataclass(frozen=True)
class Question:
    """What a null needs to know: the network, which layers feed which, what gives and measures the weights, how often
    to draw."""

    model: Model
    sources: Mapping[str, tuple[str, ...]]
    wires: Wires
    by: str
    draws: int
    seed: int

    def kernels(self, pairs: Collection[Pair], model: Model | None = None) -> Iterator[tuple[Pair, Numbers]]:
        """Give the kernels ``(o, i, kh * kw)`` of pairs of layers, of this network or of another."""
        for pair, kernels in kernel_sets(self.model if model is None else model, self.sources, self.wires, pairs):
            yield pair, kernels.reshape(*kernels.shape[:2], -1)


Null = Callable[[Question, Mapping[Pair, Places]], Iterator[tuple[Pair, Numbers]]]


def significance(
    model: Model,
    graph: nx.DiGraph[str],
    *,
    null: str | Null = "shuffled",
    draws: int = 40,
    seed: int = 0,
    wires: Wires = connect,
    progress: bool = True,
) -> nx.DiGraph[str]:
    """Give ``graph`` with the ``p_value`` and the ``q_value`` of each edge: does chance make one as strong?

    p = ``(1 + b) / (1 + n)``: of the ``n`` wires into the same unit from the same layer in all draws of the null, ``b``
    were at least as strong, by the graph's measure (Phipson and Smyth 2010). q is the false discovery rate among the
    unit's inputs at which the edge would just be kept (Benjamini and Hochberg 1995): of the inputs of a unit with q
    below 0.05, one in 20 is expected to be chance. Every wire of the unit counts as a test, those that the graph does
    not keep too; these are taken to be weaker than the kept, which can only make q too large. A lone strong edge
    reaches about ``1 / draws``, so the default goes down to 0.025.

    Nulls (`NULLS`; or a function like them):

    - ``shuffled``: all weights into the unit from that layer, among the wires that exist, are dealt out anew over
      sources and positions. Asks: are the strong weights gathered in few sources? A window of one weight (1x1
      convolutions) has nothing to gather: its q is 1. Cost: 2 readings of the weights and about 4 ns a weight and draw.
    - ``redrawn``: networks whose every weight matrix and kernel is drawn from its own values. Asks: is the wire
      stronger than one between random units of this layer? Cost: `build_graph`'s readings once for each draw.
    - ``random``: networks whose weights are normal with the same mean square; trained weights have heavier tails
      than that, so many edges pass. Same cost.

    Biases and statistics of normalization stay the network's own. The p of an edge does not depend on which other
    edges the graph has. ``graph.graph`` gets null, draws and seed.

    Raises ``ValueError`` for a graph that breaks the schema, of another network or made with other ``wires``, an
    unknown null, and ``draws`` below 1.

    >>> from circuits.graphs import build_graph
    >>> from features.models import load_model
    >>> model = load_model("sketches")
    >>> graph = build_graph(model, ["conv2d1", "conv2d2"], keep=2, progress=False)
    >>> tested = significance(model, graph, draws=5, progress=False)
    >>> all(0 < data["p_value"] <= data["q_value"] <= 1 for *_, data in tested.edges(data=True))
    True
    """
    name, function = _named(null)
    _check(model, graph, wires, draws)
    sources = sources_of(model, json.loads(graph.graph["layers"]))
    question = Question(model, sources, wires, graph.graph.get("by", "strength"), draws, seed)
    edges = _edges_of_pairs(graph)
    tests, tallies = _observe(question, edges)
    wanted = {pair: tally.rows for pair, tally in tallies.items()}
    for pair, values in tqdm(function(question, wanted), desc="chance", unit="draw", disable=not progress, leave=False):
        tallies[pair].add(values)
    tested = graph.copy()
    tested.graph.update(null=name, draws=draws, seed=seed)
    for pair, tally in tallies.items():
        for edge, p in zip(edges[pair], tally.p_values().tolist(), strict=True):
            tested.edges[edge]["p_value"] = p
    _add_q_values(tested, tests)
    return tested


def shuffled_kernels(question: Question, pairs: Mapping[Pair, Places]) -> Iterator[tuple[Pair, Numbers]]:
    """Deal the weights into each unit from one layer out anew over the wires that exist, and their positions."""
    for pair, every in question.kernels(pairs):
        kernels = every[pairs[pair]]
        generator = np.random.default_rng(_seed(question.seed, *pair))
        groups = list(_alike(kernels))
        for _ in range(question.draws if kernels.shape[2] > 1 else 1):
            values = np.full(kernels.shape[:2], -1.0, kernels.dtype)
            for places, pool in groups:
                values[places, : pool.shape[1]] = MEASURES[question.by][0](_dealt(pool, generator))
            yield pair, values


def redrawn_networks(question: Question, pairs: Mapping[Pair, Places]) -> Iterator[tuple[Pair, Numbers]]:
    """Measure networks whose every weight is drawn, with replacement, from the values of its tensor."""
    return _networks(question, pairs, _redrawn)


def random_networks(question: Question, pairs: Mapping[Pair, Places]) -> Iterator[tuple[Pair, Numbers]]:
    """Measure networks whose every weight is normal, with mean 0 and the mean square of its tensor."""
    return _networks(question, pairs, _normal)


@dataclass(frozen=True)
class _Tally:
    """Counts, for the edges between two layers, how many wires of the null are as strong; -1 is no wire."""

    rows: Places
    row: Places
    place: Places
    thresholds: Numbers
    reached: NDArray[np.int64]
    total: NDArray[np.int64]

    @classmethod
    def of(cls, channels: Places, values: Numbers) -> _Tally:
        """Make the tally of edges into ``channels`` with these strengths: one row of thresholds, ascending, for each
        channel."""
        rows, row = np.unique(channels, return_inverse=True)
        order = np.lexsort((values, row))
        place = np.empty(len(row), np.intp)
        place[order] = places_in_groups(row[order])
        thresholds = np.full((len(rows), place.max() + 1), np.inf, values.dtype)
        thresholds[row, place] = values
        return cls(rows, row, place, thresholds, np.zeros(thresholds.shape, np.int64), np.zeros(len(rows), np.int64))

    def add(self, values: Numbers) -> None:
        """Count the values ``(rows, i)`` of one draw."""
        ordered = np.sort(values, axis=1)
        self.reached[:] += ordered.shape[1] - _below(ordered, self.thresholds)
        self.total[:] += (values >= 0).sum(1)

    def p_values(self) -> NDArray[np.float64]:
        """Give p of each edge, in the order given."""
        return (1 + self.reached[self.row, self.place]) / (1 + self.total[self.row])


def _observe(
    question: Question, edges: Mapping[Pair, list[tuple[str, str]]]
) -> tuple[dict[str, Numbers], dict[Pair, _Tally]]:
    """Count the wires into every channel of each target, from all its source layers, and measure the edges."""
    tests = {
        target: np.zeros(question.model.layer(target).channels, np.int64)
        for target in dict.fromkeys(target for _, target in edges)
    }
    strange = [pair for pair in edges if pair[0] not in question.sources[pair[1]]]
    if strange:
        source, target = strange[0]
        raise ValueError(f"the graph has edges from {source!r} to {target!r}, which that layer does not feed")
    tallies: dict[Pair, _Tally] = {}
    wanted = {(source, target) for target in tests for source in question.sources[target]}
    for pair, kernels in question.kernels(wanted):
        tests[pair[1]] += _exists(kernels).sum(1)
        if pair in edges:
            ends = [[int(unit.rpartition(":")[2]) for unit in edge] for edge in edges[pair]]
            units, channels = np.array(ends).T
            tallies[pair] = _Tally.of(channels, measure(kernels, question.by)[0][channels, units])
    return tests, tallies


def _edges_of_pairs(graph: nx.DiGraph[str]) -> dict[Pair, list[tuple[str, str]]]:
    layers = dict(graph.nodes(data="layer"))
    found: dict[Pair, list[tuple[str, str]]] = {}
    for edge in graph.edges:
        found.setdefault((layers[edge[0]], layers[edge[1]]), []).append(edge)
    return found


def _add_q_values(graph: nx.DiGraph[str], tests: Mapping[str, Numbers]) -> None:
    """Benjamini and Hochberg among the inputs of each unit: q of rank j is the least ``p m / j`` from there on."""
    edges = [edge for node in graph for edge in graph.in_edges(node, data="p_value")]
    if not edges:
        return
    places = {node: place for place, node in enumerate(graph)}
    targets = np.array([places[target] for _, target, _ in edges])
    p = np.array([each for *_, each in edges])
    layer_channel = ((graph.nodes[target]["layer"], graph.nodes[target]["channel"]) for _, target, _ in edges)
    count = np.array([tests[layer][channel] for layer, channel in layer_channel])
    order = np.lexsort((p, targets))
    place = places_in_groups(targets[order])
    row = np.unique(targets[order], return_inverse=True)[1]
    table = np.full((row.max() + 1, place.max() + 1), np.inf)
    table[row, place] = p[order] * count[order] / (place + 1)
    table = np.minimum.accumulate(table[:, ::-1], axis=1)[:, ::-1]
    q = np.maximum(p[order], np.minimum(1.0, table[row, place])).tolist()
    for number, value in zip(order.tolist(), q, strict=True):
        graph.edges[edges[number][:2]]["q_value"] = value


def _exists(kernels: Numbers) -> NDArray[np.bool_]:
    exists: NDArray[np.bool_] = np.logical_and(np.isfinite(kernels).all(2), kernels.any(2))
    return exists


def _alike(kernels: Numbers) -> Iterator[tuple[Places, Numbers]]:
    """Group the rows by how many wires they have: places of the rows, their wires ``(rows, wires, kh * kw)``."""
    exists = _exists(kernels)
    counts = exists.sum(1)
    first = np.argsort(~exists, axis=1, kind="stable")
    for count in np.unique(counts[counts > 0]).tolist():
        places = np.flatnonzero(counts == count)
        yield places, kernels[places[:, None], first[places, :count]]


def _dealt(pool: Numbers, generator: np.random.Generator) -> Numbers:
    """Deal the weights of each row out anew, all rows by one permutation; what is one wire or one weight stays."""
    if 1 in pool.shape[1:]:
        return pool
    return pool.reshape(len(pool), -1)[:, generator.permutation(pool[0].size)].reshape(pool.shape)


def _networks(
    question: Question, pairs: Mapping[Pair, Places], drawn: Callable[[Tensor, torch.Generator], Tensor]
) -> Iterator[tuple[Pair, Numbers]]:
    net = copy.deepcopy(question.model.net)
    model = dataclasses.replace(question.model, net=net)
    weights = [(each, each.detach().clone().cpu()) for each in net.parameters() if each.dim() > 1]
    for draw in range(question.draws):
        generator = torch.Generator().manual_seed(_seed(question.seed, str(draw)))
        with torch.no_grad():
            for weight, values in weights:
                weight.copy_(drawn(values, generator))
        for pair, kernels in question.kernels(pairs, model):
            strengths = np.where(_exists(kernels), measure(kernels, question.by)[0], -1.0)
            yield pair, strengths[pairs[pair]]


def _redrawn(values: Tensor, generator: torch.Generator) -> Tensor:
    places = torch.randint(values.numel(), values.shape, generator=generator)
    return values.flatten()[places]


def _normal(values: Tensor, generator: torch.Generator) -> Tensor:
    scale = values.double().square().mean().sqrt().item()
    return torch.randn(values.shape, generator=generator, dtype=values.dtype) * scale


def _below(ordered: Numbers, thresholds: Numbers) -> NDArray[np.int64]:
    """Count in each row of ``ordered`` what is below each threshold of that row, by bisection."""
    low = np.zeros(thresholds.shape, np.int64)
    high = np.full(thresholds.shape, ordered.shape[1])
    for _ in range(int(ordered.shape[1]).bit_length()):
        middle = (low + high) // 2
        value = np.take_along_axis(ordered, np.minimum(middle, ordered.shape[1] - 1), axis=1)
        below = (middle < high) & (value < thresholds)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    return low


def _seed(*parts: int | str) -> int:
    """Give one seed for parts; an edge's draws depend on its layers alone."""
    return zlib.crc32(json.dumps(parts).encode())


def _named(null: str | Null) -> tuple[str, Null]:
    if callable(null):
        return str(getattr(null, "__name__", type(null).__name__)), null
    if null not in NULLS:
        raise ValueError(f"null is {null!r}: known are {', '.join(NULLS)}, or give a function")
    return null, NULLS[null]


def _check(model: Model, graph: nx.DiGraph[str], wires: Wires, draws: int) -> None:
    check_graph(graph)
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws is {draws!r}: give how often the null is drawn, 1 or more")
    if graph.graph["digest"] != model.digest:
        raise ValueError(f"the graph is of {graph.graph['model']!r} with other weights than {model.name!r} has now")
    if graph.graph["method"] != method_of(wires):
        raise ValueError(
            f"the graph's weights are by {graph.graph['method']!r}, not {method_of(wires)!r}: give the wires "
            "that it was built with"
        )


NULLS: dict[str, Null] = {
    "shuffled": shuffled_kernels,
    "redrawn": redrawn_networks,
    "random": random_networks,
}
