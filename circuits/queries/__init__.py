"""Queries: graph in, graph out. What feeds a unit, what lies between two, the strongest paths, what changed."""

from __future__ import annotations

from circuits.queries.access import Measure, Sign
from circuits.queries.comparing import difference, similar_inputs, similar_outputs
from circuits.queries.language import QUERIES, ask, rows, table, usage
from circuits.queries.neighbours import ancestors, between, downstream, strongest_edges, upstream
from circuits.queries.paths import Path, Paths, PathSum, path_sum, strongest_paths, strongest_paths_from
from circuits.queries.pruning import influence, prune, prune_influence
from circuits.queries.structure import bottlenecks, communities, dominators, minimum_cut

__all__ = [
    "QUERIES",
    "Measure",
    "Path",
    "PathSum",
    "Paths",
    "Sign",
    "ancestors",
    "ask",
    "between",
    "bottlenecks",
    "communities",
    "difference",
    "dominators",
    "downstream",
    "influence",
    "minimum_cut",
    "path_sum",
    "prune",
    "prune_influence",
    "rows",
    "similar_inputs",
    "similar_outputs",
    "strongest_edges",
    "strongest_paths",
    "strongest_paths_from",
    "table",
    "upstream",
    "usage",
]
