"""Graphs: the strongest wires of a network as a plain networkx graph; build, check, save, load, test against chance."""

from __future__ import annotations

from circuits.graphs.building import METHOD, build_graph
from circuits.graphs.checking import EDGE_NUMBERS, HEADER, SCHEMA, check_graph
from circuits.graphs.files import FORMATS, LARGEST_FILE, export_graphml, load_graph, save_graph
from circuits.graphs.kernels import MEASURES
from circuits.graphs.significance import NULLS, significance
from circuits.graphs.tables import EdgeTable, edge_frame, edge_table, write_edge_table

__all__ = [
    "EDGE_NUMBERS",
    "FORMATS",
    "HEADER",
    "LARGEST_FILE",
    "MEASURES",
    "METHOD",
    "NULLS",
    "SCHEMA",
    "EdgeTable",
    "build_graph",
    "check_graph",
    "edge_frame",
    "edge_table",
    "export_graphml",
    "load_graph",
    "save_graph",
    "significance",
    "write_edge_table",
]
