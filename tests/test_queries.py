"""Queries: graph in, graph out; the strongest paths are those that trying every path finds."""

from __future__ import annotations

import itertools
import json
import math
import random

import networkx as nx
import pytest
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.graphs import build_graph, check_graph
from circuits.queries import between, downstream, prune, strongest_paths, upstream
from features.units import Unit


def layered_graph(seed: int, widths: tuple[int, ...] = (3, 4, 3, 2), density: float = 0.8) -> nx.DiGraph:
    chance = random.Random(seed)
    graph = nx.DiGraph(name="layered")
    for depth, width in enumerate(widths):
        for channel in range(width):
            graph.add_node(f"l{depth}:{channel}", layer=f"l{depth}", channel=channel, depth=depth)
    for depth, width in enumerate(widths[:-1]):
        for i, o in itertools.product(range(width), range(widths[depth + 1])):
            if chance.random() < density:
                weight = chance.choice([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0])
                graph.add_edge(
                    f"l{depth}:{i}", f"l{depth + 1}:{o}", weight=weight, strength=abs(weight), share=chance.random()
                )
    return graph


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_the_strongest_paths_are_those_found_by_trying_all(seed: int, count: int) -> None:
    graph = layered_graph(seed)
    tried = [
        math.prod(graph.edges[wire]["weight"] for wire in itertools.pairwise(path))
        for path in nx.all_simple_paths(graph, "l0:0", "l3:1")
    ]
    best = sorted((abs(product) for product in tried if product), reverse=True)[:count]
    if not best:
        with pytest.raises(ValueError, match=r"no path leads|weight of 0"):
            strongest_paths(graph, "l0:0", "l3:1", count=count)
        return
    found = strongest_paths(graph, "l0:0", "l3:1", count=count)
    paths = json.loads(found.graph["paths"])
    assert [abs(path["product"]) for path in paths] == pytest.approx(best)
    for path in paths:
        wires = list(itertools.pairwise(path["units"]))
        assert path["product"] == pytest.approx(math.prod(graph.edges[wire]["weight"] for wire in wires))
        assert all(found.has_edge(*wire) for wire in wires)
    assert sum(nx.get_edge_attributes(found, "paths").values()) == 3 * len(paths)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), depth=st.integers(1, 4), width=st.integers(1, 4))
def test_upstream_keeps_the_strongest_inputs_of_all_it_reaches(seed: int, depth: int, width: int) -> None:
    graph = layered_graph(seed)
    found = upstream(graph, "l3:0", depth=depth, width=width)
    for node in found:
        steps = 3 - graph.nodes[node]["depth"]
        assert steps <= depth
        strengths = sorted((data["strength"] for *_, data in graph.in_edges(node, data=True)), reverse=True)
        kept = sorted((data["strength"] for *_, data in found.in_edges(node, data=True)), reverse=True)
        assert kept == (strengths[:width] if steps < depth else [])


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_downstream_is_upstream_of_the_turned_graph(seed: int) -> None:
    graph = layered_graph(seed)
    turned = downstream(graph.reverse(), "l3:0", depth=2, width=3).reverse()
    assert set(turned.edges) == set(upstream(graph, "l3:0", depth=2, width=3).edges)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_between_holds_exactly_what_lies_on_a_path(seed: int) -> None:
    graph = layered_graph(seed, density=0.5)
    paths = list(nx.all_simple_edge_paths(graph, "l0:1", "l3:0"))
    if not paths:
        with pytest.raises(ValueError, match="no path leads"):
            between(graph, "l0:1", "l3:0")
        return
    assert set(between(graph, "l0:1", "l3:0").edges) == {edge for path in paths for edge in path}


def test_attributes_are_kept_and_copies_are_the_users_own() -> None:
    graph = layered_graph(1)
    before = nx.node_link_data(graph, edges="edges")
    for found in (
        upstream(graph, "l3:0", depth=3),
        downstream(graph, Unit("l0", 0), depth=3),
        between(graph, "l0:0", "l3:0"),
        prune(graph, share=0.3),
        strongest_paths(graph, "l0:0", "l3:0"),
    ):
        assert type(found) is nx.DiGraph
        assert found.graph["name"] == "layered"
        for node, data in found.nodes(data=True):
            assert data == graph.nodes[node]
            data["mine"] = 1
        for *edge, data in found.edges(data=True):
            assert graph.edges[edge].items() <= data.items()
            data.clear()
        found.graph.clear()
    assert nx.node_link_data(graph, edges="edges") == before


def test_queries_of_a_circuit_graph_are_circuit_graphs() -> None:
    graph = build_graph(tiny_model("batch_norm"), keep=3, progress=False)
    target = max(graph, key=lambda node: graph.nodes[node]["depth"])
    for found in (upstream(graph, target, depth=3, width=2), prune(graph, share=0.1)):
        check_graph(found)
    source = next(iter(nx.ancestors(graph, target)))
    check_graph(strongest_paths(graph, source, target))


def test_prune_takes_away_weak_edges_and_what_they_leave_alone() -> None:
    graph = layered_graph(3)
    found = prune(graph, share=0.6)
    assert set(found.edges) == {
        edge for *edge, share in graph.edges(data="share") if share >= 0.6 for edge in [tuple(edge)]
    }
    assert min(degree for _, degree in found.degree()) > 0
    assert set(prune(graph, share=0.0).edges) == set(graph.edges)


def test_bad_input_is_refused_with_a_sentence() -> None:
    graph = layered_graph(1)
    with pytest.raises(ValueError, match=r"no unit 'l3:9' in this graph: nearest are 'l3:1', 'l3:0'"):
        upstream(graph, "l3:9")
    with pytest.raises(ValueError, match=r"no unit 'l33:0' in this graph: nearest are 'l3:\.\.\.'"):
        downstream(graph, "l33:0")
    with pytest.raises(ValueError, match="is no unit"):
        upstream(graph, "l3")
    with pytest.raises(ValueError, match="depth is 0"):
        upstream(graph, "l3:0", depth=0)
    with pytest.raises(ValueError, match="width is True"):
        downstream(graph, "l3:0", width=True)
    with pytest.raises(ValueError, match="count is"):
        strongest_paths(graph, "l0:0", "l3:0", count=0)
    with pytest.raises(ValueError, match="the other way round"):
        between(graph, "l3:0", "l0:0")
    with pytest.raises(ValueError, match="name two units"):
        between(graph, "l3:0", "l3:0")
    with pytest.raises(ValueError, match="between 0 and 1"):
        prune(graph, share=1.5)
    with pytest.raises(TypeError, match=r"an nx\.DiGraph"):
        upstream(nx.Graph(graph), "l3:0")  # type: ignore[arg-type]
    bare = nx.DiGraph([("a:0", "b:0"), ("b:0", "c:0")])
    with pytest.raises(ValueError, match="has strength None"):
        upstream(bare, "b:0")
    with pytest.raises(ValueError, match="has weight None"):
        strongest_paths(bare, "a:0", "c:0")
    bare.add_edge("c:0", "b:0")
    with pytest.raises(ValueError, match="has a cycle"):
        strongest_paths(bare, "a:0", "c:0")
