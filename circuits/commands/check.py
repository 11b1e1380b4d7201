"""circuits check: a circuit story's claims, tested on a network."""

from __future__ import annotations

import argparse

from circuits.commands.inputs import dataset_of, model_of
from circuits.commands.options import Command, Work


def _prepare(args: argparse.Namespace) -> Work:
    from circuits.claims import check_claims, read_claims

    story = read_claims(args.story)
    model = model_of(args)
    dataset = dataset_of(args, model)

    def work() -> int:
        report = check_claims(model, story, dataset=dataset, progress=not args.quiet)
        print(report.to_json() if args.json else report, flush=True)
        return 1 if report.counts["failed"] else 0

    return work


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "story", metavar="STORY", help="a claims file, or 'sketches' or 'inceptionv1', which come along"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


CHECK = Command(
    "test a story's claims on a network",
    _prepare,
    _options,
    """Test every claim of a circuit story: held, failed, or not testable, with the figures. Exit code 1 where one
    failed.""",
)
