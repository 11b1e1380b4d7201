"""Chance: where the random numbers of lucent's functions come from, which take no generator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Generator

from features.visualization.guests import seeded


@dataclass
class _Draw:
    """A render that draws its pictures: its seed, where its network is, and how often it was asked for numbers."""

    seed: int
    device: torch.device
    times: int = 0


_NOW: ContextVar[_Draw | None] = ContextVar("drawing", default=None)


@contextmanager
def drawing(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Make all that is drawn inside depend on ``seed`` alone, and be on ``device``: by `generators`, and by functions
    of others that use the global generators of torch, numpy and Python, which are restored at the end.

    >>> with drawing(0):
    ...     first = torch.rand(1, generator=generators(1)[0])
    >>> with drawing(0):
    ...     bool(torch.rand(1, generator=generators(1)[0]) == first)
    True
    """
    token = _NOW.set(_Draw(seed, torch.device(device)))
    try:
        with seeded(seed):
            yield
    finally:
        _NOW.reset(token)


def generators(count: int) -> list[Generator]:
    """Give one generator per picture: those of the render that is drawing, or, called on its own as lucent's functions
    are, seeded by one number from torch's global generator.
    """
    now = _NOW.get()
    if now is None:
        return numbered(int(torch.randint(2**62, (1,))), "alone", count)
    now.times += 1
    return numbered(now.seed, f"draw {now.times}", count)


def numbered(seed: int, purpose: str, count: int) -> list[Generator]:
    """Give the generators of pictures 0 to ``count - 1`` for one purpose; picture i's does not depend on ``count``."""
    digests = (hashlib.sha256(f"lucent\n{seed}\n{purpose}\n{index}".encode()).digest() for index in range(count))
    return [Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1) for digest in digests]


def place(device: torch.device | str | None) -> torch.device:
    """Give ``device``, or without one that of the network of the render that is drawing, or the CPU."""
    now = _NOW.get()
    if device is not None:
        return torch.device(device)
    return now.device if now is not None else torch.device("cpu")
