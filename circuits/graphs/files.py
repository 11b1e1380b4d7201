"""Files: a graph to a file and back, equal, types included; the form is the file's ending."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx

from circuits.graphs.checking import check_graph
from circuits.graphs.markup import gexf_from, gexf_of, graphml_from, graphml_of
from features.records import write_atomically

LARGEST_FILE = 2**29  # bytes; ResNet50 with the 10 strongest inputs of every unit is 0.1 GB


def save_graph(graph: nx.DiGraph[str], path: str | Path) -> Path:
    """Write ``graph`` in the form that the ending of ``path`` names, atomically; give the path.

    - ``.json``: node-link JSON, networkx's own (``edges`` key)
    - ``.graphml``: GraphML, for yEd, Cytoscape, igraph and others
    - ``.gexf``: GEXF 1.3, for Gephi; ``graph.graph`` is JSON in ``meta/description``, which the form has no place for
    - ``.cyjs``: Cytoscape JSON, for Cytoscape and Cytoscape.js

    `load_graph` reads each back equal: nodes, edges, their order, attributes and types. Raises ``ValueError`` for
    another ending, a graph that breaks the schema, an attribute that the form cannot hold (JSON: numbers that are not
    finite, and the names ``id``, ``source``, ``target``, that would be lost; XML: also lists, and control characters)
    and a file over 512 MiB, ``OSError`` where the file cannot be written.

    >>> import tempfile
    >>> from circuits.graphs import build_graph
    >>> from features.models import load_model
    >>> graph = build_graph(load_model("sketches"), ["mixed3a", "mixed3b"], keep=2, progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = [save_graph(graph, Path(folder) / f"graph{ending}") for ending in FORMATS]
    ...     all(nx.utils.graphs_equal(load_graph(path), graph) for path in paths)
    True
    """
    return _write(graph, Path(path), *_form(Path(path))[:2])


def load_graph(path: str | Path) -> nx.DiGraph[str]:
    """Read a graph that `save_graph` wrote, in any of its forms; what comes back equals what was saved.

    Raises ``FileNotFoundError``, and ``ValueError`` with the reason for a file that is no such graph: not UTF-8, cut
    short, over 512 MiB, with an entity or a document type, a node twice, a cycle, a number that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no graph at {path}: write one with circuits.save_graph")
    name, _, read = _form(path)
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} is larger than 512 MiB: no circuit graph is; build it again with a smaller keep")
    try:
        graph = read(_text(path))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, nx.NetworkXError) as error:
        raise ValueError(f"{path} is no graph in {name} ({type(error).__name__}: {error})") from error
    try:
        check_graph(graph)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return graph


def export_graphml(graph: nx.DiGraph[str], path: str | Path) -> Path:
    """Write ``graph`` as GraphML for Gephi, yEd, Cytoscape and others, whatever the ending of ``path``; give the path.

    ``nx.read_graphml(path)`` reads the same nodes, edges and attributes back. Raises as `save_graph` does.
    """
    return _write(graph, Path(path), *FORMATS[".graphml"][:2])


def _write(graph: nx.DiGraph[str], path: Path, name: str, form: Callable[[nx.DiGraph[str]], str]) -> Path:
    check_graph(graph)
    try:
        data = form(graph).encode("utf-8")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the graph holds what {name} cannot ({error}): attributes are text, whole and finite numbers"
        ) from error
    if len(data) > LARGEST_FILE:
        raise ValueError(f"the graph takes {len(data):,} bytes as {name}: build it with a smaller keep")
    return write_atomically(path, data)


def _form(path: Path) -> tuple[str, Callable[[nx.DiGraph[str]], str], Callable[[str], nx.DiGraph[str]]]:
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} names no form of a graph: end it with {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _text(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"<"):
            raise ValueError("it does not begin as one")
    return path.read_text(encoding="utf-8-sig")


def _json_of(graph: nx.DiGraph[str]) -> str:
    _refuse_names(graph, nodes={"id"}, edges={"source", "target"})
    return json.dumps(nx.node_link_data(graph, edges="edges"), allow_nan=False, ensure_ascii=True)


def _json_from(text: str) -> nx.DiGraph[str]:
    data = _parsed(text)
    _check_kinds({"nodes": list, "edges": list, "graph": dict}, data)
    graph = nx.node_link_graph(data, directed=True, multigraph=False, edges="edges")
    return _whole(graph, len(data["nodes"]), len(data["edges"]))


def _cytoscape_of(graph: nx.DiGraph[str]) -> str:
    _refuse_names(graph, nodes={"id", "name", "value"}, edges={"id", "source", "target"})
    nodes = [{"data": {"id": node, "name": node, "value": node, **data}} for node, data in graph.nodes(data=True)]
    edges = [
        {"data": {"id": f"{source} -> {target}", "source": source, "target": target, **data}}
        for source, target, data in graph.edges(data=True)
    ]
    elements = {"nodes": nodes, "edges": edges}
    return json.dumps(
        {"data": graph.graph, "directed": True, "multigraph": False, "elements": elements},
        allow_nan=False,
        ensure_ascii=True,
    )


def _cytoscape_from(text: str) -> nx.DiGraph[str]:
    data = _parsed(text)
    _check_kinds({"data": dict, "elements": dict}, data)
    nodes, edges = data["elements"]["nodes"], data["elements"]["edges"]
    graph: nx.DiGraph[str] = nx.DiGraph(**data["data"])
    graph.add_nodes_from((node["data"]["id"], _without(node["data"], {"id", "name", "value"})) for node in nodes)
    graph.add_edges_from(
        (edge["data"]["source"], edge["data"]["target"], _without(edge["data"], {"id", "source", "target"}))
        for edge in edges
    )
    return _whole(graph, len(nodes), len(edges))


def _xml_from(read: Callable[[str], tuple[nx.DiGraph[str], int, int]]) -> Callable[[str], nx.DiGraph[str]]:
    return lambda text: _whole(*read(text))


def _whole(graph: nx.DiGraph[str], nodes: int, edges: int) -> nx.DiGraph[str]:
    """Give ``graph`` if it has as many nodes and edges as its file listed, and no number that is not finite."""
    if len(graph) != nodes or graph.number_of_edges() != edges:
        raise ValueError("it names a node or an edge twice, or an edge to a node that it does not list")
    every: Iterable[Mapping[str, Any]] = [graph.graph, *(data for _, data in graph.nodes(data=True))]
    for attributes in [*every, *(data for _, _, data in graph.edges(data=True))]:
        for name, value in attributes.items():
            if type(value) is float and not math.isfinite(value):
                raise ValueError(f"{name} is {value}, which is no number of a graph")
    return graph


def _parsed(text: str) -> dict[str, Any]:
    data = json.loads(text, parse_constant=_no_constant)
    _check_kinds({}, data)
    return data  # type: ignore[no-any-return]


def _check_kinds(kinds: Mapping[str, type], data: Any) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"it holds a {type(data).__name__}, not an object")
    for key, kind in kinds.items():
        if not isinstance(data.get(key), kind):
            raise ValueError(f"its {key!r} is no {kind.__name__}")


def _refuse_names(graph: nx.DiGraph[str], *, nodes: set[str], edges: set[str]) -> None:
    """Raise for attributes that would be lost silently: the form itself has keys of these names."""
    for node, data in graph.nodes(data=True):
        if not nodes.isdisjoint(data):
            raise ValueError(f"node {node!r} has an attribute called {', '.join(sorted(nodes & data.keys()))}")
    for source, target, data in graph.edges(data=True):
        if not edges.isdisjoint(data):
            name = ", ".join(sorted(edges & data.keys()))
            raise ValueError(f"edge {source!r} -> {target!r} has an attribute called {name}")


def _without(data: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of a graph")


FORMATS: dict[str, tuple[str, Callable[[nx.DiGraph[str]], str], Callable[[str], nx.DiGraph[str]]]] = {
    ".json": ("node-link JSON", _json_of, _json_from),
    ".graphml": ("GraphML", graphml_of, _xml_from(graphml_from)),
    ".gexf": ("GEXF", gexf_of, _xml_from(gexf_from)),
    ".cyjs": ("Cytoscape JSON", _cytoscape_of, _cytoscape_from),
}
