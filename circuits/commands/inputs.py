"""What the words of a command line name: the network, its layers, the pictures. Torch is imported when one is asked."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def model_of(args: argparse.Namespace) -> Any:
    """Give the network that ``--model`` and its like name, as `features.load_model` does."""
    from inspect import signature

    from features.models import load_model

    own = [name for name, _ in args.build if name in signature(load_model).parameters]
    if own:
        raise ValueError(f"--build says how the network is built, and {own[0]!r} is not part of that: see --help")
    return load_model(
        args.model, weights=args.weights, device=args.device, image_size=args.image_size, **dict(args.build)
    )


def layers_of(args: argparse.Namespace, model: Any) -> tuple[str, ...] | None:
    """Give the names of ``--layers``, checked, or ``None`` where none was given."""
    if not args.layers:
        return None
    return tuple(model.layer(name).name for part in args.layers for name in part.split(",") if name)


def dataset_of(args: argparse.Namespace, model: Any) -> Any:
    """Give what ``--dataset`` names; without it 2,000 new sketches for the network of sketches, and ``None`` for
    others.
    """
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


def open_in_browser(args: argparse.Namespace, path: Path) -> None:
    """Show ``path`` in a browser where ``--open`` asks for it."""
    if args.open:
        import webbrowser

        webbrowser.open(path.absolute().as_uri())
