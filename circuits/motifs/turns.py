"""Motifs of kernels: wires that turn with their units, and cases seen from both sides that are united."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from circuits.motifs.kernels import disc, warped
from circuits.motifs.layers import Between, weights_between, with_roles
from circuits.motifs.rewiring import Motif, Numbers, check_sampling, compare, p_value
from circuits.motifs.signs import crossed
from circuits.queries.access import check_count
from features.units import Unit


def equivariance(
    kernels: Tensor,
    sources: Mapping[str, float],
    targets: Mapping[str, float],
    *,
    tolerance: float = 15.0,
    samples: int = 999,
    seed: int = 0,
) -> Motif:
    """Ask whether the wires between two families of turned units turn with them.

    ``kernels (o, i, kh, kw)`` is what `connect` gives between the two layers; ``sources`` and ``targets`` say how far
    each unit is turned, in degrees counterclockwise (for example ``dict(zip(family.units, family.angles))``). The
    statistic is the mean of ``cos(R_d W[i, j], W[i', j'])`` over targets ``i != i'`` and sources ``j, j'`` with ``d =
    angle(i') - angle(i) = angle(j') - angle(j)`` up to ``tolerance``; ``R_d`` turns the kernel, and what leaves the
    disc in it does not count. The null shuffles the angles of the sources. ``found`` holds one graph, of all wires
    between the two, with roles ``source`` and ``target`` and ``angle``. (Olah et al. 2020, "Naturally Occurring
    Equivariance".)

    Few units have few orders: with n sources at equal steps the p-value cannot be below about ``1 / (n - 1)!``.

    Raises ``ValueError`` for units that the kernels have not, and for angles that nowhere differ alike.

    >>> free = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(0))
    >>> kernels = torch.stack([torch.stack([warped(free[o - i], 90 * o) for i in range(4)]) for o in range(4)])
    >>> below, above = ({f"{name}:{c}": 90.0 * c for c in range(4)} for name in "ab")
    >>> round(equivariance(kernels, below, above, samples=9).statistic, 6)
    1.0
    """
    check_sampling(samples, 1)
    weights, theta, phi = _family_kernels(kernels, sources, targets)
    cosines = _turned_cosines(weights, phi)
    pairs = _wrapped(phi[None, :] - phi[:, None])
    there = _equivariant(cosines, pairs, theta, tolerance)
    if not np.isfinite(there):
        raise ValueError(
            f"no two targets differ in angle as two sources do, up to {tolerance:g} degrees: nothing to compare"
        )
    random = np.random.default_rng(seed)
    null = np.array([_equivariant(cosines, pairs, random.permutation(theta), tolerance) for _ in range(samples)])
    null = np.where(np.isfinite(null), null, -1.0)
    graph = _family_graph(weights, sources, targets, there)
    return Motif("equivariance", there, tuple(null.tolist()), p_value(there, null), 0.0, (graph,))


def union_over_cases(
    graph: nx.DiGraph[str],
    kernels: Tensor,
    below: str,
    middle: str,
    above: str,
    *,
    least: float = 0.5,
    count: int = 20,
    samples: int = 199,
    steps: int = 20,
    seed: int = 0,
) -> Motif:
    """Find units that unite two cases which exclude each other: a head turned left or turned right.

    ``kernels (o, i, kh, kw)`` is ``connect(model, middle, above)``. A unit ``v`` of ``above`` unites ``u`` and ``u'``
    of ``middle`` if both have a positive wire to it in the graph, with kernels that mirror each other left to right
    (cosine of at least ``least``, and more than without the mirror), and are told apart below: an ``x`` excites ``u``
    and inhibits ``u'`` while a ``y`` does the reverse. The statistic is the number of such ``(v, u, u', x, y)``; the
    null is `rewired` for the wires from ``below`` to ``middle``, the kernels above as they are. Roles are ``union``,
    ``case``, ``case'``, ``cue``, ``cue'``. Known case: mixed4b:418 of InceptionV1 (Olah et al. 2020, "Zoom In").

    Raises ``ValueError`` for layers that the graph has not, or that no wire joins, and kernels of other layers.
    """
    check_count("count", count)
    inputs, outputs = weights_between(graph, below, middle), weights_between(graph, middle, above)
    if inputs.targets != outputs.sources:
        raise ValueError(
            f"the graph's units of {middle!r} are not all in one order: build it with circuits.build_graph"
        )
    mirrored = _mirrored(kernels, outputs, least)
    pairs = sum(mirrored.values(), np.zeros((len(inputs.targets),) * 2))
    return compare(
        "union over cases",
        inputs.weights,
        lambda layers: (crossed(layers.swapaxes(1, 2)) * pairs).sum((1, 2)) / 2,
        lambda: _strongest_unions(graph, inputs, outputs, mirrored, count),
        samples=samples,
        steps=steps,
        seed=seed,
        empty=f"no unit of {above!r} has two excitatory inputs from {middle!r} with mirrored kernels that "
        f"{below!r} tells apart: {int(pairs.sum() / 2)} pairs have mirrored kernels",
    )


def _family_kernels(
    kernels: Tensor, sources: Mapping[str, float], targets: Mapping[str, float]
) -> tuple[Tensor, Numbers, Numbers]:
    if kernels.ndim != 4:
        raise ValueError(f"kernels have shape {tuple(kernels.shape)}: give (o, i, kh, kw), as circuits.connect does")
    if min(len(sources), len(targets)) < 2:
        raise ValueError("a family of one unit has nothing to turn with: give two or more sources and targets")
    rows, columns = (_channels(family, size) for family, size in zip((targets, sources), kernels.shape, strict=False))
    weights = kernels.detach().double().cpu()[rows][:, columns]
    return weights, np.array(list(sources.values()), float), np.array(list(targets.values()), float)


def _channels(family: Mapping[str, float], size: int) -> list[int]:
    channels = [Unit.of(unit).channel for unit in family]
    if max(channels) >= size:
        raise ValueError(
            f"unit {list(family)[channels.index(max(channels))]!r} is not among the kernels' {size} channels"
        )
    return channels


def _turned_cosines(weights: Tensor, phi: Numbers) -> Numbers:
    """Give ``cos(R_d W[i, j], W[i', j'])`` with ``d = phi[i'] - phi[i]``: ``(i, i', j, j')``."""
    mask = disc(*weights.shape[2:])
    found = np.zeros((len(phi), len(phi), weights.shape[1], weights.shape[1]))
    unit = _unit_length(weights * mask)
    for one, other in product(range(len(phi)), repeat=2):
        turned = _unit_length(warped(weights[one], float(phi[other] - phi[one])) * mask)
        found[one, other] = (turned @ unit[other].T).numpy()
    return found


def _unit_length(kernels: Tensor) -> Tensor:
    return torch.nn.functional.normalize(kernels.flatten(-2), dim=-1, eps=1e-30)


def _equivariant(cosines: Numbers, pairs: Numbers, theta: Numbers, tolerance: float) -> float:
    turns = _wrapped(theta[None, :] - theta[:, None])
    alike = np.abs(_wrapped(pairs[:, :, None, None] - turns)) <= tolerance
    alike &= ~np.eye(len(pairs), dtype=bool)[:, :, None, None]
    return float(cosines[alike].mean()) if alike.any() else float("nan")


def _wrapped(angles: Numbers) -> Numbers:
    return (angles + 180) % 360 - 180


def _family_graph(
    weights: Tensor, sources: Mapping[str, float], targets: Mapping[str, float], score: float
) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph(motif="equivariance", score=score)
    for role, family in (("source", sources), ("target", targets)):
        for unit, angle in family.items():
            graph.add_node(unit, layer=Unit.of(unit).layer, channel=Unit.of(unit).channel, role=role, angle=angle)
    sums, norms = weights.sum((2, 3)), torch.linalg.vector_norm(weights.flatten(2), dim=2)
    for (o, target), (i, source) in product(enumerate(targets), enumerate(sources)):
        graph.add_edge(source, target, weight=float(sums[o, i]), strength=float(norms[o, i]))
    return graph


def _mirrored(kernels: Tensor, outputs: Between, least: float) -> dict[str, Numbers]:
    """Mark for each unit above which pairs of its excitatory inputs have mirrored kernels: ``(middle, middle)``."""
    rows, columns = ([Unit.of(unit).channel for unit in units] for units in (outputs.targets, outputs.sources))
    if kernels.ndim != 4 or max(rows) >= kernels.shape[0] or max(columns) >= kernels.shape[1]:
        raise ValueError(
            f"kernels have shape {tuple(kernels.shape)}: give connect(model, middle, above) for the graph's layers"
        )
    weights = kernels.detach().double().cpu()[rows][:, columns]
    found = {}
    for row, unit in enumerate(outputs.targets):
        plain, turned = _unit_length(weights[row]), _unit_length(weights[row].flip(-1))
        mirrored, same = (plain @ turned.T).numpy(), (plain @ plain.T).numpy()
        excites = outputs.weights[row] > 0
        pairs = (mirrored >= least) & (mirrored > same) & excites & excites[:, None]
        if pairs.any():
            found[unit] = np.asarray(pairs, np.float64)
    return found


def _strongest_unions(
    graph: nx.DiGraph[str], inputs: Between, outputs: Between, mirrored: Mapping[str, Numbers], count: int
) -> tuple[nx.DiGraph[str], ...]:
    excites, inhibits = np.maximum(inputs.weights, 0), np.maximum(-inputs.weights, 0)
    found: list[tuple[float, str, tuple[int, int], tuple[int, int]]] = []
    for unit, pairs in mirrored.items():
        row = outputs.targets.index(unit)
        for one, other in np.argwhere(np.triu(pairs, 1)).tolist():
            cues = np.minimum(excites[one], inhibits[other]), np.minimum(excites[other], inhibits[one])
            ties = outputs.weights[row, one], outputs.weights[row, other]
            score = float(min(cues[0].max(), cues[1].max(), *ties))
            if score > 0:
                found.append((score, unit, (one, other), (int(cues[0].argmax()), int(cues[1].argmax()))))
    found.sort(key=lambda each: (-each[0], each[1:]))
    return tuple(_union(graph, inputs, *each) for each in found[:count])


def _union(
    graph: nx.DiGraph[str], inputs: Between, score: float, unit: str, cases: tuple[int, int], cues: tuple[int, int]
) -> nx.DiGraph[str]:
    one, other = (inputs.targets[case] for case in cases)
    cue, other_cue = (inputs.sources[each] for each in cues)
    roles = {unit: "union", one: "case", other: "case'", cue: "cue", other_cue: "cue'"}
    wires = [*product((cue, other_cue), (one, other)), (one, unit), (other, unit)]
    return with_roles(graph, roles, wires, "union over cases", score)
