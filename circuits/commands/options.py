"""What a command is, the options that several share, and how a word on the command line is read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Work = Callable[[], int | None]  # what is left to do once everything is checked; gives an exit code where it is not 0


def no_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: for a command that has only the shared options."""


@dataclass(frozen=True)
class Command:
    """One command: ``help`` is its line in ``circuits --help``, ``description`` the head of its own ``--help``.

    ``options`` adds its own options. ``prepare`` checks everything that a user can get wrong and gives the work that is
    left: what it raises ends with exit code 2, what the work raises with 1. Both import what is heavy inside.
    ``network`` is false for commands that need no network: they have no ``--model`` and its like.
    """

    help: str
    prepare: Callable[[argparse.Namespace], Work]
    options: Callable[[argparse.ArgumentParser], None] = no_options
    description: str | None = None
    network: bool = True


def network_options() -> argparse.ArgumentParser:
    """Give the options that say which network, on which pictures: a parent for the commands that need one."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--model", default="sketches", help="sketches, photographs, or a network of torchvision (default: sketches)"
    )
    shared.add_argument("--weights", help="seed0, seed1, the name of torchvision weights, or a file of weights")
    shared.add_argument(
        "--build",
        action="append",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="what the builder of the network is told, for example num_classes=10 for weights in a file",
    )
    shared.add_argument("--image-size", type=count, metavar="PIXELS", help="how large it takes its images")
    shared.add_argument("--dataset", metavar="FOLDER", help="a folder of pictures, or CIFAR-10's folder")
    shared.add_argument("--layers", action="append", metavar="A,B", help="only these layers")
    shared.add_argument("--device", help="cpu, cuda, ...")
    shared.add_argument("--seed", type=seed, default=0, help="where the randomness starts (default: 0)")
    return shared


def plain_options() -> argparse.ArgumentParser:
    """Give the options that every command has."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--quiet", action="store_true", help="no progress")
    shared.add_argument("--traceback", action="store_true", help="with an error, show where in the program it arose")
    return shared


def open_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--open``: for the commands that write what a browser shows (see `circuits.commands.inputs`)."""
    parser.add_argument("--open", action="store_true", help="open the result in a browser")


def count(text: str) -> int:
    """Give the whole number of at least 1 that ``text`` writes.

    >>> count("12")
    12
    """
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return number


def seed(text: str) -> int:
    """Give the whole number of at least 0 that ``text`` writes.

    >>> seed("0")
    0
    """
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 0")
    return int(text)


def columns(lines: Sequence[Sequence[object]]) -> str:
    """Give ``lines`` of cells as text in columns, two spaces apart.

    >>> print(columns([("name", "units"), ("mixed3a", 64)]))
    name     units
    mixed3a  64
    """
    texts = [[str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in texts
    )


def setting(text: str) -> tuple[str, object]:
    """Give the name and the value that ``text`` sets: a number, true, false, null, or else text.

    >>> setting("num_classes=10"), setting("transform_input=False"), setting("act=gelu")
    (('num_classes', 10), ('transform_input', False), ('act', 'gelu'))
    """
    name, sign, value = text.partition("=")
    if not (sign and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is no setting: write NAME=VALUE, for example num_classes=10")
    try:
        return name, json.loads(value.lower() if value.lower() in ("true", "false", "null") else value)
    except json.JSONDecodeError:
        return name, value
