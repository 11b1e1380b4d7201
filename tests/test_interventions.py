"""Interventions: what is switched off is off and nothing else; what wires predict is what experiments measure."""

from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import assert_untouched, fill, random_images, tiny_model
from torch import Tensor, nn

from circuits.graphs import build_graph, check_graph
from circuits.interventions import FAINT, FEWEST, ablate, patch, verify
from circuits.queries import upstream
from features.models import Model, load_model, probe
from features.units import Unit


def read(model: Model, layer: str, images: Tensor) -> Tensor:
    with torch.no_grad(), probe(model, [layer]) as activations:
        model(images)
        return activations[layer].clone()


class Linear(nn.Module):
    """Convolutions, a skip connection and an average pool: a network that is linear already."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.pool, self.third = nn.AvgPool2d(2), nn.Conv2d(4, 5, 3, stride=2)
        self.block = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return self.third(self.pool(self.block(first + self.second(first))))


def linear_model() -> Model:
    net = fill(Linear().double().eval())
    return load_model(net, name="linear", image_size=12, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())


@pytest.mark.parametrize("ablation", ["mean", 0.0, 0.7])
def test_in_a_linear_network_the_prediction_is_the_measurement(ablation: float | str) -> None:
    model = linear_model()
    graph = build_graph(model, ["first", "second", "block", "third"], keep=8, progress=False)
    checked = verify(model, graph, random_images(8), ablation=ablation, progress=False)
    assert checked.number_of_edges() == graph.number_of_edges() > 40
    for _, _, data in checked.edges(data=True):
        assert data["measured"] == pytest.approx(data["predicted"], rel=1e-9, abs=1e-12)
        assert data["agreement"] == (1.0 if data["tested"] else 0.0)
        assert data["verdict"] == ("confirmed" if data["tested"] >= FEWEST else "untestable")
    verdicts = json.loads(checked.graph["verdicts"])
    assert verdicts["confirmed"] > 0.6 * checked.number_of_edges()
    assert sum(verdicts.values()) == checked.number_of_edges()


def test_the_effect_is_that_of_one_edge_alone() -> None:
    """By hand: hold one unit of `first` for `block` alone, leaving `second` as it was, and read `block`."""
    model, images = linear_model(), random_images(6)
    graph = build_graph(model, ["first", "second", "block"], keep=8, progress=False)
    checked = verify(model, graph, images, ablation=0.0, progress=False)
    first = read(model, "first", images)
    for channel in range(4):
        data = checked.edges[f"first:{channel}", f"block:{channel}"]
        assert data["weight"] == 1.0
        assert data["measured"] == pytest.approx(first[:, channel].flatten(1).amax(1).clamp(min=0).mean().item())


def test_a_planted_wire_is_confirmed_and_a_lying_graph_contradicted() -> None:
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv2.weight.mul_(0.05)
        model.net.conv2.bias.fill_(0.5)
        model.net.conv2.weight[4, 3, 1, 1] = 3.0
        model.net.conv2.weight[5, 3, 1, 1] = -1.0
    graph = build_graph(model, ["relu1", "relu2"], keep=6, progress=False)
    for _, _, data in graph.edges(data=True):
        data["mine"] = "kept"
    checked = verify(model, graph, random_images(12), progress=False)
    check_graph(checked)
    assert checked.edges["relu1:3", "relu2:4"]["verdict"] == "confirmed"
    assert checked.edges["relu1:3", "relu2:4"]["measured"] > 0
    assert checked.edges["relu1:3", "relu2:5"]["measured"] < 0
    assert {data["mine"] for *_, data in checked.edges(data=True)} == {"kept"}
    assert "verdict" not in graph.edges["relu1:3", "relu2:4"]


def test_a_wire_that_acts_against_its_weight_is_contradicted() -> None:
    """Far below 0 SiLU falls where its argument rises; the linear map takes it to rise everywhere."""
    net = fill(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1), nn.SiLU()).double().eval())
    with torch.no_grad():
        net[1].weight.mul_(0.2)
        net[1].bias.fill_(-4.0)
    model = load_model(net, name="net", image_size=6, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())
    graph = build_graph(model, ["0", "2"], keep=2, progress=False)
    checked = verify(model, graph, random_images(8, size=6), progress=False)
    assert {data["verdict"] for *_, data in checked.edges(data=True)} == {"contradicted"}
    assert {data["agreement"] for *_, data in checked.edges(data=True)} == {0.0}


def test_what_relus_hold_back_is_weak_or_untestable() -> None:
    model = tiny_model("plain")
    with torch.no_grad():
        model.net.conv2.bias.fill_(-1e6)
    graph = build_graph(model, ["relu1", "relu2"], keep=3, progress=False)
    checked = verify(model, graph, random_images(8), progress=False)
    assert {data["verdict"] for *_, data in checked.edges(data=True)} == {"untestable"}
    assert {data["tested"] for *_, data in checked.edges(data=True)} == {0}
    few = verify(tiny_model("plain"), build_graph(tiny_model("plain"), ["relu1", "relu2"], keep=3, progress=False),
                 random_images(2), progress=False)  # fmt: skip
    assert {data["verdict"] for *_, data in few.edges(data=True)} == {"untestable"}


def test_a_saturated_target_is_weak() -> None:
    """A tanh-like clamp passes under a tenth of what the linear map predicts."""
    net = fill(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1), nn.Hardtanh(-1e-3, 1e-3)).double().eval())
    model = load_model(net, name="net", image_size=6, mean=(0.5,) * 3, std=(0.25,) * 3, labels=())
    graph = build_graph(model, ["0", "2"], keep=2, progress=False)
    checked = verify(model, graph, random_images(8, size=6), progress=False)
    for *_, data in checked.edges(data=True):
        assert abs(data["measured"]) < FAINT * abs(data["predicted"])
        assert data["verdict"] in {"weak", "contradicted"}


def test_every_tiny_network_can_be_verified_and_is_left_alone(tiny: Model) -> None:
    first, last = tiny.layers[0].name, tiny.layers[-1].name
    graph = build_graph(tiny, [first, tiny.layers[-2].name, last], keep=2, progress=False)
    with assert_untouched(tiny.net):
        checked = verify(tiny, graph, random_images(6), batch=4, progress=False)
    for *_, data in checked.edges(data=True):
        assert all(math.isfinite(data[key]) for key in ("predicted", "measured", "agreement", "tested"))
        assert data["verdict"] in {"confirmed", "weak", "contradicted", "untestable"}
    assert checked.graph["images"] == 6


def test_batches_do_not_matter() -> None:
    model = tiny_model("pooled")
    graph = upstream(build_graph(model, progress=False), "logits:0", depth=2, width=3)
    one, many = (verify(model, graph, random_images(9), batch=batch, progress=False) for batch in (9, 2))
    for edge in graph.edges:
        assert one.edges[edge]["measured"] == pytest.approx(many.edges[edge]["measured"])
        assert one.edges[edge]["verdict"] == many.edges[edge]["verdict"]


def test_ablated_units_are_constant_and_the_others_as_they_were(tiny: Model) -> None:
    layer, images = tiny.layers[0].name, random_images(3)
    before = read(tiny, layer, images)
    with assert_untouched(tiny.net):
        with ablate(tiny, [f"{layer}:0", Unit(layer, 2)], value={f"{layer}:0": 1.5, f"{layer}:2": -2.0}):
            after = read(tiny, layer, images)
        with ablate(tiny, f"{layer}:1", value="mean", images=images):
            mean = read(tiny, layer, images)
    assert (after[:, 0] == 1.5).all()
    assert (after[:, 2] == -2).all()
    assert torch.equal(after[:, 3:], before[:, 3:])
    torch.testing.assert_close(mean[:, 1], before[:, 1].mean().expand_as(mean[:, 1]))
    assert torch.equal(read(tiny, layer, images), before)


def test_patched_units_have_the_values_of_the_other_images(tiny: Model) -> None:
    layer = tiny.layers[1].name
    here, there = random_images(2, seed=1), random_images(2, seed=2)
    with assert_untouched(tiny.net), patch(tiny, [f"{layer}:1"], there):
        mixed = read(tiny, layer, here)
    assert torch.equal(mixed[:, 1], read(tiny, layer, there)[:, 1])
    assert torch.equal(mixed[:, 0], read(tiny, layer, here)[:, 0])
    with patch(tiny, [f"{layer}:1"], there[:1]):
        assert torch.equal(read(tiny, layer, here)[1, 1], read(tiny, layer, there)[0, 1])


def test_the_network_comes_back_after_an_exception() -> None:
    model = tiny_model("plain")
    with assert_untouched(model.net), pytest.raises(ZeroDivisionError), ablate(model, "conv1:0"):
        raise ZeroDivisionError


def test_bad_input_is_refused_with_a_sentence() -> None:
    model, images = tiny_model("plain"), random_images(6)
    graph = build_graph(model, ["relu1", "relu2"], keep=1, progress=False)
    for bad, sentence in [([], "no unit was given"), (["conv1:99"], "no channel 99"), (["konv:0"], "conv")]:
        with pytest.raises(ValueError, match=sentence), ablate(model, bad):
            pass
    for value in (math.nan, "median", True, {}):
        with pytest.raises(ValueError, match=r"'mean'"), ablate(model, "conv1:0", value=value):  # type: ignore[arg-type]
            pass
    with pytest.raises(ValueError, match="give images="), ablate(model, "conv1:0", value="mean"):
        pass
    with pytest.raises(ValueError, match="show as many"), patch(model, "conv1:0", images[:3]):
        model(images)
    with pytest.raises(ValueError, match="other weights"):
        verify(tiny_model("plain", seed=1), graph, images)
    with pytest.raises(ValueError, match="at least 5"):
        verify(model, graph, images[:0])
    with pytest.raises(ValueError, match="no edges"):
        verify(model, graph.edge_subgraph([]).copy(), images)
    with pytest.raises(ValueError, match="not 'median'"):
        verify(model, graph, images, ablation="median")
