"""Meanings: how many different things a unit responds to; polysemanticity judges from its examples."""

from __future__ import annotations

from circuits.meanings.judging import FAR, FEWEST, polysemanticity
from circuits.meanings.nouns import Polysemanticity, UnitMeanings, read_polysemanticity, write_polysemanticity

__all__ = [
    "FAR",
    "FEWEST",
    "Polysemanticity",
    "UnitMeanings",
    "polysemanticity",
    "read_polysemanticity",
    "write_polysemanticity",
]
