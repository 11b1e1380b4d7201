"""Shards: the pieces of a pass over a dataset, each a file that is whole or absent, and who computes which."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from features.records import write_atomically

Part: TypeAlias = dict[str, np.ndarray]

# So many neighbouring blocks are merged into one as soon as they are there: the disk holds at most 15 of each size.
FAN = 16
# How many parts are in memory while they are merged: one of GoogLeNet takes 60 MB and more.
AT_ONCE = 5
NAME = re.compile(r"([0-9]{6})-([0-9]{6})\.([0-9a-f]{16})\.safetensors")


class DamagedError(ValueError):
    """A block that is not what was written."""


@dataclass(frozen=True)
class Block:
    """A file with what the shards ``first`` to ``last`` gave, merged."""

    first: int
    last: int
    path: Path


def share_of(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Give ``(i, n)``: this process is the ``i``-th, from 1, of ``n`` that share the shards.

    ``text`` is ``"i/n"``, or ``"environment"`` for what the process was started with: ``RANK`` and ``WORLD_SIZE``
    (torchrun), ``SLURM_ARRAY_TASK_ID`` with ``_COUNT``, ``_MIN`` and ``_STEP``, ``SLURM_PROCID`` and ``SLURM_NTASKS``;
    an array of jobs with several tasks each has their product of shares. ``ValueError`` for anything else.

    >>> share_of("2/8", {}), share_of("environment", {"RANK": "0", "WORLD_SIZE": "4"})
    ((2, 8), (1, 4))
    """
    if text == "environment":
        return _environment_share(environment)
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f"shard is {text!r}: give 'i/n', such as '1/8' to '8/8', or 'environment'")
    return _checked_share(int(found[1]), int(found[2]), text)


def blocks(folder: Path) -> list[Block]:
    """Give the blocks that lie in ``folder``, in order, without those that a larger one contains; nothing is read."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        name = NAME.fullmatch(path.name)
        if name is not None and int(name[1]) <= int(name[2]):
            found.append(Block(int(name[1]), int(name[2]), path))
    kept: list[Block] = []
    for block in sorted(found, key=lambda each: (each.first, -each.last, each.path.name)):
        if not kept or block.last > kept[-1].last:
            kept.append(block)
    for one, two in pairwise(kept):
        if two.first <= one.last:
            raise ValueError(f"'{one.path}' and '{two.path.name}' overlap: this is no store that can be finished")
    return kept


def remove_contained(folder: Path) -> None:
    """Remove the blocks that a larger one contains: what a killed merge left."""
    kept = {block.path for block in blocks(folder)}
    for path in folder.iterdir():
        if NAME.fullmatch(path.name) and path not in kept:
            path.unlink()


def pack(part: Part, note: Mapping[str, Any]) -> bytes:
    """Give ``part`` as the bytes of a block, with ``note`` in its header; the same data give the same bytes."""
    # One entry of metadata only: safetensors writes several in an order that changes from run to run.
    text = json.dumps(note, sort_keys=True, allow_nan=False)
    return bytes(
        safetensors.numpy.save({name: np.ascontiguousarray(part[name]) for name in sorted(part)}, {"note": text})
    )


def write_block(folder: Path, first: int, last: int, blob: bytes) -> Block:
    """Write a block; its name holds the first 16 digits of its SHA-256, by which damage is noticed."""
    digest = hashlib.sha256(blob).hexdigest()[:16]
    path = write_atomically(folder / f"{first:06d}-{last:06d}.{digest}.safetensors", blob)
    return Block(first, last, path)


def read_block(block: Block, key: str) -> tuple[Part, list[dict[str, Any]]]:
    """Give a block's part and its shards' notes; ``ValueError`` where it is damaged, or of another run than ``key``."""
    blob = block.path.read_bytes()
    name = NAME.fullmatch(block.path.name)
    if name is None or hashlib.sha256(blob).hexdigest()[:16] != name[3]:
        raise DamagedError(f"the shard '{block.path}' is damaged: its SHA-256 is not that of its name")
    try:
        size = int.from_bytes(blob[:8], "little")
        note = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["note"])
        part = dict(safetensors.numpy.load(blob))
        mine = note["key"] == key
        shards = [dict(each) for each in note["shards"]]
        numbers = [each["shard"] for each in shards]
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedError(f"the shard '{block.path}' is damaged: {error}") from error
    if not mine or numbers != list(range(block.first, block.last + 1)):
        raise ValueError(f"the shard '{block.path}' belongs to another run: remove it, or give another folder")
    return part, shards


def compact(folder: Path, key: str, merge: Callable[[list[Part]], Part]) -> None:
    """Merge every 16 neighbouring blocks of one size, counted from 0, into one; again with those.

    What is left depends on which shards are there, not on the order in which they came: merging is associative.
    """
    size, end = 1, max((block.last + 1 for block in blocks(folder)), default=0)
    while size * FAN <= end:
        whole = {block.first: block for block in blocks(folder) if block.last - block.first + 1 == size}
        for start in range(0, end, size * FAN):
            wanted = range(start, start + size * FAN, size)
            if all(first in whole for first in wanted):
                _unite(folder, [whole[first] for first in wanted], key, merge)
        size *= FAN


def merged(found: Iterable[Block], key: str, merge: Callable[[list[Part]], Part]) -> tuple[Part, list[dict[str, Any]]]:
    """Give the part of all blocks ``found``, a few in memory at a time, and their shards' notes."""
    notes: list[dict[str, Any]] = []
    parts: list[Part] = []
    for block in found:
        part, more = read_block(block, key)
        notes.extend(more)
        parts.append(part)
        if len(parts) == AT_ONCE:
            parts = [merge(parts)]
    if not parts:
        raise ValueError("there are no shards to merge")
    return parts[0] if len(parts) == 1 else merge(parts), notes


def _unite(folder: Path, inputs: list[Block], key: str, merge: Callable[[list[Part]], Part]) -> None:
    part, notes = merged(inputs, key, merge)
    write_block(folder, inputs[0].first, inputs[-1].last, pack(part, {"key": key, "shards": notes}))
    for block in inputs:
        block.path.unlink()


def _environment_share(environment: Mapping[str, str]) -> tuple[int, int]:
    def number(name: str, default: int | None = None) -> int:
        text = environment.get(name)
        if text is None and default is not None:
            return default
        if text is None or re.fullmatch(r"[0-9]{1,9}", text) is None:
            raise ValueError(f"{name} is {text!r} in the environment: a whole number is needed")
        return int(text)

    if "RANK" in environment:
        index, count = number("RANK"), number("WORLD_SIZE")
    elif "SLURM_ARRAY_TASK_ID" in environment:
        tasks = number("SLURM_NTASKS", 1)
        job = (number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN", 0)) // number("SLURM_ARRAY_TASK_STEP", 1)
        index, count = job * tasks + number("SLURM_PROCID", 0), number("SLURM_ARRAY_TASK_COUNT") * tasks
    elif "SLURM_PROCID" in environment:
        index, count = number("SLURM_PROCID"), number("SLURM_NTASKS")
    else:
        known = "RANK and WORLD_SIZE, SLURM_ARRAY_TASK_ID and _COUNT, or SLURM_PROCID and SLURM_NTASKS"
        raise ValueError(f"the environment names no share: set {known}, or give shard='i/n'")
    return _checked_share(index + 1, count, f"{index + 1}/{count} (from the environment)")


def _checked_share(index: int, count: int, text: str) -> tuple[int, int]:
    if not 1 <= index <= count:
        raise ValueError(f"shard is {text}: of n shares, i goes from 1 to n")
    return index, count
