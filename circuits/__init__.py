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
    "flow": "wiring",
    "linear_map": "wiring",
    "register": "wiring",
    "build_graph": "graphs",
    "check_graph": "graphs",
    "save_graph": "graphs",
    "load_graph": "graphs",
    "export_graphml": "graphs",
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
