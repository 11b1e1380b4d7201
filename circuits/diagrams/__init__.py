"""Drawings of circuits: an ordinary plotly figure, and an interactive page in one file."""

from __future__ import annotations

from circuits.diagrams.figures import draw_circuit
from circuits.diagrams.overviews import draw_overview
from circuits.diagrams.pages import write_circuit

__all__ = ["draw_circuit", "draw_overview", "write_circuit"]
