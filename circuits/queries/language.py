"""Queries as text, for scripts and the command line, and their answers as rows and tables."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import math
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import networkx as nx

from circuits.queries.access import check_graph_type
from circuits.queries.comparing import difference, similar_inputs, similar_outputs
from circuits.queries.neighbours import ancestors, between, downstream, strongest_edges, upstream
from circuits.queries.paths import Path, path_sum, strongest_paths, strongest_paths_from
from circuits.queries.pruning import influence, prune, prune_influence
from circuits.queries.structure import bottlenecks, communities, dominators, minimum_cut

Query = Callable[..., Any]
Read = Callable[[str], nx.DiGraph]


def ask(
    graph: nx.DiGraph[str], text: str, *, queries: Mapping[str, Query] | None = None, read: Read | None = None
) -> Any:
    """Answer a query written as text: the name of a query, what it needs, and its options as ``name=value``.

    ``ask(graph, "upstream mixed4c:447 depth=2 width=5")`` is ``upstream(graph, "mixed4c:447", depth=2, width=5)``, and
    gives what that gives. The names are those of ``queries``, by default `QUERIES` (``-`` for ``_`` is allowed), the
    options those of the function. Several units are written with commas, ``none`` is ``None``, quotes keep blanks
    together. Where a query takes a second graph, the text names it, and ``read(name)`` (for example
    `circuits.load_graph`) gives it.

    Raises ``ValueError`` for text that is no query, with what was possible, and what the query raises.

    >>> graph = nx.DiGraph([("a:0", "b:0"), ("a:1", "b:0")])
    >>> nx.set_edge_attributes(graph, {("a:0", "b:0"): 2.0, ("a:1", "b:0"): 1.0}, "strength")
    >>> list(ask(graph, "upstream b:0 width=1").edges)
    [('a:0', 'b:0')]
    """
    check_graph_type(graph)
    known = QUERIES if queries is None else queries
    words = _words(text)
    name = words[0].replace("-", "_")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"nearest is {near[0]!r}; " if near else ""
        raise ValueError(f"no query {words[0]!r}: {hint}there are {', '.join(known)}")
    given, options = _arguments(name, known[name], words[1:], read)
    return known[name](graph, *given, **options)


def usage(name: str, query: Query) -> str:
    """Say how a query is written as text.

    >>> usage("between", between)
    'between SOURCE TARGET'
    >>> usage("prune", prune)
    'prune share=0.02'
    """
    return " ".join([name, *(_usage_of(parameter) for parameter in _parameters(query))])


def rows(result: Any) -> list[dict[str, Any]]:
    """Give the answer to any query as a list of flat JSON objects.

    A graph gives a row for each edge, with ``from``, ``to`` and its attributes; one of `strongest_paths` a row for each
    path, with ``units`` and ``product``. Mappings give ``unit`` and ``value`` (paths: ``to``, ``product``, ``units``),
    lists ``unit``, a frozen record its fields.

    >>> rows({"a:0": 0.5})
    [{'unit': 'a:0', 'value': 0.5}]
    """
    if isinstance(result, nx.DiGraph):
        return _rows_of_graph(result)
    if isinstance(result, Mapping):
        return [row for unit, value in result.items() for row in _rows_of_item(unit, value)]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return _rows_of_record(result)
    if isinstance(result, Sequence) and not isinstance(result, str):
        return [{"unit": unit} for unit in result]
    raise TypeError(f"{type(result).__name__} is no answer to a query: give what ask gave")


def table(result: Any, *, count: int | None = None) -> str:
    """Give the answer to any query as text with aligned columns; an empty one as the sentence that says why.

    ``count`` shows only the first rows, and says how many there are. The total of a cut and the counts of a difference
    stand below. Of an edge's many numbers those of `COLUMNS` are
    shown; `rows` has all.

    >>> graph = nx.DiGraph()
    >>> graph.add_edge("a:0", "b:0", weight=-0.25)
    >>> print(table(graph))
    from  to   weight
    a:0   b:0   -0.25
    """
    found = rows(result)
    if not found:
        notes = result.graph if isinstance(result, nx.DiGraph) else {}
        return str(notes.get("empty", "nothing was found"))
    shown = found if count is None else found[:count]
    keys = list(dict.fromkeys(key for row in shown for key in row))
    if isinstance(result, nx.DiGraph):
        keys = [key for key in COLUMNS if key in keys]
    lines = _aligned(keys, shown)
    if len(shown) < len(found):
        lines.append(f"... {len(found)} in all")
    notes = result.graph if isinstance(result, nx.DiGraph) else {}
    return "\n".join([*lines, *(f"{key}: {_cell(notes[key])}" for key in SUMMARIES if key in notes)])


def _words(text: str) -> list[str]:
    if not isinstance(text, str):
        raise TypeError(f"a query is text such as 'upstream mixed4c:447 depth=2', not {type(text).__name__}")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"the query {text!r} cannot be read ({error}): close every quote") from error
    if not words:
        raise ValueError(
            f"the query is empty: write for example 'upstream mixed4c:447'; there are {', '.join(QUERIES)}"
        )
    return words


def _arguments(name: str, query: Query, words: list[str], read: Read | None) -> tuple[list[Any], dict[str, Any]]:
    parameters = {parameter.name: parameter for parameter in _parameters(query)}
    needed = [each for each in parameters.values() if each.kind is not each.KEYWORD_ONLY]
    given: list[Any] = []
    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (equals and key.isidentifier()):
            if len(given) == len(needed):
                raise ValueError(f"{word!r} is one word too many for {name}: write {usage(name, query)!r}")
            key, value = needed[len(given)].name, word
            given.append(_value(key, needed[len(given)], value, read))
        elif key not in parameters or parameters[key] in needed[: len(given)] or key in options:
            raise ValueError(f"{name} takes no {key!r} here: write {usage(name, query)!r}")
        else:
            options[key] = _value(key, parameters[key], value, read)
    missing = [each.name for each in needed[len(given) :] if each.name not in options and each.default is each.empty]
    if missing:
        raise ValueError(f"{name} needs {' and '.join(missing)}: write {usage(name, query)!r}")
    return given, options


def _value(key: str, parameter: inspect.Parameter, text: str, read: Read | None) -> Any:
    kind = str(parameter.annotation)
    if kind.startswith("nx.DiGraph"):
        if read is None:
            raise ValueError(f"{text!r} is the name of another graph: give ask(..., read=) a function that reads it")
        return read(text)
    if "None" in kind.replace("Targets", "None") and text.lower() == "none":
        return None
    try:
        return READERS[kind](text)
    except ValueError as error:
        kinds = "a whole number" if kind.startswith("int") else "a number"
        raise ValueError(f"{key} is {text!r}: give {kinds}") from error


def _parameters(query: Query) -> list[inspect.Parameter]:
    """Give what can be written: all but the graph, and what has no text form."""
    signature = list(inspect.signature(query).parameters.values())
    return [each for each in signature[1:] if each.annotation in READERS or each.annotation.startswith("nx.DiGraph")]


def _usage_of(parameter: inspect.Parameter) -> str:
    if parameter.kind is not parameter.KEYWORD_ONLY:
        name = parameter.name.upper()
        return name if parameter.default is parameter.empty else f"[{name}]"
    return f"{parameter.name}={'none' if parameter.default is None else parameter.default}"


def _several(text: str) -> str | list[str]:
    return text.split(",") if "," in text else text


def _rows_of_graph(graph: nx.DiGraph[str]) -> list[dict[str, Any]]:
    if "paths" in graph.graph:
        return [{"product": path["product"], "units": path["units"]} for path in json.loads(graph.graph["paths"])]
    return [{"from": tail, "to": head, **data} for tail, head, data in graph.edges(data=True)]


def _rows_of_item(unit: str, value: Any) -> Iterable[dict[str, Any]]:
    if isinstance(value, tuple) and all(isinstance(each, Path) for each in value):
        return [{"to": unit, "product": path.product, "units": list(path.units)} for path in value]
    return [{"unit": unit, "value": value}]


def _rows_of_record(record: Any) -> list[dict[str, Any]]:
    """Give the fields that are text or numbers; for a field of graphs, a row for each with the roles of its nodes."""
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    graphs = [each for value in fields.values() if isinstance(value, tuple) for each in value]
    graphs = [each for each in graphs if isinstance(each, nx.DiGraph)]
    plain = {key: value for key, value in fields.items() if isinstance(value, (str, int, float)) and value != ""}
    return [{**plain, **_roles(graph), "score": graph.graph.get("score")} for graph in graphs] or [plain]


def _roles(graph: nx.DiGraph[str]) -> dict[str, str]:
    """Give the units of each role, with commas where they are several."""
    units: dict[str, list[str]] = {}
    for unit, role in graph.nodes(data="role"):
        units.setdefault(str(role), []).append(unit)
    return {role: ", ".join(each) for role, each in units.items()}


def _aligned(keys: list[str], found: list[dict[str, Any]]) -> list[str]:
    lines = [keys, *([_cell(row.get(key, "")) for key in keys] for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(keys))]
    right = [all(isinstance(row.get(key, 0), (int, float)) for row in found) for key in keys]
    return [
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " > ".join(map(str, value))
    text = f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)
    return repr(text)[1:-1]


QUERIES: dict[str, Query] = {
    "upstream": upstream,
    "downstream": downstream,
    "ancestors": ancestors,
    "between": between,
    "strongest_edges": strongest_edges,
    "strongest_paths": strongest_paths,
    "strongest_paths_from": strongest_paths_from,
    "path_sum": path_sum,
    "prune": prune,
    "influence": influence,
    "prune_influence": prune_influence,
    "dominators": dominators,
    "bottlenecks": bottlenecks,
    "minimum_cut": minimum_cut,
    "communities": communities,
    "similar_inputs": similar_inputs,
    "similar_outputs": similar_outputs,
    "difference": difference,
}

# How the text of an argument is read, by what the function's signature says of it.
READERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "int | None": int,
    "float": float,
    "str": str,
    "Sign | None": str,
    "Measure": str,
    "Unit | str": str,
    "Unit | str | Iterable[Unit | str]": _several,
    "Targets": _several,
}

# The columns of a table of edges: the rest would not fit a screen.
COLUMNS = (
    "from", "to", "product", "units", "change", "before", "after", "weight", "strength", "share", "contribution",
    "influence", "q_value", "measured", "predicted",
)  # fmt: skip

# What a query writes into graph.graph about its answer as a whole, and a table shows below.
SUMMARIES = ("changes", "cut")
