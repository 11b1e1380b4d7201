"""Graphs: the strongest wires, with numbers that say what the kernels say; saved and read back equal."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import sys
import time
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import NETS, assert_untouched, fill, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import slow_chance, slow_discovery_rates, slow_graph
from torch import Tensor, nn

from circuits.graphs import (
    FORMATS,
    LARGEST_FILE,
    MEASURES,
    METHOD,
    NULLS,
    SCHEMA,
    build_graph,
    check_graph,
    edge_frame,
    edge_table,
    export_graphml,
    load_graph,
    save_graph,
    significance,
    write_edge_table,
)
from circuits.graphs.kernels import strongest
from circuits.wiring import connect, flow
from features.models import Model, load_model


def assert_finite_python_numbers(graph: nx.DiGraph) -> None:
    for attributes in [data for _, data in graph.nodes(data=True)] + [data for _, _, data in graph.edges(data=True)]:
        for key, value in attributes.items():
            assert type(value) in (str, int, float), (key, type(value))
            assert isinstance(value, str) or math.isfinite(value)


def two_layer_graph(names: tuple[str, str] = ("a", "b")) -> nx.DiGraph:
    first, second = names
    graph = nx.DiGraph(
        schema=SCHEMA, model="m", digest="d", layers=json.dumps(names), method="by hand", keep=1, nonfinite=0
    )
    for depth, (layer, channel) in enumerate([(first, 0), (second, 0)]):
        graph.add_node(f"{layer}:{channel}", layer=layer, channel=channel, depth=depth, label="", kept=1.0)
    numbers = dict.fromkeys(("weight", "strength", "excitation", "share"), 1.5) | {"inhibition": 0.0}
    graph.add_edge(f"{first}:0", f"{second}:0", **numbers, peak_y=0.0, peak_x=-1.0, rank=0)
    return graph


@pytest.mark.parametrize("name", [name for name in NETS if name != "tokens"])
def test_the_graph_says_what_the_kernels_say(name: str) -> None:
    model = tiny_model(name)
    graph = build_graph(model, keep=1000, progress=False)
    check_graph(graph)
    assert_finite_python_numbers(graph)
    source, target = model.default_layers[:2]
    kernels = connect(model, source, target)
    for o, i in itertools.product(range(kernels.shape[0]), range(kernels.shape[1])):
        kernel = kernels[o, i].double().numpy()
        if not kernel.any():
            assert not graph.has_edge(f"{source}:{i}", f"{target}:{o}")
            continue
        edge = graph.edges[f"{source}:{i}", f"{target}:{o}"]
        assert edge["weight"] == pytest.approx(kernel.sum(), abs=1e-12)
        assert edge["strength"] == pytest.approx(np.sqrt((kernel**2).sum()))
        assert edge["excitation"] == pytest.approx(kernel[kernel > 0].sum(), abs=1e-12)
        assert edge["inhibition"] == pytest.approx(kernel[kernel < 0].sum(), abs=1e-12)
        y, x = np.unravel_index(np.abs(kernel).argmax(), kernel.shape)
        assert (edge["peak_y"], edge["peak_x"]) == (y - (kernel.shape[0] - 1) / 2, x - (kernel.shape[1] - 1) / 2)


def kernels_of(model: Model, layers: list[str]) -> dict[tuple[str, str], np.ndarray]:
    return {
        (source, target): connect(model, source, target, cut=[name for name in layers if name not in (source, target)])
        .double()
        .numpy()
        for target, sources in flow(model, layers).items()
        for source in sources
    }


def assert_as_slow(graph: nx.DiGraph, model: Model, layers: list[str], keep: int, by: str) -> None:
    targets = {target: list(sources) for target, sources in flow(model, layers).items()}
    parts, edges = slow_graph(kernels_of(model, layers), targets, keep, by)
    assert set(graph.edges) == set(edges)
    for edge, numbers in edges.items():
        assert graph.edges[edge] == pytest.approx(numbers, rel=1e-9, abs=1e-12)
        assert graph.edges[edge]["rank"] == numbers["rank"]
    for node, part in parts.items():
        assert graph.nodes[node]["kept"] == pytest.approx(part)


def layers_with_branches(model: Model) -> list[str]:
    """The default layers; for the residual network also what its blocks add up, so that a layer has two sources."""
    return ["stem", "layer1.0.bn2", "layer1.0", "logits"] if model.name == "residual" else list(model.default_layers)


@pytest.mark.parametrize("name", NETS)
def test_the_graph_is_that_of_a_loop_over_every_wire(name: str) -> None:
    model = tiny_model(name)
    layers = layers_with_branches(model)
    graph = build_graph(model, layers, keep=3, progress=False)
    assert graph.number_of_edges() > 0
    assert_as_slow(graph, model, layers, 3, "strength")


@pytest.mark.parametrize("by", MEASURES)
@pytest.mark.parametrize("name", ["plain", "residual", "grouped", "depthwise"])
def test_ties_and_other_measures_are_those_of_the_loop(name: str, by: str) -> None:
    """Weights of -1, 0 and 1: sums are exact, so that most wires are tied with others."""
    model = tiny_model(name)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.copy_((parameter * 2).round().clamp(-1, 1) if parameter.dim() > 1 else torch.ones(()))
        for key, buffer in model.net.named_buffers():
            buffer.fill_(1.0 if "var" in key else 0.0)
        for module in model.net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0  # a scale of exactly 1
    layers = layers_with_branches(model)[:-1]
    graph = build_graph(model, layers, keep=4, by=by, progress=False)
    assert graph.graph["by"] == by
    check_graph(graph)
    ties = [graph.edges[edge][by] for edge in graph.edges]
    assert len(set(ties)) < len(ties)
    assert_as_slow(graph, model, layers, 4, by)


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5),
    keep=st.one_of(st.none(), st.integers(1, 8)),
)
def test_the_strongest_are_those_of_a_stable_sort(rows: list[list[int]], keep: int | None) -> None:
    found = list(zip(*(part.tolist() for part in strongest(np.array(rows, np.float32), keep)), strict=True))
    wanted = [
        (row, column)
        for row, values in enumerate(rows)
        for column in sorted(range(6), key=lambda column: -values[column])[:keep]
        if values[column] > 0
    ]
    assert sorted(found) == sorted(wanted)


def planted_wires(weights: Tensor) -> functools.partial[Tensor]:
    def by_hand(given: Tensor, model: Model, source: str, target: str, *, cut: object = ()) -> Tensor:
        return given

    return functools.partial(by_hand, weights)


@pytest.mark.parametrize("by", MEASURES)
def test_numbers_too_small_or_too_large_to_square_are_still_wires(by: str) -> None:
    """In float32 the square of 1e-30 is 0 and that of 1e30 infinite: neither a dead wire nor one that is not finite."""
    model = tiny_model("plain")
    weights = torch.zeros(7, 6, 3, 3)
    sign = -1 if by == "inhibition" else 1
    weights[0, 0, 0, 0], weights[0, 1, 1, 1], weights[0, 2, 1, 2] = sign * 1e-30, sign * 1e30, sign * 2e-30
    weights[1, 3], weights[2, 4, 0, 0] = math.inf * sign, math.inf * -sign
    graph = build_graph(model, ["relu1", "conv2"], by=by, keep=2, wires=planted_wires(weights), progress=False)
    assert {edge[0]: edge[2]["rank"] for edge in graph.in_edges("conv2:0", data=True)} == {"relu1:1": 0, "relu1:2": 1}
    assert graph.edges["relu1:2", "conv2:0"]["strength"] == pytest.approx(2e-30, rel=1e-6)
    assert graph.graph["nonfinite"] == 2
    assert graph.number_of_edges() == 2
    assert_finite_python_numbers(graph)


def test_weights_may_come_from_any_function_and_the_graph_names_it() -> None:
    model = tiny_model("plain")
    weights = torch.randn(7, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    graph = build_graph(model, ["relu1", "conv2"], keep=6, wires=planted_wires(weights.bfloat16()), progress=False)
    assert graph.graph["method"] == "by_hand"
    assert graph.edges["relu1:2", "conv2:3"]["weight"] == pytest.approx(weights.bfloat16()[3, 2].double().sum().item())
    assert build_graph(model, ["relu1", "conv2"], progress=False).graph["method"] == METHOD
    calls = []

    def watched(*args: object, cut: list[str]) -> Tensor:
        calls.append((*args[1:], cut))
        return connect(*args, cut=cut)  # type: ignore[arg-type]

    build_graph(model, ["relu1", "relu2", "relu3"], wires=watched, progress=False)
    assert calls == [("relu1", "relu2", ["relu3"]), ("relu2", "relu3", ["relu1"])]
    with pytest.raises(ValueError, match=r"give \(o, i, kh, kw\) with o, i = \(7, 6\)"):
        build_graph(model, ["relu1", "conv2"], wires=planted_wires(weights[:5]), progress=False)


def test_shares_and_ranks_are_over_all_inputs_from_all_layers() -> None:
    model = tiny_model("residual")
    layers = ["stem", "layer1.0.bn2", "layer1.0"]
    whole = build_graph(model, layers, keep=1000, progress=False)
    part = build_graph(model, layers, keep=3, progress=False)
    for node in (f"layer1.0:{channel}" for channel in range(8)):
        inputs = sorted(whole.in_edges(node, data=True), key=lambda edge: -edge[2]["strength"])
        assert sum(data["share"] for *_, data in inputs) == pytest.approx(1)
        assert [data["rank"] for *_, data in inputs] == list(range(len(inputs)))
        kept = sorted(part.in_edges(node, data=True), key=lambda edge: edge[2]["rank"])
        assert [edge[0] for edge in kept] == [edge[0] for edge in inputs[:3]]
        assert part.nodes[node]["kept"] == pytest.approx(sum(data["share"] for *_, data in kept))
        assert {source.rpartition(":")[0] for source, *_ in inputs} == {"stem", "layer1.0.bn2"}


def test_wires_around_a_listed_layer_are_counted_without_what_goes_through_it() -> None:
    """The skip connection of a residual block carries each channel to itself with weight 1, whatever the block does."""
    graph = build_graph(tiny_model("residual"), ["stem", "layer1.0.bn2", "layer1.0"], keep=1000, progress=False)
    for channel in range(8):
        skips = [(u, data["weight"]) for u, _, data in graph.in_edges(f"layer1.0:{channel}", data=True) if "stem" in u]
        assert skips == [(f"stem:{channel}", 1.0)]


def test_a_planted_edge_is_found_where_it_was_put() -> None:
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv2.weight.mul_(0.01)
        model.net.conv2.weight[4, 3, 0, 2] = -7.0
    graph = build_graph(model, ["relu1", "relu2"], keep=1, progress=False)
    (edge,) = graph.in_edges("relu2:4", data=True)
    assert edge[0] == "relu1:3"
    assert (edge[2]["peak_y"], edge[2]["peak_x"]) == (-1.0, 1.0)
    assert edge[2]["inhibition"] < -6.9 < 0.5 < edge[2]["share"]


def test_ties_are_broken_by_the_order_of_channels() -> None:
    net = fill(nn.Sequential(nn.Conv2d(3, 60, 1), nn.Conv2d(60, 5, 3, padding=1)).double().eval())
    with torch.no_grad():
        net[1].weight.copy_((torch.arange(60) % 3)[None, :, None, None].expand(5, 60, 3, 3))
    model = load_model(net, name="net", image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())
    graph = build_graph(model, ["0", "1"], keep=4, progress=False)
    for channel in range(5):
        inputs = sorted(graph.in_edges(f"1:{channel}", data="rank"), key=lambda edge: edge[2])
        assert [edge[0] for edge in inputs] == ["0:2", "0:5", "0:8", "0:11"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_wires_that_are_not_finite_are_counted_and_left_out(bad: float) -> None:
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv2.weight[2, 1, 1, 1] = bad
    graph = build_graph(model, ["relu1", "conv2"], keep=6, progress=False)
    assert_finite_python_numbers(graph)
    check_graph(graph)
    assert graph.graph["nonfinite"] >= 1
    assert not graph.has_edge("relu1:1", "conv2:2")
    assert graph.has_edge("relu1:0", "conv2:3")


def test_a_unit_without_any_weight_has_no_inputs() -> None:
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv2.weight[2] = 0
    graph = build_graph(model, ["relu1", "conv2"], progress=False)
    assert graph.in_degree("conv2:2") == 0
    assert graph.nodes["conv2:2"]["kept"] == 1.0


def test_classes_are_named_and_the_model_is_untouched(tiny: Model) -> None:
    first, last = tiny.layers[0].name, tiny.layers[-1].name
    with assert_untouched(tiny.net):
        graph = build_graph(tiny, [first, last], keep=2, progress=False)
    assert graph.nodes["logits:1"]["label"] == tiny.labels[1]
    assert graph.nodes[f"{first}:1"]["label"] == ""
    assert graph.graph["digest"] == tiny.digest
    assert json.loads(graph.graph["layers"]) == [first, last]


def test_building_twice_gives_the_same_graph(sketches: Model) -> None:
    first, second = (build_graph(sketches, progress=False) for _ in range(2))
    assert nx.utils.graphs_equal(first, second)
    assert list(first.edges) == list(second.edges)
    assert max(degree for _, degree in first.in_degree()) == 10


def random_model(window: int, *, heavy: bool = False, inputs: int = 24, outputs: int = 40) -> Model:
    """Two convolutions of independent weights: nothing is gathered anywhere."""
    net = nn.Sequential(
        nn.Conv2d(3, inputs, 1), nn.ReLU(), nn.Conv2d(inputs, outputs, window, padding=window // 2)
    ).eval()
    generator = torch.Generator().manual_seed(window)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) ** (3 if heavy else 1) / 10)
    return load_model(net, name="random", image_size=8, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


def numbers_of(graph: nx.DiGraph, name: str) -> np.ndarray:
    return np.array([value for *_, value in graph.edges(data=name)])


def assert_uniform(p_values: np.ndarray) -> None:
    """Kolmogorov and Smirnov at 0.001: the largest distance between the distribution of ``p_values`` and p itself."""
    ordered = np.sort(p_values)
    steps = np.arange(len(ordered) + 1) / len(ordered)
    assert max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()) < 1.95 / math.sqrt(len(ordered))


@pytest.mark.parametrize(
    ("null", "heavy"),
    [("shuffled", False), ("shuffled", True), ("redrawn", False), ("redrawn", True), ("random", False)],
)
def test_where_there_is_nothing_p_is_uniform_and_false_discoveries_are_rare(null: str, heavy: bool) -> None:
    model = random_model(3, heavy=heavy)
    with assert_untouched(model.net):
        graph = build_graph(model, ["1", "2"], keep=1000, progress=False)
        tested = significance(model, graph, null=null, progress=False)
    check_graph(tested)
    assert_finite_python_numbers(tested)
    assert_uniform(numbers_of(tested, "p_value"))
    found = {target for _, target, q in tested.edges(data="q_value") if q <= 0.1}
    assert len(found) <= 10  # of 40 units, each with any false discovery at a chance of 0.1: P(> 10) = 0.001


def test_heavy_tails_are_significant_against_normal_weights_alone() -> None:
    model = random_model(1, heavy=True, inputs=96)
    graph = build_graph(model, ["1", "2"], keep=3, progress=False)
    q = {null: numbers_of(significance(model, graph, null=null, progress=False), "q_value") for null in NULLS}
    assert (q["random"] < 0.05).mean() > 0.3
    assert (q["redrawn"] < 0.05).mean() < 0.1
    assert (q["shuffled"] == 1).all()


@pytest.mark.parametrize("null", NULLS)
def test_a_planted_edge_is_significant_and_the_others_are_not(null: str) -> None:
    model = random_model(3)
    with torch.no_grad():
        model.net[2].weight[7, 5] *= 4
    graph = build_graph(model, ["1", "2"], keep=4, progress=False)
    tested = significance(model, graph, null=null, seed=3, progress=False)
    assert tested.edges["1:5", "2:7"]["q_value"] < 0.05
    assert tested.edges["1:5", "2:7"]["p_value"] >= 1 / (1 + 40 * 24)  # never 0, however strong
    others = [q for source, target, q in tested.edges(data="q_value") if (source, target) != ("1:5", "2:7")]
    assert np.mean(np.array(others) < 0.05) < 0.05
    assert (tested.graph["null"], tested.graph["draws"], tested.graph["seed"]) == (null, 40, 3)
    assert set(tested.edges) == set(graph.edges)
    assert "q_value" not in graph.edges["1:5", "2:7"]


def test_p_is_the_share_of_all_orders_that_are_as_strong() -> None:
    """Two wires of four weights into one unit, and one that is dead: the dead one takes no part."""
    model = tiny_model("plain")
    weights = torch.zeros(7, 6, 2, 2, dtype=torch.float64)
    weights[0, 1], weights[0, 4] = torch.tensor([[3.0, 0.5], [1.0, -2.5]]), torch.tensor([[0.25, 1.0], [-1.5, 2.0]])
    wires = planted_wires(weights)
    graph = build_graph(model, ["relu1", "conv2"], wires=wires, progress=False)
    tested = significance(model, graph, wires=wires, draws=4000, progress=False)
    kernels = [weights[0, wire].flatten().tolist() for wire in (1, 4)]
    for place, wire in enumerate((1, 4)):
        p = tested.edges[f"relu1:{wire}", "conv2:0"]["p_value"]
        assert p == pytest.approx(slow_chance(kernels, place), abs=0.02)  # 4 standard errors


@pytest.mark.parametrize("null", NULLS)
def test_q_is_benjamini_and_hochbergs_over_all_inputs_of_the_unit(null: str) -> None:
    model = tiny_model("residual")
    layers = ["stem", "layer1.0.bn2", "layer1.0"]
    whole = significance(model, build_graph(model, layers, keep=99, progress=False), null=null, draws=9, progress=False)
    part = significance(model, build_graph(model, layers, keep=3, progress=False), null=null, draws=9, progress=False)
    for node in whole:
        edges = list(whole.in_edges(node, data=True))
        rates = slow_discovery_rates([data["p_value"] for *_, data in edges], len(edges))
        for (*_, data), rate in zip(edges, rates, strict=True):
            assert data["q_value"] == pytest.approx(rate)
    for edge in part.edges:
        assert part.edges[edge]["p_value"] == whole.edges[edge]["p_value"]
        assert part.edges[edge]["q_value"] >= whole.edges[edge]["q_value"] - 1e-12


def test_windows_and_wires_with_nothing_to_shuffle_are_never_significant() -> None:
    model = tiny_model("depthwise")
    graph = build_graph(model, ["relu1", "depthwise", "pointwise"], progress=False)
    tested = significance(model, graph, progress=False)
    assert graph.number_of_edges() == 6 + 6 * 8
    assert all(q == 1 for *_, q in tested.edges(data="q_value"))


def test_chance_is_drawn_from_the_seed() -> None:
    model = random_model(3)
    graph = build_graph(model, ["1", "2"], keep=5, progress=False)
    for null in NULLS:
        first, again, other = (
            significance(model, graph, null=null, draws=3, seed=seed, progress=False) for seed in (0, 0, 1)
        )
        assert nx.utils.graphs_equal(first, again)
        assert (numbers_of(first, "p_value") != numbers_of(other, "p_value")).any()


def test_what_cannot_be_tested_is_refused_with_a_sentence() -> None:
    model = tiny_model("plain")
    graph = build_graph(model, ["relu1", "conv2"], keep=2, progress=False)
    with pytest.raises(ValueError, match=r"null is 'x': known are shuffled, redrawn, random"):
        significance(model, graph, null="x")
    with pytest.raises(ValueError, match="draws is 0"):
        significance(model, graph, draws=0)
    with pytest.raises(ValueError, match="the graph's weights are by 'linearized jacobian', not 'by_hand'"):
        significance(model, graph, wires=planted_wires(torch.ones(7, 6, 3, 3)))
    with pytest.raises(ValueError, match="with other weights"):
        significance(tiny_model("plain", seed=1), graph)
    whole = build_graph(model, ["relu1", "relu2", "relu3"], keep=2, progress=False)
    numbers = dict(next(iter(whole.edges(data=True)))[2])
    whole.add_edge("relu1:0", "relu3:0", **numbers)
    with pytest.raises(ValueError, match="edges from 'relu1' to 'relu3', which that layer does not feed"):
        significance(model, whole, progress=False)
    graph.remove_edges_from(list(graph.edges))
    assert significance(model, graph, progress=False).number_of_edges() == 0


@pytest.mark.parametrize("name", NETS)
def test_the_table_holds_every_wire(name: str) -> None:
    model = tiny_model(name)
    layers = layers_with_branches(model)
    graph = build_graph(model, layers, keep=1000, progress=False)
    table = edge_table(model, layers, progress=False)
    assert table.units == tuple(graph)
    assert len(table) == graph.number_of_edges()
    columns = [column.tolist() for column in table.columns.values()]
    for source, target, *numbers in zip(*columns, strict=True):
        edge = graph.edges[table.units[source], table.units[target]]
        assert dict(zip(list(table.columns)[2:], numbers, strict=True)) == pytest.approx(edge, rel=1e-6, abs=1e-7)
    assert {str(column.dtype) for column in table.columns.values()} == {"int32", "float32"}


def test_the_table_as_a_frame_and_as_a_file(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    model = tiny_model("residual")
    layers = ["stem", "layer1.0.bn2", "layer1.0"]
    table = edge_table(model, layers, progress=False)
    frame = edge_frame(table)
    assert list(frame["source"]) == [table.units[place] for place in table.columns["source"]]
    path = write_edge_table(model, tmp_path / "new" / "wires.parquet", layers, progress=False)
    assert [each.name for each in path.parent.iterdir()] == ["wires.parquet"]
    back = pandas.read_parquet(path)
    for name in frame:
        assert list(back[name]) == list(frame[name])
    with pytest.raises(ValueError, match="no layer"):
        write_edge_table(model, path, ["stem", "stam"], progress=False)
    assert len(pandas.read_parquet(path)) == len(table)


def test_a_file_of_the_table_that_fails_halfway_leaves_what_was_there(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    model = tiny_model("plain")
    path = tmp_path / "wires.parquet"
    path.write_text("old")

    def failing(model: Model, source: str, target: str, *, cut: object = ()) -> Tensor:
        if target == "relu3":
            raise RuntimeError("halfway")
        return connect(model, source, target)

    with pytest.raises(RuntimeError, match="halfway"):
        write_edge_table(model, path, ["relu1", "relu2", "relu3"], wires=failing, progress=False)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(("extra", "verb"), [("pandas", "frame"), ("pyarrow", "file")])
def test_a_missing_extra_is_named(extra: str, verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tiny_model("plain")
    for module in [name for name in sys.modules if name.partition(".")[0] == extra] + [extra]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ModuleNotFoundError, match=rf"{extra} is not installed: pip install 'vision-circuits\[tables\]'"
    ):
        if verb == "frame":
            edge_frame(edge_table(model, ["relu1", "conv2"], progress=False))
        else:
            write_edge_table(model, tmp_path / "t.parquet", ["relu1", "conv2"], progress=False)


FORMS = list(FORMATS)
PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))
VALUES = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), PLAIN)


def assert_equal_graphs(found: nx.DiGraph, wanted: nx.DiGraph) -> None:
    """Equal in nodes, edges, their order, attributes, and the types of the attributes."""
    assert type(found) is nx.DiGraph
    assert nx.utils.graphs_equal(found, wanted)
    assert list(found) == list(wanted)
    assert list(found.edges) == list(wanted.edges)
    for mine, theirs in [
        (found.graph, wanted.graph),
        *((found.nodes[node], wanted.nodes[node]) for node in wanted),
        *((found.edges[edge], wanted.edges[edge]) for edge in wanted.edges),
    ]:
        assert {name: type(value) for name, value in mine.items()} == {n: type(v) for n, v in theirs.items()}


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=2, unique=True)
)
def test_any_name_survives_a_round_trip(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    graph = two_layer_graph((names[0], names[1]))
    folder = tmp_path_factory.mktemp("graph")
    for form in (".json", ".cyjs"):
        assert_equal_graphs(load_graph(save_graph(graph, folder / f"graph{form}")), graph)


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(PLAIN.filter(bool), min_size=2, max_size=2, unique=True),
    mine=st.dictionaries(PLAIN.map(lambda name: f"my {name}"), VALUES, max_size=3),
)
def test_any_attribute_survives_every_form(
    names: list[str], mine: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    graph = two_layer_graph((names[0], names[1]))
    graph.graph.update(mine)
    graph.nodes[f"{names[0]}:0"].update(mine)
    graph.edges[next(iter(graph.edges))].update(mine)
    folder = tmp_path_factory.mktemp("graph")
    for form in FORMS:
        assert_equal_graphs(load_graph(save_graph(graph, folder / f"graph{form}")), graph)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "value", ["", " a\tb\nc\r\nd\re ", "]]>&amp;<!--", -0.0, 5e-324, 1.7976931348623157e308, 2**70, True, "true"]
)
def test_awkward_values_survive_every_form(form: str, value: object, tmp_path: Path) -> None:
    graph = two_layer_graph()
    graph.graph["mine"] = graph.nodes["a:0"]["mine"] = graph.edges["a:0", "b:0"]["mine"] = value
    graph.nodes["b:0"]["mine"] = 3  # another type under the same name
    assert_equal_graphs(load_graph(save_graph(graph, tmp_path / f"graph{form}")), graph)


@pytest.mark.parametrize("name", ["a:b", "a.b#1", "<script>", '"&\\', "id", "source", "日本", "a b", "a/../b"])
def test_hostile_names_survive_and_networkx_reads_them(name: str, tmp_path: Path) -> None:
    graph = two_layer_graph((name, "z"))
    for form in FORMS:
        assert_equal_graphs(load_graph(save_graph(graph, tmp_path / f"graph{form}")), graph)
    back = nx.read_graphml(export_graphml(graph, tmp_path / "graph.xml"))
    assert dict(back.nodes(data=True)) == dict(graph.nodes(data=True))
    assert list(back.edges(data=True)) == list(graph.edges(data=True))
    gephi = nx.read_gexf(tmp_path / "graph.gexf")
    assert list(gephi) == list(graph)
    assert all(graph.edges[edge].items() <= gephi.edges[edge].items() for edge in graph.edges)
    assert gephi.nodes[f"{name}:0"]["label"] == f"{name}:0"
    web = nx.cytoscape_graph(json.loads((tmp_path / "graph.cyjs").read_text()))
    assert list(web.edges) == list(graph.edges)
    assert web.graph == graph.graph


@pytest.mark.parametrize("form", [".graphml", ".gexf"])
def test_names_that_xml_cannot_hold_are_refused_there(form: str, tmp_path: Path) -> None:
    graph = two_layer_graph(("a\x00b", "z"))
    with pytest.raises(ValueError, match="XML has no character"):
        save_graph(graph, tmp_path / f"graph{form}")
    assert not list(tmp_path.iterdir())
    assert nx.utils.graphs_equal(load_graph(save_graph(graph, tmp_path / "graph.json")), graph)


@pytest.mark.parametrize("form", FORMS)
def test_the_real_graph_survives_a_round_trip(form: str, sketches: Model, tmp_path: Path) -> None:
    graph = build_graph(sketches, ["mixed4c", "logits"], progress=False)
    path = save_graph(graph, tmp_path / f"graph{form}")
    assert_equal_graphs(load_graph(path), graph)
    for spoilt in (math.nan, math.inf, [math.inf]):
        graph.nodes["logits:0"]["mine"] = spoilt
        with pytest.raises(ValueError, match="the graph holds what"):
            save_graph(graph, path)
    load_graph(path)


@pytest.mark.parametrize(("form", "place", "name"), [
    (".json", "node", "id"), (".json", "edge", "source"), (".json", "edge", "target"),
    (".cyjs", "node", "name"), (".cyjs", "edge", "id"), (".cyjs", "node", "id"),
])  # fmt: skip
def test_attributes_that_would_be_lost_are_refused(form: str, place: str, name: str, tmp_path: Path) -> None:
    graph = two_layer_graph()
    (graph.nodes["a:0"] if place == "node" else graph.edges["a:0", "b:0"])[name] = "mine"
    with pytest.raises(ValueError, match=f"attribute called {name}"):
        save_graph(graph, tmp_path / f"graph{form}")


def test_a_form_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    for name in ("graph.dot", "graph"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(ValueError, match=r"end it with \.json, \.graphml, \.gexf, \.cyjs"):
            save_graph(two_layer_graph(), tmp_path / name)
        with pytest.raises(ValueError, match="names no form"):
            load_graph(tmp_path / name)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda g: g.graph.pop("schema"), "no 'schema'"),
        (lambda g: g.graph.update(schema="other"), "has schema 'other'"),
        (lambda g: g.graph.update(keep="3"), "must be int"),
        (lambda g: g.add_node("no unit"), "is no unit"),
        (lambda g: g.add_node(3), "is no unit"),
        (lambda g: g.nodes["a:0"].update(channel=1), "not the same"),
        (lambda g: g.nodes["a:0"].update(label=None), "must be text"),
        (lambda g: g.nodes["a:0"].update(depth=True), "must be a whole number"),
        (lambda g: g.edges["a:0", "b:0"].update(weight=math.inf), "must be a finite number"),
        (lambda g: g.edges["a:0", "b:0"].update(weight=10**400), "must be a finite number"),
        (lambda g: g.edges["a:0", "b:0"].pop("share"), "must be a finite number"),
        (lambda g: g.edges["a:0", "b:0"].update(rank=0.5), "must be a whole number"),
        (lambda g: g.edges["a:0", "b:0"].update(q_value=1.5), "must be between 0 and 1"),
        (lambda g: g.edges["a:0", "b:0"].update(p_value=None), "must be a finite number"),
        (lambda g: g.add_edge("b:0", "a:0", **g.edges["a:0", "b:0"]), "does not climb"),
    ],
)
def test_graphs_that_break_the_schema_are_refused_with_a_sentence(spoil: object, sentence: str, tmp_path: Path) -> None:
    graph = two_layer_graph()
    spoil(graph)  # type: ignore[operator]
    with pytest.raises(ValueError, match=sentence):
        check_graph(graph)
    with pytest.raises(ValueError, match=sentence):
        save_graph(graph, tmp_path / "graph.json")


def test_a_whole_number_that_no_float_holds_is_refused_in_a_file(tmp_path: Path) -> None:
    path = save_graph(two_layer_graph(), tmp_path / "graph.json")
    data = json.loads(path.read_text())
    data["edges"][0]["weight"] = 10**400
    path.write_text(json.dumps(data))
    assert_refused(path)


def test_a_graph_without_edges_says_why() -> None:
    graph = build_graph(tiny_model("branch_concat"), ["mixed1.one", "mixed1.three"], progress=False)
    assert not graph.edges
    assert "none of these layers feeds another" in graph.graph["empty"]
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv2.weight.zero_()
    assert "no wire has any weight" in build_graph(model, ["relu1", "conv2"], progress=False).graph["empty"]


def assert_refused(path: Path) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=re.escape(path.name)):
        load_graph(path)
    assert time.process_time() - start < 2


DAMAGED_JSON = [
    "",
    "{",
    "[]",
    "{}",
    "null",
    "3",
    '{"nodes": [], "edges": []}',
    '{"nodes": 3, "edges": []}',
    '{"nodes": [], "edges": [], "graph": null}',
    '{"nodes": [3], "edges": [], "graph": {}}',
    '{"nodes": [{}], "edges": [], "graph": {}}',
    '{"nodes": [{"id": NaN}], "edges": []}',
    '{"nodes": [{"id": {"a": 1}}], "edges": [], "graph": {}}',
    '{"nodes": [{"id": "a:0"}, {"id": "a:0"}], "edges": [], "graph": {}}',
    '{"nodes": [], "edges": [{"source": "a:0", "target": "b:0"}], "graph": {}}',
    '{"data": {}, "elements": []}',
    '{"data": {}, "elements": {"nodes": 3, "edges": 3}}',
    '{"data": {}, "elements": {"nodes": [{"data": 3}], "edges": []}}',
    '{"data": {"schema": "circuits.graph/1"}, "elements": {"nodes": [], "edges": []}}',
    "[" * 100_000,
    '{"nodes":' * 100_000,
    '{"nodes": [' + "9" * 1_000_000 + "]}",
]


@pytest.mark.parametrize("form", [".json", ".cyjs"])
@pytest.mark.parametrize("text", DAMAGED_JSON, ids=lambda text: text[:40])
def test_damaged_json_is_refused(form: str, text: str, tmp_path: Path) -> None:
    (tmp_path / f"graph{form}").write_text(text)
    assert_refused(tmp_path / f"graph{form}")


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
BODY = '<graph edgedefault="directed" defaultedgetype="directed">{}</graph>'
DAMAGED_XML = [
    "",
    "<",
    "<{root}>",
    "<html></html>",
    "<{root}/>",
    "<{root}><graph/></{root}>",
    "<{root}>" + BODY.format("") * 2 + "</{root}>",
    "<{root}>" + BODY.format("") + "</{root}>",
    "<{root}>" + BODY.format("<node/>") + "</{root}>",
    "<{root}>" + BODY.format("<node id='a:0'><data key='x'>1</data></node>") + "</{root}>",
    "<{root}>" + BODY.format("<nodes><node/></nodes><edges><edge/></edges>") + "</{root}>",
    "<{root}><key id='d' for='node' attr.name='x' attr.type='code'/>" + BODY.format("") + "</{root}>",
    "<!DOCTYPE l [<!ENTITY l0 'lol'>" + LAUGHS + "]><{root}>" + BODY.format("&l11;") + "</{root}>",
    "<!DOCTYPE l [<!ENTITY a '" + "a" * 100_000 + "'>]><{root}>" + "&a;" * 100_000 + "</{root}>",
    "<!DOCTYPE l [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><{root}>&a;</{root}>",
    "<!DOCTYPE l SYSTEM 'http://localhost:1/x.dtd'><{root}/>",
    "<{root}>&a;</{root}>",
    "<a>" * 300_000,
    "<{root}>" + "<graph>" * 300_000 + "</graph>" * 300_000 + "</{root}>",
    "<{root} " + " ".join(f"a{n}='1'" for n in range(30_000)) + "/>",
    "<?xml version='1.0' encoding='cp037'?><{root}/>",
    "<?xml version='1.0' encoding='utf-16'?><{root}/>",
    "\x00<{root}/>",
]


@pytest.mark.parametrize("form", [".graphml", ".gexf"])
@pytest.mark.parametrize("text", DAMAGED_XML, ids=lambda text: text[:40])
def test_damaged_xml_is_refused_and_nothing_expands(form: str, text: str, tmp_path: Path) -> None:
    (tmp_path / f"graph{form}").write_text(text.replace("{root}", form[1:]))
    assert_refused(tmp_path / f"graph{form}")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037", "utf-7"])
def test_entities_hidden_by_an_encoding_are_refused(encoding: str, tmp_path: Path) -> None:
    text = f"<?xml version='1.0' encoding='{encoding}'?>" + DAMAGED_XML[12].replace("{root}", "graphml")
    text = text.replace("<!", "+ADwAIQ-") if encoding == "utf-7" else text
    (tmp_path / "graph.graphml").write_bytes(text.encode(encoding) if encoding != "utf-7" else text.encode())
    assert_refused(tmp_path / "graph.graphml")


@pytest.mark.parametrize("form", FORMS)
def test_files_cut_short_or_overwritten_are_refused_or_read_as_a_graph(form: str, tmp_path: Path) -> None:
    path = save_graph(two_layer_graph(), tmp_path / f"graph{form}")
    whole = path.read_bytes().rstrip()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        assert_refused(path)
    rng = np.random.default_rng(0)
    for _ in range(300):
        spoilt = bytearray(whole)
        spoilt[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(bytes(spoilt))
        try:
            check_graph(load_graph(path))
        except ValueError as error:
            assert path.name in str(error)


def said_twice(text: str, form: str, what: str) -> str:
    """The same file with its first node or edge listed twice."""
    if form in (".graphml", ".gexf"):
        line = next(line for line in text.splitlines() if line.startswith(f"<{what} "))
        return text.replace(line, line + line)
    data = json.loads(text)
    listed = (data if form == ".json" else data["elements"])[f"{what}s"]
    listed.append(listed[0])
    return json.dumps(data)


@pytest.mark.parametrize("form", FORMS)
def test_files_that_lie_are_refused(form: str, tmp_path: Path) -> None:
    """A node twice, an edge twice or to nowhere, a cycle, numbers that are none, another schema, bytes, size."""
    path = tmp_path / f"graph{form}"
    graph = two_layer_graph()
    graph.nodes["b:0"].update(kept=0.375, mine=0.125)
    text = save_graph(graph, path).read_text()
    lies = {
        "node twice": text.replace("b:0", "a:0"),
        "cycle": re.sub(r'("?source"?[=:] ?)"a:0"(.*?target"?[=:] ?)"b:0"', r'\1"b:0"\2"a:0"', text, flags=re.S),
        "infinite": text.replace("0.125", "1e999"),
        "not a number": text.replace("0.125", "NaN"),
        "text": text.replace("0.375", '"x"' if "json" in form or "cyjs" in form else "x"),
        "schema": text.replace(SCHEMA, "circuits.graph/9"),
        **{f"the same {what}": said_twice(text, form, what) for what in ("node", "edge")},
    }
    if form in (".graphml", ".gexf"):
        entity = '<!DOCTYPE any [<!ENTITY hand "hand">]>'
        lies["entity"] = text.replace("?>", f"?>{entity}", 1).replace("by hand", "by &hand;")
        lies["encoding"] = text.replace('encoding="utf-8"', 'encoding="iso-8859-1"')
    for what, lie in lies.items():
        assert lie != text, what
        path.write_text(lie)
        assert_refused(path)
    path.write_bytes(text.encode().replace(b"by hand", b"by \xff\xfe"))
    assert_refused(path)
    with path.open("wb") as file:
        file.truncate(2**30)
    assert_refused(path)
    with path.open("r+b") as file:
        file.truncate(LARGEST_FILE)
    assert_refused(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(FileNotFoundError, match="no graph at"):
        load_graph(path)


def test_bad_input_is_refused_with_a_sentence(tmp_path: Path) -> None:
    model = tiny_model("plain")
    for keep in (0, -1, True, 2.5):
        with pytest.raises(ValueError, match="keep is"):
            build_graph(model, keep=keep)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="by is 'size': edges are chosen by strength, weight, excitation, inhibition"):
        build_graph(model, by="size")
    with pytest.raises(ValueError, match="needs two or more"):
        build_graph(model, ["conv1"], progress=False)
    with pytest.raises(ValueError, match="conv1"):
        build_graph(model, ["conv1", "konv2"], progress=False)
    with pytest.raises(TypeError, match=r"an nx\.DiGraph, not MultiDiGraph"):
        check_graph(nx.MultiDiGraph())
    with pytest.raises(TypeError, match="not Graph"):
        check_graph(nx.Graph())  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no graph at"):
        load_graph(tmp_path / "none.json")
