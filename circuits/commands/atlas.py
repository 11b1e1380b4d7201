"""circuits atlas, circuits show: pages for a whole network, and one page for one unit."""

from __future__ import annotations

import argparse
from pathlib import Path

from circuits.commands.inputs import dataset_of, layers_of, model_of, open_in_browser
from circuits.commands.options import Command, Work, count, open_option


def _prepare_atlas(args: argparse.Namespace) -> Work:
    from circuits.atlas import write_atlas
    from circuits.atlas.folders import claim

    model = model_of(args)
    dataset = dataset_of(args, model)
    layers = layers_of(args, model)
    folder = claim(Path(args.out))
    given = {name: getattr(args, name) for name in ("steps", "count") if getattr(args, name) is not None}

    def work() -> None:
        index = write_atlas(
            model, dataset, folder, layers=layers, seed=args.seed, fresh=args.fresh, progress=not args.quiet, **given
        )
        print(f"Open {index}", flush=True)
        open_in_browser(args, index)

    return work


def _prepare_show(args: argparse.Namespace) -> Work:
    from circuits.atlas import write_unit
    from features.records import slug

    model = model_of(args)
    unit = model.unit(args.unit)
    dataset = dataset_of(args, model)
    layers = layers_of(args, model)
    path = Path(args.out or f"{slug(str(unit))}.html")
    if path.suffix.lower() not in (".html", ".png"):
        raise ValueError(f"--out {path} names no form that is known: end it with .html or .png")

    def work() -> None:
        print(
            write_unit(model, dataset, unit, path, layers=layers, seed=args.seed, progress=not args.quiet), flush=True
        )
        open_in_browser(args, path)

    return work


def _atlas_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="atlas", metavar="FOLDER", help="where to write it (default: atlas)")
    parser.add_argument("--steps", type=count, help="optimization steps per picture (default: that of visualize)")
    parser.add_argument("--count", type=count, help="examples per unit (default: that of find_examples)")
    parser.add_argument("--fresh", action="store_true", help="make everything again, reuse nothing")
    open_option(parser)


def _show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("unit", metavar="UNIT", help="layer:channel, for example mixed4b:17")
    parser.add_argument(
        "--out", metavar="FILE", help="an .html page or a .png picture (default: the unit's name, .html)"
    )
    open_option(parser)


ATLAS = Command(
    "write a folder of pages for the whole network",
    _prepare_atlas,
    _atlas_options,
    """Write a folder of HTML pages: every layer, every unit with its picture, its examples, its verdict and its
    circuit. What lies there and is still valid is reused; a stopped run continues.""",
)
SHOW = Command(
    "write one page about one unit",
    _prepare_show,
    _show_options,
    "Write one page (or one picture) about one unit: its picture, its examples, its circuit.",
)
