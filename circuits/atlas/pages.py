"""The pages of an atlas: contexts for the templates, rendered and written."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import networkx as nx
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs
from tqdm import tqdm

from circuits.atlas.folders import Desk, own_version, put, read_json, settle
from circuits.atlas.images import Sheet, write_dataset_pictures, write_unit_pictures
from circuits.atlas.measures import Measurements, Plan
from circuits.atlas.views import (
    BOTTOM,
    STATES,
    Glance,
    KernelPicture,
    UnitView,
    glance,
    histogram_view,
    kernel_pictures,
    shown_rows,
    tiles,
    unit_facts,
    verdict_words,
    view_unit,
    wire_rows,
)
from circuits.diagrams import pages as circuit_pages
from circuits.diagrams.drawings import Note, compose, take_notes
from circuits.diagrams.texts import data_block, shown
from circuits.queries import downstream, upstream
from features.models import Layer
from features.records import slug, write_atomically

HERE = Path(__file__).parent
WIDTH = 4  # of the circuit on a unit's page
LISTING = "pages.json"


@dataclass(frozen=True)
class Book:
    """Everything that is needed to write the pages."""

    plan: Plan
    desk: Desk
    found: Measurements

    @cached_property
    def views(self) -> dict[str, UnitView]:
        return {name: view_unit(self.found, name) for name in self.found.graph}

    @cached_property
    def notes(self) -> dict[str, Note]:
        return take_notes(self.views, self.found.examples, self.found.meanings)

    @cached_property
    def kernels(self) -> dict[tuple[str, str], KernelPicture]:
        return kernel_pictures(self.found.kernels)

    @cached_property
    def environment(self) -> Environment:
        loader = FileSystemLoader([HERE, circuit_pages.HERE])
        made = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        made.filters["shown"] = shown
        return made

    def units(self, layer: str) -> list[UnitView]:
        """Give the units of a layer by channel."""
        return [self.views[f"{layer}:{channel}"] for channel in range(self.plan.model.layer(layer).channels)]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Give what all pages know of the atlas."""
        plan, found = self.plan, self.found
        states = Counter(view.state for view in self.views.values())
        height, width = plan.model.image_size
        rows = [
            ("Layers", f"{len(plan.layers)}"),
            ("Units", f"{len(self.views):,}"),
            ("Input", f"{height} × {width}"),
            ("Connections drawn", f"{found.graph.number_of_edges():,}"),
        ]
        if plan.model.labels:
            rows.append(("Classes", f"{len(plan.model.labels):,}"))
        if found.examples is not None:
            rows += [("Dataset", f"{found.examples.images:,} pictures"), ("Dead", f"{states['dead']:,}")]
        if found.meanings is not None:
            rows.append(("Several meanings", f"{states['several']:,}"))
        return {
            "name": plan.model.name,
            "digest": plan.model.digest,
            "seed": plan.seed,
            "version": own_version(),
            "units": f"{len(self.views):,}",
            "data": "" if found.examples is None else f"{found.examples.images:,} pictures",
            "judged": found.meanings is not None,
            "facts": rows,
        }


def write_pages(plan: Plan, desk: Desk, found: Measurements) -> Path:
    """Write all pages, unless the ones that lie there were made from the same measurements; give the index."""
    index = desk.folder / "index.html"
    listing = desk.folder / "data" / LISTING
    print_now = _fingerprint(plan, desk)
    before = read_json(listing) or {}
    if (
        not desk.fresh
        and before.get("fingerprint") == print_now
        and all((desk.folder / name).is_file() for name in before["files"])
    ):
        desk.say(f"reused {sum(name.endswith('.html') for name in before['files']):,} pages")
        return index
    listing.unlink(missing_ok=True)
    files = [path.relative_to(desk.folder).as_posix() for path in _write_all(Book(plan, desk, found))]
    _remove_stale(desk.folder, set(before.get("files", ())) - set(files))
    settle()
    write_atomically(listing, json.dumps({"fingerprint": print_now, "files": files}) + "\n")
    return index


def _write_all(book: Book) -> Iterator[Path]:
    """Write assets, pictures and pages, and the index last, so that it never points to what is not there."""
    folder, plan = book.desk.folder, book.plan
    yield from _write_assets(folder)
    sheets = {}
    for layer in plan.layers:
        sheets[layer] = write_unit_pictures(folder, layer, book.found.pictures[layer])
        yield folder / sheets[layer].path
        yield from (folder / view.picture for view in book.units(layer))
    sizes = _write_examples(book)
    yield from (folder / "examples" / f"{number}.webp" for number in sizes)
    bar = tqdm(total=len(book.views), desc="pages", unit="page", disable=not book.desk.progress, leave=False)
    with bar:
        for layer in plan.layers:
            for view in book.units(layer):
                yield put(folder / view.page, unit_page(book, view, sizes))
                bar.update()
            yield put(folder / layer_address(layer), layer_page(book, layer))
    yield put(folder / "index.html", index_page(book, sheets))


def _write_assets(folder: Path) -> Iterator[Path]:
    texts = {"plotly.min.js": get_plotlyjs(), **{path.name: path.read_text(encoding="utf-8") for path in _assets()}}
    for name, text in texts.items():
        yield put(folder / "assets" / name, text)


def _assets() -> list[Path]:
    return [
        HERE / "atlas.css",
        HERE / "atlas.js",
        circuit_pages.HERE / "circuit.css",
        circuit_pages.HERE / "circuit.js",
    ]


def _write_examples(book: Book) -> Mapping[int, tuple[int, int]]:
    if book.found.examples is None:
        return {}
    numbers: set[int] = set()
    for name in book.views:
        examples = book.found.looks[name]
        rows = [row for _, _, group in shown_rows(book.found, name) for row in group]
        numbers.update(examples.image[rows].tolist(), examples.bottom_image[:BOTTOM].tolist())
    return write_dataset_pictures(
        book.desk.folder, book.plan.dataset, book.found.examples, numbers, progress=book.desk.progress
    )


def _remove_stale(folder: Path, names: set[str]) -> None:
    """Remove the files of the last writing that this one did not write: those of layers that are no longer shown."""
    for name in names:
        path = folder / name
        if path.resolve().is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)


def _fingerprint(plan: Plan, desk: Desk) -> str:
    """Give a digest of all that the pages are made of: the records, this program's own files, and how it was asked."""
    total = hashlib.sha256(repr((plan.layers, plan.seed, plan.model.name, own_version())).encode())
    sources = [
        path
        for place in (HERE, circuit_pages.HERE)
        for path in sorted(place.iterdir())
        if path.suffix in (".py", ".js", ".css", ".html")
    ]
    records = [path for path in sorted((desk.folder / "data").rglob("*.json")) if path.name != LISTING]
    for path in (*sources, *records):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def layer_address(layer: str) -> str:
    """Give the page of a layer, relative to the atlas."""
    return f"layers/{slug(layer)}.html"


def index_page(book: Book, sheets: Mapping[str, Sheet]) -> str:
    """Give the text of the front page."""
    layers = [
        {
            "name": layer,
            "slug": slug(layer),
            "link": layer_address(layer),
            "summary": _summary(book, layer),
            "sheet": sheets[layer].path,
            "columns": sheets[layer].columns,
            "rows": sheets[layer].rows,
            "units": [_sprite(view, sheets[layer]) for view in book.units(layer)],
            "glance": _glance(book, layer),
        }
        for layer in book.plan.layers
    ]
    return book.environment.get_template("index.html").render(root="", atlas=book.facts, layers=layers, search=True)


def _glance(book: Book, layer: str) -> Glance | None:
    return glance(book.found.summaries[layer]) if layer in book.found.summaries else None


def _sprite(view: UnitView, sheet: Sheet) -> dict[str, Any]:
    return {
        "link": view.page,
        "state": view.state,
        "column": view.channel % sheet.columns,
        "row": view.channel // sheet.columns,
        "title": view.title,
        "find": view.title,
    }


def _summary(book: Book, layer: str) -> str:
    described = book.plan.model.layer(layer)
    states = Counter(view.state for view in book.units(layer))
    counts = [f"{states[state]} {words}" for state, words in STATES.items() if states[state]]
    return ", ".join([f"{described.channels} units", _sight(described), *counts])


def _sight(layer: Layer) -> str:
    if layer.field is None:
        return "each sees the whole image"
    height, width = layer.field.size
    return f"each position sees {height} × {width} pixels"


def layer_page(book: Book, layer: str) -> str:
    """Give the text of a layer's page."""
    described = book.plan.model.layer(layer)
    units = [_card(view, "../") for view in book.units(layer)]
    place = book.plan.layers.index(layer)
    states = Counter(unit["state"] for unit in units)
    around = [_turn(book, place + step) for step in (-1, 1)]
    return book.environment.get_template("layer.html").render(
        root="../",
        atlas=book.facts,
        layer={
            "name": layer,
            "lede": f"{shown(described.kind, 40)} with an output of {_times(described.shape)}: {_sight(described)}.",
        },
        units=units,
        orders=[(key, words) for key, words in ORDERS.items() if any(key in unit["measures"] for unit in units)],
        glance=_glance(book, layer),
        filters=[(state, f"units {words} ({states[state]})") for state, words in STATES.items() if states[state]],
        before=around[0],
        after=around[1],
    )


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) + (
        " numbers" if len(shape) == 1 else " (channels × height × width)" if len(shape) == 3 else ""
    )


def _turn(book: Book, place: int) -> dict[str, str] | None:
    layers = book.plan.layers
    return {"name": layers[place], "page": f"{slug(layers[place])}.html"} if 0 <= place < len(layers) else None


def _card(view: UnitView, root: str) -> dict[str, Any]:
    return {
        "name": view.name,
        "channel": view.channel,
        "label": view.label,
        "state": view.state,
        "link": root + view.page,
        "picture": root + view.picture,
        "find": f"{view.channel} {view.label}",
        "measures": view.measures,
    }


def unit_page(book: Book, view: UnitView, sizes: Mapping[int, tuple[int, int]]) -> str:
    """Give the text of a unit's page."""
    root, found = "../../", book.found
    examples = found.looks.get(view.name)
    groups = [
        {"title": title, "note": note, "examples": tiles(examples, sizes, root, rows)}
        for title, note, rows in shown_rows(found, view.name)
        if examples
    ]
    bottom = (
        []
        if examples is None
        else tiles(examples, sizes, root, range(min(BOTTOM, len(examples.bottom_image))), "bottom_")
    )
    channels = book.plan.model.layer(view.layer).channels
    verdict = verdict_words(found, view.name)
    return book.environment.get_template("unit.html").render(
        root=root,
        atlas=book.facts,
        layer={"name": view.layer, "link": root + layer_address(view.layer)},
        unit=_card(view, root),
        before=view.channel - 1 if view.channel > 0 else None,
        after=view.channel + 1 if view.channel + 1 < channels else None,
        verdict=verdict,
        facts=unit_facts(found, view.name),
        groups=groups,
        bottom=bottom,
        histogram=None if examples is None else histogram_view(examples),
        **_circuit(book, view, root),
        **_wires(book, view, root),
    )


def _wires(book: Book, view: UnitView, root: str) -> dict[str, Any]:
    note = (
        "What it is computed from, strongest first. A square of a kernel is a position; orange excites, blue inhibits."
    )
    return {
        "inputs": wire_rows(book.found, book.views, book.kernels, view.name, root, inputs=True),
        "outputs": wire_rows(book.found, book.views, book.kernels, view.name, root, inputs=False),
        "inputs_note": note,
        "outputs_note": "Units that have it among their strongest inputs, strongest first.",
    }


def circuit_of(graph: nx.DiGraph, unit: str, *, width: int = WIDTH) -> nx.DiGraph:
    """Give the circuit of a unit: its ``width`` strongest inputs, the inputs of all but the weakest of these, and its
    strongest outputs.

    One fewer in the second step, so that the first column stays short enough to be seen at once.

    >>> graph = nx.DiGraph([("a:0", "b:0"), ("b:0", "c:0"), ("c:0", "d:0"), ("d:0", "e:0")])
    >>> nx.set_edge_attributes(graph, 1.0, "strength")
    >>> sorted(circuit_of(graph, "c:0"))
    ['a:0', 'b:0', 'c:0', 'd:0']
    """
    deep = upstream(graph, unit, depth=2, width=max(1, width - 1))
    return nx.compose_all([upstream(graph, unit, width=width), deep, downstream(graph, unit, width=width)])


def _circuit(book: Book, view: UnitView, root: str) -> dict[str, Any]:
    graph = circuit_of(book.found.graph, view.name)
    if graph.number_of_edges() == 0:
        return {"drawing": None, "payload": "", "rows": []}
    drawing = compose(graph, book.notes)
    names = [unit.name for unit in drawing.units]
    payload = circuit_pages.circuit_payload(
        drawing,
        {name: root + book.views[name].picture for name in names},
        links={name: root + book.views[name].page for name in names},
        kernels=[book.kernels[edge.source, edge.target].address for edge in drawing.edges],
        focus=view.name,
    )
    return {"drawing": drawing, "payload": data_block(payload), "rows": circuit_pages.table_rows(drawing)}


ORDERS = {
    "score": "most meanings first",
    "firing": "most often active first",
    "maximum": "strongest first",
}
