"""Graphs: the strongest wires, with numbers that say what the kernels say; saved and read back equal."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import NETS, assert_untouched, fill, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from circuits.graphs import SCHEMA, build_graph, check_graph, export_graphml, load_graph, save_graph
from circuits.wiring import connect
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


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, max_size=2, unique=True)
)
def test_any_name_survives_a_round_trip(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    graph = two_layer_graph((names[0], names[1]))
    path = tmp_path_factory.mktemp("graph") / "graph.json"
    assert nx.utils.graphs_equal(load_graph(save_graph(graph, path)), graph)


@pytest.mark.parametrize("name", ["a:b", "a.b#1", "<script>", '"&\\', "id", "source", "日本", "a b", "a/../b"])
def test_hostile_names_survive_json_and_graphml(name: str, tmp_path: Path) -> None:
    graph = two_layer_graph((name, "z"))
    assert nx.utils.graphs_equal(load_graph(save_graph(graph, tmp_path / "graph.json")), graph)
    back = nx.read_graphml(export_graphml(graph, tmp_path / "graph.graphml"))
    assert dict(back.nodes(data=True)) == dict(graph.nodes(data=True))
    assert list(back.edges(data=True)) == list(graph.edges(data=True))


def test_names_that_xml_cannot_hold_are_refused_there(tmp_path: Path) -> None:
    graph = two_layer_graph(("a\x00b", "z"))
    with pytest.raises(ValueError, match="GraphML cannot"):
        export_graphml(graph, tmp_path / "graph.graphml")
    assert not list(tmp_path.iterdir())
    assert nx.utils.graphs_equal(load_graph(save_graph(graph, tmp_path / "graph.json")), graph)


def test_the_real_graph_survives_a_round_trip(sketches: Model, tmp_path: Path) -> None:
    graph = build_graph(sketches, ["mixed4c", "logits"], progress=False)
    assert nx.utils.graphs_equal(load_graph(save_graph(graph, tmp_path / "graph.json")), graph)
    with pytest.raises(ValueError, match="JSON cannot"):
        graph.nodes["logits:0"]["mine"] = math.nan
        save_graph(graph, tmp_path / "graph.json")
    load_graph(tmp_path / "graph.json")


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
        (lambda g: g.edges["a:0", "b:0"].pop("share"), "must be a finite number"),
        (lambda g: g.edges["a:0", "b:0"].update(rank=0.5), "must be a whole number"),
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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"nodes": [], "edges": []}',
        '{"nodes": 3, "edges": []}',
        '{"nodes": [{"id": NaN}], "edges": []}',
        '{"nodes": [{"id": "a:0"}, {"id": "a:0"}], "edges": [], "graph": {}}',
        '{"nodes": [], "edges": [{"source": "a:0", "target": "b:0"}], "graph": {}}',
        "[" * 100_000,
    ],
)
def test_damaged_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(text)
    with pytest.raises(ValueError, match=r"graph\.json"):
        load_graph(tmp_path / "graph.json")


def test_bad_input_is_refused_with_a_sentence(tmp_path: Path) -> None:
    model = tiny_model("plain")
    for keep in (0, -1, True, 2.5):
        with pytest.raises(ValueError, match="keep is"):
            build_graph(model, keep=keep)  # type: ignore[arg-type]
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
