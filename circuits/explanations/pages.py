"""write_explanation: an explanation as one HTML file: the picture, its channels, and its circuit to click through."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from circuits.diagrams.drawings import compose
from circuits.diagrams.figures import Pictures, pictures_of
from circuits.diagrams.pages import HERE as DIAGRAMS
from circuits.diagrams.pages import LARGE, circuit_payload, environment, script_digest, script_text, table_rows
from circuits.diagrams.texts import data_block
from circuits.explanations.nouns import Carrier, Explanation
from features.pictures import data_uri, resize
from features.records import write_atomically

HERE = Path(__file__).parent
SIDE, SMALL = 224, 112  # sides of the large and of the small pictures in pixels


def write_explanation(
    found: Explanation, path: str | os.PathLike[str], pictures: Pictures = None, *, progress: bool = True
) -> Path:
    """Write ``found`` as one HTML file that opens anywhere, and give its path.

    It holds the picture with its heat, a table of the channels (share, heat, visualization, examples, verdict), and the
    circuit of this picture as an interactive drawing; ``pictures`` are those of the drawing's units, a mapping or the
    model, as in `write_circuit` (those of the carriers are used where none is given). No request leaves the page.
    """
    graph = found.graph
    known = {str(carrier.unit): carrier.picture for carrier in found.carriers if carrier.picture is not None}
    given = {name: known[name] for name in graph if name in known} if pictures is None else pictures
    drawing = compose(graph, title=f"Circuit of {found.target} on this picture")
    sources = {
        name: data_uri(picture, size=LARGE) for name, picture in pictures_of(graph, given, progress=progress).items()
    }
    scripts = (get_plotlyjs(), script_text())
    text = (
        _environment()
        .get_template("explanation.html")
        .render(
            found=found,
            picture=data_uri(found.picture, size=SIDE),
            overall=data_uri(found.overall.overlay(0), size=SIDE),
            carriers=[_row(found, carrier) for carrier in found.carriers],
            drawn=any(carrier.picture is not None for carrier in found.carriers),
            exampled=any(carrier.examples for carrier in found.carriers),
            drawing=drawing,
            payload=data_block(circuit_payload(drawing, sources, focus=graph.graph["target"])),
            styles=(DIAGRAMS / "circuit.css").read_text(encoding="utf-8"),
            own=(HERE / "explanation.css").read_text(encoding="utf-8"),
            scripts=scripts,
            digests=[script_digest(script) for script in scripts],
            rows=table_rows(drawing),
        )
    )
    return write_atomically(Path(path), text)


def _row(found: Explanation, carrier: Carrier) -> dict[str, Any]:
    largest = max(abs(each.share) for each in found.carriers)
    return {
        "name": str(carrier.unit),
        "share": f"{carrier.share:+.1%}".replace("-", "−"),
        "bar": round(96 * abs(carrier.share) / largest) if largest else 0,
        "effect": "excites" if carrier.share > 0 else "inhibits",
        "heat": data_uri(found.heat_of(carrier), size=SMALL),
        "picture": None if carrier.picture is None else data_uri(carrier.picture, size=SMALL),
        "grade": carrier.grade,
        "examples": [data_uri(resize(example, (SMALL, SMALL))) for example in carrier.examples],
        "verdict": carrier.verdict,
    }


@cache
def _environment() -> Environment:
    """Give the environment of the diagrams' templates, and beside them those of this folder."""
    ours = environment().overlay()
    ours.loader = ChoiceLoader([FileSystemLoader(HERE), FileSystemLoader(DIAGRAMS)])
    return ours
