"""circuits polysemantic: which units mean several things, as a table; how each layer holds its features."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from circuits.commands.inputs import dataset_of, layers_of, model_of
from circuits.commands.options import Command, Work, count

EXAMPLES = 64  # of each unit: a meaning of one in fourteen still has four or five


def _prepare(args: argparse.Namespace) -> Work:
    from circuits.meanings import FEWEST
    from features.examples.store import open_examples

    model = model_of(args)
    args.layers = [*(args.layers or []), *(args.layer or [])]
    layers = layers_of(args, model) or model.default_layers[-2:]
    units = [str(model.unit(unit)) for unit in args.units]
    layers = tuple(dict.fromkeys(unit.rpartition(":")[0] for unit in units)) or layers
    dataset = None if args.store and args.dataset is None else dataset_of(args, model)
    if args.store is None and dataset is None:
        raise ValueError(f"what {model.name} is to look at is not known: give --dataset FOLDER, or --store FOLDER")
    if args.count < FEWEST:
        raise ValueError(f"--count {args.count}: to say how many things a unit means takes {FEWEST} examples or more")
    if args.sheets is not None and Path(args.sheets).suffix.lower() != ".html":
        raise ValueError(f"--sheets {args.sheets} names no page: end it with .html")
    kept = None if args.store is None else open_examples(args.store)
    return lambda: _work(args, model, dataset, kept, layers, units)


def _work(
    args: argparse.Namespace, model: Any, dataset: Any, kept: Any, layers: tuple[str, ...], units: list[str]
) -> None:
    from circuits.meanings import polysemanticity
    from circuits.meanings.overviews import layer_overview
    from circuits.meanings.reports import meaning_sheet, reason, verdict_text
    from features.examples import find_examples

    quiet = not args.quiet
    examples = kept or find_examples(model, dataset, layers, count=args.count, progress=quiet)
    asked = units or [unit for unit in examples if unit.rpartition(":")[0] in layers]
    seen = None if args.quick else dataset
    found = polysemanticity(model, examples, asked, dataset=seen, seed=args.seed, progress=quiet)
    if args.json:
        print(json.dumps([_record(found, unit) for unit in found], indent=1), flush=True)
    else:
        print(verdict_text(found, count=args.rows), flush=True)
        if len(units) == 1:
            print(f"\n{reason(found, units[0])}", flush=True)
        elif not units:
            print(f"\n{layer_overview(found, examples)}", flush=True)
    flagged = [] if args.sheets is None else _flagged(found, args.rows)
    if flagged:
        _write_sheets(args, [meaning_sheet(found, examples, unit, dataset) for unit in flagged])
    elif args.sheets is not None:
        print("no unit means several things: no sheets were written", file=sys.stderr)


def _flagged(found: Any, rows: int) -> list[str]:
    from circuits.meanings.reports import order

    return [found.units[at] for at in order(found) if found.flag[at]][:rows]


def _write_sheets(args: argparse.Namespace, sheets: list[Any]) -> None:
    from features.examples import write_sheets

    print(write_sheets(sheets, Path(args.sheets), title="Units with several meanings"), flush=True)


def _record(found: Any, unit: str) -> dict[str, Any]:
    from circuits.meanings.reports import reason

    judged = found[unit]
    numbers = {"probability": judged.probability, **judged.evidence}
    kept = {name: value if math.isfinite(value) else None for name, value in numbers.items()}  # JSON has no NaN
    return {
        "unit": unit,
        "verdict": judged.verdict,
        "meanings": judged.meanings,
        "shares": list(judged.shares),
        **kept,
        "reason": reason(found, unit),
    }


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("units", metavar="UNIT", nargs="*", help="only these units, for example mixed4b:17")
    parser.add_argument("--layer", action="append", metavar="A,B", help="the same as --layers (default: the last two)")
    parser.add_argument("--store", metavar="FOLDER", help="examples that `circuits examples --store` kept")
    parser.add_argument(
        "--count", type=count, default=EXAMPLES, help=f"examples of each unit to look for (default: {EXAMPLES})"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="judge by the layer's own activations alone, which takes seconds; otherwise also by how a late layer sees "
        "the examples and by what the layer below contributed",
    )
    parser.add_argument("--rows", type=count, default=30, help="units to print (default: 30)")
    parser.add_argument("--sheets", metavar="FILE", help="write the flagged units' examples, by meaning, to this .html")
    parser.add_argument("--json", action="store_true", help="as JSON, every unit with its reason in words")


POLYSEMANTIC = Command(
    "say which units mean several things",
    _prepare,
    _options,
    """Judge how many different things units respond to, from their examples: verdict, probability, meanings and their
    shares; for whole layers also how many features they hold, and how much these interfere.""",
)
