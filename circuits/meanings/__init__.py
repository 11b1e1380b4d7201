"""Meanings: how many different things a unit responds to; polysemanticity judges from its examples, and SCORES are the
ways in which others would.
"""

from __future__ import annotations

from circuits.meanings.evidence import FEWEST, Evidence, gather
from circuits.meanings.judging import judge, polysemanticity
from circuits.meanings.nouns import FAR, Polysemanticity, UnitMeanings, read_polysemanticity, write_polysemanticity
from circuits.meanings.overviews import LayerSummary, Overview, layer_overview
from circuits.meanings.reports import meaning_frame, meaning_sheet, reason, verdict_text
from circuits.meanings.scores import SCORES
from circuits.meanings.upstream import find_upstream

__all__ = [
    "FAR",
    "FEWEST",
    "SCORES",
    "Evidence",
    "LayerSummary",
    "Overview",
    "Polysemanticity",
    "UnitMeanings",
    "find_upstream",
    "gather",
    "judge",
    "layer_overview",
    "meaning_frame",
    "meaning_sheet",
    "polysemanticity",
    "read_polysemanticity",
    "reason",
    "verdict_text",
    "write_polysemanticity",
]
