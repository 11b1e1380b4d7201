"""Motifs: patterns that recur in circuits, found by matrix algebra, each with a p-value from rewired networks."""

from __future__ import annotations

from collections.abc import Callable

from circuits.motifs.kernels import recoloured, warped
from circuits.motifs.rewiring import Motif, rewired
from circuits.motifs.signs import cross_inhibition, inhibition_pairs, superposition
from circuits.motifs.turns import equivariance, union_over_cases

__all__ = [
    "MOTIFS",
    "Motif",
    "cross_inhibition",
    "equivariance",
    "inhibition_pairs",
    "recoloured",
    "rewired",
    "superposition",
    "union_over_cases",
    "warped",
]

# What `ask(graph, text, queries={**QUERIES, **MOTIFS})` can find: the motifs that need nothing but the graph.
MOTIFS: dict[str, Callable[..., Motif]] = {
    "cross_inhibition": cross_inhibition,
    "inhibition_pairs": inhibition_pairs,
    "superposition": superposition,
}
