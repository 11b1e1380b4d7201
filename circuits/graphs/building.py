"""Building: the strongest wires of a network as a directed graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np

from circuits.graphs.checking import SCHEMA
from circuits.graphs.kernels import MEASURES, Inputs, Wires, inputs
from circuits.wiring import connect, flow
from features.models import Model

METHOD = "linearized jacobian"


def build_graph(
    model: Model,
    layers: Sequence[str] | None = None,
    *,
    keep: int = 10,
    by: str = "strength",
    wires: Wires = connect,
    progress: bool = True,
) -> nx.DiGraph[str]:
    """Give the strongest wires between units as a directed graph: for each unit the ``keep`` strongest of its inputs.

    Layers (by default ``model.default_layers``) feed each other as `circuits.flow` says; the weights of a wire are
    the window ``w = wires(model, source, target, cut=others)[o, i]``, ``(kh, kw)``, by default those of `connect`,
    other listed layers held fixed. Any function that gives ``(o, i, kh, kw)`` will do: ``functools.partial(
    connect_gated, images=images)`` weighs each path by how often its ReLUs are open.

    Nodes are ``'layer:channel'`` with

    - layer: str, and channel: int
    - depth: int, place of the layer in the order of execution, 0 first
    - label: str, the class that a unit of the classifier stands for, else ``''``
    - kept: float in [0, 1], the part of the unit's total input that the kept edges carry; 1 without inputs

    and edges, from source to target, with

    - weight: float, sum of w: what the source does to the target when it fires everywhere
    - strength: float, L2 norm of w
    - excitation: float >= 0, sum of the positive weights; inhibition: float <= 0, sum of the negative
    - peak_y, peak_x: float, place of the largest absolute weight, from the window's centre, in positions of the
      source, down and right; half positions for even windows
    - share: float, the edge's part of the target's total input, the sum of the measure over all inputs from all layers
    - rank: int, 0 for the target's strongest input

    The measure that edges are chosen, ranked and shared by is ``by``: ``strength``, ``weight`` (absolute),
    ``excitation`` or ``inhibition`` (absolute), in the network's own precision, ties by order of layers and channels. A
    wire whose measure is 0 is no edge. ``graph.graph`` holds schema, model, digest, layers (JSON list), method (the
    name of ``wires``, for `connect` ``'linearized jacobian'``), by, keep, nonfinite (number of wires left out because a
    weight was infinite or NaN). All numbers are finite Python numbers. `significance` adds ``p_value`` and ``q_value``.

    No edge is made that is not kept: one pair of layers is in memory at a time. `edge_table` gives all wires as arrays.
    Without any edge, ``graph.graph["empty"]`` says why.

    Raises ``ValueError`` for fewer than two layers, unknown layers, ``keep`` below 1, an unknown ``by``, weights of
    another shape, and what `connect` raises.

    >>> from features.models import load_model
    >>> graph = build_graph(load_model("sketches"), ["mixed3a", "mixed3b"], keep=2, progress=False)
    >>> sorted(graph.edges[next(iter(graph.edges))])
    ['excitation', 'inhibition', 'peak_x', 'peak_y', 'rank', 'share', 'strength', 'weight']
    >>> max(degree for _, degree in graph.in_degree())
    2
    """
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"keep is {keep!r}: give the number of inputs to keep for each unit, 1 or more")
    check_measure(by)
    sources = sources_of(model, layers)
    graph = _nodes(model, list(sources))
    for target, found in inputs(model, sources, wires=wires, by=by, keep=keep, progress=progress):
        _add(graph, target, found)
    graph.graph.update(method=method_of(wires), by=by, keep=keep)
    if not graph.number_of_edges():
        fed = "no wire has any weight" if any(sources.values()) else "none of these layers feeds another"
        graph.graph["empty"] = f"{fed}: circuits.flow says what feeds what among {', '.join(sources)}"
    return graph


def sources_of(model: Model, layers: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Give `flow` of two or more layers; ``ValueError`` for fewer."""
    sources = flow(model, model.default_layers if layers is None else layers)
    if len(sources) < 2:
        raise ValueError(f"{len(sources)} layer(s) were given: a graph needs two or more, such as model.default_layers")
    return sources


def check_measure(by: str) -> None:
    """Raise ``ValueError`` for a measure that does not exist."""
    if by not in MEASURES:
        raise ValueError(f"by is {by!r}: edges are chosen by {', '.join(MEASURES)}")


def method_of(wires: Wires) -> str:
    """Give the name that ``graph.graph['method']`` keeps of what gave the weights."""
    function = getattr(wires, "func", wires)  # the function in a functools.partial
    return METHOD if function is connect else str(getattr(function, "__name__", type(function).__name__))


def _nodes(model: Model, layers: list[str]) -> nx.DiGraph[str]:
    said: dict[str, Any] = {"schema": SCHEMA, "model": model.name, "digest": model.digest, "layers": json.dumps(layers)}
    graph: nx.DiGraph[str] = nx.DiGraph(**said, method=METHOD, by="strength", keep=0, nonfinite=0)
    for depth, name in enumerate(layers):
        layer = model.layer(name)
        classes = layer.shape == (len(model.labels),) and name == model.layers[-1].name
        for channel in range(layer.channels):
            label = model.labels[channel] if classes else ""
            graph.add_node(f"{name}:{channel}", layer=name, channel=channel, depth=depth, label=label, kept=1.0)
    return graph


def _add(graph: nx.DiGraph[str], target: str, found: Inputs) -> None:
    names = [f"{target}:{channel}" for channel in range(len(found.total))]
    wires = zip(found.rows.tolist(), found.sources.tolist(), strict=True)
    numbers = zip(*(column.tolist() for column in found.columns.values()), strict=True)
    graph.add_edges_from(
        (found.units[source], names[row], dict(zip(found.columns, values, strict=True)))
        for (row, source), values in zip(wires, numbers, strict=True)
    )
    kept = np.bincount(found.rows, found.columns["share"], len(names)).tolist()
    for name, total, part in zip(names, found.total.tolist(), kept, strict=True):
        graph.nodes[name]["kept"] = min(1.0, part) if total > 0 else 1.0
    graph.graph["nonfinite"] += found.nonfinite
