"""Files: examples as a record in a folder, written and read whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from features.examples.nouns import AXES, Examples, LayerExamples
from features.examples.store import KIND as STORE
from features.examples.store import open_examples
from features.records import MANIFEST, check_shapes, read_record, write_record

KIND = "examples"
# What of `Examples` the record does not hold.
UNWRITTEN = ("arrays", "pictures")


def write_examples(examples: Examples, folder: str | os.PathLike[str]) -> Path:
    """Write ``examples`` as a record in ``folder`` (see `features.records.write_record`); give the folder."""
    arrays = {
        f"{name}/{field.name}": getattr(layer, field.name)
        for name, layer in examples.arrays.items()
        for field in fields(layer)
    }
    written = [field.name for field in fields(examples) if field.name not in UNWRITTEN]
    described = {name: getattr(examples, name) for name in written}
    return write_record(folder, KIND, arrays=arrays, fields=described | {"layers": examples.layers})


def read_examples(folder: str | os.PathLike[str]) -> Examples:
    """Read what `write_examples` wrote, or open what `find_examples` keeps in a store; ``FileNotFoundError`` and
    ``ValueError`` as `features.records.read_record` gives them.
    """
    if _kind(Path(folder) / MANIFEST) == STORE:
        return open_examples(folder)
    arrays, described = read_record(folder, KIND)
    try:
        layers = {name: _read_layer(name, arrays, int(described["count"])) for name in described.pop("layers")}
        described["image_size"] = tuple(described["image_size"])
        described["labels"] = tuple(described["labels"])
        described["skipped"] = tuple((index, reason) for index, reason in described["skipped"])
        return Examples(**described, arrays=layers)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the examples in '{Path(folder)}' are damaged: {error}; make them again") from error


def _read_layer(name: str, arrays: Mapping[str, np.ndarray], count: int) -> LayerExamples:
    check_shapes(arrays, {f"{name}/{field}": axes for field, axes in AXES.items()}, k=count)
    return LayerExamples(**{field: arrays[f"{name}/{field}"] for field in AXES})


def _kind(manifest: Path) -> str | None:
    """Give the kind of the record, ``None`` where that cannot be read."""
    try:
        found = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found.get("kind") if isinstance(found, dict) else None
