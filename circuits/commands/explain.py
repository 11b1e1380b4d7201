"""circuits explain: why a network says what it says of one picture, as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from circuits.commands.inputs import dataset_of, layers_of, model_of, open_in_browser
from circuits.commands.options import Command, Work, count, open_option


def _prepare(args: argparse.Namespace) -> Work:
    from circuits.explanations import explain, write_explanation
    from circuits.explanations.tracing import aimed
    from features.attribution.layers import has_positions
    from features.examples import fit_image
    from features.pictures import open_image

    path = Path(args.out)
    if path.suffix.lower() != ".html":
        raise ValueError(f"--out {path} names no page: end it with .html")
    model = model_of(args)
    image = fit_image(open_image(args.image), model.image_size, model.channels)
    target = None if args.target is None else aimed(model, args.target)
    if args.layer is not None and not has_positions(model.layer(args.layer)):
        raise ValueError(f"--layer {args.layer} has no positions (h, w): `circuits layers` lists the shapes")
    layers = layers_of(args, model)
    dataset = None if args.quick else dataset_of(args, model) if args.dataset or args.model == "sketches" else None

    def work() -> None:
        found = explain(
            model,
            image,
            target,
            args.layer,
            dataset=dataset,
            count=args.count,
            pictures=not args.quick,
            width=args.width,
            breadth=args.breadth,
            layers=layers,
            seed=args.seed,
            progress=not args.quiet,
        )
        print(found, flush=True)
        print(write_explanation(found, path, progress=not args.quiet), flush=True)
        open_in_browser(args, path)

    return work


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a picture file")
    parser.add_argument("--target", help="a class by its name, or a unit (default: the likeliest class)")
    parser.add_argument("--layer", help="whose channels are named (default: the last with positions before the target)")
    parser.add_argument("--count", type=count, default=8, help="how many channels are shown (default: 8)")
    parser.add_argument("--width", type=count, default=4, help="inputs followed from each unit (default: 4)")
    parser.add_argument("--breadth", type=count, default=6, help="units kept of each layer of the circuit (default: 6)")
    parser.add_argument("--quick", action="store_true", help="no visualizations and no examples")
    parser.add_argument("--out", default="explanation.html", metavar="FILE", help="default: explanation.html")
    open_option(parser)


EXPLAIN = Command(
    "say why the network sees what it sees in a picture",
    _prepare,
    _options,
    """Write a page about one picture: the channels that carried the network's answer, where in the picture, what each
    looks for and what else excites it, and the circuit of this picture. --layers are those that the circuit may pass
    through, --dataset where the examples come from.""",
)
