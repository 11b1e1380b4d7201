"""What needs two units of a vision network: wiring, graphs, queries, interventions, meanings, diagrams, atlases.

Read the weights between layers with `connect`, as a networkx graph with `build_graph`; ask it with `upstream` and its
kin; check it with `verify`; flag units that mean several things with `polysemanticity`; draw with `draw_circuit`, and
write pages that open anywhere with `write_circuit` and `write_atlas`. Names are imported when they are first used, so
that ``import circuits`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

EXPORTS = {
    "connect": "wiring",
    "connections": "wiring",
    "flow": "wiring",
    "linear_map": "wiring",
    "register": "wiring",
    "connect_gated": "wiring",
    "connect_fitted": "wiring",
    "connect_local": "wiring",
    "linearity": "wiring",
    "Linearity": "wiring",
    "preactivations": "wiring",
    "cancellation": "wiring",
    "Cancellation": "wiring",
    "path_mass": "wiring",
    "paths_through": "wiring",
    "washed_out": "wiring",
    "Wash": "wiring",
    "factor_channels": "wiring.factors",
    "factor_space": "wiring.factors",
    "Factors": "wiring.factors",
    "build_graph": "graphs",
    "check_graph": "graphs",
    "save_graph": "graphs",
    "load_graph": "graphs",
    "export_graphml": "graphs",
    "significance": "graphs",
    "EdgeTable": "graphs",
    "edge_table": "graphs",
    "edge_frame": "graphs",
    "write_edge_table": "graphs",
    "measure_contributions": "contributions",
    "ablate": "interventions",
    "patch": "interventions",
    "verify": "interventions",
    "polysemanticity": "meanings",
    "Polysemanticity": "meanings",
    "write_polysemanticity": "meanings",
    "read_polysemanticity": "meanings",
    "upstream": "queries",
    "downstream": "queries",
    "between": "queries",
    "strongest_paths": "queries",
    "prune": "queries",
    "ancestors": "queries",
    "strongest_edges": "queries",
    "strongest_paths_from": "queries",
    "Path": "queries",
    "Paths": "queries",
    "path_sum": "queries",
    "PathSum": "queries",
    "influence": "queries",
    "prune_influence": "queries",
    "dominators": "queries",
    "bottlenecks": "queries",
    "minimum_cut": "queries",
    "communities": "queries",
    "similar_inputs": "queries",
    "similar_outputs": "queries",
    "difference": "queries",
    "ask": "queries",
    "rows": "queries",
    "table": "queries",
    "Motif": "motifs",
    "rewired": "motifs",
    "cross_inhibition": "motifs",
    "inhibition_pairs": "motifs",
    "superposition": "motifs",
    "union_over_cases": "motifs",
    "equivariance": "motifs",
    "Family": "families",
    "Transform": "families",
    "find_families": "families",
    "kernel_families": "families",
    "transform_between": "families",
    "collapse": "families",
    "Collapse": "families",
    "check_claims": "claims",
    "read_claims": "claims",
    "write_claims": "claims",
    "draw_circuit": "diagrams",
    "write_circuit": "diagrams",
    "write_atlas": "atlas",
}

__all__ = list(EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in EXPORTS:
        raise AttributeError(f"module 'circuits' has no attribute {name!r}: it offers {', '.join(sorted(EXPORTS))}")
    value = getattr(import_module(f"circuits.{EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
