"""Contributions: they are what changes when a source is taken away, and they add up to the pre-activation."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest
import torch
from conftest import assert_untouched, random_images, tiny_model
from torch import Tensor

from circuits.contributions import measure_contributions
from circuits.graphs import build_graph, load_graph, save_graph
from circuits.wiring import connect
from circuits.wiring.watching import preactivations
from features.models import Model, probe


def graph_of(model: Model, *layers: str, keep: int = 3) -> nx.DiGraph:
    return build_graph(model, layers, keep=keep, progress=False)


def read(model: Model, layer: str, images: Tensor, **edits: Tensor) -> Tensor:
    with torch.no_grad(), probe(model, [layer], edits={key: (lambda x, v=v: v) for key, v in edits.items()}) as found:
        model(images)
        return found[layer].clone()


@pytest.mark.parametrize(
    ("name", "source", "target", "layer"),
    [
        ("plain", "relu1", "relu2", "conv2"),
        ("plain", "relu2", "conv3", "conv3"),
        ("strided", "relu1", "relu2", "conv2"),
        ("depthwise", "relu1", "relu2", "depthwise"),
        ("grouped", "relu2", "relu3", "conv3"),
        ("plain", "relu3", "logits", "logits"),
    ],
    ids=str,
)
def test_contributions_and_bias_are_the_preactivation_between_neighbours(
    name: str, source: str, target: str, layer: str
) -> None:
    model = tiny_model(name)
    graph = graph_of(model, source, target)
    seen = measure_contributions(model, graph, random_images(5), progress=False)
    bias = model.net.get_submodule(layer).bias.tolist()
    for channel in range(model.layer(target).channels):
        node = seen.nodes[f"{target}:{channel}"]
        edges = [seen.edges[edge]["contribution"] for edge in seen.in_edges(f"{target}:{channel}")]
        assert node["listed"] == pytest.approx(sum(edges), abs=1e-12)
        assert node["rest"] == pytest.approx(bias[channel], abs=1e-10)
        assert node["listed"] + node["unlisted"] + node["rest"] == pytest.approx(node["preactivation"], abs=1e-12)
    whole = measure_contributions(model, graph_of(model, source, target, keep=99), random_images(5), progress=False)
    assert max(abs(whole.nodes[f"{target}:{c}"]["unlisted"]) for c in range(model.layer(target).channels)) < 1e-10


def test_a_batch_norm_is_in_the_weights_and_in_the_rest() -> None:
    model = tiny_model("batch_norm")
    seen = measure_contributions(model, graph_of(model, "block1", "block2"), random_images(4), progress=False)
    norm = model.net.block2[1]
    bias = norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()
    for channel in range(7):
        assert seen.nodes[f"block2:{channel}"]["rest"] == pytest.approx(bias[channel].item(), abs=1e-10)


def test_a_contribution_is_weight_times_activation_in_the_window_of_the_peak() -> None:
    model, images = tiny_model("plain"), random_images(3)
    seen = measure_contributions(model, graph_of(model, "relu1", "relu2", keep=6), images, progress=False)
    kernels, source = connect(model, "relu1", "relu2"), read(model, "relu1", images)
    before, after = read(model, "conv2", images), read(model, "relu2", images)
    for o in range(7):
        places = [divmod(int(before[n, o].argmax()), 12) for n in range(3)]
        for i in range(6):
            total = 0.0
            for n, (y, x) in enumerate(places):
                for dy in range(3):
                    for dx in range(3):
                        if 0 <= y + dy - 1 < 12 and 0 <= x + dx - 1 < 12:
                            total += kernels[o, i, dy, dx].item() * source[n, i, y + dy - 1, x + dx - 1].item()
            assert seen.edges[f"relu1:{i}", f"relu2:{o}"]["contribution"] == pytest.approx(total / 3, abs=1e-10)
        for key, values in (("preactivation", before), ("activation", after)):
            expected = sum(values[n, o, y, x].item() for n, (y, x) in enumerate(places)) / 3
            assert seen.nodes[f"relu2:{o}"][key] == pytest.approx(expected)
    for i in range(6):
        assert seen.nodes[f"relu1:{i}"]["activation"] == pytest.approx(source[:, i].amax((1, 2)).mean().item())


def test_taking_a_source_away_takes_its_contribution_away() -> None:
    """With the other layers of the graph held, as the two ways into a residual block's sum are."""
    model, images = tiny_model("residual"), random_images(1, seed=3)
    layers = ("stem", "layer1.0.bn2", "layer1.0")
    seen = measure_contributions(model, graph_of(model, *layers, keep=16), images, progress=False)
    before = preactivations(model, "layer1.0", images)
    for source in ("stem", "layer1.0.bn2"):
        clean = read(model, source, images)
        held = {} if source == "layer1.0.bn2" else {"layer1.0.bn2": read(model, "layer1.0.bn2", images)}
        for channel in range(8):
            without = clean.clone()
            without[:, channel] = 0
            with probe(
                model, [], edits={key: (lambda x, v=v: v) for key, v in {source: without, **held}.items()}, stop=False
            ):
                after = preactivations(model, "layer1.0", images)
            place = before[0, channel].argmax()
            change = (before - after)[0, channel].flatten()[place].item()
            edge = seen.edges[f"{source}:{channel}", f"layer1.0:{channel}"]
            assert edge["contribution"] == pytest.approx(change, abs=1e-10)
    assert all(abs(seen.nodes[f"layer1.0:{channel}"]["rest"]) < 1e-10 for channel in range(8))


def test_edges_are_ranked_and_signed() -> None:
    model = tiny_model("plain")
    seen = measure_contributions(model, graph_of(model, "conv1", "conv2", keep=5), random_images(2), progress=False)
    signs = set()
    for node in [f"conv2:{channel}" for channel in range(7)]:
        edges = sorted((seen.edges[edge] for edge in seen.in_edges(node)), key=lambda edge: edge["contribution_rank"])
        assert [edge["contribution_rank"] for edge in edges] == list(range(5))
        sizes = [abs(edge["contribution"]) for edge in edges]
        assert sizes == sorted(sizes, reverse=True)
        signs |= {edge["contribution"] > 0 for edge in edges}
    assert signs == {True, False}


def test_every_unit_can_be_shown_its_own_images() -> None:
    model, graph = tiny_model("plain"), graph_of(tiny_model("plain"), "relu1", "relu2", "relu3")
    own = {"relu2:1": random_images(2, seed=1), "relu3:4": random_images(3, seed=2)}
    seen = measure_contributions(model, graph, own, progress=False)
    for unit, images in own.items():
        alone = measure_contributions(model, graph, images, progress=False)
        for edge in graph.in_edges(unit):
            assert seen.edges[edge] == pytest.approx(alone.edges[edge])
    others = [edge for edge in graph.edges if edge[1] not in own]
    assert others and all("contribution" not in seen.edges[edge] for edge in others)


def test_batches_change_nothing_and_files_keep_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, graph = tiny_model("branch_concat"), graph_of(tiny_model("branch_concat"), "stem", "mixed1", "mixed2")
    before = nx.node_link_data(graph, edges="edges")
    seen = measure_contributions(model, graph, random_images(5), progress=False)
    assert nx.node_link_data(graph, edges="edges") == before
    assert nx.utils.graphs_equal(load_graph(save_graph(seen, tmp_path / "graph.json")), seen)
    assert seen.graph["contribution_images"] == 5
    monkeypatch.setattr("circuits.contributions.BATCH", 2)
    monkeypatch.setattr("circuits.contributions.ROWS", 1)
    again = measure_contributions(model, graph, random_images(5), progress=False)
    for edge in seen.edges:
        assert again.edges[edge] == pytest.approx(seen.edges[edge])


@pytest.mark.parametrize(
    ("name", "layers"),
    [("tokens", ("patches", "blocks.0", "blocks.1", "logits")), ("nhwc", ("stem", "blocks.0", "logits"))],
)
def test_tokens_and_channels_last_work_too(name: str, layers: tuple[str, ...]) -> None:
    model = tiny_model(name)
    seen = measure_contributions(model, graph_of(model, *layers), random_images(2), progress=False)
    assert all("contribution" in edge for _, _, edge in seen.edges(data=True))
    assert len(list(seen.in_edges("logits:0"))) == 3


def test_the_model_comes_back_as_it_was_and_bad_input_is_refused() -> None:
    model = tiny_model("plain")
    graph, images = graph_of(model, "relu1", "relu2"), random_images(2)
    with assert_untouched(model.net):
        measure_contributions(model, graph, images, progress=False)
    with pytest.raises(ValueError, match="other weights"):
        measure_contributions(tiny_model("plain", seed=1), graph, images, progress=False)
    with pytest.raises(ValueError, match="no edges"):
        measure_contributions(model, nx.create_empty_copy(graph), images, progress=False)
    with pytest.raises(ValueError, match=r"shape \(0, 3, 12, 12\)"):
        measure_contributions(model, graph, images[:0], progress=False)
    with pytest.raises(ValueError, match=r"of 'relu2:0' have shape"):
        measure_contributions(model, graph, {"relu2:0": images[0]}, progress=False)
    with pytest.raises(ValueError, match="'relu1:0' is no unit with inputs"):
        measure_contributions(model, graph, {"relu1:0": images}, progress=False)
    with pytest.raises(ValueError, match="no unit was given images"):
        measure_contributions(model, graph, {}, progress=False)
    with pytest.raises(TypeError, match=r"an nx\.DiGraph"):
        measure_contributions(model, nx.Graph(), images, progress=False)
    with pytest.raises(TypeError, match="images are str"):
        measure_contributions(model, graph, "images", progress=False)  # type: ignore[arg-type]
