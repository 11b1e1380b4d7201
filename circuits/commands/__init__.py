"""The commands of ``circuits``, one file for each or for a small group. Nothing heavy is imported before one works."""

from __future__ import annotations

from circuits.commands.atlas import ATLAS, SHOW
from circuits.commands.check import CHECK
from circuits.commands.examples import EXAMPLES, EXCITED, SHEET
from circuits.commands.explain import EXPLAIN
from circuits.commands.graph import GRAPH, QUERY
from circuits.commands.layers import LAYERS
from circuits.commands.options import Command, Work
from circuits.commands.planted import PLANTED
from circuits.commands.polysemantic import POLYSEMANTIC

__all__ = ["COMMANDS", "Command", "Work"]

COMMANDS: dict[str, Command] = {
    "atlas": ATLAS,
    "show": SHOW,
    "examples": EXAMPLES,
    "sheet": SHEET,
    "excited": EXCITED,
    "polysemantic": POLYSEMANTIC,
    "planted": PLANTED,
    "explain": EXPLAIN,
    "graph": GRAPH,
    "query": QUERY,
    "check": CHECK,
    "layers": LAYERS,
}
