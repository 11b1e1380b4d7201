"""Diagrams: what is drawn is what the graph says, in the right place, once; nothing in it can run; equal graphs give
equal bytes.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy as np
import pytest
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.diagrams import draw_circuit, write_circuit
from circuits.diagrams.drawings import Note, compose
from circuits.diagrams.figures import FLAG, SIGNS
from circuits.diagrams.layouts import arrange, crossings
from circuits.diagrams.texts import data_block, plotly_text, shown

LAYERS = ("conv", "mixed", "logits")

# Sinks: HTML text and attributes, script and JSON blocks, jinja, str.format, plotly's pseudo-HTML and templates, maths.
HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "</title><script>window.hacked=1</script>",
    "</style><script>window.hacked=1</script>",
    "<!--<script>window.hacked=1//",
    "<img src=x onerror=window.hacked=1>",
    '"><img src=x onerror=window.hacked=1>',
    "' onmouseover='window.hacked=1",
    '" autofocus onfocus="window.hacked=1',
    "<svg/onload=window.hacked=1>",
    '<a href="javascript:window.hacked=1">here</a>',
    "javascript:window.hacked=1",
    '<iframe srcdoc="<script>parent.hacked=1</script>">',
    "{{ 7 * 7 }}{% for x in y %}",
    "{plot_id}{0}{name!r}%s%(x)d",
    "%{x}%{customdata}<extra>no</extra>",
    "${window.hacked=1}`${1}`",
    "$x^2$ \\(y\\)",
    "<b>bold</b><br>&amp;&lt;b&gt;",
    "\u202egnp.exe\u202c \u2066hidden\u2069",
    "nul\x00 bell\x07 escape\x1b[31m",
    "line\u2028separator\u2029 and\nnewline",
    "lone \ud800 surrogate",
    "zero\u200bwidth\ufeff",
    "../../../etc/passwd",
    "long " * 2000,
    "]]>]]&gt;",
    "' OR 1=1 --",
    "\\u003cscript\\u003e",
    "日本語 ñ 🦊",
]


def example_graph(seed: int = 0, widths: tuple[int, ...] = (6, 5, 4), keep: int = 3) -> nx.DiGraph:
    """A graph of three layers with random signed weights."""
    rng = np.random.default_rng(seed)
    graph = nx.DiGraph(layers=json.dumps(list(LAYERS)))
    for depth, (layer, width) in enumerate(zip(LAYERS, widths, strict=True)):
        for channel in range(width):
            label = f"class {channel}" if layer == "logits" else ""
            graph.add_node(f"{layer}:{channel}", layer=layer, channel=channel, depth=depth, label=label)
    for (source, inputs), (target, outputs) in pairwise(zip(LAYERS, widths, strict=True)):
        for unit in range(outputs):
            for feeder in rng.choice(inputs, keep, replace=False).tolist():
                strength = float(rng.exponential())
                weight = strength * float(rng.choice([-1, 1]))
                graph.add_edge(f"{source}:{feeder}", f"{target}:{unit}", weight=weight, strength=strength, share=0.25)
    return graph


def flat_pictures(graph: nx.DiGraph) -> dict[str, np.ndarray]:
    return {node: np.full((8, 8, 3), (number % 7) / 7) for number, node in enumerate(graph)}


def curves_of(trace: Any) -> list[np.ndarray]:
    """The curves of one line trace, each ``(points, 2)``: between the breaks."""
    points = np.column_stack([np.asarray(trace.x, float), np.asarray(trace.y, float)])
    breaks = np.flatnonzero(np.isnan(points[:, 0]))
    return [part[~np.isnan(part[:, 0])] for part in np.split(points, breaks)]


def places_of(figure: Any) -> dict[str, tuple[float, float]]:
    trace = figure.data[-1]
    return {unit: (x, y) for unit, x, y in zip(trace.customdata, trace.x, trace.y, strict=True)}


def drawn_edges(figure: Any) -> list[tuple[str, str, int]]:
    """The connections of a figure, read back from the ends of its curves."""
    places = places_of(figure)

    def nearest(point: np.ndarray, side: int) -> str:
        half = figure.data[-1].marker.size / 2
        return min(
            places, key=lambda unit: math.hypot(places[unit][0] + side * half - point[0], places[unit][1] - point[1])
        )

    lines = [trace for trace in figure.data if trace.mode == "lines"]
    return [
        (nearest(curve[0], +1), nearest(curve[-1], -1), trace.meta["sign"])
        for trace in lines
        for curve in curves_of(trace)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_every_edge_is_drawn_once_between_its_units_with_its_sign(seed: int) -> None:
    graph = example_graph(seed)
    expected = [(source, target, int(np.sign(data["weight"]))) for source, target, data in graph.edges(data=True)]
    assert Counter(drawn_edges(draw_circuit(graph))) == Counter(expected)


def test_signs_have_their_colours_and_names_and_a_legend_entry_each() -> None:
    figure = draw_circuit(example_graph())
    for trace in figure.data:
        if trace.mode == "lines":
            assert (trace.name, trace.line.color) == SIGNS[trace.meta["sign"]]
    shown_names = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(shown_names) == ["excites", "inhibits"]


def test_stronger_connections_are_never_thinner() -> None:
    graph = example_graph(4)
    width = {}
    for trace in draw_circuit(graph).data:
        if trace.mode == "lines":
            single = SimpleNamespace(data=[trace, draw_circuit(graph).data[-1]])
            for source, target, _ in drawn_edges(single):
                width[source, target] = trace.line.width
    ordered = sorted(graph.edges, key=lambda edge: graph.edges[edge]["strength"])
    assert all(width[weak] <= width[strong] for weak, strong in pairwise(ordered))
    assert width[ordered[-1]] > width[ordered[0]]


def test_layers_are_columns_from_left_to_right_and_units_do_not_overlap() -> None:
    figure = draw_circuit(example_graph())
    columns: dict[str, set[float]] = {}
    for unit, (x, _) in places_of(figure).items():
        columns.setdefault(unit.split(":")[0], set()).add(x)
    assert all(len(xs) == 1 for xs in columns.values())
    assert [min(columns[layer]) for layer in LAYERS] == sorted(min(columns[layer]) for layer in LAYERS)
    side = figure.data[-1].marker.size
    for (_, (x, y)), (_, (other_x, other_y)) in combinations(places_of(figure).items(), 2):
        assert abs(x - other_x) >= side or abs(y - other_y) >= side


def test_the_order_of_layers_comes_from_the_graph_then_from_depth_then_from_the_edges() -> None:
    graph = nx.DiGraph([("z:0", "a:0"), ("a:0", "m:0")])
    assert arrange(graph).layers == ("z", "a", "m")
    nx.set_node_attributes(graph, {"z:0": 2, "a:0": 1, "m:0": 0}, "depth")
    assert arrange(graph).layers == ("m", "a", "z")
    graph.graph["layers"] = json.dumps(["a", "unseen", "z", "m"])
    assert arrange(graph).layers == ("a", "z", "m")


def slow_crossings(graph: nx.DiGraph, columns: list[list[str]]) -> int:
    """Pairs of edges between the same columns whose ends are in opposite order."""
    place = {node: (number, row) for number, column in enumerate(columns) for row, node in enumerate(column)}
    count = 0
    for (a, b), (c, d) in combinations(graph.edges, 2):
        same = place[a][0] == place[c][0] and place[b][0] == place[d][0]
        count += same and (place[a][1] - place[c][1]) * (place[b][1] - place[d][1]) < 0
    return count


@pytest.mark.parametrize("seed", range(5))
def test_sweeps_count_crossings_right_and_never_add_any(seed: int) -> None:
    graph = example_graph(seed, widths=(9, 8, 7))
    plain = [
        sorted((node for node in graph if node.startswith(layer)), key=lambda n: int(n.split(":")[1]))
        for layer in LAYERS
    ]
    ordered = [list(column) for column in arrange(graph).columns]
    assert crossings(graph, plain) == slow_crossings(graph, plain)
    assert crossings(graph, ordered) == slow_crossings(graph, ordered) <= slow_crossings(graph, plain)


def test_a_shuffled_ladder_is_untangled() -> None:
    order = np.random.default_rng(0).permutation(12).tolist()
    graph = nx.DiGraph([(f"a:{number}", f"b:{order[number]}") for number in range(12)])
    assert crossings(graph, arrange(graph).columns) == 0


def test_equal_graphs_are_drawn_equal_whatever_the_order_they_were_built_in() -> None:
    graph = example_graph()
    again = nx.DiGraph(**graph.graph)
    again.add_nodes_from(reversed(list(graph.nodes(data=True))))
    again.add_edges_from(reversed(list(graph.edges(data=True))))
    assert draw_circuit(graph).to_json() == draw_circuit(again).to_json()


def test_a_thousand_connections_are_a_handful_of_traces_and_pictures_one_list() -> None:
    graph = example_graph(widths=(60, 60, 60), keep=9)
    figure = draw_circuit(graph, flat_pictures(graph))
    assert graph.number_of_edges() == 1080
    assert len(figure.data) <= 3 * 4 + 2
    assert len(figure.layout.images) == len(graph)


def test_pictures_stand_where_their_units_stand() -> None:
    graph = example_graph()
    pictures = flat_pictures(graph)
    del pictures["conv:2"]
    figure = draw_circuit(graph, pictures)
    places = Counter((image.x, image.y) for image in figure.layout.images)
    assert places == Counter(place for unit, place in places_of(figure).items() if unit != "conv:2")
    assert all(image.source.startswith("data:image/webp;base64,") for image in figure.layout.images)


def test_a_model_makes_the_pictures_of_the_units_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("plain")
    graph = nx.DiGraph([("conv2:1", "logits:3"), ("conv2:0", "logits:3")])
    asked = []

    def visualize(given: Any, units: list[str], *, progress: bool) -> Any:
        asked.append((given, units, progress))
        return {unit: np.zeros((4, 4, 3)) for unit in units}

    monkeypatch.setattr("circuits.diagrams.figures.visualize", visualize)
    assert len(draw_circuit(graph, model, progress=False).layout.images) == 3
    assert asked == [(model, ["conv2:0", "conv2:1", "logits:3"], False)]


def test_hovering_a_unit_names_its_strongest_wires_and_an_edge_its_weight() -> None:
    graph = nx.DiGraph()
    for number in range(5):
        graph.add_edge(f"a:{number}", "b:0", weight=(number + 1) * (-1) ** number, strength=number + 1.0, share=0.125)
    figure = draw_circuit(graph)
    hover = dict(zip(figure.data[-1].customdata, figure.data[-1].hovertext, strict=True))
    assert "inputs: a:4 +5, a:3 -4, a:2 +3 and 2 more" in hover["b:0"]
    grips = figure.data[-2]
    text = dict(zip(map(tuple, grips.customdata), grips.hovertext, strict=True))
    assert text["a:3", "b:0"] == "a:3 inhibits b:0<br>weight -4, strength 4<br>12.5% of what arrives"


def test_flagged_units_are_framed() -> None:
    drawing = compose(example_graph(), {"mixed:1": Note(flagged=True, facts=("fires",))})
    assert [unit.name for unit in drawing.units if unit.flagged] == ["mixed:1"]

    class Meanings:
        units = ("mixed:1", "mixed:2")
        verdicts = ("polysemantic", "monosemantic")

        def __getitem__(self, unit: str) -> Any:
            return SimpleNamespace(flag=unit == "mixed:1")

    figure = draw_circuit(example_graph(), meanings=Meanings())  # type: ignore[arg-type]
    colours = dict(zip(figure.data[-1].customdata, figure.data[-1].marker.line.color, strict=True))
    assert [unit for unit, colour in colours.items() if colour == FLAG] == ["mixed:1"]


def test_an_edge_without_attributes_counts_one_and_a_weight_of_zero_is_neither() -> None:
    assert [trace.name for trace in draw_circuit(nx.DiGraph([("a:0", "b:0")])).data if trace.showlegend] == ["excites"]
    graph = nx.DiGraph()
    graph.add_edge("a:0", "b:0", weight=0.0, strength=2.0)
    assert [trace.name for trace in draw_circuit(graph).data if trace.showlegend] == ["neither"]


def test_a_circuit_of_one_unit_can_be_drawn(tmp_path: Path) -> None:
    graph = nx.DiGraph()
    graph.add_node("a:0")
    assert list(draw_circuit(graph).data[-1].customdata) == ["a:0"]
    assert write_circuit(graph, tmp_path / "one.html").is_file()


class Reader(HTMLParser):
    """What a browser would find: elements, attributes that are scripts, the text of each element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.handlers: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        for name, value in attrs:
            address = name in {"href", "src", "action", "formaction", "srcdoc"} and "javascript:" in (value or "")
            self.handlers += [name] * (address or name.startswith("on"))

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.elements[-1] if self.elements else "", []).append(data)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_becomes_text(text: str, tmp_path: Path) -> None:
    graph = nx.DiGraph()
    layer = text.replace("\ud800", "x") + "!"
    graph.add_node(f"{layer}:0", label=text)
    graph.add_edge(f"{layer}:0", "out:1", weight=1.0)
    page = write_circuit(graph, tmp_path / "page.html", title=text).read_text(encoding="utf-8")
    harmless = write_circuit(nx.DiGraph([("a:0", "out:1")]), tmp_path / "plain.html", title="a").read_text(
        encoding="utf-8"
    )
    found, plain = Reader(page), Reader(harmless)
    assert Counter(found.elements) == Counter(plain.elements)
    assert not found.handlers
    assert found.texts["title"][0] == shown(text)
    assert found.texts["h1"][0] == shown(text)
    figure = draw_circuit(graph, title=text)
    assert html.unescape(figure.layout.title.text) == shown(text, 120)
    assert "<" not in figure.layout.title.text
    assert all("<" not in annotation.text for annotation in figure.layout.annotations)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists, max_leaves=8
    )
)
@settings(max_examples=100, deadline=None)
def test_a_data_block_reads_back_and_cannot_end_its_element(value: Any) -> None:
    text = data_block({"value": value})
    assert json.loads(text) == {"value": value}
    assert not set("<>&") & set(text)
    assert text.isascii()


@given(st.text(), st.integers(min_value=1, max_value=50))
@settings(max_examples=200, deadline=None)
def test_shown_text_is_visible_short_and_encodable(text: str, limit: int) -> None:
    seen = shown(text, limit)
    assert len(seen) <= limit
    assert not re.search("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", seen)
    seen.encode("utf-8")
    assert html.unescape(plotly_text(text, limit)) == seen


def test_a_page_asks_for_nothing_allows_only_its_own_scripts_and_has_no_upload_button(tmp_path: Path) -> None:
    page = write_circuit(example_graph(), tmp_path / "page.html", flat_pictures(example_graph())).read_text(
        encoding="utf-8"
    )
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert re.search(r"script-src ('sha256-[A-Za-z0-9+/=]+' ?)+;", policy[1])
    assert 'lang="en"' in page[:200]
    own = page[: page.index("<script>")]
    assert not re.search(r'(src|href)="(?!data:|#)', own)
    assert "showSendToCloud: false" in page
    assert "displaylogo: false" in page


def test_the_table_holds_every_connection(tmp_path: Path) -> None:
    graph = example_graph()
    page = write_circuit(graph, tmp_path / "page.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr><td>.*?</tr>", page)
    found = {tuple(re.findall(r"<bdi>(.*?)</bdi>", row)) for row in rows}
    assert len(rows) == graph.number_of_edges()
    assert found == set(graph.edges)


def test_two_exports_are_the_same_bytes(tmp_path: Path) -> None:
    graph = example_graph()
    first = write_circuit(graph, tmp_path / "a.html", flat_pictures(graph), title="same").read_bytes()
    second = write_circuit(graph, tmp_path / "b.html", flat_pictures(graph), title="same").read_bytes()
    assert first == second


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (nx.DiGraph(), "no units"),
        (nx.DiGraph([("a", "b:0")]), "'a' is no unit"),
        (nx.DiGraph([("a:0", "b:0", {"weight": float("nan")})]), "no finite number"),
        (nx.DiGraph([("a:0", "b:0", {"weight": 1.0, "strength": float("inf")})]), "no finite number"),
    ],
)
def test_graphs_that_cannot_be_drawn_are_refused(graph: nx.DiGraph, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw_circuit(graph)


def test_pictures_that_are_none_are_refused() -> None:
    graph = nx.DiGraph([("a:0", "b:0")])
    with pytest.raises(ValueError, match=r"'a:0' has shape \(4, 4\)"):
        draw_circuit(graph, {"a:0": np.zeros((4, 4))})
    with pytest.raises(TypeError, match="not list"):
        draw_circuit(graph, [np.zeros((4, 4, 3))])  # type: ignore[arg-type]


def test_a_failed_writing_leaves_the_old_page(tmp_path: Path) -> None:
    path = write_circuit(nx.DiGraph([("a:0", "b:0")]), tmp_path / "page.html")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="finite"):
        write_circuit(nx.DiGraph([("a:0", "b:0", {"weight": math.inf})]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
