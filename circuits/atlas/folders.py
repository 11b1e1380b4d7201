"""What lies on the disk: the atlas's folder, files written whole, and results that are still valid."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from features.records import plain, write_atomically

MARKER = "atlas.json"
STAMP = "made.json"
T = TypeVar("T")


def claim(folder: Path) -> Path:
    """Make ``folder`` an atlas's, before any work: it is new, empty, or holds an atlas already; ``ValueError``
    otherwise.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder for the atlas")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise ValueError(f"{folder} is not empty and holds no atlas: give a new folder")
    mark = {"kind": "atlas", "schema": 1, "version": own_version()}
    if read_json(folder / MARKER) != mark:
        write_atomically(folder / MARKER, json.dumps(mark) + "\n")
    return folder


def own_version() -> str:
    """Give the version of this package, ``0`` where it is run from its sources without being installed."""
    try:
        return version("vision-circuits")
    except PackageNotFoundError:
        return "0"


def put(path: Path, content: bytes | str) -> Path:
    """Write a file aside and rename it: readers find the old one or the new one, whole.

    Unlike `features.records.write_atomically` this does not wait for the disk, which for the thousands of small files
    of an atlas would take most of the time; `settle` waits once for all of them.
    """
    blob = content.encode("utf-8") if isinstance(content, str) else content
    part = path.parent / f".{secrets.token_hex(8)}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(blob)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path


def settle() -> None:
    """Wait until what was put is on the disk, where the system offers that."""
    if hasattr(os, "sync"):
        os.sync()


@dataclass(frozen=True)
class Desk:
    """Where results are kept, and whether the reader is told about it."""

    folder: Path
    progress: bool
    fresh: bool

    def say(self, sentence: str) -> None:
        """Tell the reader, on the error stream, above any progress bar."""
        if self.progress:
            tqdm.write(sentence, file=sys.stderr)

    def keep(
        self,
        name: str,
        plan: Mapping[str, Any],
        what: str,
        *,
        read: Callable[[Path], T],
        make: Callable[[], T],
        write: Callable[[T, Path], Any],
    ) -> T:
        """Give what lies in ``data/name`` if it was made as ``plan`` says and can be read; make and write it
        otherwise.
        """
        place = self.folder / "data" / name
        stamp = plain({"plan": dict(plan), "version": own_version()})
        if not self.fresh and read_json(place / STAMP) == stamp:
            try:
                found = read(place)
                self.say(f"reused {what}")
                return found
            except (ValueError, OSError) as damage:
                self.say(f"made {what} again: {damage}")
        (place / STAMP).unlink(missing_ok=True)
        made = make()
        write(made, place)
        write_atomically(place / STAMP, json.dumps(stamp, indent=1, allow_nan=False) + "\n")
        return made


def read_json(path: Path) -> Any:
    """Give what the JSON file holds, ``None`` where there is none or it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
