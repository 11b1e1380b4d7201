"""circuits examples, circuits sheet, circuits excited: search a dataset for what excites units, and look at it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from circuits.commands.inputs import dataset_of, layers_of, model_of, open_in_browser
from circuits.commands.options import Command, Work, columns, count, open_option

STORE = "examples"


def _prepare_search(args: argparse.Namespace) -> Work:
    from features.examples.engines import check_run, run
    from features.examples.plans import make_plan

    model = model_of(args)
    layers = layers_of(args, model)
    dataset = dataset_of(args, model)
    if dataset is None:
        raise ValueError(f"no pictures to look at with {args.model!r}: give a folder of them with --dataset")
    planned = {name: getattr(args, name) for name in PLANNED if getattr(args, name) is not None}
    plan = make_plan(model, dataset, layers, **planned)
    how = {"engine": args.engine, "workers": args.workers, "shard": args.shard}
    check_run(model, dataset, plan, args.store, **how)

    def work() -> None:
        found = run(model, dataset, plan, args.store, **how, progress=not args.quiet)
        print(_waiting(args) if found is None else _summary(found, args.store), flush=True)

    return work


def _summary(found: Any, store: str) -> str:
    """Say what was found, layer by layer, what could not be read, and where to look."""
    from features.examples.sheets import HEADS, overview

    lost = [f"{len(found.skipped):,} could not be read; the first: {found.skipped[0][1]}"] if found.skipped else []
    layer = found.layers[len(found.layers) // 2]
    unit = f"{layer}:{int(found.layer(layer).maximum.argmax())}"
    kept = f"{found.count} examples each for {len(found):,} units, among {found.images:,} images, are in {store}"
    return "\n".join([columns([HEADS, *overview(found)]), *lost, kept, f"Look: circuits sheet {unit} --store {store}"])


def _waiting(args: argparse.Namespace) -> str:
    return f"share {args.shard} is done; the process that ends last puts all shares in {args.store} together"


def _prepare_sheet(args: argparse.Namespace) -> Work:
    from features.examples.sheets import check_sheet_path, contact_sheet, write_sheets
    from features.examples.store import open_examples

    path = Path(args.out)
    check_sheet_path(path)
    examples = open_examples(args.store)
    units = [examples[unit].unit for unit in args.unit]

    def work() -> None:
        print(write_sheets([contact_sheet(examples, unit) for unit in units], path), flush=True)
        open_in_browser(args, path)

    return work


def _prepare_excited(args: argparse.Namespace) -> Work:
    from features.examples.index import most_excited
    from features.examples.store import open_examples

    length = open_examples(args.store).length
    image = int(args.image) if args.image.isascii() and args.image.isdigit() else args.image
    if isinstance(image, int) and image >= length:
        raise ValueError(f"no image {image}: the dataset has {length:,} images (0 to {length - 1})")
    found = most_excited(args.store, image, args.count)

    def work() -> None:
        if not found:
            named = "" if isinstance(image, int) else "; images are called as the files in the dataset's folder"
            print(f"no unit keeps {args.image!r} among its examples{named}", file=sys.stderr)
        rows = [each._asdict() for each in found]
        print(json.dumps(rows, indent=1) if args.json else _excited_table(found), flush=True)

    return work


def _excited_table(found: Any) -> str:
    lines = [(each.unit, f"{each.value:.4g}", f"{each.share:.0%}", f"{each.rank + 1}") for each in found]
    return columns([("unit", "value", "of its largest", "rank"), *lines]) if lines else ""


def _search_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", default=STORE, metavar="FOLDER", help=f"where to keep them (default: {STORE})")
    parser.add_argument("--count", type=count, help="examples to keep per unit (default: that of find_examples)")
    parser.add_argument("--batch", type=count, help="images at once (default: that of find_examples)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="what the network computes in")
    parser.add_argument(
        "--engine",
        choices=["local", "processes", "ray"],
        default="local",
        help="who computes: this process, several, or Ray (default: local)",
    )
    parser.add_argument("--workers", type=count, help="how many processes or actors (default: as the machine has room)")
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help="only this share of the work, from 1/N to N/N, or 'environment' under torchrun and Slurm; "
        "whoever ends last puts all together",
    )


def _sheet_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("unit", nargs="+", metavar="UNIT", help="layer:channel, for example mixed4b:17; one or several")
    parser.add_argument(
        "--store", default=STORE, metavar="FOLDER", help=f"what `circuits examples` made (default: {STORE})"
    )
    parser.add_argument(
        "--out",
        default="sheet.html",
        metavar="FILE",
        help="an .html page, or a .png, .webp or .jpg picture (default: sheet.html)",
    )
    open_option(parser)


def _excited_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "image", metavar="IMAGE", help="a file in the dataset's folder, for example cat/12.png, or an index"
    )
    parser.add_argument(
        "--store", default=STORE, metavar="FOLDER", help=f"what `circuits examples` made (default: {STORE})"
    )
    parser.add_argument("--count", type=count, default=20, help="how many units to show (default: 20)")
    parser.add_argument("--json", action="store_true", help="as JSON, with every number")


PLANNED = ("count", "batch", "dtype")
EXAMPLES = Command(
    "find what in a dataset excites each unit",
    _prepare_search,
    _search_options,
    """Look at every picture of a dataset once, and keep for every unit what excites it most and least, with statistics,
    in a folder. A stopped run continues; so does one with the same folder on another machine.""",
)
SHEET = Command(
    "show a unit's examples on one sheet",
    _prepare_sheet,
    _sheet_options,
    "Write the contact sheet of one or several units, from the folder that `circuits examples` made.",
    network=False,
)
EXCITED = Command(
    "list the units that a picture excites most",
    _prepare_excited,
    _excited_options,
    """List the units that a picture of the dataset excites most, among those that keep it as one of their examples, by
    the share of their largest activation.""",
    network=False,
)
