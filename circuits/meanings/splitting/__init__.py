"""Splitting: a unit that means several things taken apart into virtual units, one a meaning, and whether they come
apart. split makes it from examples, split_by_pictures without any, split_graph puts it into a graph.
"""

from __future__ import annotations

from circuits.meanings.splitting.grafting import split_graph
from circuits.meanings.splitting.making import split, split_by_pictures
from circuits.meanings.splitting.nouns import Split, VirtualUnit, meaning_node, meaning_of, read_split, write_split

__all__ = [
    "Split",
    "VirtualUnit",
    "meaning_node",
    "meaning_of",
    "read_split",
    "split",
    "split_by_pictures",
    "split_graph",
    "write_split",
]
