"""What a person sees: pages opened from files in a real browser, clicked and typed at, without a network and without an
error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from test_atlas import TINY_UNIT, hostile_model, noise, write_tiny_atlas
from test_diagrams import HOSTILE, example_graph, flat_pictures

from circuits.atlas import write_atlas
from circuits.diagrams import write_circuit
from circuits.diagrams.texts import shown

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 120_000  # milliseconds, for machines that do other work too
sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not CHROMIUM.is_file():
        pytest.skip(f"the browser tests need {CHROMIUM}: apt-get install chromium")
    with sync_api.sync_playwright() as play:
        launched = play.chromium.launch(executable_path=str(CHROMIUM), timeout=PATIENCE, args=["--no-sandbox"])
        yield launched
        launched.close()


def failure_of(request: Any) -> list[str]:
    """What went wrong with a request; nothing for a picture still on its way when the test went to another page."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"failed {request.url}: {request.failure}"]


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page that fails its test for a request to a network, an error on the console, a dialog or a script of
    strangers.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
    opened.on("requestfailed", lambda request: wrong.extend(failure_of(request)))
    opened.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else wrong.append(request.url),
    )
    yield opened
    assert opened.evaluate("window.hacked") is None
    context.close()
    assert not wrong


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_atlas(tmp_path_factory.mktemp("browser") / "atlas").parent


def until(page: Any, expression: str, argument: Any = None) -> None:
    """Wait until a JavaScript expression holds; the pages' policies forbid playwright's own way, which evaluates text
    in them. A page that is left while it is asked says nothing yet.
    """
    for _ in range(PATIENCE // 50):
        with suppress(sync_api.Error):
            if page.evaluate(expression, argument):
                return
        page.wait_for_timeout(50)
    raise AssertionError(f"never came true: {expression}")


def open_circuit(page: Any, path: Path) -> None:
    page.goto(path.as_uri())
    page.wait_for_selector(".circuit[data-ready]", state="attached")


def unit_at(page: Any, name: str) -> tuple[float, float]:
    """Where a unit is on the screen, asked of plotly."""
    page.locator(".stage").scroll_into_view_if_needed()
    return tuple(
        page.evaluate(
            """name => {
                const stage = document.querySelector(".stage");
                const data = JSON.parse(document.querySelector(".circuit-data").textContent);
                const unit = data.units.find(unit => unit.name === name);
                const plot = stage._fullLayout, box = stage.getBoundingClientRect();
                return [box.left + plot.xaxis.l2p(unit.x) + plot._size.l, box.top + plot.yaxis.l2p(unit.y) +
                plot._size.t];
            }""",
            name,
        )
    )


def lit_units(page: Any) -> set[str]:
    """The units whose pictures are not faded."""
    return set(
        page.evaluate(
            """() => {
                const data = JSON.parse(document.querySelector(".circuit-data").textContent);
                const images = document.querySelector(".stage").layout.images;
                return data.units.filter((unit, index) => images[index].opacity === 1).map(unit => unit.name);
            }"""
        )
    )


def drawn_curves(page: Any) -> int:
    """How many connections are drawn in colour."""
    return int(
        page.evaluate(
            """() => document.querySelector(".stage").data.filter(t => t.mode === "lines").slice(1)
                .reduce((n, t) => n + t.x.filter(x => x === null).length, 0)"""
        )
    )


def test_clicking_a_unit_lights_its_path_and_shows_its_card_and_escape_resets(page: Any, tmp_path: Path) -> None:
    graph = example_graph()
    pictures = flat_pictures(graph)
    open_circuit(page, write_circuit(graph, tmp_path / "circuit.html", pictures, title="A circuit"))
    assert page.title() == "A circuit"
    assert lit_units(page) == set(graph)
    assert drawn_curves(page) == graph.number_of_edges()
    page.mouse.click(*unit_at(page, "mixed:2"))
    path = {"mixed:2"} | nx.ancestors(graph, "mixed:2") | nx.descendants(graph, "mixed:2")
    page.wait_for_selector(".card h2")
    assert page.inner_text(".card h2") == "mixed:2"
    assert page.get_attribute(".card .portrait", "src").startswith("data:image/webp")
    assert page.evaluate("document.querySelector('.card .portrait').naturalWidth") > 0
    assert lit_units(page) == path
    assert path != set(graph)
    assert drawn_curves(page) == graph.in_degree("mixed:2") + graph.out_degree("mixed:2")
    wires = page.locator(".card .wire .unit-link:not(.weight)").all_inner_texts()
    assert {wire.split()[0] for wire in wires} == {*graph.predecessors("mixed:2"), *graph.successors("mixed:2")}
    page.keyboard.press("Escape")
    assert lit_units(page) == set(graph)
    assert page.locator(".card h2").count() == 0


def test_a_click_beside_the_units_resets_and_a_click_in_the_card_goes_on(page: Any, tmp_path: Path) -> None:
    graph = example_graph()
    open_circuit(page, write_circuit(graph, tmp_path / "circuit.html", flat_pictures(graph)))
    page.mouse.click(*unit_at(page, "logits:1"))
    page.locator(".card .wire .unit-link").first.click()
    assert page.inner_text(".card h2").startswith("mixed:")
    box = page.locator(".stage").bounding_box()
    page.mouse.click(box["x"] + 4, box["y"] + box["height"] - 4)
    until(page, "!document.querySelector('.card h2')")
    assert lit_units(page) == set(graph)


def test_keys_walk_along_the_strongest_connections(page: Any, tmp_path: Path) -> None:
    graph = nx.DiGraph()
    graph.add_edge("a:0", "b:0", weight=1.0, strength=1.0)
    graph.add_edge("a:1", "b:0", weight=-2.0, strength=2.0)
    open_circuit(page, write_circuit(graph, tmp_path / "circuit.html"))
    page.locator('[data-unit]:has-text("b:0")').first.evaluate("element => element.closest('details').open = true")
    page.locator('[data-unit]:has-text("b:0")').first.click()
    assert page.inner_text(".card h2") == "b:0"
    page.locator(".stage").focus()
    page.keyboard.press("ArrowLeft")
    assert page.inner_text(".card h2") == "a:1"
    page.keyboard.press("ArrowUp")
    assert page.inner_text(".card h2") == "a:0"
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".card h2") == "b:0"


def test_the_slider_and_the_signs_hide_connections(page: Any, tmp_path: Path) -> None:
    graph = example_graph()
    open_circuit(page, write_circuit(graph, tmp_path / "circuit.html"))
    strength = {
        edge: data["strength"]
        for *edge, data in ((a, b, d) for a, b, d in graph.edges(data=True))
        for edge in [tuple(edge)]
    }
    page.locator(".cut").fill("50")
    assert drawn_curves(page) == sum(value >= 0.5 * max(strength.values()) for value in strength.values())
    page.locator(".cut").fill("0")
    page.locator('.sign[value="-1"]').uncheck()
    assert drawn_curves(page) == sum(data["weight"] > 0 for *_, data in graph.edges(data=True))


def test_a_click_on_a_connection_tells_its_weight(page: Any, tmp_path: Path) -> None:
    graph = nx.DiGraph()
    graph.add_edge("a:0", "b:0", weight=-0.25, strength=0.5, share=0.125)
    open_circuit(page, write_circuit(graph, tmp_path / "circuit.html"))
    (left, y), (right, _) = unit_at(page, "a:0"), unit_at(page, "b:0")
    x = page.evaluate("document.querySelector('.stage').data.find(t => t.meta && t.meta.role === 'edges').x[0]")
    assert x > 0
    scale = page.evaluate(
        "document.querySelector('.stage').layout.width / document.querySelector('.stage').layout.xaxis.range[1]"
    )
    page.mouse.click(page.locator(".stage").bounding_box()["x"] + x * scale, y)
    assert left < page.locator(".stage").bounding_box()["x"] + x * scale < right
    page.wait_for_selector(".card h2")
    assert page.inner_text(".card h2") == "Inhibition"
    assert "weight −0.25" in page.inner_text(".card")
    assert "13 %" in page.inner_text(".card")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_sideways(page: Any, atlas: Path, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    layer, channel = TINY_UNIT.split(":")
    for name in ("index.html", f"layers/{layer}.html", f"units/{layer}/{channel}.html"):
        page.goto((atlas / name).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 19, 21)"
        assert dark == (scheme == "dark")


def test_from_the_front_page_to_a_unit_and_through_its_circuit(page: Any, atlas: Path) -> None:
    layer, channel = TINY_UNIT.split(":")
    page.goto((atlas / "index.html").as_uri())
    page.locator(".layer-strip h2 a", has_text=layer).click()
    assert page.inner_text("h1") == layer
    page.locator(f'#units li[data-channel="{channel}"] a').click()
    page.wait_for_selector(".circuit[data-ready]", state="attached")
    assert page.inner_text("h1") == TINY_UNIT
    assert page.evaluate("document.querySelector('.hero .portrait').naturalWidth") > 0
    assert page.evaluate("Array.from(document.querySelectorAll('.example img')).length") > 0
    other = page.evaluate("JSON.parse(document.querySelector('.circuit-data').textContent).units[0].name")
    page.mouse.click(*unit_at(page, other))
    until(page, "name => document.querySelector('.card h2').textContent === name", other)
    assert page.evaluate("document.querySelector('.card .portrait').naturalWidth") > 0
    page.locator(".card h2 a").click()
    page.wait_for_selector(".circuit[data-ready]", state="attached")
    assert page.inner_text("h1") == other
    page.keyboard.press("ArrowRight")
    until(page, "name => document.querySelector('h1').textContent !== name", other)


def test_units_are_found_ordered_and_filtered(page: Any, atlas: Path) -> None:
    layer, channel = TINY_UNIT.split(":")
    page.goto((atlas / "index.html").as_uri())
    every = page.locator(".sheet li:visible").count()
    page.locator("#search").fill(TINY_UNIT)
    assert page.locator(".sheet li:visible").count() == 1
    assert page.inner_text(".search output") == "1 unit"
    page.locator("#search").fill("")
    assert page.locator(".sheet li:visible").count() == every
    page.locator("#search").fill(TINY_UNIT)
    page.keyboard.press("Enter")
    until(page, "name => document.querySelector('h1').textContent === name", TINY_UNIT)
    page.goto((atlas / "layers" / f"{layer}.html").as_uri())
    page.locator("select[name=order]").select_option("maximum")
    strongest = [
        float(value) for value in page.locator("#units li").evaluate_all("all => all.map(each => each.dataset.maximum)")
    ]
    assert strongest == sorted(strongest, reverse=True)
    page.locator("input[name=find]").fill(channel)
    assert page.locator("#units li:visible").count() == 1


def test_pointing_at_an_example_shows_the_whole_picture(page: Any, atlas: Path) -> None:
    layer, channel = TINY_UNIT.split(":")
    page.goto((atlas / "units" / layer / f"{channel}.html").as_uri())
    example = page.locator(".example").first
    example.focus()
    until(
        page,
        """() => { const image = document.querySelector('.example img'), crop = image.parentElement;
                   return image.offsetWidth === crop.clientWidth && image.offsetHeight === crop.clientHeight; }""",
    )
    until(page, "getComputedStyle(document.querySelector('.example .mark')).opacity === '1'")


@pytest.mark.parametrize("part", range(3))
def test_hostile_names_are_shown_and_nothing_of_them_runs(page: Any, tmp_path: Path, part: int) -> None:
    strings = HOSTILE[part::3]
    graph = nx.DiGraph()
    for number, text in enumerate(strings):
        graph.add_node(f"in{text}:{number}".encode("utf-8", "replace").decode(), label=text)
        graph.add_edge(f"in{text}:{number}".encode("utf-8", "replace").decode(), f"out:{number}", weight=1.0)
    open_circuit(page, write_circuit(graph, tmp_path / "circuit.html", title=strings[0]))
    assert page.title() == shown(strings[0]).strip()
    for number in range(len(strings)):
        page.locator("[data-unit]").nth(2 * number).evaluate("element => element.click()")
        page.mouse.move(*unit_at(page, page.inner_text(".card h2")))
    labels = page.locator(".stage text").evaluate_all("all => all.map(each => each.textContent)")
    for text in strings:
        assert any(" ".join(shown(text, 16).split()) == " ".join(label.split()) for label in labels), text


def test_a_hostile_network_has_a_harmless_atlas(page: Any, tmp_path: Path) -> None:
    model = hostile_model()
    index = write_atlas(model, noise(model), tmp_path / "atlas", steps=1, progress=False)
    pages = sorted(index.parent.rglob("*.html"))
    visited = [
        index,
        *sorted((index.parent / "layers").iterdir()),
        *[path for path in pages if path.name == "0.html"][::3],
    ]
    for path in visited:
        page.goto(path.as_uri())
        page.wait_for_timeout(50)
        assert page.evaluate("window.hacked") is None
    names = {shown(layer.name, 60) for layer in model.layers if layer.name in model.default_layers}
    page.goto(index.as_uri())
    assert set(page.locator(".layer-strip h2").all_text_contents()) == names


def test_a_drawing_of_two_hundred_units_answers_a_click(page: Any, tmp_path: Path) -> None:
    graph = example_graph(widths=(70, 70, 60), keep=8)
    rng = np.random.default_rng(0)
    open_circuit(page, write_circuit(graph, tmp_path / "large.html", {node: rng.random((16, 16, 3)) for node in graph}))
    page.mouse.click(*unit_at(page, "mixed:3"))
    page.wait_for_selector(".card h2")
    assert page.inner_text(".card h2") == "mixed:3"
