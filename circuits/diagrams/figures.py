"""draw_circuit: a circuit as an ordinary plotly figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

import networkx as nx
import numpy as np
import plotly.graph_objects as go

from circuits.diagrams.drawings import WIDTHS, Drawing, DrawnEdge, DrawnUnit, compose, curves, grips, take_notes
from circuits.diagrams.texts import plotly_text, shown
from circuits.meanings import Polysemanticity
from features.examples import Examples
from features.models import Model
from features.pictures import data_uri
from features.units import Unit
from features.visualization import Visualization, visualize

# Vermillion and blue of Okabe and Ito's colour-blind-safe palette (2008), as in `features.pictures.signed`.
SIGNS = {1: ("excites", "#d55e00"), -1: ("inhibits", "#0072b2"), 0: ("neither", "#8a8a8a")}
FLAG = "#9b59d0"
FRAME = "#c9c9c9"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TITLE_ROOM = 44  # pixels
PICTURE = 128  # side of an embedded picture in pixels: sharp at twice the size of a node

Pictures = Model | Visualization | Mapping[str, np.ndarray] | None


def draw_circuit(
    graph: nx.DiGraph,
    pictures: Pictures = None,
    *,
    examples: Examples | None = None,
    meanings: Polysemanticity | None = None,
    title: str | None = None,
    progress: bool = True,
) -> go.Figure:
    """Draw a circuit: layers are columns from left to right, units are pictures, connections are curves.

    A curve is orange where the source excites the target (its ``weight`` is positive) and blue where it inhibits; its
    width grows with the root of ``strength``. Within a column units are ordered to reduce crossings with barycenter
    sweeps (see `circuits.diagrams.layouts.arrange`). Hovering names a unit with its strongest inputs and outputs, and a
    connection with its weight and its share of all that its target receives. Curves are few traces, one per sign and
    width, and all pictures are set at once, so that a graph of 1,000 units is drawn in well under a second. One data
    unit is one pixel.

    ``pictures``: nothing; a `Model`, whose units are then visualized (with a progress bar); a `Visualization`; or a
    mapping from units to pictures ``(h, w, 3)`` in [0, 1], which need not hold every unit. ``examples`` (of
    `find_examples`) adds how often a unit fires, ``meanings`` (of `polysemanticity`) frames the units that seem to mean
    several things. ``ValueError`` for a graph without units, a node that is no unit, or a weight that is no finite
    number.

    >>> graph = nx.DiGraph()
    >>> graph.add_edge("mixed3a:1", "mixed3b:7", weight=-0.5)
    >>> figure = draw_circuit(graph)
    >>> list(figure.data[-1].customdata)
    ['mixed3a:1', 'mixed3b:7']
    >>> [trace.name for trace in figure.data if trace.showlegend]
    ['inhibits']
    """
    drawing = compose(graph, take_notes(graph, examples, meanings), title=title)
    arrays = pictures_of(graph, pictures, progress=progress)
    sources = {node: data_uri(array, size=PICTURE) for node, array in arrays.items()}
    return go.Figure(figure_record(drawing, sources))


def pictures_of(graph: nx.DiGraph, pictures: Pictures, *, progress: bool = True) -> dict[str, np.ndarray]:
    """Give the pictures of the units of ``graph``: rendered, or taken from what is given; units without a picture are
    left out.
    """
    if pictures is None:
        return {}
    if isinstance(pictures, Model):
        pictures = visualize(pictures, in_order(graph), progress=progress)
    if isinstance(pictures, Visualization):
        pictures = dict(zip(pictures.units, pictures.images, strict=True))
    if not isinstance(pictures, Mapping):
        raise TypeError(
            f"pictures is a Model, a Visualization or a mapping from units to arrays, not {type(pictures).__name__}"
        )
    named = {str(unit): np.asarray(array) for unit, array in pictures.items()}
    for node, array in named.items():
        if array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"the picture of {node!r} has shape {array.shape}: give (h, w, 3) with values in [0, 1]")
    return {node: named[node] for node in graph if node in named}


def in_order(units: Iterable[str]) -> list[str]:
    """Give units by layer and channel, so that equal sets are rendered in equal batches."""
    return sorted(units, key=Unit.of)


def figure_record(drawing: Drawing, sources: Mapping[str, str]) -> dict[str, Any]:
    """Give the figure as plain data, ``{'data': traces, 'layout': layout}``, ready for plotly in Python or in a
    page.
    """
    traces = [*_edge_traces(drawing), _grip_trace(drawing), _unit_trace(drawing)]
    return {"data": traces, "layout": _layout(drawing, sources)}


def _edge_traces(drawing: Drawing) -> list[dict[str, Any]]:
    order = sorted(drawing.edges, key=lambda edge: (edge.width, -edge.sign))
    traces, seen = [], set()
    for (width, sign), group in groupby(order, key=lambda edge: (edge.width, edge.sign)):
        traces.append(_edge_trace(drawing, tuple(group), sign, width, first=sign not in seen))
        seen.add(sign)
    return traces


def _edge_trace(drawing: Drawing, edges: tuple[DrawnEdge, ...], sign: int, width: int, first: bool) -> dict[str, Any]:
    x, y = curves(drawing, edges)
    name, colour = SIGNS[sign]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x.ravel()[:-1],
        "y": y.ravel()[:-1],
        "name": name,
        "legendgroup": name,
        "showlegend": first,
        "hoverinfo": "skip",
        "line": {"color": colour, "width": WIDTHS[width]},
        "opacity": 0.75,
        "meta": {"sign": sign, "width": width},
    }


def _grip_trace(drawing: Drawing) -> dict[str, Any]:
    x, y = grips(drawing, drawing.edges)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "name": "connections",
        "showlegend": False,
        "hoverinfo": "text",
        "hovertext": [_edge_text(edge) for edge in drawing.edges],
        "customdata": [[edge.source, edge.target] for edge in drawing.edges],
        "marker": {"size": 14, "color": "rgba(0,0,0,0)"},
        "meta": {"role": "connections"},
    }


def _edge_text(edge: DrawnEdge) -> str:
    share = "" if edge.share is None else f"<br>{edge.share:.1%} of what arrives"
    ends = f"{plotly_text(edge.source, 60)} {SIGNS[edge.sign][0]} {plotly_text(edge.target, 60)}"
    return f"{ends}<br>weight {edge.weight:+.4g}, strength {edge.strength:.4g}{share}"


def _unit_trace(drawing: Drawing) -> dict[str, Any]:
    units, layout = drawing.units, drawing.layout
    return {
        "type": "scatter",
        "mode": "markers+text" if layout.labelled else "markers",
        "x": [unit.place[0] for unit in units],
        "y": [unit.place[1] for unit in units],
        "text": [plotly_text(node_text(unit), 60) for unit in units],
        "textposition": "bottom center",
        "textfont": {"size": 11},
        "name": "units",
        "showlegend": False,
        "hoverinfo": "text",
        "hovertext": [_unit_text(unit) for unit in units],
        "customdata": [unit.name for unit in units],
        "marker": {
            "symbol": "square",
            "size": layout.side + 4,
            "opacity": 1,
            "color": "rgba(140,140,140,0.18)",
            "line": {"color": [FLAG if unit.flagged else FRAME for unit in units], "width": 2},
        },
        "meta": {"role": "units"},
    }


def node_text(unit: DrawnUnit, limit: int = 16) -> str:
    """Give what stands under a unit's picture: its label, else its channel."""
    return shown(unit.label, limit) if unit.label else str(Unit.of(unit.name).channel)


def _unit_text(unit: DrawnUnit) -> str:
    label = [plotly_text(unit.label, 60)] if unit.label else []
    several = ["seems to mean several things"] if unit.flagged else []
    return "<br>".join(
        [f"<b>{plotly_text(unit.name, 60)}</b>", *label, *map(plotly_text, (*unit.wires, *unit.facts)), *several]
    )


def _layout(drawing: Drawing, sources: Mapping[str, str]) -> dict[str, Any]:
    layout = drawing.layout
    room = TITLE_ROOM if drawing.title else 0
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yanchor": "bottom", "itemsizing": "constant"}
    record: dict[str, Any] = {
        "width": layout.width,
        "height": layout.height + room + 30,
        "margin": {"l": 0, "r": 0, "t": room, "b": 30},
        "xaxis": {"visible": False, "range": [0, layout.width]},
        "yaxis": {"visible": False, "range": [layout.height, 0]},
        "hovermode": "closest",
        "hoverlabel": {"align": "left"},
        "dragmode": "pan",
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": "#3a3a3d"},
        "legend": {**legend, "y": -26 / layout.height, "yanchor": "middle", "bgcolor": "rgba(0,0,0,0)"},
        "annotations": [
            _heading(drawing, layer, column) for layer, column in zip(layout.layers, layout.columns, strict=True)
        ],
        "images": [_image(drawing, unit, sources[unit.name]) for unit in drawing.units if unit.name in sources],
    }
    if drawing.title:
        heading = {
            "text": plotly_text(drawing.title, 120),
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "yref": "container",
        }
        record["title"] = {**heading, "pad": {"l": 24, "t": 16}, "font": {"size": 17}}
    return record


def _heading(drawing: Drawing, layer: str, column: tuple[str, ...]) -> dict[str, Any]:
    place = {"x": drawing.layout.places[column[0]][0], "y": 20, "xref": "x", "yref": "y"}
    return {**place, "text": plotly_text(layer, 22), "showarrow": False, "font": {"size": 13}}


def _image(drawing: Drawing, unit: DrawnUnit, source: str) -> dict[str, Any]:
    side = drawing.layout.side
    place = {"x": unit.place[0], "y": unit.place[1], "xref": "x", "yref": "y", "xanchor": "center", "yanchor": "middle"}
    return {**place, "source": source, "sizex": side, "sizey": side, "sizing": "stretch", "layer": "above"}
