"""How long queries take on 180,000 edges: ``python tests/benchmarks/queries.py``, one thread, processor seconds.

A random graph as wide as InceptionV1's layers, the 32 strongest inputs of each unit kept; beside each query the plain
way of doing it with networkx or Python, where there is one, on the same graph.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np

from circuits.motifs import cross_inhibition
from circuits.queries import (
    ancestors,
    bottlenecks,
    communities,
    difference,
    influence,
    minimum_cut,
    path_sum,
    prune_influence,
    similar_inputs,
    strongest_edges,
    strongest_paths,
    strongest_paths_from,
    upstream,
)

WIDTHS = (64, 192, 256, 480, 508, 512, 512, 528, 832, 832, 1024)
KEEP = 32
SOURCE, TARGET = "l0:0", "l10:3"


def random_graph(seed: int) -> nx.DiGraph:
    random = np.random.default_rng(seed)
    graph = nx.DiGraph()
    for depth, width in enumerate(WIDTHS):
        graph.add_nodes_from(f"l{depth}:{channel}" for channel in range(width))
    for depth, (below, width) in enumerate(itertools.pairwise(WIDTHS)):
        for target in range(width):
            sources = random.choice(below, min(below, KEEP), replace=False)
            for source, weight in zip(sources.tolist(), random.normal(size=len(sources)).tolist(), strict=True):
                graph.add_edge(f"l{depth}:{source}", f"l{depth + 1}:{target}", weight=weight, strength=abs(weight))
    return graph


def plain_best_paths(graph: nx.DiGraph) -> dict[str, list[tuple[float, str, int]]]:
    """The same dynamic programming in plain Python: a heap for each unit."""
    best: dict[str, list[tuple[float, str, int]]] = {SOURCE: [(0.0, "", 0)]}
    for node in nx.topological_sort(graph):
        if node != SOURCE:
            ways = (
                (cost - math.log(abs(graph.edges[before, node]["weight"])), before, place)
                for before in graph.predecessors(node)
                for place, (cost, _, _) in enumerate(best.get(before, ()))
            )
            best[node] = heapq.nsmallest(20, ways)
    return best


def yen(graph: nx.DiGraph) -> list[list[str]]:
    """Networkx's k shortest paths, three of them only, between one pair."""
    lengths = nx.DiGraph(
        (u, v, {"length": 20 - math.log(abs(weight))}) for u, v, weight in graph.edges(data="weight") if weight
    )
    return list(itertools.islice(nx.shortest_simple_paths(lengths, SOURCE, TARGET, weight="length"), 3))


def plain_path_sum(graph: nx.DiGraph) -> float:
    sums = dict.fromkeys(graph, 0.0) | {SOURCE: 1.0}
    for node in nx.topological_sort(graph):
        for after, data in graph[node].items():
            sums[after] += sums[node] * data["weight"]
    return sums[TARGET]


def plain_influence(graph: nx.DiGraph) -> np.ndarray:
    """Powers of the dense matrix, one for each layer, as circuit-tracer does."""
    matrix = np.abs(nx.to_numpy_array(graph, weight="strength")).T
    matrix /= np.maximum(matrix.sum(1, keepdims=True), 1e-30)
    flow = np.zeros(len(matrix))
    flow[list(graph).index(TARGET)] = 1
    total = np.zeros(len(matrix))
    for _ in WIDTHS:
        flow = flow @ matrix
        total += flow
    return total


def plain_crossings(graph: nx.DiGraph) -> int:
    """Signed bi-fans by loops over pairs of sources and shared targets, of the first 12 sources only."""
    sources = [f"l4:{channel}" for channel in range(12)]
    weights = {unit: {target: data["weight"] for target, data in graph[unit].items()} for unit in sources}
    return sum(
        weights[a][b] > 0 > weights[c][b] and weights[c][d] > 0 > weights[a][d]
        for a, c in itertools.combinations(sources, 2)
        for b in weights[a].keys() & weights[c].keys()
        for d in weights[a].keys() & weights[c].keys()
    )


def seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    graph, other = random_graph(0), random_graph(1)
    cases: dict[str, tuple[Callable[[], Any], tuple[str, Callable[[], Any]] | None]] = {
        "20 best paths to every unit": (
            lambda: strongest_paths_from(graph, SOURCE, count=20),
            ("the same with a heap per unit", lambda: plain_best_paths(graph)),
        ),
        "20 best paths to one unit": (
            lambda: strongest_paths(graph, SOURCE, TARGET, count=20),
            ("networkx, 3 paths", lambda: yen(graph)),
        ),
        "path sum and mass": (
            lambda: path_sum(graph, SOURCE, TARGET),
            ("plain loop, sum", lambda: plain_path_sum(graph)),
        ),
        "influence on one unit": (
            lambda: influence(graph, TARGET),
            ("dense matrix powers", lambda: plain_influence(graph)),
        ),
        "pruned to influence": (lambda: prune_influence(graph, TARGET), None),
        "strongest edges": (lambda: strongest_edges(graph), None),
        "upstream, depth 5": (lambda: upstream(graph, TARGET, depth=5), None),
        "ancestors of 8 units": (lambda: ancestors(graph, [f"l10:{c}" for c in range(8)]), None),
        "similar inputs": (lambda: similar_inputs(graph, "l5:3"), None),
        "bottlenecks": (lambda: bottlenecks(graph, SOURCE, TARGET), None),
        "difference of two graphs": (lambda: difference(graph, other), None),
        "minimum cut, two layers up": (lambda: minimum_cut(graph, "l8:0", [f"l10:{c}" for c in range(4)]), None),
        "communities": (lambda: communities(graph), None),
        "cross inhibition, 512 x 508, 19 rewired": (
            lambda: cross_inhibition(graph, "l4", "l5", samples=19),
            ("loops, 12 sources, no null", lambda: plain_crossings(graph)),
        ),
    }
    print(f"{graph.number_of_edges()} edges, {len(graph)} units")
    for name, (fast, slow) in cases.items():
        beside = "" if slow is None else f"   {slow[0]}: {seconds(slow[1]):.2f} s"
        print(f"{name:42} {seconds(fast):6.2f} s{beside}", flush=True)


if __name__ == "__main__":
    main()
