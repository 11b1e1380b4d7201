"""Explanations: the wires of one picture add up, name what an experiment names, and the page shows it literally."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from conftest import assert_untouched, random_images, tiny_model
from torch import Tensor, nn

from circuits.__main__ import main
from circuits.explanations import explain, explanation_graph, write_explanation
from circuits.graphs import check_graph, load_graph, save_graph
from circuits.queries import upstream
from features.attribution import attribute_channels_along_path
from features.models import Model, load_model, probe
from features.objectives import diversity
from features.pictures import write_picture
from features.sketches import HELD_OUT_SEED, Sketches

# Layers after their ReLUs: between these a network is piecewise linear, and what an edge misses are biases.
CHAINS = {
    "plain": ["relu1", "relu2", "relu3"],
    "branch_concat": ["mixed1", "mixed2"],
    "residual": ["stem", "layer1.0", "layer1.1"],
    "pooled": ["pool1", "relu2", "relu3"],
    "strided": ["relu1", "relu2", "relu3"],
}


def trace(model: Model, image: Tensor, target: Any = 2, layers: Any = None, **options: Any) -> nx.DiGraph:
    return explanation_graph(
        model, image, target, layers, **{"progress": False, "width": 100, "breadth": 100, **options}
    )


def unbiased(name: str) -> Model:
    model = tiny_model(name)
    for key, value in model.net.state_dict().items():
        if key.endswith(("bias", "running_mean")):
            value.zero_()
    return model


@pytest.mark.parametrize("name", CHAINS)
def test_without_biases_the_edges_into_a_unit_add_up_to_what_it_gives(name: str) -> None:
    """A piecewise linear network without biases is homogeneous: all of a unit's attribution comes from its sources."""
    model, image = unbiased(name), random_images(1, seed=3)
    graph = trace(model, image, layers=CHAINS[name])
    check_graph(graph)
    with torch.no_grad():
        logit = float(model(image)[0, 2])
    assert graph.nodes["logits:2"]["attribution"] == pytest.approx(logit, rel=1e-9)
    for node, degree in graph.in_degree():
        if degree:
            arriving = sum(data["weight"] for *_, data in graph.in_edges(node, data=True))
            assert arriving == pytest.approx(graph.nodes[node]["attribution"], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_attributions_are_activation_times_gradient(name: str) -> None:
    model, image = tiny_model(name), random_images(1, seed=4)
    layers = CHAINS[name]
    graph = trace(model, image, layers=layers)
    with torch.enable_grad(), probe(model, [*layers, "logits"]) as activations:
        model(image.clone().requires_grad_())
        readings = [activations[layer] for layer in layers]
        grads = torch.autograd.grad(activations["logits"][0, 2], readings)
    for layer, reading, grad in zip(layers, readings, grads, strict=True):
        expected = (reading * grad).sum((0, 2, 3)).detach()
        for node, data in graph.nodes(data=True):
            if data["layer"] == layer:
                assert data["attribution"] == pytest.approx(float(expected[data["channel"]]), rel=1e-9, abs=1e-12), node


def test_an_edge_is_what_silencing_its_source_takes_from_its_target() -> None:
    """To first order, for a small change: scaled by 1 - e, the source takes e times the edge from the target's share,
    others held."""
    model, image = tiny_model("plain"), random_images(1, seed=5)
    graph = trace(model, image, layers=CHAINS["plain"])
    step = 1e-6
    with torch.no_grad(), probe(model, ["relu2", "relu3", "logits"]) as activations:
        model(image)
        before = activations["relu3"].clone()
    with torch.enable_grad(), probe(model, ["relu3", "logits"]) as activations:
        model(image.clone().requires_grad_())
        (slope,) = torch.autograd.grad(activations["logits"][0, 2], activations["relu3"])
    for channel in range(7):

        def lower(values: Tensor, channel: int = channel) -> Tensor:
            factors = torch.ones(7, dtype=torch.float64)
            factors[channel] = 1 - step
            return values * factors[:, None, None]

        with torch.no_grad(), probe(model, ["relu3"], edits={"relu2": lower}) as activations:
            model(image)
            lost = ((before - activations["relu3"]) * slope).sum((0, 2, 3)) / step
        for target in range(8):
            edge = graph.get_edge_data(f"relu2:{channel}", f"relu3:{target}", {"weight": 0.0})
            assert edge["weight"] == pytest.approx(float(lost[target]), rel=1e-4, abs=1e-7)


def test_what_passes_through_another_listed_layer_is_not_counted_twice() -> None:
    """In a residual network the stem feeds the second block through the first only."""
    model, image = tiny_model("residual"), random_images(1)
    graph = trace(model, image, layers=["stem", "layer1.0", "layer1.1"])
    pairs = {(graph.nodes[a]["layer"], graph.nodes[b]["layer"]) for a, b in graph.edges}
    assert pairs == {("stem", "layer1.0"), ("layer1.0", "layer1.1"), ("layer1.1", "logits")}


def test_a_skip_past_a_listed_layer_carries_only_itself() -> None:
    """The stem feeds a block's end by the skip, and through its convolution, which is listed too: each way once."""
    model, image = unbiased("residual"), random_images(1, seed=3)
    graph = trace(model, image, layers=["stem", "layer1.0.conv2", "layer1.0"])
    pairs = {(graph.nodes[a]["layer"], graph.nodes[b]["layer"]) for a, b in graph.edges}
    assert ("stem", "layer1.0") in pairs and ("layer1.0.conv2", "layer1.0") in pairs
    for node, degree in graph.in_degree():
        if degree and graph.nodes[node]["layer"] == "layer1.0":
            arriving = sum(data["weight"] for *_, data in graph.in_edges(node, data=True))
            assert arriving == pytest.approx(graph.nodes[node]["attribution"], rel=1e-6, abs=1e-9)


def test_width_and_breadth_keep_what_carries_most() -> None:
    model, image = tiny_model("plain"), random_images(1, seed=7)
    whole, few = (
        trace(model, image, layers=CHAINS["plain"]),
        trace(model, image, layers=CHAINS["plain"], width=2, breadth=3),
    )
    assert max(degree for _, degree in few.in_degree()) <= 2
    for layer in CHAINS["plain"]:
        units = [node for node, data in few.nodes(data=True) if data["layer"] == layer]
        assert 1 <= len(units) <= 3
    strongest = sorted(whole.in_edges("logits:2", data="weight"), key=lambda edge: -abs(edge[2]))[:2]
    assert {source for source, *_ in strongest} == set(few.predecessors("logits:2"))
    for a, b, data in few.edges(data=True):
        assert data["weight"] == pytest.approx(whole.edges[a, b]["weight"])
    influences = [data["influence"] for _, data in whole.nodes(data=True) if data["layer"] == "relu3"]
    assert sum(influences) == pytest.approx(1)


def test_the_graph_is_a_circuit_like_any_other(tmp_path: Path) -> None:
    graph = trace(tiny_model("branch_concat"), random_images(1), layers=["mixed1", "mixed2"], width=3)
    again = load_graph(save_graph(graph, tmp_path / "g.json"))
    assert nx.utils.graphs_equal(again, graph)
    assert set(upstream(graph, "logits:2", depth=1, width=3)) == {"logits:2", *graph.predecessors("logits:2")}


def test_the_default_target_is_the_likeliest_class() -> None:
    model, image = tiny_model("plain"), random_images(1)
    with torch.no_grad():
        likeliest = int(model(image)[0].argmax())
    assert trace(model, image[0], None).graph["target"] == f"logits:{likeliest}"


def test_nothing_is_left_behind(tiny: Model) -> None:
    image = random_images(1)
    before = image.clone()
    layers = ["blocks.0"] if tiny.name in ("tokens", "nhwc") else None
    with assert_untouched(tiny.net):
        explanation_graph(tiny, image, 1, layers, width=2, progress=False)
    assert torch.equal(image, before) and not image.requires_grad


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"target": "gama"}, "no label or unit 'gama': nearest are 'gamma'"),
    ({"target": diversity("relu1")}, "is no single unit: give a class or a unit"),
    ({"layers": ["logits"]}, "no layer before 'logits:2' was given"),
    ({"layers": ["relu9"]}, "no layer 'relu9': nearest are"),
    ({"width": 0}, "width is 0: give a number of units to follow, 1 or more"),
    ({"breadth": True}, "breadth is True"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_bad_requests_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        trace(tiny_model("plain"), random_images(1), **options)


def test_several_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 images were given: an explanation is of one"):
        trace(tiny_model("plain"), random_images(2))


# The join


def test_an_explanation_joins_channels_with_what_is_known_of_them(sketches: Model) -> None:
    world = Sketches(66, seed=HELD_OUT_SEED)
    image = world[0][0]
    found = explain(
        sketches, image, world.labels[world[0][1]], "mixed4b", dataset=world, count=3, pictures=False, progress=False
    )
    channels = attribute_channels_along_path(
        sketches, image[None], world.labels[world[0][1]], layer="mixed4b", progress=False
    )
    assert [(carrier.unit, carrier.share) for carrier in found.carriers] == channels.top(0, count=3)
    assert found.covered == pytest.approx(sum(abs(carrier.share) for carrier in found.carriers))
    for carrier in found.carriers:
        assert carrier.heat.shape == (64, 64) and len(carrier.examples) > 0 and carrier.verdict
        coarse = channels.products[0, carrier.unit.channel]
        assert np.sign(carrier.heat.sum()) == np.sign(coarse.sum()) == np.sign(carrier.share)
    assert found.graph.graph["target"] == f"logits:{world[0][1]}" and found.target == world.labels[world[0][1]]
    shown = found._repr_html_()
    assert all(str(carrier.unit) in shown for carrier in found.carriers) and shown.count("<img") > 5


def test_the_page_shows_hostile_names_literally(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)))
    model = load_model(
        net.eval(), name=hostile, image_size=12, mean=(0.5,) * 3, std=(1.0,) * 3, labels=(hostile, "\u202eb")
    )
    found = explain(model, random_images(1)[0].float(), 0, pictures=False, progress=False)
    page = write_explanation(found, tmp_path / "page.html", progress=False).read_text(encoding="utf-8")
    assert hostile not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "\u202e" not in page
    assert page == write_explanation(found, tmp_path / "again.html", progress=False).read_text(encoding="utf-8")
    assert "default-src 'none'" in page


def test_examples_of_other_weights_are_refused(sketches: Model) -> None:
    class Other:
        digest, model, layers = "other", "other", ()

    with pytest.raises(ValueError, match="the examples are of other weights"):
        explain(sketches, torch.rand(3, 64, 64), "car", examples=Other(), pictures=False, progress=False)  # type: ignore[arg-type]


# The command line


def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write_picture(Sketches(1, seed=HELD_OUT_SEED)[0][0].permute(1, 2, 0).numpy(), tmp_path / "p.png")
    page = tmp_path / "page.html"
    asked = ["--target", "car", "--layer", "mixed4b", "--layers", "mixed4b,mixed4c", "--quick", "--quiet"]
    assert main(["explain", str(picture), *asked, "--out", str(page)]) == 0
    assert "car = " in capsys.readouterr().out
    assert "Why sketches sees <bdi>car</bdi> here" in page.read_text(encoding="utf-8")


WRONG: list[tuple[list[str], str]] = [
    (["--target", "caar"], "no label or unit 'caar': nearest are 'car'"),
    (["--layer", "logits"], "--layer logits has no positions"),
    (["--layer", "mixed9"], "no layer 'mixed9'"),
    (["--out", "page.pdf"], "--out page.pdf names no page: end it with .html"),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_a_command_that_cannot_be_is_refused(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = write_picture(np.full((20, 30, 3), 0.5), tmp_path / "p.png")
    assert main(["explain", str(picture), *options]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.png").write_bytes(b"no picture")
    assert main(["explain", str(tmp_path / "p.png")]) == 2
    assert "p.png" in capsys.readouterr().err
