"""circuits graph, circuits query: the wiring as a file, and questions to it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from circuits.commands.inputs import layers_of, model_of, open_in_browser
from circuits.commands.options import Command, Work, count, open_option


def _prepare_graph(args: argparse.Namespace) -> Work:
    from circuits.atlas.pages import circuit_of
    from circuits.diagrams import write_circuit
    from circuits.graphs import FORMATS, build_graph, save_graph

    model = model_of(args)
    layers = layers_of(args, model)
    unit = None if args.unit is None else str(model.unit(args.unit))
    path = Path(args.out or ("graph.json" if unit is None else "circuit.html"))
    if path.suffix.lower() not in (".html", *FORMATS):
        raise ValueError(f"--out {path} names no form that is known: end it with .html, {', '.join(FORMATS)}")

    def work() -> None:
        graph = build_graph(model, layers, keep=args.keep, by=args.by, progress=not args.quiet)
        graph = graph if unit is None else circuit_of(graph, unit)
        if path.suffix.lower() == ".html":
            write_circuit(
                graph, path, None if unit is None else model, title=unit or model.name, progress=not args.quiet
            )
        else:
            save_graph(graph, path)
        print(path, flush=True)
        open_in_browser(args, path)

    return work


def _prepare_query(args: argparse.Namespace) -> Work:
    from circuits.graphs import build_graph, load_graph, save_graph
    from circuits.motifs import MOTIFS
    from circuits.queries import QUERIES, ask, rows, table

    if args.graph is not None:
        graph = load_graph(args.graph)
    else:
        model = model_of(args)
        graph = build_graph(model, layers_of(args, model), keep=args.keep, progress=not args.quiet)
    found = ask(graph, args.text, queries={**QUERIES, **MOTIFS}, read=load_graph)
    if args.out is not None and not isinstance(found, type(graph)):
        raise ValueError(f"the answer to {args.text!r} is no graph: leave --out, or write what --json prints to a file")

    def work() -> None:
        shown = rows(found)[: args.count]
        if args.json and not shown:  # an empty list does not say why
            print(table(found), file=sys.stderr)
        print(json.dumps(shown, indent=1) if args.json else table(found, count=args.count), flush=True)
        if args.out is not None:
            save_graph(found, args.out)

    return work


def _graph_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unit", metavar="UNIT", help="only the circuit of this unit")
    parser.add_argument("--keep", type=count, default=10, help="how many inputs of each unit to keep (default: 10)")
    parser.add_argument(
        "--by",
        choices=["strength", "weight", "excitation", "inhibition"],
        default="strength",
        help="what the inputs are chosen by (default: strength)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="an .html drawing, or a graph as .json, .graphml, .gexf or .cyjs (default: graph.json, or circuit.html)",
    )
    open_option(parser)


def _query_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="for example 'upstream mixed4c:13 depth=2 width=5'")
    parser.add_argument("--graph", metavar="FILE", help="a graph that `circuits graph` wrote, instead of a network")
    parser.add_argument("--keep", type=count, default=10, help="how many inputs of each unit to keep (default: 10)")
    parser.add_argument("--count", type=count, help="show only so many rows")
    parser.add_argument("--json", action="store_true", help="as JSON, with every number")
    parser.add_argument("--out", metavar="FILE", help="write the graph that is the answer, too")


GRAPH = Command(
    "write the wiring as a graph",
    _prepare_graph,
    _graph_options,
    "Write the wiring of the network, or of one unit, as node-link JSON for networkx, or as an interactive drawing.",
)
QUERY = Command(
    "ask the wiring a question",
    _prepare_query,
    _query_options,
    """Ask the graph of the wiring, for example `upstream UNIT depth=2`. There are: upstream, downstream, ancestors,
    between, strongest_edges, strongest_paths, strongest_paths_from, path_sum, prune, influence, prune_influence,
    dominators, bottlenecks, minimum_cut, communities, similar_inputs, similar_outputs, difference, cross_inhibition,
    inhibition_pairs, superposition. One that is written wrong says how it is written.""",
)
