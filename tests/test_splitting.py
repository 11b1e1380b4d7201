"""Splitting: a unit put together by hand comes apart again, edge by edge, and everything else in the toolkit agrees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import reference
import torch
from conftest import assert_untouched, random_images, tiny_model
from torch import Tensor, nn

from circuits.diagrams.layouts import arrange
from circuits.graphs import build_graph, check_graph, load_graph, save_graph
from circuits.meanings import polysemanticity
from circuits.meanings.splitting import (
    Split,
    meaning_node,
    meaning_of,
    read_split,
    split,
    split_by_pictures,
    split_graph,
    write_split,
)
from circuits.meanings.splitting.grouping import nearest
from circuits.meanings.splitting.inflow import Looked, inflow, without
from circuits.meanings.splitting.portraits import held, start_of
from circuits.meanings.splitting.selectivity import measure, own_edges, selectivity_of
from circuits.planted.merging import Merge, merged
from circuits.queries import upstream
from features.examples import Examples, find_examples
from features.models import Model, load_model, probe
from features.sketches import HELD_OUT_SEED, Sketches
from features.units import Unit

RED, GREEN, BLUE = range(3)
NAMES = ("red", "green", "blue")


class Colours(nn.Module):
    """``eyes``: red, green, blue and bright, each where it is strong; ``things``: unit 0 is red or blue (two meanings),
    unit 1 green, unit 2 bright, unit 3 red but not blue."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes, self.things = (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
        )
        self.logits = nn.Linear(4, 3)
        with torch.no_grad():
            for each in self.parameters():
                each.zero_()
            self.eyes[0].weight[:3, :, 0, 0] = 2 * torch.eye(3) - 0.5
            self.eyes[0].weight[3] = 0.3
            middle = self.things[0].weight[:, :, 1, 1]
            middle[0, [RED, BLUE]] = torch.tensor([1.0, 0.9])
            middle[1, GREEN], middle[2, 3], middle[3, RED], middle[3, BLUE] = 1.0, 1.0, 1.0, -1.0
            self.things[0].weight[0, RED, 0, 2] = 0.5  # from up and right too
            middle[0, 3] = -0.1  # and not where it is bright
            self.things[0].bias[0] = 0.05
            self.logits.weight += torch.rand(3, 4, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.things(self.eyes(x)).mean((2, 3)))


class Patches(list[tuple[Tensor, int]]):
    """Pictures of one patch each, red, green or blue, in grey noise."""

    classes = NAMES

    def __init__(self, count: int = 48) -> None:
        generator = torch.Generator().manual_seed(1)
        for index in range(count):
            image = 0.1 * torch.rand(3, 12, 12, generator=generator, dtype=torch.float64)
            y, x = torch.randint(1, 8, (2,), generator=generator).tolist()
            image[index % 3, y : y + 4, x : x + 4] += 0.5 + 0.3 * torch.rand((), generator=generator)
            self.append((image.clamp(0, 1), index % 3))


@pytest.fixture(scope="module")
def colours() -> Model:
    return load_model(
        Colours().double().eval(), name="colours", image_size=12, mean=(0.0,) * 3, std=(1.0,) * 3, labels=NAMES
    )


@pytest.fixture(scope="module")
def patches() -> Patches:
    return Patches()


@pytest.fixture(scope="module")
def graph(colours: Model) -> nx.DiGraph[str]:
    return build_graph(colours, ["eyes", "things", "logits"], keep=4, progress=False)


@pytest.fixture(scope="module")
def examples(colours: Model, patches: Patches) -> Examples:
    return find_examples(colours, patches, ["eyes", "things"], count=32, progress=False)


@pytest.fixture(scope="module")
def found(colours: Model, graph: nx.DiGraph[str], examples: Examples, patches: Patches) -> Split:
    groups = examples["things:0"].label // BLUE
    return split(colours, graph, "things:0", examples, patches, groups=groups, steps=20, progress=False)


def looked_at(model: Model, unit: str, layers: list[str], images: Tensor) -> Looked:
    """Look at ``unit`` where it is largest in each image."""
    own = Unit.of(unit)
    with torch.no_grad(), probe(model, [own.layer]) as activations:
        model(images)
        maps = activations[own.layer][:, own.channel].clone()
    wide = maps.shape[2] if maps.ndim == 3 else 1
    place = maps.reshape(len(maps), -1).argmax(1)
    return Looked.at(model, own, layers, images, torch.stack([place // wide, place % wide], 1).numpy())


# what is carried, and what is cut


def test_contributions_are_weights_times_activations() -> None:
    model, images = tiny_model("plain"), random_images(5)
    for channel in range(7):
        looked = looked_at(model, f"relu2:{channel}", ["relu1", "relu2"], images)
        given = inflow(looked)
        expected = reference.window_products(model.net.conv2, _seen(model, images), channel, looked.position)
        on = given.values > 0
        np.testing.assert_allclose(given.carried[on], expected[on], atol=1e-12)
        bias = model.net.conv2.bias[channel].item()
        np.testing.assert_allclose(given.carried[on].sum(1) + bias, given.values[on], atol=1e-12)


def _seen(model: Model, images: Tensor) -> np.ndarray:
    with torch.no_grad(), probe(model, ["relu1"]) as activations:
        model(images)
        return activations["relu1"].numpy().copy()


def test_an_edge_cut_is_its_contribution_taken_away() -> None:
    model, images = tiny_model("plain"), random_images(6)
    looked = looked_at(model, "relu2:3", ["relu1", "relu2", "relu3"], images)
    given = inflow(looked)
    for removed in ([0], [1, 4], list(range(6))):
        after = without(looked, [f"relu1:{channel}" for channel in removed])
        expected = np.maximum(given.values - given.carried[:, removed].sum(1), 0)
        np.testing.assert_allclose(after, expected, atol=1e-12)


def test_cutting_nothing_changes_nothing_in_any_network(tiny: Model) -> None:
    layers = list(tiny.default_layers)[-3:]
    images = random_images(3)
    looked = looked_at(tiny, f"{layers[-1]}:1", layers, images)
    with assert_untouched(tiny.net):
        given = inflow(looked)
        np.testing.assert_allclose(without(looked, []), given.values, atol=1e-12)
        cut = without(looked, given.sources)
    assert given.carried.shape == (3, len(given.sources))
    assert not np.allclose(cut, given.values)


def test_edges_past_another_layer_of_the_graph_stay() -> None:
    """In a residual network the stem reaches the second block through the first one alone, which the graph has."""
    model, images = tiny_model("residual"), random_images(3)
    names = ["stem", "layer1.0", "layer1.1"]
    looked = looked_at(model, "layer1.1:2", names, images)
    assert looked.feeding == ("layer1.0",)
    with pytest.raises(ValueError, match="by no edge"):
        without(looked, ["stem:0"])


def test_of_two_ways_to_a_unit_only_the_edge_is_cut() -> None:
    """The stem reaches the sum by itself and through the first convolution: cut, only the sum lacks it."""
    model, images = tiny_model("residual"), random_images(4)
    names = ["stem", "layer1.0.conv1", "layer1.0"]
    looked = looked_at(model, "layer1.0:5", names, images)
    assert looked.feeding == ("stem", "layer1.0.conv1")
    given = inflow(looked)
    with torch.no_grad(), probe(model, ["stem"]) as activations:
        model(images)
        stem = looked_values(activations["stem"][:, 5], looked)
    on = given.values > 0
    np.testing.assert_allclose(given.carried[on, given.sources.index("stem:5")], stem[on], atol=1e-12)
    after = without(looked, ["stem:5"])
    np.testing.assert_allclose(after[on], np.maximum(given.values - stem, 0)[on], atol=1e-12)


def looked_values(maps: Tensor, looked: Looked) -> np.ndarray:
    return np.array([float(maps[n, y, x]) for n, (y, x) in enumerate(looked.position.tolist())])


def test_places_say_where_an_edge_comes_from(colours: Model, patches: Patches) -> None:
    images = torch.stack([image for image, _ in patches[:3]])
    net = Colours().double().eval()
    with torch.no_grad():
        net.things[0].weight[0] = 0
        net.things[0].weight[0, RED, 0, 2] = 1.0
        net.things[0].weight[0, BLUE, 1, 0] = 1.0
    model = load_model(net, name="taps", image_size=12, mean=(0.0,) * 3, std=(1.0,) * 3)
    given = inflow(looked_at(model, "things:0", ["eyes", "things"], images))
    np.testing.assert_allclose(given.places[0, RED], (-1, 1), atol=1e-9)
    np.testing.assert_allclose(given.places[2, BLUE], (0, -1), atol=1e-9)


# selectivity


def test_a_planted_unit_comes_apart(found: Split) -> None:
    assert [each.title for each in found] == ["0: red", "0: blue"]
    assert [each.own for each in found] == [("eyes:0",), ("eyes:2",)]
    assert found.selectivity.min() > 0.95
    assert found.low.min() > 0.9
    assert min(each.own_drop for each in found) > 0.8
    assert max(abs(each.other_drop) for each in found) < 0.05


def test_edges_are_tried_on_examples_they_were_not_chosen_on(colours: Model, patches: Patches) -> None:
    """Each half's own edges are cut on the other half: with halves that disagree, nothing is selective."""
    reds, blues = ([image for image, label in patches if label == colour] for colour in (RED, BLUE))
    # The first meaning is red in one half and blue in the other, where every second example is in the other half.
    first = [image for pair in zip(reds[:8], blues[:8], strict=True) for image in pair]
    second = [image for pair in zip(blues[8:], reds[8:], strict=True) for image in pair]
    looked = looked_at(colours, "things:0", ["eyes", "things"], torch.stack([*first, *second]))
    tried = measure(looked, inflow(looked), np.repeat([0, 1], 16), seed=0)
    assert tried.selectivity.max() < 0.5


def test_one_meaning_cut_in_two_is_not_selective(
    colours: Model, graph: nx.DiGraph[str], examples: Examples, patches: Patches
) -> None:
    groups = np.arange(12) % 2
    found = split(
        colours, graph, "things:1", _first(examples, "things", 12), patches, groups=groups, steps=0, progress=False
    )
    assert not found.own.any()
    assert found.selectivity.max() == 0
    assert not found.drops.any()


def _first(examples: Examples, layer: str, count: int) -> Examples:
    """Give the examples with only the first ``count`` of each unit."""
    rows = examples.layer(layer)
    image = rows.image.copy()
    image[:, count:] = -1
    return replace(examples, arrays={layer: replace(rows, image=image)})


def test_selectivity_by_its_definition() -> None:
    drops = np.array([[0.8, 0.04, -0.2], [0.0, 0.5, 0.1], [0.1, 0.0, -0.1]])
    np.testing.assert_allclose(selectivity_of(drops), [0.75, 0.8, 0.0])


def test_own_edges_by_their_definition() -> None:
    carried = np.array([[4.0, 1.0, -3.0, 1.0], [4.0, 1.0, -3.0, 1.0], [-1.0, 0.26, 0.0, 0.0]])
    assert own_edges(carried, np.array([0, 0, 1])).tolist() == [[True, False, False, True], [False] * 4]


def test_units_merged_in_a_trained_network_come_apart() -> None:
    model, world = load_model("sketches"), Sketches(231, seed=HELD_OUT_SEED)
    layer = "mixed4c"
    first = find_examples(model, world, [layer], count=7, vectors=False, progress=False).layer(layer)
    pure = [c for c in range(len(first.label)) if len(set(first.label[c].tolist())) == 1 and first.value[c, 6] > 0]
    a = pure[0]
    b = next(c for c in pure if first.label[c, 0] != first.label[a, 0])
    merges = [Merge((a, b), (1 / float(first.value[a, 5]), 1 / float(first.value[b, 5])))]
    planted = merged(model, layer, merges)
    examples = find_examples(planted, world, [layer], count=14, progress=False)
    graph = build_graph(planted, ["mixed4b", layer], keep=5, progress=False)
    label = examples[f"{layer}:{a}"].label
    groups = np.where(label == first.label[a, 0], 0, np.where(label == first.label[b, 0], 1, -1))
    found = split(planted, graph, f"{layer}:{a}", examples, world, groups=groups, steps=1, progress=False)
    assert found.selectivity.mean() > 0.8


# which example means what


def test_examples_without_a_group_go_to_the_nearest_centre(
    colours: Model, graph: nx.DiGraph[str], examples: Examples, patches: Patches
) -> None:
    labels = examples["things:0"].label // BLUE
    known = np.full(len(labels), -1)
    for meaning in (0, 1):
        known[np.flatnonzero(labels == meaning)[:3]] = meaning
    all_given = split(colours, graph, "things:0", examples, patches, groups=labels, steps=0, progress=False)
    found = split(colours, graph, "things:0", examples, patches, groups=known, steps=0, progress=False)
    assert found.group.tolist() == all_given.group.tolist()
    assert nearest(np.array([[0.0], [10.0], [4.0]]), np.array([0, 1, -1])).tolist() == [0, 1, 0]


def test_groups_of_a_verdict_are_those_of_the_verdict(
    colours: Model, graph: nx.DiGraph[str], examples: Examples, patches: Patches
) -> None:
    verdict = polysemanticity(colours, examples, ["things:0"], progress=False)
    labels = examples["things:0"].label // BLUE
    flagged = replace(verdict, flag=np.array([True]), groups=labels[None])
    found = split(colours, graph, "things:0", examples, patches, groups=flagged, steps=0, progress=False)
    assert found.label[found.group == 0].tolist() == [RED] * int((labels == 0).sum())
    with pytest.raises(ValueError, match="is not flagged"):
        split(colours, graph, "things:0", examples, patches, groups=replace(flagged, flag=np.array([False])))


def test_shares_and_examples_of_a_meaning(found: Split, examples: Examples) -> None:
    assert sum(each.share for each in found) == pytest.approx(1)
    assert found[0].share >= found[1].share
    for each, colour in zip(found, (RED, BLUE), strict=True):
        assert set(each.label.tolist()) == {colour}
        assert each.image.tolist() == [i for i in examples["things:0"].image.tolist() if i % 3 == colour]
        assert (np.abs(np.diff(np.abs(each.contributions))) >= 0).all()
        assert np.abs(each.contributions).argmax() == 0


# pictures


def test_pictures_show_their_meaning(found: Split) -> None:
    red, blue = (each.picture.reshape(-1, 3).mean(0) for each in found)
    assert red[RED] > red[BLUE]
    assert blue[BLUE] > blue[RED]
    assert (np.diagonal(found.likeness) > 0.5).all()
    assert (np.diagonal(found.likeness) > found.likeness[[0, 1], [1, 0]]).all()


def test_a_start_is_the_mean_of_examples_moved_together() -> None:
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, 1, 2] = 1.0
    images[1, 0, 6, 5] = 1.0
    start = start_of(images, np.array([[1, 2], [6, 5]]), (8, 8))
    assert start[0, 4, 4] == 1
    assert start[0, 0, 0] == 0.0 or start[0, 0, 0] == 0.5
    assert float((start == 1).sum()) == 1
    assert torch.equal(start_of(images, np.zeros((2, 2), np.int64), ()), images.mean(0))


def test_what_holds_a_picture(colours: Model) -> None:
    maps = torch.zeros(1, 4, 12, 12, dtype=torch.float64)
    maps[0, :, 6, 6] = torch.tensor([2.0, 0.0, 3.0, 4.0])
    objective = held(colours, Unit("things", 0), np.array([0.0, 0.0, 1.0, 0.0]))
    assert objective.score({"things": maps}).item() == pytest.approx(2 * 3 / 29**0.5)
    away = held(colours, Unit("things", 0), np.array([0.0, 0.0, -1.0, 0.0]))
    assert away.score({"things": maps}).item() == pytest.approx(2 * 0.1)


def test_without_examples_pictures_are_parted(colours: Model, graph: nx.DiGraph[str]) -> None:
    found = split_by_pictures(colours, graph, "things:0", count=8, steps=30, progress=False)
    assert len(found) == 2
    assert (found.image == -1).all()
    assert np.bincount(found.group).min() >= 2
    assert found.pictures.shape == (2, 12, 12, 3)
    assert found[0].title == "0: meaning 1"


# in the graph


@pytest.fixture(scope="module")
def grafted(graph: nx.DiGraph[str], found: Split) -> nx.DiGraph[str]:
    return split_graph(graph, found)


def test_virtual_units_stand_in_the_place_of_their_unit(graph: nx.DiGraph[str], grafted: nx.DiGraph[str]) -> None:
    check_graph(grafted)
    assert "things:0" in graph
    assert "things:0" not in grafted
    assert set(grafted) - set(graph) == {"things:10", "things:20"}
    assert json.loads(grafted.graph["splits"]) == {"things:0": ["things:10", "things:20"]}
    assert [grafted.nodes[node]["label"] for node in ("things:10", "things:20")] == ["0: red", "0: blue"]
    assert arrange(grafted).columns[1] and {"things:10", "things:20"} <= set(arrange(grafted).columns[1])


def test_what_arrives_and_what_leaves_is_as_much_as_before(
    graph: nx.DiGraph[str], grafted: nx.DiGraph[str], found: Split
) -> None:
    total = sum(data["strength"] for _, _, data in graph.in_edges("things:0", data=True))
    for each in found:
        edges = {source: data for source, _, data in grafted.in_edges(each.node, data=True)}
        assert sum(data["strength"] for data in edges.values()) == pytest.approx(total)
        assert sum(data["share"] for data in edges.values()) == pytest.approx(1)
        assert edges[each.sources[0]]["contribution"] == each.contributions[0]
        assert edges[each.sources[0]]["rank"] == 0
        assert [source for source, data in edges.items() if data["own"]] == list(each.own)
    quiet = grafted.edges["eyes:3", "things:10"]
    assert quiet["weight"] == quiet["inhibition"] == -quiet["strength"] < 0
    assert quiet["excitation"] == 0
    for target in graph.successors("things:0"):
        parts = [grafted.edges[each.node, target] for each in found]
        assert sum(part["share"] for part in parts) == pytest.approx(graph.edges["things:0", target]["share"])
        assert {part["weight"] for part in parts} == {graph.edges["things:0", target]["weight"]}


@pytest.mark.parametrize("ending", [".json", ".graphml", ".gexf", ".cyjs"])
def test_a_split_graph_can_be_kept(grafted: nx.DiGraph[str], tmp_path: Path, ending: str) -> None:
    back = load_graph(save_graph(grafted, tmp_path / f"graph{ending}"))
    assert nx.utils.graphs_equal(back, grafted)


def test_queries_find_each_meaning_its_own_inputs(grafted: nx.DiGraph[str]) -> None:
    first, second = (set(upstream(grafted, node, depth=1, width=1)) for node in ("things:10", "things:20"))
    assert (first, second) == ({"things:10", "eyes:0"}, {"things:20", "eyes:2"})


def test_a_network_refuses_a_virtual_unit(colours: Model) -> None:
    with pytest.raises(ValueError, match="no channel 10"):
        colours.unit("things:10")


@pytest.mark.parametrize("width", [1, 2, 10, 11, 96, 100, 101, 832])
def test_nodes_name_unit_and_meaning_and_never_a_channel(width: int) -> None:
    seen: set[str] = set()
    for channel in {0, width // 2, width - 1}:
        for meaning in (0, 1, 3):
            node = meaning_node(Unit("a.b", channel), meaning, width)
            assert Unit.of(node).channel >= width
            assert meaning_of(node, width) == (Unit("a.b", channel), meaning)
            seen.add(node)
    assert len(seen) == 3 * len({0, width // 2, width - 1})
    with pytest.raises(ValueError, match="is no meaning"):
        meaning_of(Unit("a.b", width - 1), width)


def test_sources_that_a_graph_lacks_are_added(graph: nx.DiGraph[str], found: Split) -> None:
    small = graph.subgraph([node for node in graph if node != "eyes:2"]).copy()
    grown = split_graph(small, found, keep=2)
    check_graph(grown)
    assert grown.nodes["eyes:2"]["depth"] == 0


# kept and shown


def test_a_split_comes_back_from_disk(found: Split, tmp_path: Path) -> None:
    back = read_split(write_split(found, tmp_path / "split"))
    for each in fields(Split):
        before, after = getattr(found, each.name), getattr(back, each.name)
        assert np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after, each.name
    manifest = tmp_path / "split" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"verdicts"', '"verdict"'), encoding="utf-8")
    with pytest.raises(ValueError, match="another version"):
        read_split(tmp_path / "split")


def test_a_split_shows_itself(found: Split) -> None:
    page = found._repr_html_()
    assert page.count("<tr>") == 3
    assert page.count("data:image/png") == 4
    assert "0: red" in page and "eyes:0" in page and "own" in page
    assert repr(found) == "Split(things:0: 0: red 50%, 0: blue 50%)"
    with pytest.raises(IndexError, match="it has 2"):
        found[2]


def test_the_same_again(
    colours: Model, graph: nx.DiGraph[str], examples: Examples, patches: Patches, found: Split
) -> None:
    groups = examples["things:0"].label // BLUE
    with assert_untouched(colours.net):
        again = split(colours, graph, "things:0", examples, patches, groups=groups, steps=20, progress=False)
    assert np.array_equal(again.pictures, found.pictures)
    assert np.array_equal(again.low, found.low)


# refusals


def refusals() -> Iterator[Any]:
    yield "no inputs in this graph", {"unit": "eyes:0"}
    yield "no channel 9", {"unit": "things:9"}
    yield "too many", {"groups": [0, 1] * 30}
    yield "are split", {"groups": [0] * 32}
    yield "are split", {"groups": [0] * 31 + [1]}
    yield "give whole numbers", {"groups": [0.5, 0.5]}
    yield "has 3 images", {"dataset": Patches(3)}
    yield "not the dataset", {"dataset": Patches()[::-1]}
    yield "has no examples", {"examples": "none"}


@pytest.mark.parametrize(("words", "given"), list(refusals()))
def test_what_cannot_be_split(
    colours: Model, graph: nx.DiGraph[str], examples: Examples, patches: Patches, words: str, given: dict[str, Any]
) -> None:
    what: dict[str, Any] = {"unit": "things:0", "dataset": patches, "groups": examples["things:0"].label // BLUE}
    what |= given
    if what.pop("examples", None):
        examples = _first(examples, "things", 0)
    with pytest.raises(ValueError, match=words):
        split(colours, graph, what["unit"], examples, what["dataset"], groups=what["groups"], steps=0, progress=False)


def test_other_weights_are_refused(graph: nx.DiGraph[str], examples: Examples, patches: Patches, found: Split) -> None:
    other = tiny_model("plain")
    with pytest.raises(ValueError, match="other weights"):
        split(other, graph, "relu2:0", examples, patches)
    own = build_graph(other, ["relu1", "relu2"], keep=3, progress=False)
    with pytest.raises(ValueError, match="examples are of other weights"):
        split(other, own, "relu2:0", examples, patches)
    with pytest.raises(ValueError, match="other weights"):
        split_graph(own, found)
    with pytest.raises(ValueError, match="not in the graph"):
        split_graph(split_graph(graph, found), found)
