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
from reference import slow_influence, slow_paths, slow_prune_influence

from circuits.graphs import build_graph, check_graph
from circuits.queries import (
    QUERIES,
    ancestors,
    ask,
    between,
    bottlenecks,
    communities,
    difference,
    dominators,
    downstream,
    influence,
    minimum_cut,
    path_sum,
    prune,
    prune_influence,
    rows,
    similar_inputs,
    similar_outputs,
    strongest_edges,
    strongest_paths,
    strongest_paths_from,
    table,
    upstream,
    usage,
)
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


def skipping_graph(seed: int) -> nx.DiGraph:
    """A layered graph with wires that skip layers, and weights that no two paths share."""
    chance = random.Random(seed)
    graph = layered_graph(seed, (3, 4, 4, 3, 2), density=0.7)
    for i, o in itertools.product(range(3), range(3)):
        graph.add_edge(f"l0:{i}", f"l3:{o}")
    for _, _, data in graph.edges(data=True):
        weight = chance.gauss(0, 1) * (chance.random() < 0.9)
        data |= {"weight": weight, "strength": abs(weight) * chance.random(), "share": 0.1, "contribution": -weight}
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
            assert {**graph.edges[edge], "paths": data.get("paths")} == {"paths": None, **data}
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
    with pytest.raises(ValueError, match="one leads from 'l0:0' to 'l3:0'"):
        between(graph, "l3:0", "l0:0")
    huge = nx.DiGraph()
    huge.add_edge("a:0", "b:0", strength=10**400)
    with pytest.raises(ValueError, match="too large for a float"):
        upstream(huge, "b:0")
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
    nx.set_edge_attributes(bare, 1.0, "weight")
    with pytest.raises(ValueError, match="has a cycle"):
        strongest_paths(bare, "a:0", "c:0")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 25))
def test_the_best_paths_to_every_unit_are_those_found_by_walking_all(seed: int, count: int) -> None:
    graph = skipping_graph(seed)
    found, walked = strongest_paths_from(graph, "l0:0", count=count), slow_paths(graph, "l0:0")
    assert set(found) == set(walked)
    assert len(found) == len(walked)
    for end, paths in found.items():
        assert [path.product for path in paths] == pytest.approx([product for product, _ in walked[end][:count]])
        assert [path.units for path in paths] == [units for _, units in walked[end][:count]]


def test_the_best_paths_agree_with_yen_s() -> None:
    graph = layered_graph(3, (2, 4, 4, 3, 2), density=0.9)
    chance = random.Random(0)
    for _, _, data in graph.edges(data=True):
        data["weight"] = chance.gauss(0, 1)
        data["length"] = 10 - math.log(abs(data["weight"]))
    yen = list(itertools.islice(nx.shortest_simple_paths(graph, "l0:1", "l4:0", weight="length"), 12))
    found = json.loads(strongest_paths(graph, "l0:1", "l4:0", count=12).graph["paths"])
    assert [path["units"] for path in found] == yen
    assert len(yen) == 12


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_path_sums_are_the_sums_over_all_paths(seed: int) -> None:
    graph = skipping_graph(seed)
    walked = slow_paths(graph, "l0:1").get("l4:1", [])
    if not walked:
        return
    found = path_sum(graph, "l0:1", "l4:1")
    products = [product for product, _ in walked]
    assert found.signed == pytest.approx(math.fsum(products), abs=1e-12)
    assert found.mass == pytest.approx(math.fsum(map(abs, products)))
    assert found.ratio == pytest.approx(abs(math.fsum(products)) / math.fsum(map(abs, products)), abs=1e-9)
    assert found.paths == len(products)
    assert path_sum(nx.relabel_nodes(graph, lambda node: f"x{node}"), "xl0:1", "xl4:1").signed == found.signed


def test_paths_that_cancel_are_told_from_paths_that_agree() -> None:
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([("a:0", "b:0", 3.0), ("a:0", "b:1", 3.0), ("b:0", "c:0", 1.0), ("b:1", "c:0", -1.0)])
    assert path_sum(graph, "a:0", "c:0").ratio == 0
    graph.edges["b:1", "c:0"]["weight"] = 1.0
    assert path_sum(graph, "a:0", "c:0").ratio == 1


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_influence_is_the_sum_of_the_powers(seed: int) -> None:
    graph = skipping_graph(seed)
    targets = {"l4:0": 0.25, "l3:1": 0.75}
    assert influence(graph, targets, by="weight") == pytest.approx(slow_influence(graph, targets, "weight"))
    last = {unit: 1.0 for unit in graph if graph.out_degree(unit) == 0}
    expected = slow_influence(graph, {unit: 1 / len(last) for unit in last}, "strength")
    assert influence(graph) == pytest.approx(expected)
    assert list(influence(graph).values()) == sorted(influence(graph).values(), reverse=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), nodes=st.sampled_from([0.3, 0.8, 1.0]), edges=st.sampled_from([0.5, 0.98, 1.0]))
def test_pruning_to_influence_keeps_what_adding_up_one_by_one_keeps(seed: int, nodes: float, edges: float) -> None:
    graph = skipping_graph(seed)
    found = prune_influence(graph, "l4:0", nodes=nodes, edges=edges, by="weight")
    assert set(found.edges) == slow_prune_influence(graph, {"l4:0": 1.0}, nodes, edges, "weight")
    for unit in found:
        if unit != "l4:0":
            assert found.out_degree(unit) > 0
    if not found.number_of_edges():
        assert "l4:0" in found.graph["empty"]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_signs_and_measures_choose_before_the_width_does(seed: int) -> None:
    graph = skipping_graph(seed)
    for by, key in (("weight", "weight"), ("contribution", "contribution"), ("strength", "weight")):
        for sign, wanted in (("excitation", 1), ("inhibition", -1)):
            found = upstream(graph, "l3:0", width=2, sign=sign, by=by)
            inputs = [data for *_, data in graph.in_edges("l3:0", data=True) if data[key] * wanted > 0]
            best = sorted((abs(data[by]) for data in inputs), reverse=True)[:2]
            assert sorted((abs(data[by]) for *_, data in found.edges(data=True)), reverse=True) == best
            assert ("empty" in found.graph) == (not best)
            everywhere = strongest_edges(graph, count=3, sign=sign, by=by)
            values = sorted((abs(d[by]) for *_, d in graph.edges(data=True) if d[key] * wanted > 0), reverse=True)
            assert sorted((abs(d[by]) for *_, d in everywhere.edges(data=True)), reverse=True) == values[:3]


def test_ancestors_are_the_union_of_what_feeds_each() -> None:
    graph = skipping_graph(5)
    found = ancestors(graph, ["l4:0", "l3:2"])
    assert set(found) == nx.ancestors(graph, "l4:0") | nx.ancestors(graph, "l3:2") | {"l4:0", "l3:2"}
    for node, feeds in found.nodes(data="feeds"):
        assert feeds == sum(node == unit or nx.has_path(graph, node, unit) for unit in ("l4:0", "l3:2"))
    narrow = ancestors(graph, ["l4:0", "l4:1"], depth=2, width=1)
    both = nx.compose(*(upstream(graph, unit, depth=2, width=1) for unit in ("l4:0", "l4:1")))
    assert set(narrow.edges) == set(both.edges)
    nx.set_node_attributes(graph, {"l4:0": "cat", "l4:1": "cat"}, "label")
    assert set(ancestors(graph, "cat").edges) == set(ancestors(graph, ["l4:0", "l4:1"]).edges)
    with pytest.raises(ValueError, match="no unit of this graph has the label 'dog': its labels are cat"):
        ancestors(graph, "dog")
    with pytest.raises(ValueError, match="no unit was given"):
        ancestors(graph, [])


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_nothing_gets_around_a_bottleneck(seed: int) -> None:
    graph = layered_graph(seed, (2, 3, 2, 3, 2), density=0.45)
    tree = dominators(graph, "l0:0")
    assert set(tree) == nx.descendants(graph, "l0:0") | {"l0:0"}
    for target in set(tree) - {"l0:0"}:
        paths = [set(path) for path in nx.all_simple_paths(graph, "l0:0", target)]
        found = bottlenecks(graph, "l0:0", target)
        assert set(found) == set.intersection(*paths)
        assert found == nx.shortest_path(tree, "l0:0", target)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_minimum_cut_separates_and_costs_least(seed: int) -> None:
    graph = layered_graph(seed, (2, 2, 2, 2), density=0.8)
    sources, targets = ["l0:0", "l0:1"], ["l3:0", "l3:1"]
    wires = [wire for wire in graph.edges if graph.edges[wire]["weight"]]

    def separates(chosen: set[tuple[str, str]]) -> bool:
        left = nx.DiGraph(wire for wire in wires if wire not in chosen)
        return not any(
            left.has_node(a) and left.has_node(b) and nx.has_path(left, a, b) for a in sources for b in targets
        )

    if separates(set()):
        with pytest.raises(ValueError, match="no path leads"):
            minimum_cut(graph, sources, targets, by="weight")
        return
    found = minimum_cut(graph, sources, targets, by="weight")
    assert separates(set(found.edges))
    assert found.graph["cut"] == pytest.approx(sum(abs(weight) for *_, weight in found.edges(data="weight")))
    cost = {
        chosen: sum(abs(graph.edges[wire]["weight"]) for wire in chosen)
        for size in range(len(wires) + 1)
        for chosen in itertools.combinations(wires, size)
    }
    assert found.graph["cut"] == pytest.approx(min(cost[chosen] for chosen in cost if separates(set(chosen))))


def test_communities_that_were_put_in_are_found_whatever_the_signs() -> None:
    chance = random.Random(0)
    graph = nx.DiGraph()
    for i, o in itertools.product(range(12), range(12)):
        own = i % 3 == o % 3
        weight = chance.choice([-1, 1]) * (1.0 if own else 0.1)
        graph.add_edge(f"a:{i}", f"b:{o}", weight=weight, strength=abs(weight))
    found = communities(graph)
    assert set(found.values()) == {0, 1, 2}
    for unit, number in found.items():
        assert number == found[f"a:{int(unit[2:]) % 3}"]
    assert communities(graph) == found
    assert list(found) == list(graph)


def test_similar_units_have_the_largest_cosines() -> None:
    graph = skipping_graph(8)
    names = [f"l3:{c}" for c in range(3)]
    vectors = {n: {u: graph.edges[u, n]["weight"] for u in graph.predecessors(n)} for n in graph if n[1] != "0"}

    def cosine(one: dict[str, float], other: dict[str, float]) -> float:
        norms = math.prod(math.sqrt(sum(x * x for x in each.values())) for each in (one, other))
        return sum(one[key] * other.get(key, 0) for key in one) / norms

    found = similar_inputs(graph, "l3:0", count=50)
    assert found.keys() >= set(names) - {"l3:0"}
    assert found == pytest.approx({unit: cosine(vectors["l3:0"], vectors[unit]) for unit in found})
    assert list(found.values()) == sorted(found.values(), reverse=True)
    turned = similar_outputs(graph.reverse(), "l3:0", count=50)
    assert turned == pytest.approx(found)
    with pytest.raises(ValueError, match="no other unit shares an input"):
        similar_inputs(graph, "l0:0")


def test_a_difference_says_what_was_added_lost_flipped_and_changed() -> None:
    before = nx.DiGraph()
    before.add_weighted_edges_from(
        [("a:0", "b:0", 1.0), ("a:1", "b:0", 1.0), ("a:2", "b:0", 1.0), ("a:3", "b:0", 1.0), ("a:4", "b:0", 1.0)]
    )
    after = before.copy()
    after.remove_edge("a:1", "b:0")
    after.remove_node("a:4")
    after.add_edge("a:5", "b:0", weight=0.5)
    after.edges["a:2", "b:0"]["weight"] = -0.25
    after.edges["a:3", "b:0"]["weight"] = 1.2
    found = difference(before, after)
    assert {edge: data["change"] for *edge, data in found.edges(data=True) for edge in [edge[0]]} == {
        "a:1": "lost",
        "a:2": "flipped",
        "a:3": "changed",
        "a:4": "lost",
        "a:5": "added",
    }
    assert found.edges["a:2", "b:0"] == {"weight": -0.25, "before": 1.0, "after": -0.25, "change": "flipped"}
    assert found.edges["a:1", "b:0"] == {"weight": 1.0, "before": 1.0, "change": "lost"}
    assert {node: change for node, change in found.nodes(data="change") if change} == {"a:4": "lost", "a:5": "added"}
    assert found.graph["changes"] == "added 1, lost 2, flipped 1, changed 1, same 1"
    assert difference(before, after, tolerance=0.5).graph["changes"].endswith("changed 0, same 2")
    same = difference(before, before)
    assert not same.number_of_edges()
    assert "no edge differs" in same.graph["empty"]
    turned = difference(after, before)
    assert {data["change"] for *_, data in turned.edges(data=True)} == {"added", "lost", "flipped", "changed"}
    with pytest.raises(ValueError, match="share no unit"):
        difference(before, nx.DiGraph([("c:0", "d:0")]))


def test_no_query_changes_its_graph_and_all_answers_are_json() -> None:
    graph = skipping_graph(2)
    nx.set_node_attributes(graph, {"l4:0": "cat"}, "label")
    other = skipping_graph(3)
    before = nx.node_link_data(graph, edges="edges")
    texts = {
        "upstream": "upstream l4:0 depth=2 width=3 sign=excitation by=weight",
        "downstream": "downstream l0:0 depth=2",
        "ancestors": "ancestors l4:0,l4:1 depth=2 width=none",
        "between": "between l0:0 l4:0",
        "strongest_edges": "strongest-edges count=3 by=weight",
        "strongest_paths": "strongest_paths l0:0 l4:0 count=3",
        "strongest_paths_from": "strongest_paths_from source=l0:0 count=2",
        "path_sum": "path_sum l0:0 l4:0",
        "prune": "prune share=0.05",
        "influence": "influence l4:0,l4:1 by=weight",
        "prune_influence": "prune_influence l4:0 nodes=0.9",
        "dominators": "dominators l0:0",
        "bottlenecks": "bottlenecks l0:0 l4:0",
        "minimum_cut": "minimum_cut l0:0 l4:0",
        "communities": "communities resolution=0.5 seed=1",
        "similar_inputs": "similar_inputs l3:0 count=2",
        "similar_outputs": "similar_outputs l1:0",
        "difference": "difference other tolerance=0",
    }
    assert texts.keys() == QUERIES.keys()
    for name, text in texts.items():
        found = ask(graph, text, read={"other": other}.__getitem__)
        assert json.loads(json.dumps(rows(found), allow_nan=False)) == rows(found)
        lines = table(found).splitlines()
        below = {"minimum_cut": "cut: ", "difference": "changes: "}.get(name)
        assert len(lines) == len(rows(found)) + 1 + bool(below), name
        assert lines[-1].startswith(below or "")
        assert table(found, count=1).count("\n") <= 3
        assert usage(name, QUERIES[name]).startswith(name)
    assert nx.node_link_data(graph, edges="edges") == before


def test_text_and_call_give_the_same() -> None:
    graph = skipping_graph(4)
    found = ask(graph, "upstream l4:0 depth=2 width=3 sign=inhibition by=weight")
    called = upstream(graph, "l4:0", depth=2, width=3, sign="inhibition", by="weight")
    assert nx.utils.graphs_equal(found, called)
    assert ask(graph, "influence") == influence(graph)
    assert ask(graph, "ancestors l4:0 depth=none").edges == ancestors(graph, "l4:0").edges
    spaced = nx.relabel_nodes(graph, {"l4:0": "my layer:0"})
    assert "my layer:0" in ask(spaced, "upstream 'my layer:0'")
    assert usage("upstream", upstream) == "upstream UNIT depth=1 width=5 sign=none by=strength"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("upsteam l4:0", "no query 'upsteam': nearest is 'upstream'; there are upstream, downstream"),
        ("", "the query is empty"),
        ("upstream", "upstream needs unit: write 'upstream UNIT depth=1"),
        ("between l0:0", "between needs target: write 'between SOURCE TARGET'"),
        ("upstream l4:0 l3:0", "'l3:0' is one word too many for upstream"),
        ("upstream l4:0 deep=2", "upstream takes no 'deep' here: write 'upstream UNIT depth=1"),
        ("upstream l4:0 depth=2 depth=3", "takes no 'depth' here"),
        ("upstream l4:0 unit=l3:0", "takes no 'unit' here"),
        ("upstream l4:0 depth=two", "depth is 'two': give a whole number"),
        ("prune share=much", "share is 'much': give a number"),
        ("prune share=nan", "between 0 and 1"),
        ("upstream l4:0 sign=up", "sign is 'up': choose one of excitation, inhibition"),
        ("upstream l4:0 by=size", "by is 'size': choose one of strength, share, weight, contribution"),
        ("upstream 'l4:0", "cannot be read"),
        ("upstream l4:9", r"no unit 'l4:9' in this graph: nearest are 'l4:1', 'l4:0'"),
        ("difference other.json", "give ask"),
    ],
)
def test_text_that_is_no_query_is_refused_with_what_was_possible(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ask(skipping_graph(1), text)


def test_cyclic_foreign_and_overflowing_graphs_are_refused_with_a_sentence() -> None:
    ring = nx.DiGraph()
    ring.add_weighted_edges_from([("a:0", "b:0", 1.0), ("b:0", "a:0", 1.0), ("b:0", "c:0", 1.0)])
    for refused in (
        lambda: strongest_paths_from(ring, "a:0"),
        lambda: strongest_paths(ring, "a:0", "c:0"),
        lambda: path_sum(ring, "a:0", "c:0"),
        lambda: influence(ring, "c:0", by="weight"),
        lambda: prune_influence(ring, "c:0", by="weight"),
    ):
        with pytest.raises(ValueError, match="has a cycle"):
            refused()
    elsewhere = nx.DiGraph([("x:0", "y:0", {"weight": 2.0}), ("a:0", "b:0", {"weight": 1.0})])
    elsewhere.add_edge("b:0", "a:0", weight=1.0)
    assert path_sum(elsewhere, "x:0", "y:0").signed == 2
    assert bottlenecks(ring, "a:0", "c:0") == ["a:0", "b:0", "c:0"]
    for graph in (nx.Graph(ring), nx.MultiDiGraph(ring), {"a:0": ["b:0"]}):
        for query in (communities, influence, strongest_edges, prune, lambda graph: ask(graph, "prune")):
            with pytest.raises(TypeError, match=r"a circuit graph is an nx\.DiGraph"):
                query(graph)
    strange = nx.DiGraph([(1, "no unit"), ("l1:0", "l1:x")])
    with pytest.raises(ValueError, match="nearest are 'l1:0'"):
        upstream(strange, "l1:3")
    for value in (math.nan, math.inf, "1", None, True, 10**400):
        with pytest.raises(ValueError, match="weight"):
            strongest_paths_from(nx.DiGraph([("a:0", "b:0", {"weight": value})]), "a:0")
    huge = nx.DiGraph([("a:0", "b:0", {"weight": 1e200}), ("b:0", "c:0", {"weight": 1e200})])
    with pytest.raises(ValueError, match="more than a float"):
        path_sum(huge, "a:0", "c:0")
    with pytest.raises(KeyError, match="no path leads from 'a:0' to 'z:0'"):
        strongest_paths_from(huge, "a:0")["z:0"]
    assert len(strongest_paths_from(huge, "c:0")) == 0
    for call, says in (
        (lambda: minimum_cut(huge, "a:0", ["b:0", "a:0"], by="weight"), "is a source and a target"),
        (lambda: influence(huge, {"a:0": -1.0}, by="weight"), "give numbers of 0 or more"),
        (lambda: communities(huge, by="weight", resolution=0), "resolution is 0"),
        (lambda: difference(huge, huge, tolerance=-1), "tolerance is -1"),
        (lambda: prune_influence(huge, nodes=2), "nodes is 2"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_an_empty_answer_says_why_and_a_full_one_says_nothing() -> None:
    graph = skipping_graph(6)
    first = upstream(graph, "l0:0")
    assert table(first) == first.graph["empty"] == "l0:0 has no input in this graph"
    assert "empty" not in upstream(graph, "l4:0").graph
    assert "largest is 0.1" in prune(graph, share=0.9).graph["empty"]
    positive = nx.DiGraph([("a:0", "b:0", {"weight": 1.0, "strength": 1.0})])
    assert (
        upstream(positive, "b:0", sign="inhibition").graph["empty"] == "b:0 has no input in this graph with inhibition"
    )
    paths = strongest_paths(graph, "l0:0", "l4:0")
    assert "paths" not in upstream(paths, "l4:0").graph
