"""circuits planted: every score of polysemanticity and of edges, graded by planted truth."""

from __future__ import annotations

import argparse

from circuits.commands.options import Command, Work


def _prepare(args: argparse.Namespace) -> Work:
    from circuits.planted.__main__ import prepare

    return prepare(args)


def _options(parser: argparse.ArgumentParser) -> None:
    from circuits.planted.__main__ import options

    options(parser)


PLANTED = Command(
    "grade the scores of polysemanticity and of edges by planted truth",
    _prepare,
    _options,
    """Grade every score by units that were merged by hand out of units of one meaning, and by hand-written circuits.
    The same as `python -m circuits.planted`.""",
    network=False,
)
