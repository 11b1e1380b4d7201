"""Grafting: the virtual units of a split in the place of their unit in a graph."""

from __future__ import annotations

import json
from typing import Any

import networkx as nx
import numpy as np

from circuits.graphs import check_graph
from circuits.meanings.splitting.nouns import Split, VirtualUnit
from features.units import Unit


def split_graph(graph: nx.DiGraph[str], split: Split, *, keep: int | None = None) -> nx.DiGraph[str]:
    """Give ``graph`` with the unit of ``split`` replaced by its virtual units.

    A virtual unit is a node as any other, in the unit's layer, with a channel that the layer does not have:
    `circuits.meanings.splitting.meaning_node`, in a layer of 96 channels ``'mixed4c:113'`` for the first meaning of
    ``'mixed4c:13'`` and ``'mixed4c:213'`` for the second. So `Unit.of` reads it, diagrams draw it in its column,
    queries, files and checks take it, and experiments on the network refuse it. Nodes get

    - of: str, the unit; meaning: int, 0 the most frequent; example_share: float, its part of the unit's examples
    - label: its channel and the labels of at least a quarter of its examples, such as ``'13: spiral'``
    - selectivity: float in [0, 1]

    and an edge from each of the ``keep`` sources (by default the graph's) that give it most,

    - contribution: float, signed, what the source gives to the unit on this meaning's examples; own: int, 1 for an edge
      of this meaning alone
    - weight: contribution in units of the graph's: all contributions of a meaning, their signs left out, sum to the sum
      of the strengths of the unit's inputs; strength, excitation and inhibition: its size and its parts
    - share: of all contributions of this meaning, signs left out; rank: 0 for the largest; peak_y, peak_x: the middle
      of where it comes from

    Outputs are the unit's own wires, once from each virtual unit (what reads the unit cannot tell which meaning made it
    fire), with ``share`` parted by how many of the examples each has. ``graph.graph["splits"]`` maps units to nodes
    (JSON). Sources that the graph lacks are added.

    Raises ``ValueError`` for a graph of other weights, of other layers, or without the unit.
    """
    _check(graph, split)
    keep = graph.graph["keep"] if keep is None else keep
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"keep is {keep!r}: give the number of inputs to keep for each virtual unit, 1 or more")
    made = graph.copy()
    outputs = [(target, dict(data)) for _, target, data in graph.out_edges(split.unit, data=True)]
    depth = graph.nodes[split.unit]["depth"]
    made.remove_node(split.unit)
    for each in split:
        made.add_node(each.node, **_node(each, depth))
        for source, data in _inputs(split, each, keep):
            _add_source(made, source, split.layers)
            made.add_edge(source, each.node, **data)
            made.nodes[each.node]["kept"] = min(1.0, made.nodes[each.node]["kept"] + data["share"])
        for target, data in outputs:
            made.add_edge(each.node, target, **{**data, "share": data["share"] * each.share})
    splits = json.loads(graph.graph.get("splits", "{}")) | {split.unit: [each.node for each in split]}
    made.graph["splits"] = json.dumps(splits)
    return made


def _node(each: VirtualUnit, depth: int) -> dict[str, Any]:
    unit = Unit.of(each.node)
    return {
        "layer": unit.layer,
        "channel": unit.channel,
        "depth": depth,
        "label": each.title,
        "kept": 0.0,
        "of": str(each.unit),
        "meaning": each.meaning,
        "example_share": each.share,
        "selectivity": each.selectivity,
    }


def _inputs(split: Split, each: VirtualUnit, keep: int) -> list[tuple[str, dict[str, float | int]]]:
    """Give the strongest inputs of a virtual unit and what their edges say."""
    everything = float(np.abs(each.contributions).sum())
    at = {source: place for place, source in enumerate(split.sources)}
    found = []
    for rank, (source, value) in enumerate(zip(each.sources[:keep], each.contributions[:keep].tolist(), strict=True)):
        if value == 0:
            break
        weight = value / everything * split.total
        peak_y, peak_x = split.places[each.meaning, at[source]].tolist()
        found.append(
            (
                source,
                {
                    "weight": weight,
                    "strength": abs(weight),
                    "excitation": max(0.0, weight),
                    "inhibition": min(0.0, weight),
                    "peak_y": peak_y,
                    "peak_x": peak_x,
                    "share": abs(value) / everything,
                    "rank": rank,
                    "contribution": value,
                    "own": int(source in each.own),
                },
            )
        )
    return found


def _add_source(graph: nx.DiGraph[str], source: str, layers: tuple[str, ...]) -> None:
    if source not in graph:
        unit = Unit.of(source)
        depth = layers.index(unit.layer)
        graph.add_node(source, layer=unit.layer, channel=unit.channel, depth=depth, label="", kept=1.0)


def _check(graph: nx.DiGraph[str], split: Split) -> None:
    check_graph(graph)
    if graph.graph["digest"] != split.digest:
        raise ValueError(f"the split is of other weights (of {split.model!r}) than the graph: make it from its model")
    if tuple(json.loads(graph.graph["layers"])) != split.layers:
        raise ValueError(f"the split was made in a graph of {', '.join(split.layers)}: give one of the same layers")
    if split.unit not in graph:
        raise ValueError(f"{split.unit!r} is not in the graph: give one that has it, and that it was not split in yet")
