"""Graphs: the strongest wires of a network as a plain networkx graph; build, check, save, load."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from circuits.wiring import connect, flow
from features.models import Model
from features.records import write_atomically
from features.units import Unit

SCHEMA = "circuits.graph/1"
METHOD = "linearized jacobian"
LARGEST_FILE = 2**30  # bytes; a graph of a million edges is 0.4 GB

Numbers = NDArray[np.float64]


def build_graph(
    model: Model, layers: Sequence[str] | None = None, *, keep: int = 10, progress: bool = True
) -> nx.DiGraph[str]:
    """Give the strongest wires between units as a directed graph: for each unit the ``keep`` strongest of its inputs.

    Layers (by default ``model.default_layers``) feed each other as `circuits.flow` says; the weights of a wire are
    the window ``w = connect(model, source, target)[o, i]``, ``(kh, kw)``, other listed layers held fixed.
    Nodes are ``'layer:channel'`` with

    - layer: str, and channel: int
    - depth: int, place of the layer in the order of execution, 0 first
    - label: str, the class that a unit of the classifier stands for, else ``''``
    - kept: float in [0, 1], the part of the unit's total input strength that the kept edges carry; 1 without inputs

    and edges, from source to target, with

    - weight: float, sum of w: what the source does to the target when it fires everywhere
    - strength: float, L2 norm of w; edges are chosen and ranked by it, ties by order of layers and channels
    - excitation: float >= 0, sum of the positive weights; inhibition: float <= 0, sum of the negative
    - peak_y, peak_x: float, place of the largest absolute weight, from the window's centre, in positions of the
      source, down and right; half positions for even windows
    - share: float, strength over the sum of strengths of all inputs of the target, from all its source layers
    - rank: int, 0 for the target's strongest input

    ``graph.graph`` holds schema, model, digest, layers (JSON list), method, keep, nonfinite (number of wires left
    out because a weight was infinite or NaN). All numbers are finite Python numbers. A wire of strength 0 is no
    edge.

    Raises ``ValueError`` for fewer than two layers, unknown layers or ``keep`` below 1, and what `connect` raises.

    >>> from features.models import load_model
    >>> graph = build_graph(load_model("sketches"), ["mixed3a", "mixed3b"], keep=2, progress=False)
    >>> sorted(graph.edges[next(iter(graph.edges))])
    ['excitation', 'inhibition', 'peak_x', 'peak_y', 'rank', 'share', 'strength', 'weight']
    >>> max(degree for _, degree in graph.in_degree())
    2
    """
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"keep is {keep!r}: give the number of inputs to keep for each unit, 1 or more")
    sources = flow(model, model.default_layers if layers is None else layers)
    if len(sources) < 2:
        raise ValueError(f"{len(sources)} layer(s) were given: a graph needs two or more, such as model.default_layers")
    graph = _nodes(model, list(sources))
    for target in tqdm(sources, desc="wiring", unit="layer", disable=not progress, leave=False):
        if sources[target]:
            _add_inputs(graph, target, _measure(model, target, sources[target], list(sources)), keep)
    graph.graph["keep"] = keep
    return graph


def check_graph(graph: nx.DiGraph[str]) -> None:
    """Raise ``ValueError`` with a sentence where ``graph`` breaks the schema that `build_graph` describes.

    Graphs with fewer nodes or edges, or with attributes of the user's own, are fine. Edges must climb from a lower
    to a higher ``depth``, so that a graph has no cycles. What is no ``nx.DiGraph`` raises ``TypeError``.

    >>> graph = nx.DiGraph()
    >>> graph.add_node("conv:0", layer="conv", channel=1)
    >>> check_graph(graph)
    Traceback (most recent call last):
    ...
    ValueError: graph.graph has no 'schema': build it with circuits.build_graph
    """
    if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
        raise TypeError(
            f"a circuit graph is an nx.DiGraph, not {type(graph).__name__}: build it with circuits.build_graph"
        )
    _check_header(graph)
    for node, attributes in graph.nodes(data=True):
        _check_node(node, attributes)
    for source, target, attributes in graph.edges(data=True):
        _check_numbers(f"edge {source!r} -> {target!r}", attributes, EDGE_NUMBERS)
        if graph.nodes[source]["depth"] >= graph.nodes[target]["depth"]:
            raise ValueError(f"edge {source!r} -> {target!r} does not climb: its source is not in an earlier layer")


def save_graph(graph: nx.DiGraph[str], path: str | Path) -> Path:
    """Write ``graph`` as node-link JSON (networkx's format, ``edges`` key), atomically; give the path.

    Raises ``ValueError`` for a graph that breaks the schema and for an attribute that JSON cannot hold, ``OSError``
    where the file cannot be written.

    >>> import tempfile
    >>> from features.models import load_model
    >>> graph = build_graph(load_model("sketches"), ["mixed3a", "mixed3b"], keep=2, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nx.utils.graphs_equal(load_graph(save_graph(graph, Path(folder) / "graph.json")), graph)
    True
    """
    check_graph(graph)
    try:
        text = json.dumps(nx.node_link_data(graph, edges="edges"), allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError, nx.NetworkXError) as error:
        raise ValueError(
            f"the graph holds what JSON cannot ({error}): attributes are text, whole and finite numbers"
        ) from error
    return write_atomically(path, text)


def load_graph(path: str | Path) -> nx.DiGraph[str]:
    """Read a graph that `save_graph` wrote; what comes back equals what was saved, types included.

    Raises ``FileNotFoundError``, and ``ValueError`` with the reason for a file that is no such graph.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no graph at {path}: write one with circuits.save_graph")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is larger than 1 GiB: no circuit graph is; build it again with a smaller keep")
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        graph = nx.node_link_graph(data, directed=True, multigraph=False, edges="edges")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, nx.NetworkXError) as error:
        raise ValueError(f"{path} is no graph in node-link JSON ({type(error).__name__}: {error})") from error
    if len(graph) != len(data["nodes"]) or graph.number_of_edges() != len(data["edges"]):
        raise ValueError(f"{path} names a node or an edge twice, or an edge to a node that it does not list")
    try:
        check_graph(graph)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return graph


def export_graphml(graph: nx.DiGraph[str], path: str | Path) -> Path:
    """Write ``graph`` as GraphML for Gephi, yEd, Cytoscape and others, atomically; give the path.

    ``nx.read_graphml(path)`` reads the same nodes, edges and attributes back. Raises ``ValueError`` for a graph
    that breaks the schema or has names that XML cannot hold (control characters).
    """
    check_graph(graph)
    file = BytesIO()
    try:
        nx.write_graphml_xml(graph, file)
        nx.read_graphml(BytesIO(file.getvalue()))
    except (nx.NetworkXError, ValueError, SyntaxError) as error:
        raise ValueError(f"the graph holds what GraphML cannot ({error}): use circuits.save_graph") from error
    return write_atomically(path, file.getvalue())


@dataclass(frozen=True)
class _Wires:
    """All wires into one layer, from its source layers side by side: arrays (o, i)."""

    units: list[str]
    numbers: dict[str, Numbers]
    finite: NDArray[np.bool_]


def _nodes(model: Model, layers: list[str]) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph(
        schema=SCHEMA,
        model=model.name,
        digest=model.digest,
        layers=json.dumps(layers),
        method=METHOD,
        keep=0,
        nonfinite=0,
    )
    for depth, name in enumerate(layers):
        layer = model.layer(name)
        classes = layer.shape == (len(model.labels),) and name == model.layers[-1].name
        for channel in range(layer.channels):
            label = model.labels[channel] if classes else ""
            graph.add_node(f"{name}:{channel}", layer=name, channel=channel, depth=depth, label=label, kept=1.0)
    return graph


def _measure(model: Model, target: str, sources: Sequence[str], layers: Sequence[str]) -> _Wires:
    units: list[str] = []
    parts: list[dict[str, Numbers]] = []
    for source in sources:
        others = [name for name in layers if name not in {source, target}]
        parts.append(_describe(connect(model, source, target, cut=others)))
        units += [f"{source}:{channel}" for channel in range(model.layer(source).channels)]
    numbers = {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}
    finite = np.isfinite(numbers["weight"]) & np.isfinite(numbers["strength"])
    numbers = {key: np.where(finite, value, 0.0) for key, value in numbers.items()}
    return _Wires(units, numbers, finite)


def _describe(kernels: Tensor) -> dict[str, Numbers]:
    """Reduce kernels (o, i, kh, kw) to the numbers of an edge, each (o, i); non-finite ones stay so."""
    kernels = kernels.detach().double().cpu()
    kh, kw = kernels.shape[2:]
    flat = kernels.flatten(2)
    peak = flat.abs().argmax(2)
    described = {
        "weight": flat.sum(2),
        "strength": torch.linalg.vector_norm(flat, dim=2),
        "excitation": flat.clamp(min=0).sum(2),
        "inhibition": flat.clamp(max=0).sum(2),
        "peak_y": peak.div(kw, rounding_mode="floor") - (kh - 1) / 2,
        "peak_x": peak % kw - (kw - 1) / 2,
    }
    return {key: value.double().numpy() for key, value in described.items()}


def _add_inputs(graph: nx.DiGraph[str], target: str, wires: _Wires, keep: int) -> None:
    """Add the strongest wires of each unit of ``target``: a stable sort of (o, i), a loop over what is kept."""
    strength = wires.numbers["strength"]
    total = strength.sum(1)
    share = np.divide(strength, total[:, None], out=np.zeros_like(strength), where=total[:, None] > 0)
    kept = np.argsort(-strength, axis=1, kind="stable")[:, :keep]
    table = {**wires.numbers, "share": share}
    columns = {key: np.take_along_axis(value, kept, axis=1).tolist() for key, value in table.items()}
    graph.graph["nonfinite"] += int((~wires.finite).sum())
    for unit, chosen in enumerate(kept.tolist()):
        node = f"{target}:{unit}"
        graph.add_edges_from(_edges(node, wires.units, chosen, {key: column[unit] for key, column in columns.items()}))
        if total[unit] > 0:
            graph.nodes[node]["kept"] = min(1.0, math.fsum(columns["share"][unit]))


def _edges(
    node: str, units: list[str], chosen: list[int], columns: dict[str, list[float]]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for rank, source in enumerate(chosen):
        if columns["strength"][rank] > 0:
            yield units[source], node, {**{key: column[rank] for key, column in columns.items()}, "rank": rank}


def _check_header(graph: nx.DiGraph[str]) -> None:
    for key, kind in HEADER.items():
        if key not in graph.graph:
            raise ValueError(f"graph.graph has no {key!r}: build it with circuits.build_graph")
        if not isinstance(graph.graph[key], kind) or isinstance(graph.graph[key], bool):
            raise ValueError(f"graph.graph[{key!r}] is {graph.graph[key]!r}: it must be {kind.__name__}")
    if graph.graph["schema"] != SCHEMA:
        raise ValueError(
            f"the graph has schema {graph.graph['schema']!r}: this version reads {SCHEMA!r}; build it again"
        )


def _check_node(node: object, attributes: dict[str, Any]) -> None:
    try:
        unit = Unit.of(node) if isinstance(node, str) else None
    except ValueError:
        unit = None
    if unit is None:
        raise ValueError(f"node {node!r} is no unit: nodes are 'layer:channel', for example 'mixed4b:409'")
    if (attributes.get("layer"), attributes.get("channel")) != (unit.layer, unit.channel):
        raise ValueError(
            f"node {node!r} has layer {attributes.get('layer')!r}, channel {attributes.get('channel')!r}: not the same"
        )
    if not isinstance(attributes.get("label"), str):
        raise ValueError(f"node {node!r} has label {attributes.get('label')!r}: it must be text, '' for none")
    _check_numbers(f"node {node!r}", attributes, {"depth": int, "kept": float})


def _check_numbers(what: str, attributes: dict[str, Any], kinds: dict[str, type]) -> None:
    for key, kind in kinds.items():
        value = attributes.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float) if kind is float else int)
            or not math.isfinite(value)
        ):
            needed = "a finite number" if kind is float else "a whole number"
            raise ValueError(f"{what} has {key} {value!r}: it must be {needed}")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of a graph")


HEADER: dict[str, type] = {"schema": str, "model": str, "digest": str, "layers": str, "method": str, "keep": int}
EDGE_NUMBERS: dict[str, type] = {
    **dict.fromkeys(("weight", "strength", "excitation", "inhibition", "peak_y", "peak_x", "share"), float),
    "rank": int,
}
