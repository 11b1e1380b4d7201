"""Kernels (o, i, kh, kw) to numbers: how strong each wire is, which are the strongest, what an edge says of one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from circuits.wiring import connect, connections
from features.models import Model

Numbers = NDArray[Any]
Places = NDArray[np.intp]
Pair = tuple[str, str]
Wires = Callable[..., Tensor]

SMALLEST = 1e-18  # squares of smaller float32 numbers vanish: such wires are measured again in float64
ALONE = 4  # times as long takes a pair read alone as one of many read together
CHUNK = 2**20  # numbers described at once: 8 MB in float64
CACHED = 2**18  # wires ranked at once: 1 MB in float32 stays in the cache, which is worth a third of the time


@dataclass(frozen=True)
class Inputs:
    """Wires into the units of one layer: ``columns`` hold one number for each, ordered by unit and rank.

    ``rows`` are the channels of the target, ``sources`` places in ``units``; ``total`` is the measure summed over all
    inputs of each channel, and ``nonfinite`` how many wires were left out because a weight was infinite or NaN.
    """

    units: Sequence[str]
    rows: Places
    sources: Places
    columns: dict[str, Numbers]
    total: NDArray[np.float64]
    nonfinite: int


def inputs(
    model: Model, sources: Mapping[str, Sequence[str]], *, wires: Wires, by: str, keep: int | None, progress: bool
) -> Iterator[tuple[str, Inputs]]:
    """Give each target with the ``keep`` strongest wires of each of its units, or all; the kernels of one pair of
    layers in memory at a time."""
    parts = _parts(model, sources, wires, by, keep)
    count = sum(map(len, sources.values()))
    shown = tqdm(parts, total=count, desc="wiring", unit="pair", disable=not progress, leave=False)
    for target, group in groupby(shown, key=lambda part: part.target):
        yield target, _merged(list(group), by, keep)


def kernel_sets(
    model: Model, sources: Mapping[str, Sequence[str]], wires: Wires, pairs: Collection[Pair] | None = None
) -> Iterator[tuple[Pair, Numbers]]:
    """Give ``(source, target)`` with their kernels ``(o, i, kh, kw)``, the other layers held fixed, as they are in
    memory; of all pairs or of some, target by target."""
    every = [(source, target) for target in sources for source in sources[target]]
    chosen = [pair for pair in every if pairs is None or pair in pairs]
    if wires is connect and ALONE * len(chosen) >= len(every):
        found = connections(model, list(sources))
    else:
        found = (
            (
                source,
                target,
                wires(model, source, target, cut=[name for name in sources if name not in {source, target}]),
            )
            for source, target in chosen
        )
    for source, target, weights in found:
        if pairs is None or (source, target) in pairs:
            kernels = _array(model, source, target, weights)
            del weights
            yield (source, target), kernels
            del kernels


def _array(model: Model, source: str, target: str, weights: Tensor) -> Numbers:
    wanted = model.layer(target).channels, model.layer(source).channels
    if weights.dim() != 4 or tuple(weights.shape[:2]) != wanted:
        raise ValueError(
            f"wires gave weights of shape {tuple(weights.shape)} from {source!r} to {target!r}: give (o, i, kh, kw) "
            f"with o, i = {wanted}, as circuits.connect does"
        )
    weights = weights.detach().cpu()
    return (weights if weights.element_size() >= 4 else weights.float()).numpy()  # numpy has no bfloat16


@dataclass(frozen=True)
class _Part:
    """What is kept of the wires from one layer into another."""

    target: str
    units: list[str]
    rows: Places
    sources: Places
    columns: dict[str, Numbers]
    total: NDArray[np.float64]
    nonfinite: int


def _parts(
    model: Model, sources: Mapping[str, Sequence[str]], wires: Wires, by: str, keep: int | None
) -> Iterator[_Part]:
    for (source, target), kernels in kernel_sets(model, sources, wires):
        values, nonfinite = measure(kernels, by)
        rows, columns = strongest(values, keep)
        described = describe(kernels, rows, columns)
        del kernels
        units = [f"{source}:{channel}" for channel in range(values.shape[1])]
        yield _Part(target, units, rows, columns, described, values.sum(1, dtype=np.float64), nonfinite)


def _merged(parts: list[_Part], by: str, keep: int | None) -> Inputs:
    """Order by unit, strength and source; keep the strongest over all source layers; say share and rank."""
    units = [unit for part in parts for unit in part.units]
    firsts = np.cumsum([0, *(len(part.units) for part in parts)]).tolist()
    rows = np.concatenate([part.rows for part in parts])
    sources = np.concatenate([part.sources + first for part, first in zip(parts, firsts, strict=False)])
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    total: NDArray[np.float64] = np.sum([part.total for part in parts], axis=0)
    values = MEASURES[by][1](columns)
    order = np.lexsort((sources, -values, rows))
    rank = places_in_groups(rows[order])
    if keep is not None:
        order, rank = order[rank < keep], rank[rank < keep]
    columns = {name: column[order] for name, column in columns.items()}
    columns |= {"share": np.minimum(1.0, values[order] / total[rows[order]]), "rank": rank}
    return Inputs(units, rows[order], sources[order], columns, total, sum(part.nonfinite for part in parts))


def measure(kernels: Numbers, by: str) -> tuple[Numbers, int]:
    """Give the measure ``by`` of each wire, ``(o, i)``, in the kernels' precision, and how many wires are not finite;
    those get 0."""
    flat = kernels.reshape(*kernels.shape[:2], -1)
    with np.errstate(over="ignore", invalid="ignore"):
        values = MEASURES[by][0](flat)
        if np.isfinite(flat.sum()) and np.isfinite(values).all() and values.min(initial=1.0) >= SMALLEST:
            return values, 0
    finite = np.isfinite(flat).all(2)
    doubtful = finite & ~((values >= SMALLEST) & np.isfinite(values)) & flat.any(2)
    exact = np.where(finite, values, 0.0).astype(np.float64)
    exact[doubtful] = MEASURES[by][0](flat[doubtful].astype(np.float64))
    return exact, int((~finite).sum())


def strongest(values: Numbers, keep: int | None) -> tuple[Places, Places]:
    """Give row and column of the ``keep`` largest of each row, or of all; ties by column; nothing that is 0."""
    width = values.shape[1]
    step = max(1, CACHED // width)
    parts = [_above(values[start : start + step], keep) + start * width for start in range(0, len(values), step)]
    rows, columns = np.divmod(np.concatenate(parts), width)
    if keep is None or len(rows) == 0 or np.bincount(rows).max() <= keep:
        return rows, columns
    order = np.lexsort((-values[rows, columns], rows))  # stable: ties stay in order
    rows, columns = rows[order], columns[order]
    kept = places_in_groups(rows) < keep
    return rows[kept], columns[kept]


def _above(values: Numbers, keep: int | None) -> Places:
    """Give the flat places of what is no less than the ``keep``-th largest of its row, and not 0."""
    least = np.full((len(values), 1), np.finfo(values.dtype).smallest_subnormal, values.dtype)
    if keep is not None and keep < values.shape[1]:
        largest = torch.topk(torch.from_numpy(values), keep, dim=1).values[:, -1:]
        least = np.maximum(least, largest.numpy())
    return np.flatnonzero(values >= least)


def describe(kernels: Numbers, rows: Places, columns: Places) -> dict[str, Numbers]:
    """Give what an edge says of each of the kernels at ``rows`` and ``columns``, in float64 (`build_graph` says
    what)."""
    window = kernels.shape[2:]
    flat = kernels.reshape(*kernels.shape[:2], -1)
    step = max(1, CHUNK // flat.shape[2])
    parts = [
        _describe(flat[rows[start : start + step], columns[start : start + step]].astype(np.float64), window)
        for start in range(0, max(1, len(rows)), step)
    ]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _describe(flat: Numbers, window: tuple[int, ...]) -> dict[str, Numbers]:
    peak = np.abs(flat).argmax(1)
    described = {name: value(flat) for name, value in NUMBERS.items()}
    described["peak_y"] = peak // window[1] - (window[0] - 1) / 2
    described["peak_x"] = peak % window[1] - (window[1] - 1) / 2
    return described


def places_in_groups(ordered: Places) -> Places:
    """Give the place of each entry among those equal to it: [3, 3, 5, 5, 5] gives [0, 1, 0, 1, 2]."""
    return np.arange(len(ordered)) - np.searchsorted(ordered, ordered)


def _strength(flat: Numbers) -> Numbers:
    if flat.shape[-1] == 1:
        strength: Numbers = np.abs(flat[..., 0])
    else:
        strength = np.sqrt(np.einsum("...k,...k->...", flat, flat))
    return strength


def _weight(flat: Numbers) -> Numbers:
    weight: Numbers = flat.sum(-1)
    return weight


def _excitation(flat: Numbers) -> Numbers:
    excitation: Numbers = np.maximum(flat, 0).sum(-1)
    return excitation


def _inhibition(flat: Numbers) -> Numbers:
    inhibition: Numbers = np.minimum(flat, 0).sum(-1)
    return inhibition


# What an edge says of its kernel, over the last axis.
NUMBERS: dict[str, Callable[[Numbers], Numbers]] = {
    "weight": _weight,
    "strength": _strength,
    "excitation": _excitation,
    "inhibition": _inhibition,
}
# What edges can be chosen by, 0 or more: of kernels over their last axis, and of the numbers of edges.
MEASURES: dict[str, tuple[Callable[[Numbers], Numbers], Callable[[dict[str, Numbers]], Numbers]]] = {
    "strength": (_strength, lambda edges: edges["strength"]),
    "weight": (lambda flat: np.abs(_weight(flat)), lambda edges: np.abs(edges["weight"])),
    "excitation": (_excitation, lambda edges: edges["excitation"]),
    "inhibition": (lambda flat: -_inhibition(flat), lambda edges: -edges["inhibition"]),
}
