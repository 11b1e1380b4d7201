"""Explanations: what one picture made the network say, through which channels and wires; explain, explanation_graph."""

from __future__ import annotations

from circuits.explanations.explaining import explain
from circuits.explanations.nouns import Carrier, Explanation
from circuits.explanations.pages import write_explanation
from circuits.explanations.tracing import explanation_graph

__all__ = ["Carrier", "Explanation", "explain", "explanation_graph", "write_explanation"]
