"""The command line: ``circuits atlas``, ``show UNIT``, ``examples``, ``graph``, ``query TEXT``, ...; see
`circuits.commands`.

Results go to standard output, progress and errors to standard error. Exit codes: 0 done, 1 a failure while working or
a claim that failed, 2 bad input, 130 stopped with Ctrl-C. Everything heavy is imported inside the commands, so that
``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from circuits.commands import COMMANDS, Work
from circuits.commands.options import network_options, plain_options


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
        work = COMMANDS[args.command].prepare(args)
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
    network, plain = network_options(), plain_options()
    for name, command in COMMANDS.items():
        parents = [network, plain] if command.network else [plain]
        command.options(commands.add_parser(name, parents=parents, help=command.help, description=command.description))
    return parser


if __name__ == "__main__":
    sys.exit(main())
