"""Thumbnails: the images that a store keeps, as WebP in one SQLite file, so that it shows them without the dataset."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from tqdm import tqdm

from features.examples.images import UNREADABLE, read_item
from features.examples.index import LISTS, WAIT, refuse_write
from features.examples.loading import fitting_workers
from features.examples.nouns import LayerExamples
from features.pictures import Picture, decode_image, encode, from_image

THUMBNAILS = "thumbnails.sqlite"
TABLE = "CREATE TABLE IF NOT EXISTS thumbnails (image INTEGER PRIMARY KEY, webp BLOB)"
# How many are drawn between two transactions: what a killed process repeats.
AT_ONCE = 64


def kept_images(layers: Mapping[str, LayerExamples], count: int) -> list[int]:
    """Give the indices, ascending, of the ``count`` first images of each list of each unit, and of all in quantiles."""
    kept: set[int] = set()
    for layer in layers.values():
        for prefix in LISTS.values():
            image = getattr(layer, f"{prefix}image", None)
            if image is not None:
                kept.update(np.unique(image if image.ndim == 3 else image[:, :count]).tolist())
    return sorted(kept - {-1})


def draw_thumbnails(
    folder: Path, dataset: Any, images: list[int], size: tuple[int, int], channels: int, *, progress: bool
) -> None:
    """Keep each of ``images`` of ``dataset`` as the model saw it, ``size`` (h, w); those that are there already stay.

    A crop to a receptive field is a box of it, and an image that many units keep is stored once. Errors: ``OSError``
    with the path, and the free bytes where the disk is full.
    """
    path = folder / THUMBNAILS
    # Pillow decodes, resizes and encodes without Python's lock; each picture depends on its image alone.
    with _drawing(path) as table, ThreadPoolExecutor(max(1, fitting_workers(dataset))) as threads:
        drawn = {image for (image,) in table.execute("SELECT image FROM thumbnails")}
        missing = [image for image in images if image not in drawn]
        with tqdm(total=len(missing), unit="image", desc="thumbnails", disable=not progress) as bar:
            for start in range(0, len(missing), AT_ONCE):
                some = missing[start : start + AT_ONCE]
                drawings = threads.map(lambda image: _drawn(dataset, image, size, channels), some)
                rows = [row for found in drawings for row in found]
                table.execute("BEGIN IMMEDIATE")
                table.executemany("INSERT OR IGNORE INTO thumbnails VALUES (?, ?)", rows)
                table.execute("COMMIT")
                bar.update(len(some))


def thumbnail_pictures(folder: str | os.PathLike[str]) -> Callable[[int], Picture]:
    """Give what gives, by index in the dataset, the image as a picture ``(h, w, 3)``; ``KeyError`` where there is none,
    ``ValueError`` where the file is damaged.
    """
    path = Path(folder) / THUMBNAILS

    def picture(image: int) -> Picture:
        if not path.is_file():
            raise KeyError(image)
        fixed = "" if path.with_name(f"{THUMBNAILS}-wal").exists() else "&immutable=1"
        try:
            with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro{fixed}", uri=True)) as table:
                table.execute("PRAGMA trusted_schema = OFF")
                found = table.execute("SELECT webp FROM thumbnails WHERE image = ?", (int(image),)).fetchone()
        except sqlite3.Error as error:
            raise ValueError(
                f"the thumbnails '{path}' are damaged: {error}; remove the file to draw them anew"
            ) from error
        if found is None:
            raise KeyError(image)
        if not isinstance(found[0], bytes):
            raise ValueError(f"the thumbnails '{path}' are damaged: image {image} is no picture")
        return from_image(decode_image(found[0], f"{path}: image {image}"))

    return picture


@contextmanager
def _drawing(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, timeout=WAIT, isolation_level=None)) as table:
            table.execute("PRAGMA trusted_schema = OFF")
            table.execute("PRAGMA journal_mode = WAL")
            table.execute(TABLE)
            yield table
    except sqlite3.Error as error:
        refuse_write(path, error)


def _drawn(dataset: Any, image: int, size: tuple[int, int], channels: int) -> list[tuple[int, bytes]]:
    try:
        tensor, _ = read_item(dataset, image, size, channels)
    except UNREADABLE:  # it could be read when it was ranked; a picture less is no reason to lose the rest
        return []
    return [(image, encode(tensor.clamp(0, 1).permute(1, 2, 0).cpu().double().numpy()))]
