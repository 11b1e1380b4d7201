"""draw_overview: superposition at a glance as a plotly figure."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from circuits.diagrams.figures import FLAG, FONT
from circuits.diagrams.texts import plotly_text
from circuits.meanings.overviews import LayerSummary, Overview

# Dark for what is sure of several meanings, grey for what says nothing; apart from each other in grey too.
COLOURS = {
    "polysemantic": FLAG,
    "undecided": "#d9c4ec",
    "diffuse": "#e8b35c",
    "monosemantic": "#3f7f6b",
    "dead": "#b5b5b5",
}
UNITS, FEATURES = "#b9c4cc", "#31688e"
ROW, REST = 34, 150  # pixels of one layer, and of what stands above and below
PANELS = ("share of the units", "units, and features found", "|cosine| of two features (orange: by chance)")
BAR = 0.64  # of a row
PAIRS = 2000  # cosines drawn of one layer: more look the same


def draw_overview(overview: Overview, *, title: str | None = None) -> go.Figure:
    """Draw three panels, a row for each layer: shares of verdicts; units against features found; the absolute cosines
    between features, with a line where random directions would be on average.

    >>> from circuits.meanings.overviews import LayerSummary
    >>> layer = LayerSummary("mixed4a", 2, {"polysemantic": 1, "dead": 1}, 2, 2, np.array([0.1]), 0.08)
    >>> [trace.name for trace in draw_overview(Overview("net", (layer,))).data][:2]
    ['polysemantic', 'dead']
    """
    figure = make_subplots(
        rows=1, cols=3, shared_yaxes=True, horizontal_spacing=0.04, column_widths=[0.4, 0.3, 0.3],
        subplot_titles=PANELS,
    )  # fmt: skip
    names = [plotly_text(each.layer) for each in overview.layers]
    _add_verdicts(figure, overview, names)
    for title_of, colour, offset, values in (
        ("units", UNITS, -BAR / 2, [each.units for each in overview.layers]),
        ("features", FEATURES, 0.0, [each.features for each in overview.layers]),
    ):
        figure.add_trace(
            go.Bar(y=names, x=values, name=title_of, orientation="h", marker_color=colour, offset=offset, width=BAR / 2,
                   text=values, textposition="auto", hovertemplate="%{y}: %{x} " + title_of + "<extra></extra>"),
            row=1, col=2,
        )  # fmt: skip
    for name, each in zip(names, overview.layers, strict=True):
        _add_interference(figure, name, each)
    _lay_out(figure, overview, title)
    return figure


def _add_verdicts(figure: go.Figure, overview: Overview, names: list[str]) -> None:
    """Stack the shares by bases of their own: what plotly stacks it would stack in the other panels too."""
    base = np.zeros(len(names))
    for verdict, colour in COLOURS.items():
        shares = np.array([each.verdicts.get(verdict, 0) / max(1, each.units) for each in overview.layers])
        if not shares.any():
            continue
        figure.add_trace(
            go.Bar(y=names, x=shares, base=base.copy(), name=verdict, orientation="h", marker_color=colour,
                   offset=-BAR / 2, width=BAR, hovertemplate="%{y}: %{x:.0%} " + verdict + "<extra></extra>"),
            row=1, col=1,
        )  # fmt: skip
        base += shares


def _add_interference(figure: go.Figure, name: str, summary: LayerSummary) -> None:
    cosines = np.abs(summary.cosines)
    shown = cosines[np.linspace(0, len(cosines) - 1, min(PAIRS, len(cosines))).astype(int)]
    figure.add_trace(
        go.Box(x=shown, y=[name] * len(shown), orientation="h", boxpoints=False, marker_color=FEATURES,
               fillcolor="#d7e3ec", line_width=1.2, showlegend=False, name=name),
        row=1, col=3,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(x=[summary.chance], y=[name], mode="markers", showlegend=False,
                   marker={"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": "#d55e00"}},
                   hovertemplate="random directions: %{x:.2f}<extra></extra>"),
        row=1, col=3,
    )  # fmt: skip


def _lay_out(figure: go.Figure, overview: Overview, title: str | None) -> None:
    figure.update_layout(
        title={"text": plotly_text(title or f"What the units of {overview.model} mean"), "x": 0.01, "xanchor": "left"},
        font={"family": FONT, "size": 13},
        template="plotly_white",
        height=REST + 2 * ROW + ROW * len(overview.layers),
        margin={"l": 10, "r": 16, "t": 84, "b": 70},
        legend={"orientation": "h", "y": -0.12, "yanchor": "top", "x": 0},
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(tickformat=".0%", range=[0, 1], row=1, col=1)
    figure.update_xaxes(range=[0, 1], row=1, col=3)
