"""python -m circuits.planted: grade every score of polysemanticity, and every score of edges, by planted truth.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a failure while working, 2
bad input, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

Work = Callable[[], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (by default the process's own) and give its exit code.

    >>> main(["--weights", "seed7", "--quiet"])
    2
    """
    parser = argparse.ArgumentParser(prog="python -m circuits.planted", description=DESCRIPTION)
    options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    try:
        args = parser.parse_args(argv)
    except SystemExit as done:  # argparse has said what is wrong, or has shown its help
        return int(done.code or 0)
    work: Work | None = None
    try:
        work = prepare(args)
        work()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"circuits.planted: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if work is None else 1
    return 0


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command, but for ``--quiet``."""
    parser.add_argument("--read", action="append", metavar="FOLDER", help="grade on benchmarks that --write wrote")
    parser.add_argument("--model", default="sketches", help="sketches, photographs or a torchvision network")
    parser.add_argument("--weights", help="seed0, seed1 or a file of weights")
    parser.add_argument("--classes", type=_count, help="how many classes the weights in a file have")
    parser.add_argument("--image-size", type=_count, metavar="PIXELS", help="how large the network takes its images")
    parser.add_argument("--dataset", metavar="FOLDER", help="pictures in one folder for each class")
    parser.add_argument("--layers", metavar="A,B", help="where units are merged (default: the last but the first two)")
    parser.add_argument("--part", choices=PARTS, default="held-out", help="which units are merged (default: held-out)")
    parser.add_argument("--images", type=_count, default=6600, help="how many pictures are shown (default: 6600)")
    parser.add_argument("--examples", type=_count, default=100, help="examples of a unit (default: 100)")
    parser.add_argument("--rounds", type=_count, default=8, help="how often the units are paired anew (default: 8)")
    parser.add_argument("--scores", metavar="A,B", help="only these scores (default: all)")
    parser.add_argument("--no-edges", action="store_true", help="leave out the edges of hand-written circuits")
    parser.add_argument(
        "--ceiling", action="store_true", help="grade with the true factors as evidence, too (sketches)"
    )
    parser.add_argument("--write", metavar="FOLDER", help="keep the benchmark, for --read")
    parser.add_argument("--seed", type=_seed, default=0, help="where the randomness starts (default: 0)")
    parser.add_argument("--json", action="store_true", help="as JSON, with every number")


def prepare(args: argparse.Namespace) -> Work:
    """Check everything that a user can get wrong, and give the work that is left."""
    from circuits.meanings.scores import SCORES
    from circuits.planted.benchmarks import read_benchmark

    names = list(SCORES) if args.scores is None else [name for name in args.scores.split(",") if name]
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise ValueError(f"no score {', '.join(unknown) or 'was named'}: there are {', '.join(SCORES)}")
    scores = {name: SCORES[name] for name in names}
    if args.read:
        benchmarks = [read_benchmark(folder) for folder in args.read]
        return lambda: _grade(args, benchmarks, scores)
    if args.ceiling and args.model != "sketches":
        raise ValueError("--ceiling needs pictures of which every factor is known: leave it out, or take the sketches")
    make = _maker(args)
    return lambda: _grade(args, make(), scores)


def _maker(args: argparse.Namespace) -> Callable[[], list[Any]]:
    """Open the network and its pictures, and give what makes the benchmark."""
    from circuits.planted.benchmarks import make_benchmark, write_benchmark
    from circuits.planted.factors import with_factors
    from circuits.planted.members import PHOTOGRAPH_KIN, SKETCH_KIN

    model = _model(args)
    dataset, names = _dataset(args, model)
    layers = args.layers.split(",") if args.layers else _late_layers(model)
    for layer in layers:
        model.layer(layer)

    def make() -> list[Any]:
        planted = make_benchmark(
            model, dataset, layers, kin=(*SKETCH_KIN, *PHOTOGRAPH_KIN), names=names, part=args.part,
            count=args.examples, rounds=args.rounds, seed=args.seed, progress=not args.quiet,
        )  # fmt: skip
        if args.write:
            write_benchmark(planted, args.write)
        return [planted, with_factors(planted, dataset, progress=not args.quiet)] if args.ceiling else [planted]

    return make


def _model(args: argparse.Namespace) -> Any:
    from features.models import load_model

    built = {} if args.classes is None else {"num_classes": args.classes}
    name = f"{args.model} {args.weights or 'seed0'}" if args.model in ("sketches", "photographs") else args.model
    return load_model(args.model, weights=args.weights, image_size=args.image_size, name=name, **built)


def _dataset(args: argparse.Namespace, model: Any) -> tuple[Any, tuple[str, ...]]:
    from torch.utils.data import Subset

    from features.examples import FolderImages
    from features.sketches import HELD_OUT_SEED, LABELS, Sketches

    if args.dataset is None and args.model == "sketches":
        return Sketches(args.images, seed=HELD_OUT_SEED), LABELS
    if args.dataset is None:
        raise ValueError(
            f"{args.model} needs pictures: give a folder that has one folder for each class with --dataset"
        )
    found = FolderImages(args.dataset, model)
    if len(found) <= args.images:
        return found, tuple(found.labels)
    step = len(found) / args.images
    return Subset(found, [int(place * step) for place in range(args.images)]), tuple(found.labels)


def _late_layers(model: Any) -> list[str]:
    """Give the layers in which units of one class are found: those with maps, from the middle of the network on."""
    maps = [name for name in model.default_layers if len(model.layer(name).shape) == 3]
    return maps[len(maps) * 5 // 8 :]


def _grade(args: argparse.Namespace, benchmarks: Sequence[Any], scores: Any) -> None:
    from circuits.meanings.judging import judge
    from circuits.planted.edges import grade_edges
    from circuits.planted.grading import grade, plain

    def judged(evidence: Any) -> Any:
        found = judge(evidence)
        return found.probability, found.flag

    grades = grade(benchmarks, scores, judged, seed=args.seed, progress=not args.quiet)
    edges = None if args.no_edges else grade_edges(seed=args.seed, progress=not args.quiet)
    if args.json:
        told = {"units": json.loads(grades.to_json()), "edges": None if edges is None else plain(asdict(edges))}
        print(json.dumps(told, indent=1), flush=True)
    else:
        print(grades.markdown() if edges is None else f"{grades.markdown()}\n\n```\n{edges}\n```", flush=True)


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return number


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


DESCRIPTION = """Grade every score of polysemanticity by units that were merged by hand out of units of one meaning (in
the network of drawn sketches, without a download, or in any network with pictures in one folder for each class), and
the edges of hand-written circuits. Prints tables in markdown."""
PARTS = ("held-out", "development", "all")

if __name__ == "__main__":
    sys.exit(main())
