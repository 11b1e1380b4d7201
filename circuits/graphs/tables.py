"""Tables: all wires of a network as columns, for those who want every one of them, in memory or as a parquet file."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from circuits.graphs.building import sources_of
from circuits.graphs.kernels import Inputs, Numbers, Wires, inputs
from circuits.wiring import connect
from features.models import Model


@dataclass(frozen=True)
class EdgeTable:
    """Wires as arrays, one number each: ``columns['source']`` and ``['target']`` are int32 places in ``units``."""

    units: tuple[str, ...]
    columns: Mapping[str, Numbers]

    def __len__(self) -> int:
        return len(self.columns["source"])


def edge_table(
    model: Model, layers: Sequence[str] | None = None, *, wires: Wires = connect, progress: bool = True
) -> EdgeTable:
    """Give every wire between units of ``layers``, without those of strength 0 and those that are not finite.

    Columns, ordered by target, then by strength: source, target (int32, places in ``units``, which are all units of
    the layers in order), weight, strength, excitation, inhibition, peak_y, peak_x, share (float32) and rank (int32), as
    `build_graph` describes them: 40 bytes a wire, 65 MB for VGG16's convolutions.

    >>> from features.models import load_model
    >>> table = edge_table(load_model("sketches"), ["mixed3a", "mixed3b"], progress=False)
    >>> strongest = table.columns["rank"] == 0
    >>> table.units[table.columns["source"][strongest][0]].startswith("mixed3a:")
    True
    """
    units, tables = _tables(model, layers, wires, progress)
    parts = [{name: np.empty(0, kind) for name, kind in COLUMNS.items()}, *tables]
    return EdgeTable(units, {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS})


def edge_frame(table: EdgeTable) -> Any:
    """Give ``table`` as a ``pandas.DataFrame`` whose source and target are categories, the names of the units.

    Raises ``ModuleNotFoundError`` where pandas is not installed, with the extra that brings it.

    >>> from features.models import load_model
    >>> frame = edge_frame(edge_table(load_model("sketches"), ["mixed3a", "mixed3b"], progress=False))
    >>> list(frame.columns[:3])
    ['source', 'target', 'weight']
    """
    pandas = _extra("pandas")
    ends = {
        name: pandas.Categorical.from_codes(table.columns[name], categories=list(table.units))
        for name in ("source", "target")
    }
    return pandas.DataFrame({**table.columns, **ends}, copy=False)


def write_edge_table(
    model: Model,
    path: str | Path,
    layers: Sequence[str] | None = None,
    *,
    wires: Wires = connect,
    progress: bool = True,
) -> Path:
    """Write every wire to a parquet file, one target layer in memory at a time, aside and then renamed; give the path.

    Columns as in `edge_table`, source and target as text (dictionaries of names). ``pandas.read_parquet`` reads it.
    Raises ``ModuleNotFoundError`` where pyarrow is not installed, with the extra that brings it.
    """
    parquet = _extra("pyarrow.parquet")
    path = Path(path)
    units, tables = _tables(model, layers, wires, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        with parquet.ParquetWriter(aside, _schema()) as writer:
            for table in tables:
                writer.write_table(_arrow(units, table))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _tables(
    model: Model, layers: Sequence[str] | None, wires: Wires, progress: bool
) -> tuple[tuple[str, ...], Iterator[dict[str, Numbers]]]:
    """Give the units, and one table for each layer in order."""
    sources = sources_of(model, layers)
    units = tuple(f"{name}:{channel}" for name in sources for channel in range(model.layer(name).channels))
    places = {unit: place for place, unit in enumerate(units)}

    found = inputs(model, sources, wires=wires, by="strength", keep=None, progress=progress)
    return units, (_columns(each, places, places[f"{target}:0"]) for target, each in found)


def _columns(found: Inputs, places: Mapping[str, int], first: int) -> dict[str, Numbers]:
    sources = np.array([places[unit] for unit in found.units])
    numbers = {**found.columns, "source": sources[found.sources], "target": found.rows + first}
    return {name: numbers[name].astype(kind) for name, kind in COLUMNS.items()}


def _schema() -> Any:
    arrow = _extra("pyarrow")
    text = arrow.dictionary(arrow.int32(), arrow.string())
    kinds = {name: arrow.from_numpy_dtype(kind) for name, kind in COLUMNS.items()}
    return arrow.schema({**kinds, "source": text, "target": text})


def _arrow(units: tuple[str, ...], table: Mapping[str, Numbers]) -> Any:
    arrow = _extra("pyarrow")
    names = arrow.array(units)
    ends = {name: arrow.DictionaryArray.from_arrays(table[name], names) for name in ("source", "target")}
    return arrow.table({**table, **ends}, schema=_schema())


def _extra(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        raise ModuleNotFoundError(
            f"{name} is not installed: pip install 'vision-circuits[tables]', or use circuits.edge_table without it"
        ) from error


COLUMNS: dict[str, str] = {
    **dict.fromkeys(("source", "target"), "int32"),
    **dict.fromkeys(("weight", "strength", "excitation", "inhibition", "peak_y", "peak_x", "share"), "float32"),
    "rank": "int32",
}
