"""Markup: a graph as GraphML and as GEXF, and back; no document type, no entity, no other encoding is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, quoteattr

import networkx as nx

Keys = dict[tuple[str, str], str]  # name and type of an attribute to its id
Meanings = Mapping[str, tuple[str, Callable[[str], Any]]]  # id of an attribute to its name and the reader of its type

GRAPHML = "http://graphml.graphdrawing.org/xmlns"
GEXF = "http://gexf.net/1.3"
PIECE = 2**20  # characters parsed at once, so that a refusal comes early
DEEPEST = 16  # graphml/graph/node/data and gexf/graph/nodes/node/attvalues/attvalue, and what other tools add
HEAD = '<?xml version="1.0" encoding="utf-8"?>'

# What XML 1.0 cannot hold, escaped or not.
UNSPEAKABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def graphml_of(graph: nx.DiGraph[str]) -> str:
    """Give ``graph`` as GraphML; ``ValueError`` for what that cannot hold."""
    nodes, edges = graph.nodes(data=True), graph.edges(data=True)
    keys = {
        "graph": _keys([graph.graph], "g"),
        "node": _keys((data for _, data in nodes), "n"),
        "edge": _keys((data for _, _, data in edges), "e"),
    }
    lines = [HEAD, f'<graphml xmlns="{GRAPHML}">']
    for place, known in keys.items():
        lines += [
            f'<key id="{key}" for="{place}" attr.name={quoteattr(name)} attr.type="{kind}"/>'
            for (name, kind), key in known.items()
        ]
    lines += ['<graph edgedefault="directed">', *_data(graph.graph, keys["graph"])]
    lines += (f"<node id={_quoted(node)}>{''.join(_data(data, keys['node']))}</node>" for node, data in nodes)
    lines += (
        f"<edge source={_quoted(source)} target={_quoted(target)}>{''.join(_data(data, keys['edge']))}</edge>"
        for source, target, data in edges
    )
    return _speakable("\n".join([*lines, "</graph>", "</graphml>", ""]))


def graphml_from(text: str) -> tuple[nx.DiGraph[str], int, int]:
    """Give the graph that GraphML describes, and how many nodes and edges it lists."""
    root = _root(text, "graphml")
    body = _only(root, "graph")
    if body.get("edgedefault") != "directed":
        raise ValueError("its edges have no direction")
    meanings = {
        _said(key, "id"): (_said(key, "attr.name"), _reader(key.get("attr.type"))) for key in root.findall("key")
    }
    nodes, edges = body.findall("node"), body.findall("edge")
    graph: nx.DiGraph[str] = nx.DiGraph(**_read(body, "data", "key", meanings))
    graph.add_nodes_from((_said(node, "id"), _read(node, "data", "key", meanings)) for node in nodes)
    graph.add_edges_from((*_ends(edge), _read(edge, "data", "key", meanings)) for edge in edges)
    return graph, len(nodes), len(edges)


def gexf_of(graph: nx.DiGraph[str]) -> str:
    """Give ``graph`` as GEXF; ``ValueError`` for what that cannot hold. Nodes show their label, or else their name."""
    nodes = graph.nodes(data=True)
    edges = [(source, target, *_split(data)) for source, target, data in graph.edges(data=True)]
    keys = {"node": _keys((data for _, data in nodes), "n"), "edge": _keys((data for *_, data in edges), "e")}
    described = escape(json.dumps(graph.graph, allow_nan=False, ensure_ascii=True))
    lines = [HEAD, f'<gexf xmlns="{GEXF}" version="1.3">', f"<meta><description>{described}</description></meta>"]
    lines.append('<graph defaultedgetype="directed" mode="static">')
    for place, known in keys.items():
        attributes = (
            f'<attribute id="{key}" title={quoteattr(name)} type="{kind}"/>' for (name, kind), key in known.items()
        )
        lines += [f'<attributes class="{place}">', *attributes, "</attributes>"]
    lines.append("<nodes>")
    for node, data in nodes:
        shown = quoteattr(str(data.get("label") or node))
        lines.append(f"<node id={_quoted(node)} label={shown}>{_attvalues(data, keys['node'])}</node>")
    lines += ["</nodes>", "<edges>"]
    for number, (source, target, weight, data) in enumerate(edges):
        ends = f"source={_quoted(source)} target={_quoted(target)}{weight}"
        lines.append(f'<edge id="{number}" {ends}>{_attvalues(data, keys["edge"])}</edge>')
    return _speakable("\n".join([*lines, "</edges>", "</graph>", "</gexf>", ""]))


def gexf_from(text: str) -> tuple[nx.DiGraph[str], int, int]:
    """Give the graph that GEXF describes, and how many nodes and edges it lists."""
    root = _root(text, "gexf")
    body = _only(root, "graph")
    if body.get("defaultedgetype") != "directed":
        raise ValueError("its edges have no direction")
    described = json.loads(_only(_only(root, "meta"), "description").text or "", parse_constant=_no_constant)
    if not isinstance(described, dict):
        raise ValueError("its description is no JSON object")
    meanings = {each.get("class"): _titles(each) for each in body.findall("attributes")}
    nodes, edges = _only(body, "nodes").findall("node"), _only(body, "edges").findall("edge")
    graph: nx.DiGraph[str] = nx.DiGraph(**described)
    graph.add_nodes_from((_said(node, "id"), _attributes(node, meanings.get("node", {}))) for node in nodes)
    graph.add_edges_from(
        (*_ends(edge), {**_weight(edge), **_attributes(edge, meanings.get("edge", {}))}) for edge in edges
    )
    return graph, len(nodes), len(edges)


def _keys(every: Iterable[Mapping[str, Any]], prefix: str) -> Keys:
    """Give each name and type of attribute an id; one name may have several types."""
    found = dict.fromkeys((str(name), _kind(name, value)) for data in every for name, value in data.items())
    return {named: f"{prefix}{number}" for number, named in enumerate(found)}


def _kind(name: object, value: object) -> str:
    kind = KINDS.get(type(value))
    if kind is None and isinstance(value, float | str):  # numpy's float64 and str are Python's too
        kind = KINDS[float if isinstance(value, float) else str]
    if not isinstance(name, str) or kind is None:
        raise ValueError(f"{name!r} is {value!r}")
    return kind


def _data(data: Mapping[str, Any], keys: Keys) -> Iterator[str]:
    for name, value in data.items():
        kind = _kind(name, value)
        yield f'<data key="{keys[name, kind]}">{WRITERS[kind](value)}</data>'


def _attvalues(data: Mapping[str, Any], keys: Keys) -> str:
    values = (
        f'<attvalue for="{keys[name, _kind(name, value)]}" value={_quoted_value(name, value)}/>'
        for name, value in data.items()
    )
    return f"<attvalues>{''.join(values)}</attvalues>"


def _split(data: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Give the weight as GEXF's own attribute of an edge, and what is left."""
    if not isinstance(data.get("weight"), float):
        return "", data
    rest = {name: value for name, value in data.items() if name != "weight"}
    return f' weight="{_number(data["weight"])}"', rest


def _quoted(name: object) -> str:
    return quoteattr(str(name))


def _quoted_value(name: str, value: object) -> str:
    return quoteattr(value) if isinstance(value, str) else f'"{WRITERS[_kind(name, value)](value)}"'


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number of a graph")
    return repr(float(value))


def _written(text: str) -> str:
    return escape(text, {"\r": "&#13;"})  # a bare one would come back as a line feed


def _speakable(text: str) -> str:
    found = UNSPEAKABLE.search(text)
    if found is not None:
        raise ValueError(f"XML has no character {found.group()!r}")
    return text


def _root(text: str, name: str) -> Element:
    """Parse ``text``. Entities can only come from a document type: where there is none, nothing can expand."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares a document type or an entity, which no graph needs")
    declared = re.match(r"\s*<\?xml[^>]*?encoding\s*=\s*[\"']([^\"']*)", text)
    if declared is not None and declared.group(1).lower() not in {"utf-8", "utf8", "us-ascii"}:
        raise ValueError(f"it declares the encoding {declared.group(1)!r}: only UTF-8 is read")
    parser = ElementTree.XMLParser(target=_Shallow(name), encoding="utf-8")
    text = text.lstrip()
    try:
        for start in range(0, len(text), PIECE):
            parser.feed(text[start : start + PIECE])
        root: Element = parser.close()
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    return root


class _Shallow:
    """Build a tree as ElementTree does, without namespaces; stop at another root, and deeper than any graph goes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.depth = 0
        self.builder = ElementTree.TreeBuilder()
        self.data, self.close = self.builder.data, self.builder.close

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        name = tag.rpartition("}")[2]
        if self.depth > DEEPEST or (self.depth == 1 and name != self.name):
            raise ValueError(f"it has {tag!r} at depth {self.depth}, which no {self.name} of a graph has")
        self.builder.start(name, attributes)

    def end(self, tag: str) -> None:
        self.depth -= 1
        self.builder.end(tag)


def _only(element: Element, name: str) -> Element:
    found = element.findall(name)
    if len(found) != 1:
        raise ValueError(f"it has {len(found)} elements {name!r} in {element.tag!r}, not one")
    return found[0]


def _said(element: Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        raise ValueError(f"an element {element.tag!r} has no {name!r}")
    return value


def _ends(edge: Element) -> tuple[str, str]:
    return _said(edge, "source"), _said(edge, "target")


def _read(element: Element, child: str, key: str, meanings: Meanings) -> dict[str, Any]:
    values = ((meanings[_said(data, key)], data.text or "") for data in element.findall(child))
    return {name: read(text) for (name, read), text in values}


def _attributes(element: Element, meanings: Meanings) -> dict[str, Any]:
    values = (each for group in element.findall("attvalues") for each in group.findall("attvalue"))
    named = ((meanings[_said(each, "for")], _said(each, "value")) for each in values)
    return {name: read(text) for (name, read), text in named}


def _titles(attributes: Element) -> Meanings:
    return {
        _said(each, "id"): (_said(each, "title"), _reader(each.get("type"))) for each in attributes.findall("attribute")
    }


def _weight(edge: Element) -> dict[str, float]:
    weight = edge.get("weight")
    return {} if weight is None else {"weight": float(weight)}


def _reader(kind: str | None) -> Callable[[str], Any]:
    if kind not in READERS:
        raise ValueError(f"it has attributes of type {kind!r}: known are {', '.join(READERS)}")
    return READERS[kind]


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text.strip().lower()]


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of a graph")


# What both forms call the types of attributes, how a value is written, and how it is read.
KINDS: dict[type, str] = {str: "string", int: "long", float: "double", bool: "boolean"}
WRITERS: dict[str, Callable[[Any], str]] = {
    "string": _written,
    "long": str,
    "double": _number,
    "boolean": lambda value: str(value).lower(),
}
READERS: dict[str, Callable[[str], Any]] = {
    "string": str,
    **dict.fromkeys(("int", "integer", "long"), int),
    **dict.fromkeys(("float", "double"), float),
    "boolean": _truth,
}
