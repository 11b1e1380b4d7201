"""What needs two units of a vision network: wiring, graphs, queries, interventions, diagrams, atlases.

Names are imported when they are first used, so that ``import circuits`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

EXPORTS = {
    "connect": "wiring",
    "flow": "wiring",
    "register": "wiring",
    "build_graph": "graphs",
    "check_graph": "graphs",
    "save_graph": "graphs",
    "load_graph": "graphs",
    "export_graphml": "graphs",
    "ablate": "interventions",
    "verify": "interventions",
    "polysemanticity": "meanings",
    "Polysemanticity": "meanings",
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
