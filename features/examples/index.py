"""The index of a store: an SQLite file with units, examples, shards and provenance, which any tool can query."""

from __future__ import annotations

import errno
import math
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote

import numpy as np

from features.examples.nouns import LayerExamples
from features.units import Unit

INDEX = "index.sqlite"
# Seconds that a writer waits for another's transaction, and a reader's question may take: in a damaged or hostile file
# a question can go on for ever.
WAIT, LONGEST = 30.0, 4.0
# SQLite's instructions between two looks at the clock.
STEPS = 100_000
# Bytes: with less free than this, an error of input and output is a full disk.
ROOM = 2**20


class Kept(NamedTuple):
    """An image kept for a unit: its ``rank`` from 0, index and name, label (-1 for none), value, peak ``(y, x)`` and
    receptive-field box ``(y0, x0, y1, x1)``.
    """

    rank: int
    image: int
    id: str
    label: int
    value: float
    position: tuple[int, int]
    box: tuple[int, int, int, int]


class Excited(NamedTuple):
    """A unit that an image excites: the value, its ``share`` of the unit's largest, and the image's ``rank`` from 0
    among the unit's examples. The share is NaN for a unit that is never above 0.
    """

    unit: str
    value: float
    share: float
    rank: int


def best_examples(
    folder: str | os.PathLike[str], unit: Unit | str, count: int = 20, *, kind: str = "top"
) -> list[Kept]:
    """Give the ``count`` best images of ``unit`` from the store in ``folder``, best first, by one question to its
    index.

    ``kind`` is one of `LISTS`. Errors: ``ValueError`` for a unit that the store does not have and for a store that is
    damaged or not finished, ``FileNotFoundError`` where there is none.

    >>> import tempfile
    >>> from features import Sketches, find_examples, load_model
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = find_examples(load_model("sketches"), Sketches(6), ["conv2d0"], store=folder, progress=False)
    ...     best = best_examples(folder, "conv2d0:3")
    ...     0 <= most_excited(folder, best[0].image)[0].share <= 1
    True
    """
    unit = Unit.of(unit)
    if kind not in LISTS:
        raise ValueError(f"kind is {kind!r}: the store keeps {', '.join(LISTS)}")
    asked = (unit.layer, unit.channel, kind, _whole(count, "count"))
    with reading(Path(folder)) as index:
        kept = [_kept(*row) for row in index.execute(BEST, asked)]
        known = bool(kept) or index.execute(KNOWN, asked[:2]).fetchone() is not None
    if not known:
        raise ValueError(f"no unit '{unit}' in the store '{folder}': see open_examples(folder).layers")
    return kept


def most_excited(folder: str | os.PathLike[str], image: int | str, count: int = 20) -> list[Excited]:
    """Give the ``count`` units that ``image``, an index in the dataset or a name, excites most, of those that keep it
    among their best: by the value's share of the unit's largest, ties in the order of the units.

    Values of two units have no common scale, their shares do. An image that no unit keeps gives none. Errors as in
    `best_examples`.
    """
    count, image = _whole(count, "count"), image if isinstance(image, str) else _whole(image, "image")
    with reading(Path(folder)) as index:
        if isinstance(image, str):
            found = index.execute("SELECT image FROM images WHERE id = ?", (image,)).fetchone()
            image = int(found[0]) if found else -1
        return [_excited(*row) for row in index.execute(EXCITED, (image, count))]


def image_name(folder: str | os.PathLike[str], image: int) -> str:
    """Give the name (path, key or row) of ``image``, an index in the dataset, from the store's index; ``ValueError``
    where no unit keeps it.
    """
    image = _whole(image, "image")
    with reading(Path(folder)) as index:
        found = index.execute("SELECT id FROM images WHERE image = ?", (image,)).fetchone()
    if found is None:
        raise ValueError(f"the store '{folder}' keeps no image {image}")
    return str(found[0])


@contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the index in ``folder`` to read; what SQLite says of a damaged file becomes ``ValueError``."""
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, f"no store here: it has no {INDEX}", str(folder))
    # Without a log beside it nobody is writing, and a folder that is read-only can be read.
    fixed = "" if path.with_name(f"{INDEX}-wal").exists() else "&immutable=1"
    deadline = time.monotonic() + LONGEST
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro{fixed}", uri=True)) as index:
            index.execute("PRAGMA trusted_schema = OFF")
            index.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
            yield index
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:  # a column may hold anything
        raise ValueError(f"the index '{path}' is damaged or not finished: {error}; run find_examples again") from error


@contextmanager
def writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the index in ``folder`` for one transaction: everything in the ``with`` is written, or nothing.

    Its log is written ahead (WAL), and the transaction begins by taking the write lock, without which two writers that
    read first would both be refused. Errors: ``OSError`` with the path, and the free bytes where the disk is full.
    """
    path = folder / INDEX
    if path.is_symlink():
        raise OSError(errno.ELOOP, "the index of a store may not be a symbolic link", str(path))
    try:
        with closing(sqlite3.connect(path, timeout=WAIT, isolation_level=None)) as index:
            index.execute("PRAGMA trusted_schema = OFF")
            index.execute("PRAGMA journal_mode = WAL")
            index.execute("PRAGMA synchronous = FULL")
            index.execute("BEGIN IMMEDIATE")
            for line in TABLES.values():
                index.execute(line)
            yield index
            index.execute("COMMIT")
    except sqlite3.Error as error:
        refuse_write(path, error)


def record(
    folder: Path, event: str, *, engine: str, shard: int | None = None, seconds: float = 0.0, detail: str = ""
) -> None:
    """Add a line to the provenance: what happened, when, and who did it."""
    line = (
        time.strftime("%Y-%m-%d %H:%M:%S %z"),
        socket.gethostname(),
        os.getpid(),
        engine,
        event,
        shard,
        seconds,
        detail,
    )
    with writing(folder) as index:
        index.execute(f"INSERT INTO provenance ({PROVENANCE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", line)


def fill(
    folder: Path, layers: Mapping[str, LayerExamples], names: Mapping[int, str], shards: Iterable[Mapping[str, Any]]
) -> None:
    """Write units, examples, the images' ``names`` and the ``shards``' notes into the index, replacing what is there.

    The same data give the same rows.
    """
    with writing(folder) as index:
        for table in ("examples", "units", "images", "shards", "skipped"):
            index.execute(f"DELETE FROM {table}")
        index.executemany("INSERT INTO images VALUES (?, ?)", sorted(names.items()))
        first = 0
        for name, layer in layers.items():
            index.executemany(f"INSERT INTO units VALUES ({', '.join('?' * 10)})", _unit_rows(first, name, layer))
            for kind, prefix in LISTS.items():
                index.executemany(
                    f"INSERT INTO examples VALUES ({', '.join('?' * 12)})", _rows(first, layer, kind, prefix)
                )
            first += len(layer.mean)
        for note in shards:
            row = [note["shard"], note["first"], note["last"], note["images"], len(note["skipped"]), note["batch"]]
            index.execute("INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?)", row)
            index.executemany("INSERT INTO skipped VALUES (?, ?)", note["skipped"])


def _unit_rows(first: int, name: str, layer: LayerExamples) -> Iterator[tuple[Any, ...]]:
    columns = [getattr(layer, each).tolist() for each in MEASURED]
    for channel, row in enumerate(zip(*columns, strict=True)):
        yield (first + channel, name, channel, *row)


def _rows(first: int, layer: LayerExamples, kind: str, prefix: str) -> Iterator[tuple[Any, ...]]:
    """Give the filled rows of one list: unit, list, rank, image, label, value, y, x, y0, x0, y1, x1."""
    if not hasattr(layer, f"{prefix}image"):
        return
    image, label, value, position, box = (
        getattr(layer, prefix + each) for each in ("image", "label", "value", "position", "box")
    )
    width = int(np.prod(image.shape[1:]))
    flat = image.reshape(-1)
    places = np.flatnonzero(flat >= 0)
    columns = [
        (places // width + first).tolist(), (places % width).tolist(), flat[places].tolist(),
        label.reshape(-1)[places].tolist(), value.reshape(-1)[places].astype(np.float64).tolist(),
        *position.reshape(-1, 2)[places].T.tolist(), *box.reshape(-1, 4)[places].T.tolist(),
    ]  # fmt: skip
    for unit, rank, *rest in zip(*columns, strict=True):
        yield (unit, kind, rank, *rest)


def _kept(rank: Any, image: Any, name: Any, label: Any, value: Any, *places: Any) -> Kept:
    y, x, y0, x0, y1, x1 = (int(place) for place in places)
    return Kept(int(rank), int(image), str(name), int(label), float(value), (y, x), (y0, x0, y1, x1))


def _excited(layer: Any, channel: Any, value: Any, share: Any, rank: Any) -> Excited:
    return Excited(f"{layer}:{int(channel)}", float(value), math.nan if share is None else float(share), int(rank))


def _whole(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**63:
        raise ValueError(f"{name} is {value!r}: give a whole number of at least 0")
    return int(value)


def _is_io(error: sqlite3.Error) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "I/O" in str(error)


def refuse_write(path: Path, error: sqlite3.Error) -> NoReturn:
    free = shutil.disk_usage(path.parent).free
    # Where the disk is full SQLite may also say "disk I/O error": its index of the log is shared memory in a file.
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or (_is_io(error) and free < ROOM):
        raise OSError(errno.ENOSPC, f"could not write, with {free:,} bytes free ({error})", str(path)) from error
    if isinstance(error, sqlite3.OperationalError):
        raise OSError(errno.EIO, f"could not write ({error})", str(path)) from error
    raise ValueError(f"'{path}' is damaged: {error}; remove it, and run find_examples again") from error


MEASURED = ("mean", "sd", "minimum", "maximum", "firing_rate", "nonfinite", "dead")
PROVENANCE = "time, host, pid, engine, event, shard, seconds, detail"
TABLES = {
    "units": "CREATE TABLE IF NOT EXISTS units (unit INTEGER PRIMARY KEY, layer TEXT, channel INTEGER, mean REAL,"
    " sd REAL, minimum REAL, maximum REAL, firing_rate REAL, nonfinite INTEGER, dead INTEGER, UNIQUE (layer, channel))",
    "examples": "CREATE TABLE IF NOT EXISTS examples (unit INTEGER, list TEXT, rank INTEGER, image INTEGER,"
    " label INTEGER, value REAL, y INTEGER, x INTEGER, y0 INTEGER, x0 INTEGER, y1 INTEGER, x1 INTEGER,"
    " PRIMARY KEY (unit, list, rank)) WITHOUT ROWID",
    "by_image": "CREATE INDEX IF NOT EXISTS by_image ON examples (image, list)",
    "images": "CREATE TABLE IF NOT EXISTS images (image INTEGER PRIMARY KEY, id TEXT)",
    "by_id": "CREATE INDEX IF NOT EXISTS by_id ON images (id)",
    "shards": "CREATE TABLE IF NOT EXISTS shards (shard INTEGER PRIMARY KEY, first INTEGER, last INTEGER,"
    " images INTEGER, skipped INTEGER, batch INTEGER)",
    "skipped": "CREATE TABLE IF NOT EXISTS skipped (image INTEGER PRIMARY KEY, reason TEXT)",
    "provenance": "CREATE TABLE IF NOT EXISTS provenance (entry INTEGER PRIMARY KEY, time TEXT, host TEXT, pid INTEGER,"
    " engine TEXT, event TEXT, shard INTEGER, seconds REAL, detail TEXT)",
}
KNOWN = "SELECT unit FROM units WHERE layer = ? AND channel = ?"
BEST = (
    "SELECT rank, image, coalesce(id, ''), label, value, y, x, y0, x0, y1, x1"
    f" FROM examples LEFT JOIN images USING (image) WHERE unit = ({KNOWN}) AND list = ? ORDER BY rank LIMIT ?"
)
EXCITED = (
    "SELECT layer, channel, value, CASE WHEN maximum > 0 THEN value / maximum END AS share, rank"
    " FROM examples JOIN units USING (unit) WHERE image = ? AND list = 'top' ORDER BY share DESC, unit LIMIT ?"
)
# The lists of a unit, and what precedes their arrays' names in `LayerExamples`.
LISTS = {"top": "", "bottom": "bottom_", "mean": "mean_", "mean_bottom": "mean_bottom_", "quantile": "quantile_"}
