"""circuits layers: what can be read in a network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from circuits.commands.inputs import layers_of, model_of
from circuits.commands.options import Command, Work, columns


def _prepare(args: argparse.Namespace) -> Work:
    model = model_of(args)
    given = layers_of(args, model)
    chosen = given or (tuple(layer.name for layer in model.layers) if args.all else model.default_layers)
    rows = [_record(model.layer(name)) for name in chosen]
    return lambda: print(json.dumps(rows, indent=1) if args.json else _table(rows), flush=True)


def _record(layer: Any) -> dict[str, Any]:
    field = layer.field
    return {
        "name": layer.name,
        "kind": layer.kind,
        "channels": layer.channels,
        "shape": list(layer.shape),
        "receptive_field": None if field is None else list(field.size),
        "stride": None if field is None else list(field.stride),
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    head = ("name", "kind", "channels", "shape", "sees (pixels)")
    body = [
        (repr(row["name"])[1:-1], row["kind"], row["channels"], _times(row["shape"]), _times(row["receptive_field"]))
        for row in rows
    ]
    return columns([head, *body])


def _times(numbers: Sequence[int] | None) -> str:
    return "whole image" if numbers is None else " x ".join(map(str, numbers))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="every readable layer, not only those an atlas shows")
    parser.add_argument("--json", action="store_true", help="as JSON")


LAYERS = Command("list the layers that can be read", _prepare, _options)
