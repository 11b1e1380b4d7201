"""The command line: `circuits atlas`, `show UNIT`, `graph`, `query TEXT`, `check STORY`, `layers`.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a failure while working or
a claim that failed, 2 bad input, 130 stopped with Ctrl-C. Everything heavy is imported inside the commands, so that
``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Work = Callable[[], int | None]  # what is left to do once everything is checked; gives an exit code where it is not 0
Command = Callable[[argparse.Namespace], Work]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with ``argv`` (by default the process's own) and give its exit code.

    >>> main(["layers", "--model", "no-such-network"])
    2
    """
    try:
        args = _parser().parse_args(argv)
    except SystemExit as done:  # argparse has said what is wrong, or has shown its help
        return int(done.code or 0)
    try:
        return _run(args)
    except KeyboardInterrupt:
        print("stopped; the same command continues where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 (Python flushes it at exit)
        return 0


def _run(args: argparse.Namespace) -> int:
    """Check everything a user can get wrong (exit code 2), then work (exit code 1 where that fails)."""
    work: Work | None = None
    try:
        work = COMMANDS[args.command](args)
        return work() or 0
    except BrokenPipeError:  # an OSError, but no failure: main ends quietly
        raise
    except Exception as error:  # whatever it is, a person at a command line gets a sentence, not a traceback
        if args.traceback:
            traceback.print_exc()
        print(f"circuits: {_sentence(error)}", file=sys.stderr)
        return 2 if work is None else 1


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    known = isinstance(error, ValueError | TypeError | OSError | ImportError | RuntimeError)
    return text if text and known else f"{type(error).__name__}: {text}"


def _atlas(args: argparse.Namespace) -> Work:
    from circuits.atlas import write_atlas
    from circuits.atlas.folders import claim

    model = _model(args)
    dataset = _dataset(args, model)
    layers = _layers(args, model)
    folder = claim(Path(args.out))
    given = {name: getattr(args, name) for name in ("steps", "count") if getattr(args, name) is not None}

    def work() -> None:
        index = write_atlas(
            model, dataset, folder, layers=layers, seed=args.seed, fresh=args.fresh, progress=not args.quiet, **given
        )
        print(f"Open {index}", flush=True)
        _open(args, index)

    return work


def _show(args: argparse.Namespace) -> Work:
    from circuits.atlas import write_unit
    from features.records import slug

    model = _model(args)
    unit = model.unit(args.unit)
    dataset = _dataset(args, model)
    path = Path(args.out or f"{slug(str(unit))}.html")
    if path.suffix.lower() not in (".html", ".png"):
        raise ValueError(f"--out {path} names no form that is known: end it with .html or .png")

    def work() -> None:
        print(
            write_unit(
                model, dataset, unit, path, layers=_layers(args, model), seed=args.seed, progress=not args.quiet
            ),
            flush=True,
        )
        _open(args, path)

    return work


def _graph(args: argparse.Namespace) -> Work:
    from circuits.atlas.pages import circuit_of
    from circuits.diagrams import write_circuit
    from circuits.graphs import FORMATS, build_graph, save_graph

    model = _model(args)
    layers = _layers(args, model)
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
        _open(args, path)

    return work


def _query(args: argparse.Namespace) -> Work:
    from circuits.graphs import build_graph, load_graph, save_graph
    from circuits.motifs import MOTIFS
    from circuits.queries import QUERIES, ask, rows, table

    if args.graph is not None:
        graph = load_graph(args.graph)
    else:
        model = _model(args)
        graph = build_graph(model, _layers(args, model), keep=args.keep, progress=not args.quiet)
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


def _check(args: argparse.Namespace) -> Work:
    from circuits.claims import check_claims, read_claims

    story = read_claims(args.story)
    model = _model(args)
    dataset = _dataset(args, model)

    def work() -> int:
        report = check_claims(model, story, dataset=dataset, progress=not args.quiet)
        print(report.to_json() if args.json else report, flush=True)
        return 1 if report.counts["failed"] else 0

    return work


def _layers_command(args: argparse.Namespace) -> Work:
    model = _model(args)
    chosen = _layers(args, model) or (tuple(layer.name for layer in model.layers) if args.all else model.default_layers)
    rows = [_layer_record(model.layer(name)) for name in chosen]
    return lambda: print(json.dumps(rows, indent=1) if args.json else _table(rows), flush=True)


def _layer_record(layer: Any) -> dict[str, Any]:
    field = layer.field
    return {
        "name": layer.name,
        "kind": layer.kind,
        "channels": layer.channels,
        "shape": list(layer.shape),
        "receptive_field": None if field is None else list(field.size),
        "stride": None if field is None else list(field.stride),
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    def times(numbers: Sequence[int] | None) -> str:
        return "whole image" if numbers is None else " x ".join(map(str, numbers))

    head = ("name", "kind", "channels", "shape", "sees (pixels)")
    body = [
        (row["name"], row["kind"], str(row["channels"]), times(row["shape"]), times(row["receptive_field"]))
        for row in rows
    ]
    lines = [head, *((repr(name)[1:-1], *rest) for name, *rest in body)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _model(args: argparse.Namespace) -> Any:
    from features.models import load_model

    return load_model(args.model, weights=args.weights, device=args.device)


def _layers(args: argparse.Namespace, model: Any) -> tuple[str, ...] | None:
    if not args.layers:
        return None
    return tuple(model.layer(name).name for part in args.layers for name in part.split(",") if name)


def _dataset(args: argparse.Namespace, model: Any) -> Any:
    from circuits.atlas import open_dataset

    if args.dataset is not None:
        return open_dataset(args.dataset, model)
    if args.model == "sketches":
        from features.sketches import HELD_OUT_SEED, Sketches

        return Sketches(2000, seed=HELD_OUT_SEED)
    if args.model == "photographs":
        raise ValueError(
            "the photographs are not in the package: give CIFAR-10's folder, or one of pictures, with --dataset"
        )
    return None


def _open(args: argparse.Namespace, path: Path) -> None:
    if args.open:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())


class _Version(argparse.Action):
    """Print the version; it is looked up only when somebody asks."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "nargs": 0})

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"circuits {version('vision-circuits')}")
        except PackageNotFoundError:
            print("circuits, run from its sources")
        parser.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="circuits", description="See what the units of a vision network respond to, and how they are wired."
    )
    parser.add_argument("--version", action=_Version, help="say which version this is, and stop")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = _shared_options()
    atlas = commands.add_parser(
        "atlas", parents=[shared], help="write a folder of pages for the whole network", description=ATLAS
    )
    atlas.add_argument("--out", default="atlas", metavar="FOLDER", help="where to write it (default: atlas)")
    atlas.add_argument("--steps", type=_count, help="optimization steps per picture (default: that of visualize)")
    atlas.add_argument("--count", type=_count, help="examples per unit (default: that of find_examples)")
    atlas.add_argument("--fresh", action="store_true", help="make everything again, reuse nothing")
    show = commands.add_parser("show", parents=[shared], help="write one page about one unit", description=SHOW)
    show.add_argument("unit", metavar="UNIT", help="layer:channel, for example mixed4b:17")
    show.add_argument("--out", metavar="FILE", help="an .html page or a .png picture (default: the unit's name, .html)")
    graph = commands.add_parser("graph", parents=[shared], help="write the wiring as a graph", description=GRAPH)
    graph.add_argument("--unit", metavar="UNIT", help="only the circuit of this unit")
    graph.add_argument("--keep", type=_count, default=10, help="how many inputs of each unit to keep (default: 10)")
    graph.add_argument(
        "--by",
        choices=["strength", "weight", "excitation", "inhibition"],
        default="strength",
        help="what the inputs are chosen by (default: strength)",
    )
    graph.add_argument(
        "--out",
        metavar="FILE",
        help="an .html drawing, or a graph as .json, .graphml, .gexf or .cyjs (default: graph.json, or circuit.html)",
    )
    query = commands.add_parser("query", parents=[shared], help="ask the wiring a question", description=QUERY)
    query.add_argument("text", metavar="TEXT", help="for example 'upstream mixed4c:13 depth=2 width=5'")
    query.add_argument("--graph", metavar="FILE", help="a graph that `circuits graph` wrote, instead of a network")
    query.add_argument("--keep", type=_count, default=10, help="how many inputs of each unit to keep (default: 10)")
    query.add_argument("--count", type=_count, help="show only so many rows")
    query.add_argument("--json", action="store_true", help="as JSON, with every number")
    query.add_argument("--out", metavar="FILE", help="write the graph that is the answer, too")
    check = commands.add_parser("check", parents=[shared], help="test a story's claims on a network", description=CHECK)
    check.add_argument("story", metavar="STORY", help="a claims file, or 'sketches' or 'inceptionv1', which come along")
    check.add_argument("--json", action="store_true", help="as JSON")
    layers = commands.add_parser("layers", parents=[shared], help="list the layers that can be read")
    layers.add_argument("--all", action="store_true", help="every readable layer, not only those an atlas shows")
    layers.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _shared_options() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--model", default="sketches", help="sketches, photographs, or a network of torchvision (default: sketches)"
    )
    shared.add_argument("--weights", help="seed0, seed1, the name of torchvision weights, or a file of weights")
    shared.add_argument("--dataset", metavar="FOLDER", help="a folder of pictures, or CIFAR-10's folder")
    shared.add_argument("--layers", action="append", metavar="A,B", help="only these layers")
    shared.add_argument("--device", help="cpu, cuda, ...")
    shared.add_argument("--seed", type=_seed, default=0, help="where the randomness starts (default: 0)")
    shared.add_argument("--open", action="store_true", help="open the result in a browser")
    shared.add_argument("--quiet", action="store_true", help="no progress")
    shared.add_argument("--traceback", action="store_true", help="with an error, show where in the program it arose")
    return shared


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return number


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


ATLAS = """Write a folder of HTML pages: every layer, every unit with its picture, its examples, its verdict and its
circuit. What lies there and is still valid is reused; a stopped run continues."""
SHOW = "Write one page (or one picture) about one unit: its picture, its examples, its circuit."
GRAPH = "Write the wiring of the network, or of one unit, as node-link JSON for networkx, or as an interactive drawing."

QUERY = """Ask the graph of the wiring, for example `upstream UNIT depth=2`. There are: upstream, downstream, ancestors,
between, strongest_edges, strongest_paths, strongest_paths_from, path_sum, prune, influence, prune_influence,
dominators, bottlenecks, minimum_cut, communities, similar_inputs, similar_outputs, difference, cross_inhibition,
inhibition_pairs, superposition. One that is written wrong says how it is written."""
CHECK = """Test every claim of a circuit story: held, failed, or not testable, with the figures. Exit code 1 where one
failed."""

COMMANDS: dict[str, Command] = {
    "atlas": _atlas,
    "show": _show,
    "graph": _graph,
    "query": _query,
    "check": _check,
    "layers": _layers_command,
}

if __name__ == "__main__":
    sys.exit(main())
