"""Motifs: what was put in is found, what nested loops count is counted, and chance gives uniform p-values."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import slow_bifans, slow_opposed, slow_superposition, slow_unions

from circuits.motifs import (
    MOTIFS,
    Motif,
    cross_inhibition,
    equivariance,
    inhibition_pairs,
    recoloured,
    rewired,
    superposition,
    union_over_cases,
    warped,
)
from circuits.queries import QUERIES, ask, rows, table


def signed(seed: int, shape: tuple[int, int], density: float = 0.5) -> np.ndarray:
    """Weights (o, i), a part of them not 0, of either sign."""
    random = np.random.default_rng(seed)
    return random.normal(size=shape) * (random.random(shape) < density)


def graph_of(*layers: np.ndarray) -> nx.DiGraph:
    """A graph of layers a, b, c ... with the wires that are not 0."""
    graph = nx.DiGraph()
    for depth, weights in enumerate(layers):
        source, target = "abcdef"[depth], "abcdef"[depth + 1]
        graph.add_nodes_from(f"{source}:{i}" for i in range(weights.shape[1]))
        graph.add_nodes_from(f"{target}:{o}" for o in range(weights.shape[0]))
        for o, i in zip(*np.nonzero(weights), strict=True):
            graph.add_edge(f"{source}:{i}", f"{target}:{o}", weight=float(weights[o, i]))
    return graph


def assert_uniform(p_values: list[float], samples: int) -> None:
    """Kolmogorov and Smirnov: the largest distance to the uniform distribution is below its 0.1 % bound.

    The p-values are multiples of 1 / (samples + 1); spread over their steps by fixed random numbers they would be
    uniform on [0, 1].
    """
    jitter = np.random.default_rng(0).random(len(p_values)) / (samples + 1)
    values = np.sort(np.array(p_values) - jitter)
    steps = np.arange(len(values) + 1) / len(values)
    distance = max((values - steps[:-1]).max(), (steps[1:] - values).max())
    assert distance < 1.95 / math.sqrt(len(values))


# The null


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), o=st.integers(1, 9), i=st.integers(1, 9), density=st.sampled_from([0.2, 0.6, 1.0]))
def test_rewiring_keeps_every_signed_degree_and_every_column_s_weights(
    seed: int, o: int, i: int, density: float
) -> None:
    weights = signed(seed, (o, i), density)
    found = rewired(weights, samples=6, steps=4, seed=seed)
    assert found.shape == (6, o, i)
    for layer in found:
        for sign in (1, -1):
            for axis in (0, 1):
                assert ((np.sign(layer) == sign).sum(axis) == (np.sign(weights) == sign).sum(axis)).all()
        assert (np.sort(layer, axis=0) == np.sort(weights, axis=0)).all()
    assert (rewired(weights, samples=6, steps=4, seed=seed) == found).all()


def test_every_layer_with_the_same_degrees_is_equally_likely() -> None:
    weights = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    rows_and_columns = [((weights == s).sum(a)).tolist() for s in (1, -1) for a in (0, 1)]
    alike = [
        layer
        for cells in itertools.product((-1.0, 0.0, 1.0), repeat=9)
        for layer in [np.array(cells).reshape(3, 3)]
        if [((layer == s).sum(a)).tolist() for s in (1, -1) for a in (0, 1)] == rows_and_columns
    ]
    drawn = np.sign(rewired(weights, samples=3000, steps=100))
    counts = np.array([(drawn == layer).all((1, 2)).sum() for layer in alike])
    assert counts.sum() == len(drawn)
    expected = len(drawn) / len(alike)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert len(alike) > 3
    assert chi_squared < len(alike) - 1 + 4 * math.sqrt(2 * (len(alike) - 1))


def test_a_layer_without_gaps_is_rewired_too() -> None:
    full = np.where(signed(0, (8, 8), 1.0) > 0, 1.0, -1.0)
    found = rewired(full, samples=20, steps=10)
    assert ((found != full).mean((1, 2)) > 0.1).all()


def test_wires_are_passed_round_where_no_two_kinds_can_be_dealt_out() -> None:
    square = np.array([[1.0, 0.0, -1.0], [0.0, -1.0, 1.0], [-1.0, 1.0, 0.0]])
    found = {tuple(layer.ravel()) for layer in np.sign(rewired(square, samples=400, steps=100))}
    assert len(found) == 6  # every order of its rows; the other six Latin squares would need three rows at once


def test_mixing_says_whether_the_steps_were_enough() -> None:
    graph = graph_of(signed(0, (30, 30), 0.3))
    few, many = (cross_inhibition(graph, "a", "b", samples=20, steps=steps).mixing for steps in (1, 30))
    assert few > 0.05 > 0.02 > abs(many)


# Counts


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), o=st.integers(2, 6), i=st.integers(2, 6))
def test_counts_are_those_of_nested_loops(seed: int, o: int, i: int) -> None:
    weights = signed(seed, (o, i), 0.8)
    if not weights.any():
        return
    graph = graph_of(weights)
    assert cross_inhibition(graph, "a", "b", samples=1, steps=1).statistic == slow_bifans(weights)
    assert inhibition_pairs(graph, "a", "b", samples=1, steps=1).statistic == slow_opposed(weights)
    owners = [seed // (place + 1) % 3 for place in range(i)]
    communities = {f"a:{place}": owner for place, owner in enumerate(owners)}
    found = superposition(graph, "a", "b", communities=communities, spread=2, samples=1, steps=1)
    assert found.statistic == slow_superposition(weights, owners, 2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_unions_are_those_of_nested_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    kernels = random.normal(size=(4, 6, 3, 3))
    kernels[:, 1::2] = kernels[:, ::2, :, ::-1] + 0.3 * random.normal(size=(4, 3, 3, 3))
    below, above = signed(seed, (6, 5), 0.8), kernels.sum((2, 3))
    if not below.any():
        return
    graph = graph_of(below, above)
    found = union_over_cases(graph, torch.from_numpy(kernels), "a", "b", "c", least=0.4, samples=1, steps=1)
    assert found.statistic == slow_unions(below, above, kernels, 0.4)
    assert bool(found.found) == (found.statistic > 0)


def test_the_strongest_crossing_is_found_with_its_roles() -> None:
    weights = signed(3, (6, 6), 0.9)
    best = max(
        (
            min(weights[b, a], weights[d, c], -weights[d, a], -weights[b, c])
            for a, c in itertools.permutations(range(6), 2)
            for b, d in itertools.product(range(6), repeat=2)
        )
    )
    graph = graph_of(weights)
    before = nx.node_link_data(graph, edges="edges")
    found = cross_inhibition(graph, "a", "b", samples=1, steps=1).found
    assert found[0].graph["score"] == best
    scores = [part.graph["score"] for part in found]
    assert scores == sorted(scores, reverse=True)
    for part in found:
        unit = {role: name for name, role in part.nodes(data="role")}
        assert part.edges[unit["A"], unit["B"]]["weight"] > 0 < part.edges[unit["A'"], unit["B'"]]["weight"]
        assert part.edges[unit["A"], unit["B'"]]["weight"] < 0 > part.edges[unit["A'"], unit["B"]]["weight"]
        part.nodes[unit["A"]]["mine"] = 1
    assert nx.node_link_data(graph, edges="edges") == before


# Planted motifs are found


def crossed_layer(seed: int) -> np.ndarray:
    """Two pathways of eight units each that excite within and inhibit across, in sparse noise."""
    own = np.equal.outer(np.arange(16) % 2, np.arange(16) % 2)
    random = np.random.default_rng(seed)
    planted = np.where(own, 1.0, -1.0) * (random.random((16, 16)) < 0.6)
    weights = np.zeros((30, 30))
    weights[:16, :16] = planted
    noise = signed(seed, (30, 30), 0.15)
    return np.where(weights == 0, noise, weights)


def test_planted_cross_inhibition_and_inhibition_pairs_are_found() -> None:
    graph = graph_of(crossed_layer(0))
    found = cross_inhibition(graph, "a", "b", count=5)
    assert found.p_value == 1 / 200
    assert found.statistic > 1.2 * max(found.null)
    pairs = inhibition_pairs(graph, "a", "b")
    assert pairs.p_value == 1 / 200
    for part in pairs.found[:10]:
        one, other = (next(n for n, r in part.nodes(data="role") if r == role) for role in ("one", "other"))
        assert int(one[2:]) % 2 != int(other[2:]) % 2
        assert all(
            part.edges[unit, one]["weight"] * part.edges[unit, other]["weight"] < 0
            for unit, role in part.nodes(data="role")
            if role == "shared"
        )


def owned_layer(seed: int) -> np.ndarray:
    """Targets that belong to four communities of sources, and one source of each spread over another's targets."""
    random = np.random.default_rng(seed)
    owner = np.arange(24) % 4
    weights = np.where(np.equal.outer(owner, owner) & (random.random((24, 24)) < 0.8), 1.0, 0.0)
    for source in range(4):
        weights[owner == (source + 1) % 4, source] = 0.4
    return weights * random.uniform(0.5, 1, (24, 24))


def test_planted_superposition_is_found_with_communities_given_or_from_below() -> None:
    weights = owned_layer(0)
    communities = {f"a:{place}": place % 4 for place in range(24)}
    found = superposition(graph_of(weights), "a", "b", communities=communities)
    assert found.p_value == 1 / 200
    spread = {next(n for n, r in part.nodes(data="role") if r == "pure"): part for part in found.found}
    assert spread.keys() == {f"a:{source}" for source in range(4)}
    assert set(spread["a:1"]) == {"a:1"} | {f"b:{o}" for o in range(24) if o % 4 == 2}
    groups = np.where(np.equal.outer(np.arange(24) % 4, np.arange(12) % 4), 1.0, 0.0)
    below = superposition(graph_of(groups, weights), "b", "c")
    assert below.statistic == found.statistic
    only = superposition(graph_of(weights), "a", "b", communities=communities, pure=["a:1"])
    assert [set(part) for part in only.found] == [set(spread["a:1"])]
    none = superposition(graph_of(weights), "a", "b", communities=communities, pure=["a:9"])
    assert (none.statistic, none.p_value, none.found) == (0, 1, ())
    assert "no unit of 'a' excites 3 units of 'b' that another community owns" in none.empty
    with pytest.raises(ValueError, match="nothing in this graph lies below 'a'"):
        superposition(graph_of(weights), "a", "b")


def united(seed: int, crossing: bool) -> tuple[nx.DiGraph, torch.Tensor]:
    """Units above that unite mirrored pairs (2p, 2p + 1); their inputs inhibit each other crosswise, or are random."""
    random = np.random.default_rng(seed)
    kernels = 0.2 * random.normal(size=(6, 12, 3, 3))
    for v in range(6):
        kernels[v, 2 * v] += np.array([[1.0, 0, 0.2], [1, 0, 0], [1, 0.5, 0]])
        kernels[v, 2 * v + 1] = kernels[v, 2 * v][:, ::-1]
    below = signed(seed, (12, 20), 0.3)
    if crossing:
        for pair in range(6):
            cues = random.choice(20, 6, replace=False)
            signs = np.array([1, 1, 1, -1, -1, -1]) * random.uniform(1, 2, 6)
            below[2 * pair], below[2 * pair + 1] = 0.0, 0.0
            below[2 * pair, cues], below[2 * pair + 1, cues] = signs, -signs
    return graph_of(below, kernels.sum((2, 3))), torch.from_numpy(kernels)


def test_planted_unions_over_cases_are_found() -> None:
    graph, kernels = united(0, True)
    found = union_over_cases(graph, kernels, "a", "b", "c")
    assert found.p_value == 1 / 200
    cases = {frozenset(n for n, r in part.nodes(data="role") if r in ("case", "case'")) for part in found.found}
    assert {frozenset({f"b:{2 * v}", f"b:{2 * v + 1}"}) for v in range(6)} <= cases
    for part in found.found:
        unit = {role: name for name, role in part.nodes(data="role")}
        assert part.edges[unit["cue"], unit["case"]]["weight"] > 0 > part.edges[unit["cue"], unit["case'"]]["weight"]
        assert part.edges[unit["cue'"], unit["case"]]["weight"] < 0 < part.edges[unit["cue'"], unit["case'"]]["weight"]
        assert min(part.edges[unit[case], unit["union"]]["weight"] for case in ("case", "case'")) > 0
    point = union_over_cases(graph, torch.ones(6, 12, 1, 1), "a", "b", "c")
    assert (point.statistic, point.p_value) == (0, 1)
    assert "0 pairs have mirrored kernels" in point.empty


def turning(seed: int, noise: float, members: int = 8) -> tuple[torch.Tensor, dict[str, float], dict[str, float]]:
    """Kernels of wires that turn with their units, ``W[o, i] = R(angle of o) base[o - i]``, and noise."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(members, 5, 5, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.avg_pool2d(base[None], 3, 1, 1)[0]
    step = 360 / members
    kernels = torch.stack(
        [torch.stack([warped(smooth[(o - i) % members], step * o) for i in range(members)]) for o in range(members)]
    )
    kernels = kernels / kernels.std() + noise * torch.randn(kernels.shape, generator=generator, dtype=torch.float64)
    return kernels, *({f"{name}:{c}": step * c for c in range(members)} for name in "ab")


def test_planted_equivariance_is_found() -> None:
    exact = equivariance(*turning(0, 0.0, 4))
    assert exact.statistic == pytest.approx(1, abs=1e-12)
    found = equivariance(*turning(0, 0.5))
    assert found.p_value <= 2 / 1000
    assert found.statistic > 0.4 > 0.2 > np.median(found.null)
    (part,) = found.found
    assert part.number_of_edges() == 64
    assert part.nodes["b:3"] == {"layer": "b", "channel": 3, "role": "target", "angle": 135.0}
    kernels, sources, targets = turning(0, 0.0, 4)
    shifted = equivariance(kernels, {unit: angle + 77 for unit, angle in sources.items()}, targets)
    assert shifted.statistic == pytest.approx(1, abs=1e-12)


# Chance gives uniform p-values


def test_rewired_layers_give_uniform_p_values() -> None:
    crossings, pairs, owned = [], [], []
    communities = {f"a:{place}": place % 4 for place in range(24)}
    layers = rewired(crossed_layer(1), samples=120, steps=15, seed=7)
    others = rewired(owned_layer(1) + signed(5, (24, 24), 0.3), samples=120, steps=15, seed=8)
    for seed, (layer, other) in enumerate(zip(layers, others, strict=True)):
        graph, second = graph_of(layer), graph_of(other)
        options = {"samples": 19, "steps": 3, "seed": seed, "count": 1}
        crossings.append(cross_inhibition(graph, "a", "b", **options).p_value)
        pairs.append(inhibition_pairs(graph, "a", "b", **options).p_value)
        owned.append(superposition(second, "a", "b", communities=communities, spread=1, **options).p_value)
    assert_uniform(crossings, 19)
    assert_uniform(pairs, 19)
    assert min(owned) == 1 / 20
    assert np.mean(np.array(owned) <= 0.25) < 0.25 + 4 * math.sqrt(0.25 * 0.75 / 120)


def test_shuffled_unions_and_random_kernels_give_uniform_p_values() -> None:
    graph, kernels = united(1, True)
    below = np.zeros((12, 20))
    for i, o in itertools.product(range(20), range(12)):
        below[o, i] = graph.edges[f"a:{i}", f"b:{o}"]["weight"] if graph.has_edge(f"a:{i}", f"b:{o}") else 0.0
    unions = [
        union_over_cases(
            graph_of(layer, kernels.sum((2, 3)).numpy()), kernels, "a", "b", "c", samples=39, steps=3, seed=seed
        ).p_value
        for seed, layer in enumerate(rewired(below, samples=100, steps=15, seed=3))
    ]
    assert_uniform(unions, 39)
    turned = [equivariance(*turning(seed, 1e6), samples=39, seed=seed).p_value for seed in range(60)]
    assert_uniform(turned, 39)


def test_a_p_value_that_ignored_the_layer_itself_would_be_noticed() -> None:
    with pytest.raises(AssertionError):
        assert_uniform([0.5] * 100, 19)
    with pytest.raises(AssertionError):
        assert_uniform([(place % 10 + 1) / 20 for place in range(100)], 19)


# Kernels


def test_pictures_turn_counterclockwise_about_their_centre() -> None:
    picture = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for turns in range(-4, 5):
        assert torch.equal(warped(picture, 90 * turns), torch.rot90(picture, turns, (-2, -1)))
    y, x = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(9.0) - 4, indexing="ij")

    def blob(at_y: float, at_x: float) -> torch.Tensor:
        return torch.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / 2)

    turned = warped(blob(0, 2), 30)
    assert torch.allclose(turned, blob(-1, math.sqrt(3)), atol=0.03)
    assert torch.allclose(warped(blob(0, 2), mirror=True), blob(0, -2))
    assert torch.allclose(warped(blob(1, 1), scale=2)[4:, 4:].argmax(), torch.tensor(2 * 5 + 2))
    assert torch.allclose(warped(blob(0, 2), 90, mirror=True), blob(2, 0), atol=1e-6)
    for bad in ({"angle": math.nan}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="give degrees"):
            warped(picture, **bad)
    with pytest.raises(ValueError, match="give floats"):
        warped(torch.zeros(3, 3, dtype=torch.int64))


def test_hues_turn_about_grey() -> None:
    picture = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(recoloured(picture, 120), picture[[2, 0, 1]])
    assert torch.allclose(recoloured(recoloured(picture, 70), -70), picture)
    assert torch.allclose(recoloured(picture, 33).mean(0), picture.mean(0))
    with pytest.raises(ValueError, match="have no hue"):
        recoloured(torch.zeros(2, 4, 4), 10)


# Text and refusals


def test_motifs_can_be_asked_for_in_text() -> None:
    graph = graph_of(crossed_layer(0))
    found = ask(graph, "cross_inhibition a b samples=9 count=3", queries={**QUERIES, **MOTIFS})
    assert isinstance(found, Motif)
    assert len(rows(found)) == 3
    assert rows(found)[0].keys() >= {"name", "statistic", "p_value", "A", "A'", "B", "B'", "score"}
    assert table(found).startswith("name")
    pairs = ask(graph, "inhibition-pairs a b samples=3 count=1", queries={**QUERIES, **MOTIFS})
    shared = {name for name, role in pairs.found[0].nodes(data="role") if role == "shared"}
    assert set(rows(pairs)[0]["shared"].split(", ")) == shared
    assert len(shared) >= 3


def test_bad_input_is_refused_with_a_sentence() -> None:
    graph = graph_of(signed(0, (4, 4)))
    for call, says in (
        (lambda: cross_inhibition(graph, "aa", "b"), "no layer 'aa' in this graph: nearest are 'a'"),
        (lambda: cross_inhibition(graph, "b", "a"), "no wire leads from 'b' to 'a'"),
        (lambda: cross_inhibition(graph, "a", "b", samples=0), "samples is 0"),
        (lambda: inhibition_pairs(graph, "a", "b", steps=True), "steps is True"),
        (lambda: inhibition_pairs(graph, "a", "b", margin=0), "margin is 0"),
        (lambda: superposition(graph, "a", "b", communities={"a:0": 1}), "communities say nothing of 'a:1'"),
        (lambda: rewired(np.array([[math.nan]])), "give finite numbers"),
        (lambda: union_over_cases(graph_of(signed(0, (4, 4)), signed(1, (4, 4))), torch.zeros(2, 2), "a", "b", "c"),
         "give connect"),
        (lambda: equivariance(torch.zeros(2, 2), {"a:0": 0.0}, {}), "give \\(o, i, kh, kw\\)"),
        (lambda: equivariance(torch.zeros(2, 2, 3, 3), {"a:0": 0.0}, {"b:0": 0.0}), "a family of one unit"),
        (lambda: equivariance(torch.zeros(2, 2, 3, 3), {"a:0": 0.0, "a:7": 9.0}, {"b:0": 0.0, "b:1": 9.0}), "'a:7'"),
        (lambda: equivariance(torch.ones(2, 2, 3, 3), {"a:0": 0.0, "a:1": 90.0}, {"b:0": 0.0, "b:1": 45.0}),
         "nothing to compare"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            call()
    quiet = cross_inhibition(graph_of(np.abs(signed(0, (4, 4)))), "a", "b", samples=3)
    assert quiet.p_value == 1
    assert "crosswise" in quiet.empty
