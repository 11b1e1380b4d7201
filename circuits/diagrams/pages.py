"""write_circuit: a circuit as one interactive HTML file that opens anywhere, without a server and without a network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from circuits.diagrams.drawings import WIDTHS, Drawing, DrawnUnit, compose, take_notes
from circuits.diagrams.figures import SIGNS, Pictures, node_text, pictures_of
from circuits.diagrams.texts import data_block, shown
from circuits.meanings import Polysemanticity
from features.examples import Examples
from features.pictures import data_uri
from features.records import write_atomically

HERE = Path(__file__).parent
LARGE = 192  # side of an embedded picture in pixels: sharp in the card beside the drawing


def write_circuit(
    graph: nx.DiGraph,
    path: Path | str,
    pictures: Pictures = None,
    *,
    examples: Examples | None = None,
    meanings: Polysemanticity | None = None,
    title: str | None = None,
    progress: bool = True,
) -> Path:
    """Write a circuit as one interactive HTML file, and give its path.

    The drawing is that of `draw_circuit`, with the same arguments. On the page a click on a unit lights up everything
    upstream and downstream of it, and a card shows its picture, inputs and outputs; a slider hides weak connections;
    arrow keys walk along the connections, Escape and a click beside the units show everything again; a table holds the
    same for screen readers. The file holds all it needs (about 5 MB are plotly.js), asks for nothing from a network,
    runs no script but its own (a content security policy names them by digest), follows the reader's choice of dark or
    light, and is written aside and then renamed. Equal arguments give equal bytes.

    Errors are those of `draw_circuit`, and ``OSError`` naming the path where it cannot be written.

    >>> import tempfile
    >>> graph = nx.DiGraph()
    >>> graph.add_edge("mixed3a:1", "mixed3b:7", weight=-0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = write_circuit(graph, Path(folder) / "circuit.html").read_text(encoding="utf-8")
    >>> page[:15], "<title>Circuit of 2 units</title>" in page
    ('<!doctype html>', True)
    """
    drawing = compose(graph, take_notes(graph, examples, meanings), title=title)
    arrays = pictures_of(graph, pictures, progress=progress)
    sources = {node: data_uri(array, size=LARGE) for node, array in arrays.items()}
    return write_atomically(Path(path), circuit_page(drawing, sources))


def circuit_page(
    drawing: Drawing, sources: Mapping[str, str], *, focus: str | None = None, examples: Sequence[str] = ()
) -> str:
    """Give the text of the standalone page; ``sources`` maps units to the addresses of their pictures.

    ``focus`` is the unit that is lit when the page opens, ``examples`` are the addresses of pictures that excite it.
    """
    scripts = (get_plotlyjs(), script_text())
    heading = drawing.title or f"Circuit of {len(drawing.units)} units"
    text: str = template("circuit.html").render(
        heading=heading,
        drawing=drawing,
        payload=data_block(circuit_payload(drawing, sources, focus=focus)),
        examples=examples,
        rows=table_rows(drawing),
        styles=(HERE / "circuit.css").read_text(encoding="utf-8"),
        scripts=scripts,
        digests=[script_digest(script) for script in scripts],
    )
    return text


def circuit_payload(
    drawing: Drawing,
    sources: Mapping[str, str],
    *,
    links: Mapping[str, str] | None = None,
    kernels: Sequence[str] | None = None,
    focus: str | None = None,
) -> dict[str, Any]:
    """Give what ``circuit.js`` draws, as plain data.

    ``links`` maps units to the addresses of their own pages, ``kernels`` has one picture per edge of ``drawing.edges``,
    and ``focus`` is the unit that is lit when the page opens.
    """
    number = {unit.name: index for index, unit in enumerate(drawing.units)}
    layout = drawing.layout
    return {
        "width": layout.width,
        "height": layout.height,
        "side": layout.side,
        "labelled": layout.labelled,
        "widths": list(WIDTHS),
        "layers": [
            [shown(layer, 22), layout.places[column[0]][0]]
            for layer, column in zip(layout.layers, layout.columns, strict=True)
        ],
        "units": [_unit_record(unit, sources, links or {}) for unit in drawing.units],
        "edges": [
            [
                number[edge.source],
                number[edge.target],
                _short(edge.weight),
                _short(edge.strength),
                _short(edge.share),
                edge.width,
            ]
            for edge in drawing.edges
        ],
        "kernels": list(kernels) if kernels is not None else [],
        "focus": number.get(focus, -1) if focus is not None else -1,
    }


def _unit_record(unit: DrawnUnit, sources: Mapping[str, str], links: Mapping[str, str]) -> dict[str, Any]:
    record = {
        "name": shown(unit.name, 120),
        "text": node_text(unit),
        "label": shown(unit.label),
        "x": round(unit.place[0], 1),
        "y": round(unit.place[1], 1),
        "flagged": unit.flagged,
        "facts": [shown(fact) for fact in unit.facts],
        "picture": sources.get(unit.name),
        "link": links.get(unit.name),
    }
    return {key: value for key, value in record.items() if value not in (None, "", False, [])}


def _short(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")


def table_rows(drawing: Drawing) -> list[dict[str, Any]]:
    """Give the connections from strong to weak, as the table for screen readers shows them."""
    number = {unit.name: index for index, unit in enumerate(drawing.units)}
    return [
        {
            "source": shown(edge.source, 60),
            "target": shown(edge.target, 60),
            "source_number": number[edge.source],
            "target_number": number[edge.target],
            "effect": SIGNS[edge.sign][0],
            "weight": f"{edge.weight:+.3g}".replace("-", "−"),
            "share": "" if edge.share is None else f"{edge.share:.1%}",
        }
        for edge in reversed(drawing.edges)
    ]


@cache
def environment() -> Environment:
    """Give the environment of this folder's templates: everything is escaped, an unknown name is an error."""
    found = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["shown"] = shown
    return found


def template(name: str) -> Any:
    """Give a template of this folder."""
    return environment().get_template(name)


@cache
def script_text() -> str:
    """Give the script that makes a drawing interactive."""
    return (HERE / "circuit.js").read_text(encoding="utf-8")


@cache
def script_digest(script: str) -> str:
    """Give the digest by which a content security policy allows an inline script: ``sha256-...``."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
