"""The null of sign patterns: the same layer rewired at random, with every unit's signed degrees as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import networkx as nx
import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Numbers], Numbers]

BATCH = 2**21  # numbers that are rewired at once: 16 MB
CLASSES = ((1, 0), (-1, 0), (1, -1))  # the ways in which two rows can differ in a column
ROUNDS = 0.1  # of the trades pass three wires round, which dealing out two kinds at a time cannot do


@dataclass(frozen=True)
class Motif:
    """What a search for a motif found, and whether chance would have found as much.

    ``statistic`` is the amount of the motif, ``null`` the same in rewired (or shuffled) networks, ``p_value`` the part
    of all these that have at least as much, the network itself included: ``(1 + #{null >= statistic}) / (1 + #null)``.
    ``found`` are the strongest instances as graphs, best first, with the node attribute ``role`` and
    ``graph["score"]``; where there is none, ``empty`` says why. ``mixing`` is the part of the wires in place after one
    run of the chain less that after two (see `rewired`): near 0 when the steps were enough.
    """

    name: str
    statistic: float
    null: tuple[float, ...] = field(repr=False)
    p_value: float
    mixing: float
    found: tuple[nx.DiGraph, ...] = field(repr=False)
    empty: str = ""


def rewired(weights: Numbers, *, samples: int = 199, steps: int = 20, seed: int = 0) -> Numbers:
    """Give ``samples`` random layers with the signs of ``weights`` moved about: ``(o, i)`` to ``(samples, o, i)``.

    Every row keeps its number of positive and of negative weights, and so does every column; weights travel with
    their column. The chain is a sequence of trades: rows meet in random pairs, and for each two of {positive,
    negative, no wire} the columns in which one row has the one and its partner the other are dealt out again, each row
    getting as many of each as it had; now and then three columns, one of each kind, are passed round instead. A trade
    is many double-edge swaps within a sign at once (Strona et al. 2014, "curveball"; Carstens 2015). Every move is as
    likely as its way back, so the limit is uniform over all layers that trades reach. In one step every row trades
    once.

    The samples are drawn as in the parallel method of Besag and Clifford (1989): one run of ``steps`` steps from the
    layer to a hub, then one from the hub for each sample. The chain is reversible, so the layer and the samples are
    exchangeable if the layer comes from the null: p-values are valid for any number of steps, and few steps cost
    power only.

    >>> weights = np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [-1.0, 0.0, 3.0]])
    >>> found = rewired(weights, samples=5)
    >>> bool(((found > 0).sum(2) == (weights > 0).sum(1)).all() and ((found > 0).sum(1) == (weights > 0).sum(0)).all())
    True
    """
    return _hub_and_samples(weights, samples, steps, seed)[1]


def compare(
    name: str,
    weights: Numbers,
    statistic: Statistic,
    find: Callable[[], tuple[nx.DiGraph, ...]],
    *,
    samples: int,
    steps: int,
    seed: int,
    empty: str,
) -> Motif:
    """Measure ``statistic``, of ``(n, o, i)`` layers, on a layer and on its rewired copies."""
    hub, null = _hub_and_samples(weights, samples, steps, seed)
    there = float(statistic(weights[None])[0])
    values = statistic(null)
    signs = np.sign(weights)
    near, far = (_in_place(np.sign(start), np.sign(null)) for start in (hub, signs))
    found = find()
    return Motif(name, there, tuple(values.tolist()), p_value(there, values), near - far, found, "" if found else empty)


def p_value(there: float, null: Numbers) -> float:
    """Give the part of the null, with the value itself, that is at least as large.

    >>> p_value(2.0, np.array([1.0, 2.0, 3.0]))
    0.75
    """
    at_least = null >= there - 1e-12 * max(1.0, abs(there))
    return float((1 + at_least.sum()) / (1 + null.size))


def check_sampling(samples: int, steps: int) -> None:
    """Refuse numbers of samples or steps below 1."""
    for name, value in (("samples", samples), ("steps", steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}: give a whole number, 1 or more")


def _hub_and_samples(weights: Numbers, samples: int, steps: int, seed: int) -> tuple[Numbers, Numbers]:
    check_sampling(samples, steps)
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all():
        raise ValueError(f"weights have shape {weights.shape}: give finite numbers (o, i)")
    random = np.random.default_rng(seed)
    hub = _run(weights[None], steps, random)
    batch = max(1, BATCH // max(1, weights.size))
    counts = [min(batch, samples - start) for start in range(0, samples, batch)]
    return hub[0], np.concatenate([_run(np.repeat(hub, count, axis=0), steps, random) for count in counts])


def _run(layers: Numbers, steps: int, random: np.random.Generator) -> Numbers:
    for _ in range(steps):
        layers = _trade(layers, random)
    return layers


def _trade(layers: Numbers, random: np.random.Generator) -> Numbers:
    """Let the rows of each layer ``(n, o, i)`` trade in random pairs."""
    n, o, _ = layers.shape
    order = np.argsort(random.random((n, o)), axis=1)[:, : o // 2 * 2]
    which = np.arange(n)[:, None]
    first, second = layers[which, order[:, ::2]], layers[which, order[:, 1::2]]
    signs = np.sign(first), np.sign(second)
    dealt = np.zeros(first.shape, bool)
    for one, other in CLASSES:
        dealt |= _dealt(*signs, one, other, random)
    rounds = random.random((*first.shape[:2], 1)) < ROUNDS
    swap = np.where(rounds, _round(*signs, random), dealt)
    traded = layers.copy()
    traded[which, order[:, ::2]] = np.where(swap, second, first)
    traded[which, order[:, 1::2]] = np.where(swap, first, second)
    return traded


def _dealt(first: Numbers, second: Numbers, one: int, other: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Deal out the columns in which two rows have ``one`` and ``other``; say in which they swap."""
    mine = (first == one) & (second == other)
    free = mine | ((first == other) & (second == one))
    keys = np.where(free, random.random(free.shape), 2.0)
    count = mine.sum(-1, keepdims=True)
    last = np.take_along_axis(np.sort(keys, axis=-1), np.maximum(count - 1, 0), axis=-1)
    now = free & (keys <= last) & (count > 0)
    moved: NDArray[np.bool_] = free & (now != mine)
    return moved


def _round(first: Numbers, second: Numbers, random: np.random.Generator) -> NDArray[np.bool_]:
    """Swap one column of each class where that passes wires round: one row gives +, nothing and -, and gets them back.

    The three columns are drawn among all in which the rows differ so, whichever way, and these stay as many: the way
    back is as likely.
    """
    swap = np.zeros(first.shape, bool)
    ways = []
    for one, other in ((1, 0), (0, -1), (-1, 1)):
        forth = (first == one) & (second == other)
        free = forth | ((first == other) & (second == one))
        chosen = np.where(free, random.random(free.shape), -1.0).argmax(-1)[..., None]
        ways.append(np.take_along_axis(np.where(free, forth, -1), chosen, -1))  # 1 forth, 0 back, -1 no such column
        np.put_along_axis(swap, chosen, True, -1)
    alike = (ways[0] == ways[1]) & (ways[1] == ways[2]) & (ways[0] >= 0)
    allowed: NDArray[np.bool_] = swap & alike
    return allowed


def _in_place(start: Numbers, layers: Numbers) -> float:
    """Give the mean part of the wires of ``start`` that layers have with the same sign."""
    wires = start != 0
    return float(((layers == start) & wires).sum() / max(1, wires.sum() * len(layers)))
