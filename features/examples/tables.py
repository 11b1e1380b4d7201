"""Tables: the kept examples, and the units' statistics, as columns: for pandas, as .csv or as a parquet file."""

from __future__ import annotations

import csv
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from features.examples.index import LISTS
from features.examples.nouns import Examples, LayerExamples
from features.records import write_atomically

Columns: TypeAlias = dict[str, NDArray[Any]]


def example_frame(examples: Examples, names: Callable[[int], str] | None = None) -> Any:
    """Give every kept example as a row of a ``pandas.DataFrame``, in the order of the units, then of the kinds, then
    the best first.

    Columns: unit and layer (categories), channel, kind ('top', 'bottom', 'mean', 'mean_bottom', 'quantile'), rank
    (0 the first of its list; of a quantile bin), bin (of quantile examples, 0 the lowest; else -1), value, image (its
    index in the dataset), image_id (``names(index)``, where ``names`` is given; '' otherwise), label (-1 for none) and
    label_name, the peak's y and x, and the clipped receptive field's y0, x0, y1, x1 in pixels.

    Raises ``ModuleNotFoundError`` where pandas is not installed, with the extra that brings it.

    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> found = find_examples(load_model("sketches"), Sketches(4), "mixed3a", count=2, progress=False)
    >>> list(example_frame(found).columns[:4])
    ['unit', 'layer', 'channel', 'kind']
    """
    return _frame(_joined([_example_columns(examples, name, names) for name in examples.layers]))


def unit_frame(examples: Examples) -> Any:
    """Give every unit as a row of a ``pandas.DataFrame``, in order: its statistics, as `LayerExamples` describes them.

    Columns: unit and layer (categories), channel, mean, sd, minimum, maximum, firing_rate, nonfinite, dead, and of its
    best example top_value, top_image and top_label_name.

    Raises ``ModuleNotFoundError`` where pandas is not installed, with the extra that brings it.

    >>> from features.examples import find_examples
    >>> from features.models import load_model
    >>> from features.sketches import Sketches
    >>> found = find_examples(load_model("sketches"), Sketches(4), "mixed3a", count=2, progress=False)
    >>> len(unit_frame(found))
    64
    """
    return _frame(_joined([_unit_columns(examples, name) for name in examples.layers]))


def write_example_table(
    examples: Examples, path: str | os.PathLike[str], names: Callable[[int], str] | None = None
) -> Path:
    """Write the rows of `example_frame` to ``path``, .csv (nothing else needed) or .parquet (one layer in memory at a
    time), aside and then renamed; give the path.

    ``ValueError`` for another ending; ``ModuleNotFoundError`` where pyarrow is not installed, with the extra that
    brings it.
    """
    return _write(path, (_example_columns(examples, name, names) for name in examples.layers))


def write_unit_table(examples: Examples, path: str | os.PathLike[str]) -> Path:
    """Write the rows of `unit_frame` to ``path``, as `write_example_table` does."""
    return _write(path, (_unit_columns(examples, name) for name in examples.layers))


def _example_columns(examples: Examples, name: str, names: Callable[[int], str] | None) -> Columns:
    """Give the filled rows of one layer, unit by unit."""
    layer = examples.layer(name)
    parts = [_kind_columns(layer, kind, prefix) for kind, prefix in LISTS.items()]
    joined = {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}
    order = np.argsort(joined["channel"], kind="stable")
    rows = {column: values[order] for column, values in joined.items()}
    called = {index: "" if names is None else names(index) for index in np.unique(rows["image"]).tolist()}
    named = {
        "image_id": _texts(called[index] for index in rows["image"].tolist()),
        "label_name": _label_names(examples, rows["label"]),
    }
    return _addresses(name, rows.pop("channel")) | rows | named


def _kind_columns(layer: LayerExamples, kind: str, prefix: str) -> Columns:
    """Give the filled rows of one kind; quantile examples are ``(c, bins, per_bin)``, the others ``(c, k)``."""
    value, image, label, position, box = (
        getattr(layer, prefix + name) for name in ("value", "image", "label", "position", "box")
    )
    filled = np.nonzero(image >= 0)
    rows = len(filled[0])
    return {
        "channel": filled[0],
        "kind": np.full(rows, kind, dtype=object),
        "rank": filled[-1],
        "bin": filled[1] if image.ndim == 3 else np.full(rows, -1),
        "value": value[filled],
        "image": image[filled],
        "label": label[filled],
        **dict(zip(("y", "x"), position[filled].T, strict=True)),
        **dict(zip(("y0", "x0", "y1", "x1"), box[filled].T, strict=True)),
    }


def _unit_columns(examples: Examples, name: str) -> Columns:
    layer = examples.layer(name)
    channels = np.arange(len(layer.mean))
    columns: Columns = {column: getattr(layer, column) for column in STATISTICS}
    best = {"top_value": layer.value[:, 0], "top_image": layer.image[:, 0]}
    named = {"top_label_name": _label_names(examples, layer.label[:, 0])}
    return _addresses(name, channels) | columns | best | named


def _addresses(name: str, channels: NDArray[Any]) -> Columns:
    units = _texts(f"{name}:{channel}" for channel in channels.tolist())
    return {"unit": units, "layer": _texts([name] * len(units)), "channel": channels}


def _label_names(examples: Examples, labels: NDArray[Any]) -> NDArray[Any]:
    known = examples.labels
    return _texts(known[label] if 0 <= label < len(known) else "" for label in labels.tolist())


def _texts(texts: Iterable[str]) -> NDArray[Any]:
    """Give ``texts`` as a column; bytes of a file's name that are no text are written as ``\\udc80``."""
    return np.array([text.encode("utf-8", "backslashreplace").decode() for text in texts], dtype=object)


def _joined(parts: list[Columns]) -> Columns:
    return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}


def _frame(columns: Mapping[str, NDArray[Any]]) -> Any:
    pandas = _extra("pandas")
    frame = pandas.DataFrame(dict(columns))
    for name in NAMES & set(columns):
        frame[name] = pandas.Categorical(frame[name], categories=dict.fromkeys(columns[name].tolist()))
    return frame


def _write(path: str | os.PathLike[str], tables: Iterator[Columns]) -> Path:
    path = Path(path)
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ValueError(f"'{path}' names no form of table: end it with {' or '.join(WRITERS)}")
    return writer(path, tables)


def _write_csv(path: Path, tables: Iterator[Columns]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for number, table in enumerate(tables):
        if number == 0:
            writer.writerow(table)
        writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
    return write_atomically(path, text.getvalue())


def _write_parquet(path: Path, tables: Iterator[Columns]) -> Path:
    arrow, parquet = _extra("pyarrow"), _extra("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{secrets.token_hex(8)}.part"
    made = (arrow.table({name: _arrow(arrow, name, each) for name, each in table.items()}) for table in tables)
    first = next(made)
    try:
        with parquet.ParquetWriter(aside, first.schema) as writer:
            for each in chain([first], made):
                writer.write_table(each)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _arrow(arrow: Any, name: str, column: NDArray[Any]) -> Any:
    """Names as dictionaries: a table of a large network repeats each many times."""
    if name not in NAMES:
        return arrow.array(column, arrow.string()) if column.dtype == object else arrow.array(column)
    return arrow.array(column, arrow.string()).dictionary_encode()


def _extra(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        raise ModuleNotFoundError(
            f"{name} is not installed: pip install 'vision-circuits[tables]', or write a .csv, which needs nothing"
        ) from error


# Columns of names that repeat.
NAMES = {"unit", "layer", "kind", "label_name", "top_label_name"}
STATISTICS = ("mean", "sd", "minimum", "maximum", "firing_rate", "nonfinite", "dead")
WRITERS: dict[str, Callable[[Path, Iterator[Columns]], Path]] = {".csv": _write_csv, ".parquet": _write_parquet}
